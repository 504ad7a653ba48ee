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


"""What an agent does with its journal: at its start, and every few seconds.

What to do is decided in doubt.py, and endings.py does it; this is when, for
which entry, and whom to ask first. Everything may fail and is then tried
again by the next round: an entry stays unsettled until what it demands has
been done.
"""

from collections.abc import Callable
from collections.abc import Container
import contextlib
import dataclasses
import logging
import threading
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import endings
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

Action = doubt.Action
Choice = doubt.Choice
ResolveRefused = doubt.ResolveRefused
State = ownership.State
Turn = Callable[[str], contextlib.AbstractContextManager[bool]]


@dataclasses.dataclass(frozen=True, slots=True)
class Resolution:
    done: bool
    explanation: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Deed:
    """What came of one look at one entry."""

    done: bool = False
    text: str = ''
    """A sentence, '' where there is nothing to say."""

    question: Action | None = None
    """ASK or PUSH: nothing is decided before the peer has answered."""


def _waits(entry: journal_.Entry, answer: doubt.Answer) -> str:
    """Why nothing is done although the peer was asked."""
    if entry.role is phases.Role.SOURCE:
        return (f'given up; {entry.peer_host} has been told to run it and is '
                f'{answer.state or "silent"}')
    return (f'in doubt: waits, paused, for the journal of {entry.peer_host} '
            f'(now: {answer.state or "no answer"})')


def _because(entry: journal_.Entry, choice: Choice,
             why: str) -> journal_.Entry:
    """The entry, with an operator's reason in its record."""
    if choice is not Choice.DROP:
        return entry
    return dataclasses.replace(entry, record={
        **entry.record, 'reason': doubt.by_operator(why)})


