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

"""What a request for a move has to pass before anything is reserved for it.

Nova's pre-checks have asked the same minutes ago; a claim is judged once
more because it is what counts, and what was free then may be taken now.
"""

from oslo_context import context

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases


def check(request: objects.VFMigrationRequest, host: str,
          role: phases.Role) -> None:
    """Refuse a request that can't be for this side of a move. Pure.

    :param host: whose agent asks, and is to be the `role` of the move.
    :raises errors.BadRequest: with what is wrong.
    """
    own_host = (request.source_host if role is phases.Role.SOURCE
                else request.destination_host)
    if own_host != host:
        raise errors.BadRequest(
            f'agent of {host}: migration {request.migration_uuid} is for '
            f'host {own_host}')
    if request.source_host == request.destination_host:
        raise errors.BadRequest(
            f'agent of {host}: source and destination of migration '
            f'{request.migration_uuid} are the same host')


def refuse_carrier(node: node_.Node,
                   request: objects.VFMigrationRequest) -> None:
    """:raises errors.Refused: nobody here carries it so; why."""
    if request.carrier != objects.CARRIER_HYPERVISOR:
        return
    if why := node.hypervisor.available():
        raise errors.Refused(
            f'agent of {node.host}: migration {request.migration_uuid} is to '
            f'be carried by the hypervisor, which this agent can not watch: '
            f'{why}')


def refuse_now(host: str, vf: contract.VF) -> None:
    """Refuse to move a VF that its host driver would not let go now. Pure.

    :raises errors.Refused: with what to wait for.
    """
    if vf.state is contract.VFState.LOADING:
        raise errors.Refused(
            f'VF {vf.address} of {host} can\'t be moved now: its guest driver '
            f'is loading, or the VF is being reset; try again when the guest '
            f'has loaded its GPU driver')


def refuse_unfit(node: node_.Node,
                 request: objects.VFMigrationRequest) -> None:
    """Refuse a claim of a VF that is taken, or that does not fit.

    :raises errors.AgentError: which of the two, and why.
    """
    address = request.destination_vf
    pool, vf = node.locate(address)
    holder = next((e for e in node.journal.entries(unsettled=True)
                   if e.vf_address == address), None)
    if holder is not None:
        raise errors.VFTaken(
            f'VF {address} of {node.host} is held by migration '
            f'{holder.migration_uuid} ({holder.role}, {holder.state}); see '
            f'"nova-vgpu-mig --host {node.host} show '
            f'{holder.migration_uuid}"')
    if not vf.free:
        raise errors.VFTaken(
            f'VF {address} of {node.host} is in use: a guest driver is '
            f'loaded or something has it open')
    theirs = node.api.describe(
        context.RequestContext(), request.source_host).as_pools()
    found = [(p, v) for p in theirs for v in p.vfs
             if v.address == request.source_vf]
    if not found:
        raise errors.VFNotFound(
            f'the agent of {request.source_host} serves no VF '
            f'{request.source_vf}')
    judged = verdict.judge(
        found[0][0].identity, pool.identity, free_vfs=1,
        source_index=found[0][1].index, free_indices=frozenset((vf.index,)),
        health=pool.health)
    if not judged.compatible:
        raise errors.Incompatible(judged.reason())
