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


"""What nova-compute's side needs of Nova's inside.

A new release of Nova is tried by running this module's tests against it.
Read and run on Nova 34.

The rest of the package gets plain values (`HeldVF`, `MoveNames`) or hands
Nova's objects through without looking into them.
"""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
import dataclasses
from typing import Any

from nova.compute import resource_tracker
from nova.compute import vm_states
from nova import conf as nova_conf
from nova import context as nova_context
from nova import exception
from nova.network import os_vif_util
from nova import objects
from nova.objects import fields
from nova.virt.libvirt import driver as libvirt_driver
import os_vif
from oslo_concurrency import lockutils
from oslo_log import log as logging

LOG = logging.getLogger(__name__)

CONF = nova_conf.CONF
LibvirtDriver = libvirt_driver.LibvirtDriver

MAX_REASON = 220
"""Characters. An event's details are cut at 255, after Nova's own words."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeldVF:
    """A VF that a VM holds on the host where it runs."""

    address: str
    alias: str | None
    """The PCI alias of the flavor's request."""


@dataclasses.dataclass(frozen=True, slots=True)
class MoveNames:
    """How Nova names one live migration."""

    migration_uuid: str
    source_host: str
    destination_host: str


def veto(reason: str) -> Exception:
    """Return the one exception that makes Nova try the next host.

    A subclass, or any other exception, would not be retried and might set
    the VM to ERROR.
    """
    if len(reason) > MAX_REASON:
        reason = reason[:MAX_REASON - 3] + '...'
    made: Exception = exception.MigrationPreCheckError(reason=reason)
    return made


def is_veto(exc: BaseException) -> bool:
    return isinstance(exc, exception.MigrationPreCheckError)


def refuse_force_complete(reason: str) -> Exception:
    """Return what leaves the VM and its migration as they are."""
    made: Exception = exception.MigrationError(reason=reason)
    return made


def is_libvirt_error(exc: BaseException) -> bool:
    """Return whether libvirt raised it.

    Looked up at each call: Nova imports libvirt late, and its test fixtures
    replace the name.
    """
    return isinstance(exc, libvirt_driver.libvirt.libvirtError)


def permits_post_copy(driver: Any) -> bool:
    """Return whether Nova would let libvirt switch to post-copy.

    Of the flags that it has read its options into, which are what counts.
    """
    flags = driver._live_migration_flags | driver._block_migration_flags
    return bool(flags & libvirt_driver.libvirt.VIR_MIGRATE_POSTCOPY)


def admin_context() -> Any:
    return nova_context.get_admin_context()


def flavor_vfs(instance: Any, aliases: Iterable[str]) -> list[HeldVF]:
    """Return the VFs that the VM holds because of its flavor.

    :param aliases: only those of these PCI aliases; all if empty.

    A device that a destination has claimed is in `pci_devices` too, on other
    hosts even after a refusal, and is allocated there once the periodic task
    has seen it. What the VM runs with is allocated on its own host, which
    is the destination a little before Nova's record says so: then there is
    none on the other one.
    """
    vfs: list[HeldVF] = []
    elsewhere: list[HeldVF] = []
    for device, alias in _flavor_devices(instance, aliases):
        if device.status == fields.PciDeviceStatus.ALLOCATED:
            found = vfs if _is_of(instance, device) else elsewhere
            found.append(HeldVF(address=device.address, alias=alias))
    return vfs or elsewhere


def vf_addresses(instance: Any, aliases: Iterable[str]) -> set[str]:
    """Return where the flavor's VFs are, on whatever host and in any state.

    For a domain that is being built: its VFs may not be allocated yet.

    :param aliases: as for flavor_vfs().
    """
    return {device.address.lower()
            for device, _ in _flavor_devices(instance, aliases)}


def _flavor_devices(instance: Any, aliases: Iterable[str]
                    ) -> Iterator[tuple[Any, str | None]]:
    if not instance.pci_devices:
        # As Nova does it: its requests might have to be loaded.
        return
    wanted = set(aliases)
    requests = {}
    if instance.pci_requests is not None:
        requests = {request.request_id: request
                    for request in instance.pci_requests.requests
                    if request.source == objects.InstancePCIRequest
                    .FLAVOR_ALIAS}
    for device in instance.pci_devices:
        request = requests.get(device.request_id)
        if (request is not None
                and device.dev_type == fields.PciDeviceType.SRIOV_VF
                and (not wanted or request.alias_name in wanted)):
            yield device, request.alias_name


def _is_of(instance: Any, device: Any) -> bool:
    """Return whether the device is of the host that Nova has the VM on.

    A VM that is older than Nova's `compute_id` has none.
    """
    node = instance.compute_id if 'compute_id' in instance else None
    return node is None or bool(device.compute_node_id == node)


def extra_specs(instance: Any) -> dict[str, str]:
    """Return the extra specs of the VM's own copy of its flavor."""
    return dict(instance.flavor.extra_specs or {})


def is_paused(instance: Any) -> bool:
    return bool(instance.vm_state == vm_states.PAUSED)


def host_of(instance: Any) -> str:
    return str(instance.host)


def claimed_vfs(migrate_data: Any) -> dict[str, str]:
    """Return source VF address -> destination VF address."""
    if 'pci_dev_map_src_dst' not in migrate_data:
        return {}
    return dict(migrate_data.pci_dev_map_src_dst)


def names(migration: Any, destination_host: str | None = None) -> MoveNames:
    """Return how Nova names a live migration.

    :param destination_host: instead of the migration's own, which is not set
        yet while Nova still looks for a destination.
    """
    return MoveNames(
        migration_uuid=str(migration.uuid),
        source_host=str(migration.source_compute),
        destination_host=str(destination_host or migration.dest_compute))


