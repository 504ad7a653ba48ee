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


"""What a journal entry asks for when no live migration serves it: pure.

After a crash, and whenever the two sides have lost each other, this is all
that decides. `decide()` is what an agent does by itself, `judge()` what an
operator may ask for. Both know only what is durable: the own entry, and the
answer of the other side's journal, which may be old. That is why an answer
counts only when it can't change any more.
"""

import dataclasses
import enum

from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases

State = ownership.State


class Action(enum.StrEnum):
    NOTHING = 'nothing'
    WAIT = 'wait'
    RETURN = 'return'
    """Source: write RETURNED, let VF and guest run here."""
    PUSH = 'push'
    """Source: tell the destination to look at our journal."""
    COMPLETE = 'complete'
    """Source: the destination has said that it runs; note it."""
    ASK = 'ask'
    """Destination: ask for the source's state, then decide again."""
    OWN = 'own'
    """Destination: write OWNED, let VF and guest run here."""
    DROP = 'drop'
    """Destination: write DROPPED, clear the VF."""


class Choice(enum.StrEnum):
    """What an operator may ask `resolve` for."""

    AUTO = 'auto'
    RUN = 'run'
    DROP = 'drop'


class ResolveRefused(Exception):
    """It would break an invariant; the message says which, and what next."""


@dataclasses.dataclass(frozen=True, slots=True)
class Answer:
    """What the other side's journal said; None: it could not be had."""

    state: State | None = None
    outcome: phases.Outcome | None = None
    """Of the other side's record."""

    reason: str = ''
    """Of the other side's record too."""

    @property
    def runs(self) -> bool:
        """Whether a destination has run the VF, not only may run it."""
        return self.state is State.FINISHED or (
            self.state is State.OWNED
            and self.outcome is phases.Outcome.COMPLETED)


def decide(entry: journal_.Entry, *, restarted: bool, now: float,
           answer: Answer | None = None) -> Action:
    """What to do with an entry that no live migration serves.

    :param restarted: the agent has just started, so that a transfer that
        was under way is lost.
    :param answer: None as long as nobody has been asked.
    """
    if entry.settled or entry.state is State.FINISHED:
        return Action.NOTHING
    if entry.carrier is phases.Carrier.HYPERVISOR:
        # libvirt decides; a watch looks after it, and touches nothing.
        return Action.NOTHING
    if entry.role is phases.Role.SOURCE:
        return _decide_source(entry, restarted or entry.overdue(now), answer)
    if entry.state is State.RESERVED:
        return Action.DROP if entry.overdue(now) else Action.WAIT
    if entry.state is State.PREPARED:
        return _in_doubt(answer)
    if entry.state is State.OWNED:
        # Once it has run it is the guest's: it may be paused on purpose.
        return Action.NOTHING if completed(entry) else Action.OWN
    if entry.state is State.LOADING and not (restarted or entry.overdue(now)):
        # A live migration may have begun a moment ago.
        return Action.WAIT
    return Action.DROP


def _decide_source(entry: journal_.Entry, over: bool,
                   answer: Answer | None) -> Action:
    if entry.state is State.ACTIVE:
        return Action.RETURN if over else Action.WAIT
    if entry.state is State.RETURNED:
        return Action.RETURN
    if completed(entry):
        return Action.NOTHING
    if answer is None:
        return Action.PUSH
    return Action.COMPLETE if answer.runs else Action.WAIT


def _in_doubt(answer: Answer | None) -> Action:
    if answer is None:
        return Action.ASK
    if answer.state in ownership.GONE:
        return Action.OWN
    if answer.state is State.RETURNED:
        return Action.DROP
    return Action.WAIT


def completed(entry: journal_.Entry) -> bool:
    """Whether the VF has run at the destination, as this side knows."""
    return entry.record.get('outcome') == phases.Outcome.COMPLETED


