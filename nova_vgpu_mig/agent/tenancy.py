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

"""What ended moves still hold of what a new one needs.

A move that has completed keeps its VF until somebody finishes it: Nova's
hook, Nova's notification, or the housekeeping. All three may be late or
lost, and the next VM on that VF must not pay for it. So the step that needs
the VF does what is left there and then, or says exactly what stands against
it. Nothing here touches a move that has not completed.
"""

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery as recovery_
from nova_vgpu_mig.vmm import hypervisor

SOURCE = phases.Role.SOURCE
State = ownership.State

COMPLETED_IN = frozenset((State.GIVEN_UP, State.OWNED))


def over(entry: journal_.Entry) -> bool:
    """Whether only finish() is left to do for an entry. Pure."""
    return (not entry.settled and entry.state in COMPLETED_IN
            and doubt.completed(entry))


def vacant(entry: journal_.Entry) -> bool:
    """Whether an entry holds its VF only until it is scrubbed. Pure.

    Whether the VF can be taken is then the GPU driver's word alone: the VM
    that was moved away holds it as long as it exists here.
    """
    return over(entry) and entry.role is SOURCE


def concerns(entry: journal_.Entry, request: objects.VFMigrationRequest,
             role: phases.Role) -> bool:
    """Whether a completed move stands in the way of a new one. Pure.

    Not at a destination whose VM has only just come: the VF is its own.
    """
    if entry.role is role and entry.instance_uuid == request.instance_uuid:
        return True
    vf = request.source_vf if role is SOURCE else request.destination_vf
    return entry.vf_address == vf and SOURCE in (entry.role, role)


class Tenancy:
    """Makes way for a new move, on behalf of its first step."""

    def __init__(self, node: node_.Node,
                 recovery: recovery_.Recovery) -> None:
        self._node = node
        self._recovery = recovery

    def make_way(self, request: objects.VFMigrationRequest,
                 role: phases.Role, patience: float) -> None:
        """Finish completed moves that hold the request's VF or instance.

        Not to be called inside of a step: it enters those of others.

        :param patience: seconds to wait for one that is about to end.
        :raises errors.VFTaken: one can't be finished; why.
        """
        if self._node.find(request.migration_uuid, role) is not None:
            return
        for entry in self._node.journal.entries(unsettled=True):
            if over(entry) and concerns(entry, request, role):
                run = self._node.moves.get(entry.migration_uuid, entry.role)
                if run is not None:
                    run.wait(patience)
                self._finish(entry, request, role)

    def _finish(self, entry: journal_.Entry,
                request: objects.VFMigrationRequest,
                role: phases.Role) -> None:
        uuid = entry.migration_uuid
        try:
            with self._node.moves.step(uuid):
                if self._node.journal.get(uuid, entry.role).settled:
                    return
                if self._belongs_to_another(entry, request, role):
                    # Clearing it now would be clearing the new VM's.
                    self._node.journal.move(uuid, entry.role, State.FINISHED)
                else:
                    self._recovery.finish(uuid, entry.role)
        except (*custody.EXPECTED, LookupError) as exc:
            raise errors.VFTaken(
                f'VF {entry.vf_address} of {self._node.host}: instance '
                f'{entry.instance_uuid} has moved to {entry.peer_host} '
                f'(migration {uuid}), but the VF can not be cleared yet: '
                f'{custody.explain(exc)}') from exc

    def _belongs_to_another(self, entry: journal_.Entry,
                            request: objects.VFMigrationRequest,
                            role: phases.Role) -> bool:
        """Whether Nova has given the VF to the VM that is to move now.

        :raises custody.MoveFailed: the VM that moved away is here still,
            or it can't be told.
        """
        if (entry.role is not SOURCE or role is not SOURCE
                or entry.vf_address != request.source_vf
                or entry.instance_uuid == request.instance_uuid):
            return False
        if self._is_here(entry):
            raise custody.MoveFailed(
                f'the VMM still has instance {entry.instance_uuid}, which '
                f'Nova has to remove from this host')
        return True

    def _is_here(self, entry: journal_.Entry) -> bool:
        """:raises custody.MoveFailed: it can't be told."""
        if entry.carrier is phases.Carrier.HYPERVISOR:
            try:
                return self._node.hypervisor.view(
                    entry.instance_uuid).state.here
            except hypervisor.HypervisorError as exc:
                raise custody.MoveFailed(str(exc)) from exc
        if entry.record.get('guest') and (why := self._node.look_for_vmm()):
            raise custody.MoveFailed(why)
        guest = self._node.guest(entry.instance_uuid)
        if guest is not None:
            guest.close()
        return guest is not None
