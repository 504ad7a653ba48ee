# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.


"""No way through crashes, lost messages and operators runs a VF twice.

The two sides' journals are walked exhaustively: every step that the engine
may take, every decision of recovery and of an operator on any answer, old
ones too, with a crash between any two.
"""

import itertools

from oslotest import base

from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases

SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
State = ownership.State
Action = doubt.Action

RUNS = {SOURCE: {State.ACTIVE, State.RETURNED},
        DESTINATION: {State.OWNED, State.FINISHED}}
WRITES = {Action.RETURN: State.RETURNED, Action.OWN: State.OWNED,
          Action.DROP: State.DROPPED}


def entry(role, state, *, settled=False, deadline=None, outcome=None):
    return journal.Entry('m', role, state, 'i', 'v', 'peer', deadline,
                         settled, 0.0, {'outcome': outcome})


def written(side, action):
    """The state after recovery has carried out an action."""
    wanted = WRITES.get(action)
    if wanted is None or wanted is side.state:
        return side.state
    assert ownership.may_follow(side.role, side.state, wanted), (
        side, action)
    return wanted


def engine(source, destination, commit):
    """What two live migrations may do next: (source, destination, commit).

    `commit` is True while a COMMIT is under way between them.
    """
    if source is State.ACTIVE:
        yield State.RETURNED, destination, commit
        if destination is State.PREPARED:
            yield State.GIVEN_UP, destination, True
    if destination in (State.RESERVED, State.LOADING):
        yield source, State.DROPPED, commit
    if destination is State.RESERVED:
        yield source, State.LOADING, commit
    if destination is State.LOADING and source is State.ACTIVE:
        yield source, State.PREPARED, commit
    if destination is State.PREPARED and commit:
        yield source, State.OWNED, commit
    if source is State.GIVEN_UP:
        yield State.FINISHED, destination, commit
    if destination is State.OWNED:
        yield source, State.FINISHED, commit
    if commit:
        yield source, destination, False


def recovered(source, destination, answers):
    """What recovery may do at either side, by answers it has or had."""
    for restarted, now in itertools.product((False, True), (0.0, 9.0)):
        side = entry(SOURCE, source, deadline=5.0)
        for answer in (None, doubt.Answer(destination), doubt.Answer()):
            yield written(side, doubt.decide(
                side, restarted=restarted, now=now, answer=answer)), \
                destination
        side = entry(DESTINATION, destination, deadline=5.0)
        for answer in (None, doubt.Answer(), *map(doubt.Answer, answers)):
            yield source, written(side, doubt.decide(
                side, restarted=restarted, now=now, answer=answer))


def judged(source, destination, answers, *, forced):
    """What an operator may do at either side."""
    for choice in doubt.Choice:
        for side, known in ((entry(SOURCE, source), ()),
                            (entry(DESTINATION, destination), answers)):
            for answer in (None, doubt.Answer(),
                           *map(doubt.Answer, known)):
                if (not forced and side.state is State.PREPARED
                        and (answer is None or answer.state is None)):
                    continue
                try:
                    action, _ = doubt.judge(side, choice, answer)
                except doubt.ResolveRefused:
                    continue
                to = written(side, action)
                yield ((to, destination) if side.role is SOURCE
                       else (source, to))


def reachable(*, forced):
    """Every (source, destination) there is a way to."""
    first = (State.ACTIVE, State.RESERVED, False, frozenset((State.ACTIVE,)))
    seen, todo = {first}, [first]
    while todo:
        source, destination, commit, answers = todo.pop()
        after = list(engine(source, destination, commit))
        after += [(*pair, commit)
                  for pair in recovered(source, destination, answers)]
        after += [(*pair, commit) for pair in judged(
            source, destination, answers, forced=forced)]
        for new in after:
            # An answer may be as old as the move.
            node = (*new, answers | {new[0]})
            if node not in seen:
                seen.add(node)
                todo.append(node)
    return {(source, destination) for source, destination, _, _ in seen}