def judge(entry: journal_.Entry, choice: Choice,
          answer: Answer | None) -> tuple[Action, str]:
    """What an operator's choice leads to, and why.

    :param answer: of the other side; None when it has not been asked.
    :raises ResolveRefused: it would let both sides run, or lose the VF.
    """
    if entry.carrier is phases.Carrier.HYPERVISOR:
        raise ResolveRefused(
            f'migration {entry.migration_uuid}: libvirt decides who runs the '
            f'guest, and this agent only watches; its notes say what is seen '
            f'at both ends and what to type')
    who, peer = f'migration {entry.migration_uuid}', entry.peer_host
    if entry.settled or entry.state is State.FINISHED:
        return Action.NOTHING, f'{who} has ended: {entry.state}'
    if entry.role is phases.Role.SOURCE:
        return _judge_source(entry, choice, who, peer)
    if entry.state is State.OWNED and choice is Choice.DROP:
        raise ResolveRefused(f'{who}: the VF runs, or is to run, here and '
                             f'nowhere else; delete the server instead')
    if entry.state is State.OWNED:
        return Action.OWN, 'the VF is this host\'s: it is run'
    if entry.state is State.PREPARED:
        return _judge_prepared(entry, choice, answer, who)
    if choice is Choice.RUN:
        raise ResolveRefused(
            f'{who} is {entry.state} here: its state is not complete, and '
            f'{peer} has the right to run it; resolve it there')
    return Action.DROP, f'{entry.state} is dropped; {peer} has the VF'


def _judge_source(entry: journal_.Entry, choice: Choice, who: str,
                  peer: str) -> tuple[Action, str]:
    if entry.state in (State.ACTIVE, State.RETURNED):
        if choice is Choice.DROP:
            raise ResolveRefused(
                f'{who}: the VF belongs to the guest on this host; use run '
                f'or auto to let it go on, or delete the server')
        return Action.RETURN, 'the VF and the guest go on at this host'
    if choice is Choice.AUTO:
        return Action.PUSH, f'the VF was given up; {peer} is told to run it'
    raise ResolveRefused(
        f'{who}: this host has given the VF up and {peer} may be running it: '
        f'it can never run here again. Resolve it on {peer}; when it runs '
        f'there, "{_command(entry, Choice.AUTO)}" ends it here')


def _judge_prepared(entry: journal_.Entry, choice: Choice,
                    answer: Answer | None, who: str) -> tuple[Action, str]:
    peer = entry.peer_host
    state = None if answer is None else answer.state
    if state in ownership.GONE:
        if choice is Choice.DROP:
            raise ResolveRefused(f'{who}: {peer} has given the VF up, its '
                                 f'only copy is here; use run or auto')
        return Action.OWN, f'{peer} says {state}: the VF is run here'
    if state is State.RETURNED:
        if choice is Choice.RUN:
            raise ResolveRefused(f'{who}: the VF runs on {peer} again; it '
                                 f'would run twice. Use drop or auto')
        return Action.DROP, f'{peer} says {state}: the copy is dropped'
    heard = (f'{peer} says {state}' if state
             else f'the journal of {peer} can not be read')
    if choice is Choice.DROP and state is None:
        return Action.DROP, (
            f'{heard}; the verified copy is dropped on the operator\'s '
            f'word: if {peer} had given the VF up, its state is lost and the '
            f'server has to be evacuated or rebuilt')
    if choice is Choice.AUTO:
        return Action.WAIT, f'{heard}; it waits, paused'
    raise ResolveRefused(
        f'{who}: {heard}, so the VF may run there or may yet. Start the '
        f'agent of {peer} with its journal, then resolve again; if that host '
        f'is lost for good, fence it, drop this copy with '
        f'"{_command(entry, Choice.DROP)}" and evacuate the server')


def by_operator(why: str) -> str:
    """The record's reason after a drop that an operator asked for."""
    return f'dropped by the operator: {why}'


def _command(entry: journal_.Entry, choice: Choice) -> str:
    """What an operator types to ask this host for `choice`."""
    own = entry.record.get('source_host' if entry.role is phases.Role.SOURCE
                           else 'destination_host')
    return (f'nova-vgpu-mig --host {own} resolve {entry.migration_uuid} '
            f'--role {entry.role} --action {choice} --yes')
