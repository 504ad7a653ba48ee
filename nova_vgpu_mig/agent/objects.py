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

"""What crosses the wire between agents, Nova and the operator's CLI.

Versioned objects, because agents and nova-compute of different releases
talk to each other while a cloud is being upgraded. Inside a process the
plain values of `compatibility`, `gpu` and `migration` are used; each object
here converts from and to one of them, and nothing else happens here.

Records and plans cross as plain JSON values instead: they are only shown,
never acted on, and `migration.record` has defined their form already.

The registry of oslo.versionedobjects is one for the whole process, Nova's
objects included, so the names must differ from Nova's (there is a test).
"""

import re
from typing import Any
from typing import Self

from oslo_versionedobjects import base
from oslo_versionedobjects import fields

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases

CARRIER_AGENT = str(phases.Carrier.AGENT)
CARRIER_HYPERVISOR = str(phases.Carrier.HYPERVISOR)
_ADDRESS = re.compile(
    '[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}[.][0-7]'
    '|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
CARRIERS = (CARRIER_AGENT, CARRIER_HYPERVISOR)


class VgpuMigObject(base.VersionedObject):  # type: ignore[misc]
    """Base of all: keeps our objects apart from Nova's on the wire."""

    OBJ_SERIAL_NAMESPACE = 'nova_vgpu_mig_object'
    OBJ_PROJECT_NAMESPACE = 'nova_vgpu_mig'

    def __getattr__(self, name: str) -> Any:
        # Fields are properties made at registration; this only tells the
        # type checker so, and is never reached for a field that exists.
        raise AttributeError(f'{type(self).__name__} has no {name!r}')


register = base.VersionedObjectRegistry.register


class VgpuMigSerializer(
        base.VersionedObjectSerializer):  # type: ignore[misc]
    OBJ_BASE_CLASS = VgpuMigObject


class DeviceAddressField(fields.AutoTypedField):  # type: ignore[misc]
    """A VF's PCI address, or the uuid of a mediated device."""

    class _DeviceAddress(fields.FieldType):  # type: ignore[misc]
        @staticmethod
        def coerce(obj: Any, attr: str, value: Any) -> str:
            text = str(value).lower()
            if _ADDRESS.fullmatch(text) is None:
                raise ValueError(
                    f'{attr}: {value!r:.60} is neither a PCI address '
                    f'(0000:c1:00.2) nor the uuid of a mediated device')
            return text

    AUTO_TYPE = _DeviceAddress()


@register
class VFMigrationRequest(VgpuMigObject):
    """One move, as everyone who takes part in it names it.

    `limit_ms` is the downtime that the VM's owner accepts, milliseconds;
    None leaves it to the source agent's own option.
    """

    # 1.0: Initial version
    # 1.1: a VF may be a mediated device
    VERSION = '1.1'

    fields = {
        'migration_uuid': fields.UUIDField(),
        'instance_uuid': fields.UUIDField(),
        'request_id': fields.StringField(nullable=True, default=None),
        'source_host': fields.StringField(),
        'destination_host': fields.StringField(),
        'source_vf': DeviceAddressField(),
        'destination_vf': DeviceAddressField(),
        'limit_ms': fields.IntegerField(nullable=True, default=None),
        'carrier': fields.EnumField(CARRIERS, default=CARRIER_AGENT),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.obj_set_defaults('request_id', 'limit_ms', 'carrier')


def _told(value: VgpuMigObject) -> dict[str, Any]:
    """The fields that came; an older agent leaves the newer ones out."""
    return {name: getattr(value, name) for name in value.fields
            if value.obj_attr_is_set(name)}


@register
class VFIdentityObject(VgpuMigObject):
    """compatibility.identity.VFIdentity; None means "not exposed"."""

    # 1.0: Initial version
    # 1.1: subsystem, revision, psp_migration_version, memory_partition,
    #      xgmi, xgmi_node, compute_units
    # 1.2: frame_buffer_mib may be missing
    VERSION = '1.2'

    fields = {
        'vendor_id': fields.StringField(),
        'device_id': fields.StringField(),
        'frame_buffer_mib': fields.IntegerField(nullable=True),
        'num_vfs': fields.IntegerField(),
        'migration_version': fields.IntegerField(nullable=True),
        'driver_version': fields.StringField(nullable=True),
        'vbios_version': fields.StringField(nullable=True),
        'partition': fields.StringField(nullable=True),
        'subsystem': fields.StringField(nullable=True),
        'revision': fields.StringField(nullable=True),
        'psp_migration_version': fields.StringField(nullable=True),
        'memory_partition': fields.StringField(nullable=True),
        'xgmi': fields.StringField(nullable=True),
        'xgmi_node': fields.IntegerField(nullable=True),
        'compute_units': fields.IntegerField(nullable=True),
        'firmware': fields.DictOfStringsField(),
        'engines': fields.DictOfIntegersField(),
        'time_slices_us': fields.DictOfIntegersField(),
    }

    @classmethod
    def from_identity(cls, value: identity.VFIdentity) -> Self:
        made = cls()
        for name in cls.fields:
            field = getattr(value, name)
            setattr(made, name,
                    dict(field) if hasattr(field, 'items') else field)
        return made

    def as_identity(self) -> identity.VFIdentity:
        return identity.VFIdentity(**_told(self))


@register
class VFDescription(VgpuMigObject):
    """gpu.contract.VF."""

    # 1.0: Initial version
    # 1.1: it may be a mediated device
    # 1.2: state, guest_driver
    VERSION = '1.2'

    fields = {
        'address': DeviceAddressField(),
        'index': fields.IntegerField(),
        'free': fields.BooleanField(),
        'used_bytes': fields.IntegerField(nullable=True),
        'state': fields.EnumField(
            tuple(str(state) for state in contract.VFState), nullable=True),
        'guest_driver': fields.StringField(nullable=True),
    }

    def as_vf(self) -> contract.VF:
        values = _told(self)
        state = values.pop('state', None)
        return contract.VF(
            **values,
            state=None if state is None else contract.VFState(state))


@register
class PoolDescription(VgpuMigObject):
    """gpu.contract.Pool: the VFs of one PF."""

    # 1.0: Initial version
    # 1.1: the parent may be another device than a PF
    # 1.2: bad_pages, uncorrectable_errors
    VERSION = '1.2'

    fields = {
        'pf_address': fields.StringField(),
        'identity': fields.ObjectField('VFIdentityObject'),
        'vfs': fields.ListOfObjectsField('VFDescription'),
        'bad_pages': fields.IntegerField(nullable=True),
        'uncorrectable_errors': fields.IntegerField(nullable=True),
    }

    @classmethod
    def from_pool(cls, pool: contract.Pool) -> Self:
        return cls(
            pf_address=pool.pf_address,
            identity=VFIdentityObject.from_identity(pool.identity),
            vfs=[VFDescription(**{name: getattr(vf, name)
                                  for name in VFDescription.fields})
                 for vf in pool.vfs],
            bad_pages=pool.health.bad_pages,
            uncorrectable_errors=pool.health.uncorrectable_errors)

    def as_pool(self) -> contract.Pool:
        values = _told(self)
        return contract.Pool(
            pf_address=self.pf_address,
            identity=self.identity.as_identity(),
            vfs=tuple(vf.as_vf() for vf in self.vfs),
            health=health.Health(values.get('bad_pages'),
                                 values.get('uncorrectable_errors')))


@register
class HostDescription(VgpuMigObject):
    """An agent's answer to `describe`; a VF reserved by it is not free.

    `carriers` says who can carry the state of this host's VMs: CARRIER_AGENT
    when a VMM port reaches them. Whoever starts a move has to find the same
    one at both ends; an agent that says nothing carries nothing.
    """

    # 1.0: Initial version
    VERSION = '1.0'

    fields = {
        'host': fields.StringField(),
        'version': fields.StringField(),
        'rpc_version': fields.StringField(),
        'data_host': fields.StringField(),
        'data_port': fields.IntegerField(),
        'pools': fields.ListOfObjectsField('PoolDescription'),
        'carriers': fields.ListOfStringsField(default=[]),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.obj_set_defaults('carriers')

    def as_pools(self) -> tuple[contract.Pool, ...]:
        return tuple(pool.as_pool() for pool in self.pools)