class ModelTest(base.BaseTestCase):

    def test_never_both(self):
        for forced in (False, True):
            found = reachable(forced=forced)
            self.assertGreater(len(found), 12)
            for source, destination in found:
                self.assertFalse(
                    source in RUNS[SOURCE]
                    and destination in RUNS[DESTINATION],
                    f'both run: {source}, {destination}')

    def test_never_none_unless_an_operator_insists(self):
        for source, destination in reachable(forced=False):
            self.assertFalse(
                source in (State.GIVEN_UP, State.FINISHED)
                and destination is State.DROPPED,
                f'the VF is lost: {source}, {destination}')

    def test_the_model_can_fail(self):
        # A source that runs again after GIVEN_UP would be seen.
        found = reachable(forced=False)
        self.assertIn((State.GIVEN_UP, State.OWNED), found)
        self.assertIn((State.RETURNED, State.PREPARED), found)

    def test_every_doubt_ends(self):
        """With both journals readable, recovery comes to an end."""
        for source, destination in reachable(forced=False):
            for _ in range(8):
                side = entry(SOURCE, source)
                source = written(side, doubt.decide(
                    side, restarted=True, now=9.0,
                    answer=doubt.Answer(destination)))
                side = entry(DESTINATION, destination, deadline=5.0)
                destination = written(side, doubt.decide(
                    side, restarted=True, now=9.0,
                    answer=doubt.Answer(source)))
            self.assertIn((source in RUNS[SOURCE],
                           destination in RUNS[DESTINATION]),
                          [(True, False), (False, True)],
                          f'{source}, {destination}')


class DecideTest(base.BaseTestCase):

    def decide(self, *args, restarted=False, now=0.0, answer=None,
               **changes):
        return doubt.decide(entry(*args, **changes), restarted=restarted,
                            now=now, answer=answer)

    def test_settled_is_left_alone(self):
        for role, table in ownership.TRANSITIONS.items():
            for state in table:
                self.assertEqual(Action.NOTHING, self.decide(
                    role, state, settled=True, restarted=True, now=9.0))

    def test_a_reservation_survives_a_restart(self):
        self.assertEqual(Action.WAIT, self.decide(
            DESTINATION, State.RESERVED, deadline=5.0, restarted=True))
        self.assertEqual(Action.DROP, self.decide(
            DESTINATION, State.RESERVED, deadline=5.0, now=5.0))

    def test_loading_is_left_to_a_move_that_may_be_live(self):
        self.assertEqual(Action.WAIT, self.decide(
            DESTINATION, State.LOADING, deadline=5.0))
        for changes in ({'now': 5.0}, {'restarted': True}):
            self.assertEqual(Action.DROP, self.decide(
                DESTINATION, State.LOADING, deadline=5.0, **changes))

    def test_prepared_waits_for_ever(self):
        for state in (None, State.ACTIVE):
            self.assertEqual(Action.WAIT, self.decide(
                DESTINATION, State.PREPARED, deadline=5.0, now=1e12,
                restarted=True, answer=doubt.Answer(state)))

    def test_what_has_run_is_the_guests(self):
        self.assertEqual(Action.NOTHING, self.decide(
            DESTINATION, State.OWNED, restarted=True, outcome='completed'))
        self.assertEqual(Action.OWN, self.decide(
            DESTINATION, State.OWNED, restarted=True))

    def test_a_source_that_waits_for_its_start(self):
        self.assertEqual(Action.WAIT, self.decide(SOURCE, State.ACTIVE))
        self.assertEqual(Action.RETURN, self.decide(
            SOURCE, State.ACTIVE, deadline=5.0, now=6.0))
        self.assertEqual(Action.RETURN, self.decide(
            SOURCE, State.ACTIVE, restarted=True))


class JudgeTest(base.BaseTestCase):

    def test_given_up_never_runs_again(self):
        for choice in (doubt.Choice.RUN, doubt.Choice.DROP):
            error = self.assertRaises(
                doubt.ResolveRefused, doubt.judge,
                entry(SOURCE, State.GIVEN_UP), choice, None)
            self.assertIn('given the VF up', str(error))

    def test_prepared_runs_only_by_the_sources_word(self):
        side = entry(DESTINATION, State.PREPARED)
        for state in (None, State.ACTIVE, State.RETURNED):
            error = self.assertRaises(
                doubt.ResolveRefused, doubt.judge, side, doubt.Choice.RUN,
                doubt.Answer(state))
            self.assertIn('peer', str(error))
        self.assertEqual(Action.OWN, doubt.judge(
            side, doubt.Choice.RUN, doubt.Answer(State.GIVEN_UP))[0])

    def test_the_only_copy_is_not_dropped(self):
        self.assertRaises(
            doubt.ResolveRefused, doubt.judge,
            entry(DESTINATION, State.PREPARED), doubt.Choice.DROP,
            doubt.Answer(State.GIVEN_UP))

    def test_every_refusal_says_what_next(self):
        for role, table in ownership.TRANSITIONS.items():
            for state, choice in itertools.product(table, doubt.Choice):
                try:
                    _, why = doubt.judge(entry(role, state), choice, None)
                except doubt.ResolveRefused as exc:
                    why = str(exc)
                self.assertGreater(len(why), 15)