class Recovery:
    """Carries out decisions on entries that no live migration serves."""

    def __init__(self, journal: journal_.Journal, *,
                 driver_for: Callable[[str], contract.GPUDriver],
                 guest_for: Callable[[str], vmm_port.Guest | None],
                 ask_source: Callable[[journal_.Entry],
                                      ownership.State | None],
                 push_destination: Callable[[journal_.Entry],
                                            doubt.Answer],
                 no_vmm: Callable[[], str] = lambda: '') -> None:
        """
        :param driver_for: VF address -> its GPU driver; LookupError if none.
        :param guest_for: instance UUID -> its guest here, None if none; it
            is closed after use; VMMError if it can't be told now.
        :param ask_source: the peer's journal state (RPC `ownership`), None
            when it can't be had now.
        :param push_destination: RPC `commit`: what the peer's journal says
            after it has looked.
        :param no_vmm: why `guest_for` can't find any guest now and what to
            do, '' when it can.
        """
        self._journal = journal
        self._driver_for = driver_for
        self._ask_source = ask_source
        self._push_destination = push_destination
        self._endings = endings.Endings(journal, driver_for, guest_for,
                                        no_vmm)
        self._mutex = threading.RLock()

    def start(self) -> list[str]:
        """At the agent's start, before any migration: what needs no peer.

        The rest is the first round of housekeeping's: nobody can be asked
        before this agent answers, because the peer may be starting too.

        :returns: one sentence for each thing done or still in doubt.
        """
        said = []
        for entry in self._journal.entries(unsettled=True):
            deed = self._decide(entry, restarted=True)
            said.append(deed.text if deed.question is None else self._say(
                entry, f'{entry.state}; {entry.peer_host} is asked as soon '
                f'as this agent answers'))
        return [sentence for sentence in said if sentence]

    def housekeep(self, live: Container[tuple[str, phases.Role]],
                  turn: Turn = lambda uuid: contextlib.nullcontext(True)
                  ) -> list[str]:
        """Periodically: reservations past their time, doubts, retries.

        Peers are asked last, so that a silent one keeps nothing waiting.

        :param live: (migration uuid, role) that a SourceMigration or
            DestinationMigration serves now; they are left alone.
        :param turn: keeps the other steps of one migration out as long as
            it is held; not True while one is under way: next time. Not held
            while a peer is asked.
        """
        said, questions = [], []
        for entry in self._journal.entries(unsettled=True):
            with turn(entry.migration_uuid) as ours:
                deed = (self._decide(entry, restarted=False, live=live)
                        if ours else _Deed())
            said.append(deed.text)
            if deed.question is not None:
                questions.append((entry, deed.question))
        for entry, question in questions:
            answer = self._hear(entry, question)
            with turn(entry.migration_uuid) as ours:
                if ours:
                    said.append(self._decide(entry, restarted=False,
                                             live=live, answer=answer).text)
        return [sentence for sentence in said if sentence]

    def step(self, migration_uuid: str, role: phases.Role) -> str:
        """Decide and act on one entry now; returns a sentence.

        For an entry without a live migration: a transfer that was under way
        counts as lost. The RPC `commit` at a destination is this.

        :raises journal.NotInJournal: no such entry.
        """
        entry = self._journal.get(migration_uuid, role)
        deed = self._decide(entry, restarted=True)
        if deed.question is not None:
            deed = self._decide(entry, restarted=True,
                                answer=self._hear(entry, deed.question))
        return deed.text

    def finish(self, migration_uuid: str, role: phases.Role) -> None:
        """Release what a completed move holds; FINISHED; idempotent.

        Source: the VF is scrubbed (the guest must be gone). Destination:
        the VF has run, or is run now.

        :raises contract.DeviceError, vmm_port.VMMError: still held, or it
            does not run; try again later.
        :raises journal.IllegalTransition: the move has not completed.
        """
        with self._mutex:
            entry = self._journal.get(migration_uuid, role)
            if entry.state is State.FINISHED:
                return
            if not ownership.may_follow(role, entry.state, State.FINISHED):
                raise journal_.IllegalTransition(
                    f'migration {migration_uuid} has not completed: it is '
                    f'{entry.state} at the {role}')
            if role is phases.Role.SOURCE:
                self._scrub(entry)
            elif (entry.carrier is phases.Carrier.AGENT
                    and not doubt.completed(entry)):
                # OWNED is the right to run, not that it does; but nothing
                # that libvirt decides on is run here.
                self._endings.own(entry)
            self._journal.move(migration_uuid, role, State.FINISHED)

    def _scrub(self, entry: journal_.Entry) -> None:
        try:
            driver = self._driver_for(entry.vf_address)
        except LookupError:
            if entry.carrier is phases.Carrier.AGENT:
                raise
            # A mediated device may go with its guest; nothing is left of it.
            return
        driver.scrub(entry.vf_address)

    def resolve(self, migration_uuid: str, role: phases.Role,
                choice: Choice, *, dry_run: bool = False) -> Resolution:
        """Decide what could not decide itself.

        For an entry without a live migration (at a live one, abort or
        `DestinationMigration.look()`).

        :raises ResolveRefused: it would break an invariant.
        :raises journal.NotInJournal: no such entry.
        """
        answer = None
        while True:
            with self._mutex:
                entry = self._journal.get(migration_uuid, role)
                if entry.state is not State.PREPARED or answer is not None:
                    action, why = doubt.judge(entry, choice, answer)
                    if dry_run or action in (Action.NOTHING, Action.WAIT):
                        return Resolution(False, why)
                    if action is not Action.PUSH:
                        deed = self._act(_because(entry, choice, why), action)
                        return Resolution(deed.done, f'{why}; {deed.text}')
                    break
            answer = self._hear(entry, Action.ASK)
        deed = self._decide(entry, restarted=True,
                            answer=self._hear(entry, action))
        return Resolution(deed.done, f'{why}; {deed.text}')

    def _hear(self, entry: journal_.Entry, question: Action) -> doubt.Answer:
        """What the peer says.

        Never with the mutex: it may take its time, and it may have to ask
        this agent before it answers.
        """
        if question is Action.PUSH:
            return self._push_destination(entry)
        return doubt.Answer(self._ask_source(entry))

    def _decide(self, entry: journal_.Entry, *, restarted: bool,
                live: Container[tuple[str, phases.Role]] = (),
                answer: doubt.Answer | None = None) -> _Deed:
        """Decide on what the entry is now, and act unless a peer must say.

        :param answer: of the peer. It may be old by now, and the entry
            another one: what counts in it can't change any more (doubt.py).
        """
        with self._mutex:
            # It may have changed since it was listed, or become live while
            # we waited. First the state: a move is live before it loads.
            entry = self._journal.get(entry.migration_uuid, entry.role)
            if (entry.migration_uuid, entry.role) in live:
                return _Deed()
            action = doubt.decide(entry, restarted=restarted,
                                  now=time.time(), answer=answer)
            if action in (Action.ASK, Action.PUSH):
                return _Deed(question=action)
            if action is Action.WAIT and answer is not None:
                deed = _Deed(text=self._say(entry, _waits(entry, answer)))
            else:
                deed = self._act(entry, action, answer)
        if deed.text:
            LOG.info('%s', deed.text)
        return deed

    def _act(self, entry: journal_.Entry, action: Action,
             answer: doubt.Answer | None = None) -> _Deed:
        """Carry it out; never raises for hardware."""
        ends = self._endings
        acts: dict[Action, Callable[[journal_.Entry], str]] = {
            Action.RETURN: ends.give_back, Action.OWN: ends.own,
            Action.DROP: ends.drop,
            Action.COMPLETE: lambda one: ends.complete(one, answer)}
        if action not in acts:
            return _Deed()
        try:
            return _Deed(True, self._say(entry, acts[action](entry)))
        except (*custody.EXPECTED, journal_.JournalError,
                LookupError) as exc:
            return _Deed(text=self._say(
                entry, f'"{action}" failed and is tried again: '
                f'{custody.explain(exc)}'))

    @staticmethod
    def _say(entry: journal_.Entry, what: str) -> str:
        return (f'migration {entry.migration_uuid}, {entry.role}, VF '
                f'{entry.vf_address}: {what}')
