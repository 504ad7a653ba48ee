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


"""The half of the driver extension that comes before a move.

What each GPU VM's host publishes, and every check up to Nova's claim: the
hooks in which a refusal costs nothing, because Nova tries the next host. The
rule of all of them: whatever speaks against a move leaves as
MigrationPreCheckError, and nothing stays claimed behind it.
"""

import sys
from typing import Any

from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.conf import nova as nova_opts
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.nova.internals import compute as internals
from nova_vgpu_mig.nova import moves
from nova_vgpu_mig.nova import publishing


class CheckingDriver(internals.LibvirtDriver):  # type: ignore[misc]
    """Nova's libvirt driver; refuses what the agents do not allow."""

    _moves: moves.VFMoves
    _publisher: publishing.Publisher

    def init_host(self, host: str) -> None:
        nova_opts.register_opts(internals.CONF)
        self._agents_host = host
        self._moves = moves.VFMoves(
            rpcapi.AgentAPI(internals.CONF), host,
            internals.CONF[nova_opts.GROUP].agent_timeout)
        self._publisher = publishing.Publisher(
            host, lambda: self._moves.pools(internals.admin_context()))
        super().init_host(host)

    def _held(self, instance: Any) -> list[internals.HeldVF]:
        return internals.flavor_vfs(
            instance, internals.CONF[nova_opts.GROUP].pci_aliases)

    # Publication

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        internals.release_forgotten_claims(
            self, internals.admin_context(), self._claimed_in_vain)
        data: dict[str, Any] = super().get_available_resource(nodename)
        data['stats'] = {**(data.get('stats') or {}),
                         **self._publisher.stats()}
        return data

    def _claimed_in_vain(self, instance: Any) -> bool:
        """Whether no part of a move to this host is left.

        libvirt and the local agent are asked, not Nova's record alone:
        the VF of a VM that runs here, or whose only copy waits here, must
        not become another VM's.
        """
        return (internals.is_elsewhere(instance, self._agents_host)
                and bool(self._held(instance))
                and not self.instance_exists(instance)
                and self._moves.has_left(
                    internals.admin_context(), instance))

    # Vetoes

    def check_can_live_migrate_destination(
            self, context: Any, instance: Any, src_compute_info: Any,
            dst_compute_info: Any, block_migration: bool = False,
            disk_over_commit: bool = False) -> Any:
        held = self._held(instance)
        if held:
            # What a move that failed here has left claimed.
            internals.release_pci_claim(self, context, instance)
            if internals.is_paused(instance):
                # The agents keep it paused; what Nova and libvirt make of
                # a pause that is ended in mid-move has not been tried.
                raise internals.veto(
                    'the VM is paused, and a VM with a GPU VF is moved while '
                    'it runs; unpause it first')
            self._moves.check_destination(context, instance, held)
        return super().check_can_live_migrate_destination(
            context, instance, src_compute_info, dst_compute_info,
            block_migration, disk_over_commit)

    def check_can_live_migrate_source(
            self, context: Any, instance: Any, dest_check_data: Any,
            block_device_info: Any = None) -> Any:
        held = self._held(instance)
        if held:
            if internals.permits_post_copy(self):
                raise internals.veto(
                    f'{self._agents_host} permits post-copy, which QEMU '
                    f'refuses for a VM with a GPU VF: set [libvirt] '
                    f'live_migration_permit_post_copy = False in nova.conf '
                    f'there and restart nova-compute')
            self._moves.check_source(context, instance, held)
        return super().check_can_live_migrate_source(
            context, instance, dest_check_data, block_device_info)

    def check_source_migrate_data_at_dest(
            self, ctxt: Any, instance: Any, migrate_data: Any,
            migration: Any, limits: Any, allocs: Any) -> Any:
        held = self._held(instance)
        if not held:
            return super().check_source_migrate_data_at_dest(
                ctxt, instance, migrate_data, migration, limits, allocs)
        names = internals.names(migration, self._agents_host)
        try:
            self._moves.claim(ctxt, instance, held,
                              internals.claimed_vfs(migrate_data), names)
        except Exception:
            internals.release_pci_claim(self, ctxt, instance)
            raise
        try:
            return super().check_source_migrate_data_at_dest(
                ctxt, instance, migrate_data, migration, limits, allocs)
        except Exception:
            self._drop_here(ctxt, instance, names)
            raise

    def _drop_here(self, context: Any, instance: Any,
                   names: internals.MoveNames) -> None:
        """Give back what this destination holds for a move that ends."""
        self._moves.rollback(context, instance, names,
                             phases.Role.DESTINATION)
        internals.release_pci_claim(self, context, instance)

    def cleanup_live_migration_destination_check(
            self, context: Any, dest_check_data: Any) -> None:
        super().cleanup_live_migration_destination_check(
            context, dest_check_data)
        # Nova calls this in its `finally`, also when its claim finds no
        # device: an error that it does not retry and that ends in ERROR.
        failed = sys.exc_info()[1]
        if internals.lacks_flavor_devices(
                failed, internals.CONF[nova_opts.GROUP].pci_aliases):
            raise internals.veto(
                f'Nova has no free VF on {self._agents_host}; it frees those '
                f'of a failed move within a minute') from failed
