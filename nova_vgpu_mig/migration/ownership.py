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


"""The right to run a VF: the states of each side, and which may follow.

A phase (phases.py) may be lost with a process; the right to run may not.
These are the states that the journal makes durable, as one table, so that
the invariant (never do both sides run, never does a verified VF get lost)
can be checked by walking the table instead of reading the engine.
"""

import enum

from nova_vgpu_mig.migration import phases


class State(enum.StrEnum):
    """What a side may do with its VF."""

    ACTIVE = 'ACTIVE'
    """Source: the VF is ours; a move is under way."""
    GIVEN_UP = 'GIVEN_UP'
    """Source: never to be run here again."""
    RETURNED = 'RETURNED'
    """Source: the move failed; the VF is ours and runs on."""
    RESERVED = 'RESERVED'
    """Destination: the VF is kept for the move, until the deadline."""
    LOADING = 'LOADING'
    """Destination: state is coming in, until the deadline."""
    PREPARED = 'PREPARED'
    """Destination: verified and complete; must not run, must not go."""
    OWNED = 'OWNED'
    """Destination: the VF is ours; it is run, retried until it does."""
    DROPPED = 'DROPPED'
    """Destination: what came is thrown away."""
    FINISHED = 'FINISHED'
    """Either: nothing left to do."""


TRANSITIONS: dict[phases.Role, dict[State, frozenset[State]]] = {
    phases.Role.SOURCE: {
        State.ACTIVE: frozenset((State.GIVEN_UP, State.RETURNED)),
        State.GIVEN_UP: frozenset((State.FINISHED,)),
        State.RETURNED: frozenset(),
        State.FINISHED: frozenset(),
    },
    phases.Role.DESTINATION: {
        State.RESERVED: frozenset((State.LOADING, State.DROPPED)),
        State.LOADING: frozenset((State.PREPARED, State.DROPPED)),
        State.PREPARED: frozenset((State.OWNED, State.DROPPED)),
        State.OWNED: frozenset((State.FINISHED,)),
        State.DROPPED: frozenset(),
        State.FINISHED: frozenset(),
    },
}

_OBSERVED: dict[phases.Role, dict[State, frozenset[State]]] = {
    phases.Role.SOURCE: TRANSITIONS[phases.Role.SOURCE],
    phases.Role.DESTINATION: {
        State.RESERVED: frozenset((State.LOADING, State.DROPPED)),
        State.LOADING: frozenset((State.OWNED, State.DROPPED)),
        State.OWNED: frozenset((State.FINISHED,)),
        State.DROPPED: frozenset(),
        State.FINISHED: frozenset(),
    },
}
"""Of the hypervisor carrier: a state is what libvirt was seen to have
decided. Nothing waits to be allowed to run, so that none is PREPARED."""

FIRST = {phases.Role.SOURCE: State.ACTIVE,
         phases.Role.DESTINATION: State.RESERVED}

DEADLINED = frozenset((State.ACTIVE, State.RESERVED, State.LOADING))
"""States that may end by themselves; the others wait for the other side."""

GONE = frozenset((State.GIVEN_UP, State.FINISHED))
"""A source's answers by which the VF is the destination's."""


def may_follow(role: phases.Role, state: State, to: State,
               carrier: phases.Carrier = phases.Carrier.AGENT) -> bool:
    """Whether a side that is in `state` may go to `to`."""
    table = (TRANSITIONS if carrier is phases.Carrier.AGENT else _OBSERVED)
    return to in table[role].get(state, ())


def is_last(role: phases.Role, state: State) -> bool:
    """Whether nothing follows `state`."""
    return not TRANSITIONS[role][state]