def names_of(migrate_data: Any) -> MoveNames | None:
    """Return the names of the move that Nova's data belong to, if known."""
    if migrate_data is None or 'migration' not in migrate_data:
        return None
    return names(migrate_data.migration)


def names_in_progress(context: Any, instance: Any,
                      destination_host: str) -> MoveNames | None:
    """Return the names of the VM's live migration to a host, from the DB.

    For the hooks of the destination, some of which Nova tells nothing about
    the migration.
    """
    going_on = objects.MigrationList.get_in_progress_by_instance(
        context, instance.uuid, fields.MigrationType.LIVE_MIGRATION)
    for migration in going_on:
        if migration.dest_compute == destination_host:
            return names(migration)
    return None


def destination_vifs(instance: Any, migrate_data: Any) -> list[Any]:
    """Return the os-vif objects of the VM's ports as bound to this host.

    Without Neutron's multiple port bindings there are only the source's.
    Kinds of VIF that Nova plugs without os-vif are left out.
    """
    if 'vifs' in migrate_data and migrate_data.vifs:
        # As Nova does it when it plugs them.
        models = [vif.get_dest_vif() for vif in migrate_data.vifs
                  if 'vif_type' in vif]
    else:
        models = list(instance.get_network_info())
    found = []
    for model in models:
        try:
            vif = os_vif_util.nova_to_osvif_vif(model)
        except exception.NovaException:
            # Not os-vif's, or not bound: Nova's own error says more.
            continue
        if vif is not None:
            found.append(vif)
    return found


def vif_plugins() -> Any:
    """Return what os-vif can plug on this host."""
    os_vif.initialize()
    return os_vif.host_info()


def release_pci_claim(driver: Any, context: Any, instance: Any) -> None:
    """Give the PCI devices back that this host has claimed for a VM.

    Nova itself would leave them claimed until the next periodic task, and
    the next move would find two devices for one request, or none free.

    It never raises: it is called where a refusal is on its way to Nova, and
    the periodic task does it again.
    """
    try:
        driver.virtapi._compute.rt.free_pci_device_claims_for_instance(
            context, instance)
    except Exception:
        LOG.exception('Nova\'s claim of PCI devices could not be given back '
                      'now; the next periodic task does it',
                      instance=instance)


def release_forgotten_claims(driver: Any, context: Any,
                             in_vain: Callable[[Any], bool]) -> None:
    """Give back what this host has claimed for VMs that did not come.

    A nova-compute that finds a live migration when it starts puts it into
    `error`, and rolls nothing back. To Nova's resource tracker a migration
    in `error` goes on: the destination's claim would stay for as long as
    the VM exists.

    Nova's record alone does not tell: of a VM whose move was committed, or
    waits for its source's journal, it may say the same. Only a claim is
    given back, which Nova's periodic task may have made an allocation: that
    one stays, because the source of a resize looks like it.

    :param in_vain: whether nothing of the VM is, or may come to be, here;
        may raise, which keeps the claim.
    """
    rt = driver.virtapi._compute.rt
    for uuid in list(rt.pci_tracker.claims) if rt.pci_tracker else ():
        try:
            if in_vain(_claimant(context, uuid)):
                _release_forgotten(driver, context, uuid)
        except Exception:
            LOG.warning('The PCI devices that are claimed for VM %s stay '
                        'claimed; the next periodic task looks again', uuid,
                        exc_info=True)


def _claimant(context: Any, uuid: str) -> Any:
    return objects.Instance.get_by_uuid(
        context, uuid, expected_attrs=['pci_devices', 'pci_requests'])


def _release_forgotten(driver: Any, context: Any, uuid: str) -> None:
    rt = driver.virtapi._compute.rt
    with lockutils.lock(resource_tracker.COMPUTE_RESOURCE_SEMAPHORE,
                        lock_file_prefix='nova-', fair=True):
        # Read again: a claim is made under this lock, for a VM with a task.
        instance = _claimant(context, uuid)
        if is_elsewhere(instance, driver.virtapi._compute.host):
            rt.pci_tracker.free_instance_claims(context, instance)
            rt.pci_tracker.save(context)


def is_elsewhere(instance: Any, host: str) -> bool:
    """Return whether Nova has the VM on another host, in no move."""
    return (instance.task_state is None and instance.host is not None
            and instance.host != host)


def return_allocation(driver: Any, context: Any, instance: Any) -> None:
    """Let the VM have its allocation in Placement for this host again.

    While a VM is moved, the migration holds it and the VM that for the
    destination.

    It never raises: the VM goes on here in any case, and Nova's
    `placement audit` finds what is left.
    """
    try:
        migration = objects.Migration.get_by_instance_and_status(
            context, instance.uuid, 'running')
        driver.virtapi._compute._revert_allocation(
            context, instance, migration)
    except Exception:
        LOG.exception('The VM goes on here, but its allocation in Placement '
                      'is another host\'s still. See: nova-manage placement '
                      'audit', instance=instance)


def lacks_flavor_devices(exc: BaseException | None,
                         aliases: Iterable[str]) -> bool:
    """Return whether Nova found no PCI device for a flavor's alias.

    :param aliases: only for these; all if empty.
    """
    if not isinstance(exc, exception.PciDeviceRequestFailed):
        return False
    wanted = set(aliases)
    return any(
        request.source == objects.InstancePCIRequest.FLAVOR_ALIAS
        and (not wanted or request.alias_name in wanted)
        for request in exc.kwargs.get('requests') or ())
