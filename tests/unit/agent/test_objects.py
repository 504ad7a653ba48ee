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

"""What crosses the wire keeps its form, or says that it has changed."""

from typing import Any
import unittest

from oslo_versionedobjects import base
from oslo_versionedobjects import fixture

from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract

# A test that fails here says: you have changed what crosses the wire. Raise
# the object's VERSION, note it in its history, then put the new value here.
FINGERPRINTS = {
    'HostDescription': '1.0-cdfbf5bf52e98a983ead214ef9e57717',
    'PoolDescription': '1.2-352436e9d9c9115a1610a4f059faa24c',
    'VFDescription': '1.2-0ee40717b9bf8e65adb2d4cbc1ba6229',
    'VFIdentityObject': '1.2-1e2f3ed5b1b049ed0d96d4fa994bc2e1',
    'VFMigrationRequest': '1.1-cdaa4d81faa4572b3c622b503e9cd6c1',
}

IDENTITY = identity.VFIdentity(
    '1002', '74b5', 512, 4, migration_version=2, driver_version='1.2',
    partition='SPX', xgmi_node=2, subsystem='1002:74a1',
    firmware={'MEC': '0x9c'}, engines={'VCN': 3},
    time_slices_us={'gfx': 6000})


def ours() -> dict[str, list[type]]:
    return {name: [c for c in classes
                   if issubclass(c, objects.VgpuMigObject)]
            for name, classes in
            base.VersionedObjectRegistry.obj_classes().items()
            if any(issubclass(c, objects.VgpuMigObject) for c in classes)}


class TestObjects(unittest.TestCase):

    def test_fingerprints(self) -> None:
        checker = fixture.ObjectVersionChecker(ours())
        expected, actual = checker.test_hashes(FINGERPRINTS)
        self.assertEqual(expected, actual)

    def test_names_are_not_novas(self) -> None:
        import nova.objects
        nova.objects.register_all()
        for name in ours():
            classes = base.VersionedObjectRegistry.obj_classes()[name]
            self.assertEqual(1, len(classes), name)

    def test_pool_goes_there_and_back(self) -> None:
        pool = contract.Pool('0000:03:00.0', IDENTITY, (
            contract.VF('0000:03:02.0', 0, True, None),
            contract.VF('0000:03:02.1', 1, False, 4096,
                        contract.VFState.LOADING, '6.12.12')),
            health.Health(3, 0))
        serializer = objects.VgpuMigSerializer()
        described = objects.HostDescription(
            host='h', version='1', rpc_version='1.0', data_host='127.0.0.1',
            data_port=1, pools=[objects.PoolDescription.from_pool(pool)])
        arrived = serializer.deserialize_entity(
            None, serializer.serialize_entity(None, described))
        self.assertEqual((pool,), arrived.as_pools())
        self.assertEqual([], arrived.carriers)

    def test_older_agents_leave_the_newer_fields_out(self) -> None:
        pool = contract.Pool('0000:03:00.0', identity.VFIdentity(
            '1002', '74b5', 512, 4), (contract.VF('0000:03:02.0', 0, True),))
        wire = objects.PoolDescription.from_pool(pool).obj_to_primitive()

        def age(value: dict[str, Any]) -> None:
            value['nova_vgpu_mig_object.version'] = '1.0'
            data = value['nova_vgpu_mig_object.data']
            for name in ('subsystem', 'revision', 'psp_migration_version',
                         'memory_partition', 'xgmi', 'xgmi_node',
                         'compute_units', 'state', 'guest_driver',
                         'bad_pages', 'uncorrectable_errors'):
                data.pop(name, None)

        age(wire)
        age(wire['nova_vgpu_mig_object.data']['identity'])
        age(wire['nova_vgpu_mig_object.data']['vfs'][0])
        arrived = objects.PoolDescription.obj_from_primitive(wire)
        self.assertEqual(pool, arrived.as_pool())

    def test_request_has_defaults(self) -> None:
        request = objects.VFMigrationRequest()
        self.assertIsNone(request.limit_ms)
        self.assertEqual(objects.CARRIER_AGENT, request.carrier)

    def test_bad_values_are_refused(self) -> None:
        for field, value in (('source_vf', 'nonsense'),
                             ('carrier', 'pigeon'),
                             ('limit_ms', 'soon')):
            with self.assertRaises(ValueError, msg=field):
                objects.VFMigrationRequest(**{field: value})
