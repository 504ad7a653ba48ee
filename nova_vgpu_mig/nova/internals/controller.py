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

"""What nova-scheduler and nova-api need of Nova's inside.

It imports as little as it can: see the package. Read and run on Nova 34.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from nova.api.validation.extra_specs import base as extra_specs_base
from nova import conf as nova_conf
from nova import context as nova_context
from nova import exception
from nova import objects
from nova.objects import fields
from nova.scheduler import filters

from nova_vgpu_mig.conf import nova as nova_opts

BaseHostFilter = filters.BaseHostFilter
NoValidHost = exception.NoValidHost
ExtraSpecValidator = extra_specs_base.ExtraSpecValidator

_MIGRATING = 'migrating'
"""Nova's task_state of a VM during a live migration."""


class SourceGone(Exception):
    """The VM or its host is no longer in the database."""


@dataclasses.dataclass(frozen=True, slots=True)
class HeldVF:
    """An SR-IOV VF that the VM runs with at the source."""

    address: str
    pf_address: str | None
    by_alias: bool
    """Asked for by a GPU's PCI alias of the flavor, not by a network port
    and not by the alias of some other device."""


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where a VM that is being live-migrated runs."""

    host: str
    stats: Mapping[str, Any]
    vfs: tuple[HeldVF, ...]


def may_be_live_migration(spec: Any) -> bool:
    """Tell, without any I/O, whether a request may move a VM with PCI.

    A live migration always leaves the VM's own host out, and always names
    the cell; a boot does neither.
    """
    return bool(
        spec.obj_attr_is_set('ignore_hosts') and spec.ignore_hosts
        and spec.obj_attr_is_set('requested_destination')
        and spec.requested_destination
        and spec.obj_attr_is_set('pci_requests')
        and spec.pci_requests and spec.pci_requests.requests)


def source_of(spec: Any) -> Source | None:
    """Look up where the VM runs; None if it is not being live-migrated.

    Reads the cell's database.

    :raises SourceGone: the VM or its host is not there any more.
    """
    nova_opts.register_opts(nova_conf.CONF)
    of_gpus = nova_conf.CONF[nova_opts.GROUP].pci_aliases
    aliases = {request.request_id for request in spec.pci_requests.requests
               if request.source == objects.InstancePCIRequest.FLAVOR_ALIAS
               and (not of_gpus or request.alias_name in of_gpus)}
    destination = spec.requested_destination
    cell = destination.cell if destination.obj_attr_is_set('cell') else None
    with nova_context.target_cell(
            nova_context.get_admin_context(), cell) as context:
        try:
            instance = objects.Instance.get_by_uuid(
                context, spec.instance_uuid, expected_attrs=[])
            if instance.task_state != _MIGRATING:
                return None
            node = objects.ComputeNode.get_by_host_and_nodename(
                context, instance.host, instance.node)
        except (exception.InstanceNotFound,
                exception.ComputeHostNotFound) as exc:
            raise SourceGone(str(exc)) from exc
        devices = objects.PciDeviceList.get_by_instance_uuid(
            context, instance.uuid)
    # A host that refused before may still hold its claim for this VM.
    held = tuple(
        HeldVF(device.address, device.parent_addr,
               device.request_id in aliases)
        for device in devices
        if device.compute_node_id == node.id
        and device.dev_type == fields.PciDeviceType.SRIOV_VF)
    return Source(host=str(instance.host), stats=node.stats or {}, vfs=held)


def pf_of_providers(spec: Any, node_uuid: str) -> dict[str, str]:
    """Return Placement's provider uuid -> PF address, for one host.

    Reads the cell's database. Empty if the host does not report its PCI
    devices to Placement.
    """
    destination = spec.requested_destination
    cell = destination.cell if destination.obj_attr_is_set('cell') else None
    with nova_context.target_cell(
            nova_context.get_admin_context(), cell) as context:
        node = objects.ComputeNode.get_by_uuid(context, node_uuid)
        devices = objects.PciDeviceList.get_by_compute_node(context, node.id)
    return {device.extra_info['rp_uuid']: device.parent_addr
            for device in devices
            if device.parent_addr and 'rp_uuid' in device.extra_info}


def alias_providers(spec: Any, candidate: Mapping[str, Any]) -> set[str]:
    """Return the providers that a candidate takes flavor aliases from.

    :param candidate: one of a HostState's allocation candidates. Nova names
        its request groups `<request id>-<number>`.
    """
    prefixes = tuple(
        f'{request.request_id}-' for request in spec.pci_requests.requests
        if request.source == objects.InstancePCIRequest.FLAVOR_ALIAS)
    mappings: Mapping[str, Sequence[str]] = candidate.get('mappings') or {}
    return {provider for group, providers in mappings.items()
            if group.startswith(prefixes) for provider in providers}
