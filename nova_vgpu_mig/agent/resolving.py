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

"""An operator's decision on a destination that is live.

It has a thread that waits for the source, or that tries to run the VF, and
that thread alone changes anything: what the operator may ask for is judged
as for an entry that nobody serves, and then handed to it.
"""

from typing import Any

from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership

State = ownership.State

DECIDED = frozenset((State.PREPARED, State.OWNED))
"""States of a live destination in which an operator has a say."""

_RUN_SECONDS = 2.0
"""How long an operator waits for a run that is tried again."""

_END_SECONDS = 10.0
"""What resetting and scrubbing a VF may take, or running it."""


def resolve(node: node_.Node, run: moves.DestinationRun,
            entry: journal_.Entry, choice: doubt.Choice,
            dry_run: bool) -> dict[str, Any]:
    """As AgentAPI.resolve(), for an entry in DECIDED.

    :raises doubt.ResolveRefused: it would break an invariant.
    :raises destination.DropRefused: its connection has not ended.
    """
    owned = entry.state is State.OWNED
    answer = None if owned else doubt.Answer(node.ask_source(entry))
    action, why = doubt.judge(entry, choice, answer)
    if dry_run or action is doubt.Action.WAIT:
        return {'done': False, 'explanation': why}
    if action is doubt.Action.DROP and answer == doubt.Answer():
        run.migration.give_up(doubt.by_operator(why))
    else:
        run.migration.look()
    # It may be asking the source right now, and asks once more.
    asking = 2 * node.conf[agent_conf.GROUP].rpc_timeout
    done = run.wait(_RUN_SECONDS if owned else asking + _END_SECONDS)
    state = node.journal.get(entry.migration_uuid, entry.role).state
    said = run.record.reason or ('it runs' if done else 'not yet')
    wanted = (State.DROPPED if action is doubt.Action.DROP else State.OWNED)
    return {'done': done and state in (wanted, State.FINISHED),
            'explanation': f'{why}; {said}'}
