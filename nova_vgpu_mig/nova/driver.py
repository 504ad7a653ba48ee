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


"""The driver extension: Nova's libvirt driver, with GPU VFs looked after.

Loaded as `compute_driver = vgpu_mig.VgpuMigLibvirtDriver`. Each hook here is
one that Nova calls in a live migration; VMs without a GPU VF go straight to
Nova's own code. Three things decide the form:

* before the claim a refusal must be MigrationPreCheckError, or the next host
  is not tried;
* whatever leaves `_live_migration_operation` ends in ERROR although nothing
  is lost, while the monitor beside it can decide from libvirt's job: so
  errors are logged here and go no further;
* the post hooks run when the VM is at the destination already: an exception
  would only turn a good move into a VM in ERROR.

Rejected: patching Nova's compute manager, which has the exact points that
are missing here (the claim, mostly). It would tie us to each release.
"""

import collections
from typing import Any

from oslo_log import log as logging

from nova_vgpu_mig.conf import nova as nova_opts
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.nova import checks
from nova_vgpu_mig.nova.internals import compute as internals
from nova_vgpu_mig.nova.internals import guest as guests
from nova_vgpu_mig.nova import migration_events
from nova_vgpu_mig.nova import monitoring
from nova_vgpu_mig.nova import networks

LOG = logging.getLogger(__name__)

_GIB = 1024 ** 3


class VgpuMigLibvirtDriver(checks.CheckingDriver):
    """Nova's libvirt driver; moves GPU VFs only as the agents allow."""

    # The guest

    def _get_guest_xml(self, context: Any, instance: Any, *args: Any,
                       **kwargs: Any) -> str:
        xml: str = super()._get_guest_xml(context, instance, *args, **kwargs)
        options = internals.CONF[nova_opts.GROUP]
        if options.migration_events and self._host.has_min_version(
                lv_ver=migration_events.LIBVIRT,
                hv_ver=migration_events.QEMU):
            xml = migration_events.ask(xml, internals.vf_addresses(
                instance, options.pci_aliases))
        return xml

    # The move

    def pre_live_migration(self, context: Any, instance: Any,
                           block_device_info: Any, network_info: Any,
                           disk_info: Any, migrate_data: Any) -> Any:
        names = self._names_here(context, instance)
        try:
            if names is not None:
                self._check_networks(instance, migrate_data)
            result = super().pre_live_migration(
                context, instance, block_device_info, network_info,
                disk_info, migrate_data)
            if names is not None:
                self._moves.prepare(context, names)
            return result
        except Exception:
            if names is not None:
                # Nova calls our rollback only if it has files to delete.
                self._drop_here(context, instance, names)
            raise

    def _check_networks(self, instance: Any, migrate_data: Any) -> None:
        problems = networks.unpluggable(
            internals.destination_vifs(instance, migrate_data),
            internals.vif_plugins())
        if problems:
            raise internals.veto(f'{self._agents_host}: '
                                 + '; '.join(problems))

    def _names_here(self, context: Any,
                    instance: Any) -> internals.MoveNames | None:
        """Return the names of a GPU VM's move to this host."""
        if not self._held(instance):
            return None
        names = internals.names_in_progress(
            context, instance, self._agents_host)
        if names is None:
            LOG.error('Nova knows of no live migration to %s that goes on; '
                      'the agent is not told', self._agents_host,
                      instance=instance)
        return names

    def _live_migration_operation(
            self, context: Any, instance: Any, dest: str,
            block_migration: bool, migrate_data: Any, guest: Any,
            device_names: Any) -> None:
        held = self._held(instance)
        if not held:
            super()._live_migration_operation(
                context, instance, dest, block_migration, migrate_data,
                guest, device_names)
            return
        try:
            job = self._moves.prepare_source(
                context, instance, held, internals.claimed_vfs(migrate_data),
                internals.names(migrate_data.migration))
            super()._live_migration_operation(
                context, instance, dest, block_migration, migrate_data,
                guests.SteeredGuest(guest, job), device_names)
        except Exception as exc:
            # The monitor decides from libvirt's job and, where there was
            # none, from the domain that still runs here.
            if internals.is_libvirt_error(exc):
                LOG.error('libvirt gave the live migration up: %s', exc,
                          instance=instance)
            else:
                LOG.exception('The live migration did not begin',
                              instance=instance)

    def _live_migration_monitor(
            self, context: Any, instance: Any, guest: Any, dest: str,
            post_method: Any, recover_method: Any, block_migration: bool,
            migrate_data: Any, future: Any, disk_paths: list[str]) -> None:
        nova_monitor = super()._live_migration_monitor
        held = self._held(instance)
        if held:
            guest = guests.SteeredGuest(guest, {})

        def monitor(post: Any, recover: Any) -> None:
            # Nova drops its entry when the abort of a time-out fails.
            self.active_migrations.setdefault(
                instance.uuid, collections.deque())
            nova_monitor(context, instance, guest, dest, post, recover,
                         block_migration, migrate_data, future, disk_paths)

        if held:
            monitoring.watch(monitor, post_method, recover_method, future,
                             instance)
        else:
            monitor(post_method, recover_method)

    def _live_migration_data_gb(self, instance: Any,
                                disk_paths: list[str]) -> float:
        data_gb: float = super()._live_migration_data_gb(
            instance, disk_paths)
        held = self._held(instance)
        if held:
            size = self._publisher.frame_buffer_bytes(
                vf.address for vf in held)
            if size is None:
                LOG.warning('Time-outs of this live migration leave the '
                            'frame buffer out: the agent has not said '
                            'how large it is', instance=instance)
            else:
                data_gb += size / _GIB
        return data_gb

    def live_migration_force_complete(self, instance: Any) -> None:
        """Refuse for a GPU VM; its move goes on as planned.

        Nova would pause the VM, without the checks that come before a
        switchover and for as long as the rest takes, which may be far more
        than the downtime that was promised.
        """
        if self._held(instance):
            raise internals.refuse_force_complete(
                f'VM {instance.uuid} holds a GPU VF: its live migration '
                f'switches over when its downtime limit can be kept, and '
                f'cannot be forced. Wait for it, or abort it')
        super().live_migration_force_complete(instance)

    def live_migration_abort(self, instance: Any) -> None:
        """Abort; for a move that a former nova-compute began, clean up too.

        Nova does that at its start, and then sets the VM free without a
        rollback. The agents roll back by themselves. Refused after the
        commit: such a VM runs at the destination, Nova's record of it says
        otherwise, and no hook of a driver can change that.
        """
        super().live_migration_abort(instance)
        if self._held(instance) and (
                instance.uuid not in self.active_migrations):
            internals.return_allocation(
                self, internals.admin_context(), instance)

    # Afterwards

    def post_live_migration(self, context: Any, instance: Any,
                            block_device_info: Any,
                            migrate_data: Any = None) -> None:
        names = internals.names_of(migrate_data)
        try:
            super().post_live_migration(context, instance, block_device_info,
                                        migrate_data)
        finally:
            if names is not None and self._held(instance):
                self._moves.finish(context, instance, names,
                                   phases.Role.SOURCE)

    def post_live_migration_at_destination(
            self, context: Any, instance: Any, network_info: Any,
            block_migration: bool = False,
            block_device_info: Any = None) -> None:
        names = self._names_afterwards(context, instance)
        try:
            super().post_live_migration_at_destination(
                context, instance, network_info, block_migration,
                block_device_info)
        finally:
            if names is not None:
                self._moves.finish(context, instance, names,
                                   phases.Role.DESTINATION)

    def _names_afterwards(self, context: Any,
                          instance: Any) -> internals.MoveNames | None:
        try:
            return self._names_here(context, instance)
        except Exception:
            LOG.exception('The live migration has ended well; only its '
                          'release has to wait for the agent',
                          instance=instance)
            return None

    def rollback_live_migration_at_source(self, context: Any, instance: Any,
                                          migrate_data: Any) -> None:
        names = internals.names_of(migrate_data)
        if names is not None and self._held(instance):
            self._moves.rollback(context, instance, names,
                                 phases.Role.SOURCE)
            # The destination's own hook is left out with shared storage.
            self._moves.rollback(context, instance, names,
                                 phases.Role.DESTINATION)
        super().rollback_live_migration_at_source(
            context, instance, migrate_data)

    def rollback_live_migration_at_destination(
            self, context: Any, instance: Any, network_info: Any,
            block_device_info: Any, destroy_disks: bool = True,
            migrate_data: Any = None) -> None:
        names = internals.names_of(migrate_data)
        try:
            super().rollback_live_migration_at_destination(
                context, instance, network_info, block_device_info,
                destroy_disks, migrate_data)
        finally:
            if names is not None and self._held(instance):
                self._moves.rollback(context, instance, names,
                                     phases.Role.DESTINATION)
