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


import types

from nova import exception
from nova import objects
from nova.objects import fields
from nova.tests.fixtures import libvirt as fakelibvirt
from oslo_utils.fixture import uuidsentinel as uuids
import testtools

from nova_vgpu_mig.nova.internals import compute as internals


objects.register_all()


def instance(*held, alias='gpu-vf'):
    """Build a VM; each of `held` is fields of a PciDevice."""
    requests = [
        objects.InstancePCIRequest(
            request_id=uuids.by_alias, alias_name=alias, count=1,
            spec=[{'vendor_id': '1002'}]),
        objects.InstancePCIRequest(
            request_id=uuids.by_port, alias_name=None, count=1,
            requester_id=uuids.port, spec=[{}])]
    return objects.Instance(
        uuid=uuids.instance,
        pci_requests=objects.InstancePCIRequests(requests=requests),
        pci_devices=objects.PciDeviceList(objects=[
            objects.PciDevice(**{
                'address': '0000:83:00.1',
                'dev_type': fields.PciDeviceType.SRIOV_VF,
                'status': fields.PciDeviceStatus.ALLOCATED,
                'request_id': uuids.by_alias, **values})
            for values in held]))


class VetoTest(testtools.TestCase):

    def test_is_exactly_what_nova_tries_the_next_host_for(self):
        self.assertIs(exception.MigrationPreCheckError,
                      type(internals.veto('no')))

    def test_fits_into_the_details_of_an_event(self):
        text = str(internals.veto('x' * 4000))
        self.assertLessEqual(len(text), 255)
        self.assertTrue(text.endswith('...'))


class PostCopyTest(testtools.TestCase):

    def test_either_kind_of_migration_counts(self):
        self.useFixture(fakelibvirt.LibvirtFixture())
        live, post_copy = (fakelibvirt.VIR_MIGRATE_LIVE,
                           fakelibvirt.VIR_MIGRATE_POSTCOPY)
        for flags in ((live, live | post_copy), (live | post_copy, live)):
            self.assertTrue(self.permits(*flags))
        self.assertFalse(self.permits(live, live))

    def permits(self, live, block):
        return internals.permits_post_copy(types.SimpleNamespace(
            _live_migration_flags=live, _block_migration_flags=block))


class FlavorVFsTest(testtools.TestCase):

    def found(self, vm, aliases=()):
        return [vf.address for vf in internals.flavor_vfs(vm, aliases)]

    def test_vf_asked_for_by_alias(self):
        self.assertEqual(['0000:83:00.1'], self.found(instance({})))

    def test_addresses_for_a_domain_that_is_built(self):
        vm = instance(
            {'status': fields.PciDeviceStatus.CLAIMED},
            {'address': '0000:5E:00.2'},
            {'address': '0000:5e:00.3', 'request_id': uuids.by_port})
        self.assertEqual({'0000:83:00.1', '0000:5e:00.2'},
                         internals.vf_addresses(vm, ['gpu-vf']))
        self.assertEqual(set(), internals.vf_addresses(vm, ['qat']))

    def test_vm_without_devices_is_not_looked_at_further(self):
        # No context: what is not there could not be loaded.
        for devices in (None, objects.PciDeviceList(objects=[])):
            vm = objects.Instance(uuid=uuids.instance, pci_devices=devices)
            self.assertEqual(set(), internals.vf_addresses(vm, []))
            self.assertEqual([], self.found(vm))

    def test_vf_of_a_port_is_neutrons(self):
        self.assertEqual([], self.found(
            instance({'request_id': uuids.by_port})))

    def test_whole_device_is_no_vf(self):
        self.assertEqual([], self.found(
            instance({'dev_type': fields.PciDeviceType.STANDARD})))

    def test_claim_of_a_destination_is_not_held(self):
        self.assertEqual(['0000:83:00.1'], self.found(instance(
            {}, {'address': '0000:83:00.3',
                 'status': fields.PciDeviceStatus.CLAIMED})))

    def test_device_of_another_host_is_not_held(self):
        # Nova's periodic task at a destination allocates what is claimed.
        there = {'address': '0000:83:00.3', 'compute_node_id': 2}
        vm = instance(there, {'compute_node_id': 1})
        vm.compute_id = 1
        self.assertEqual(['0000:83:00.1'], self.found(vm))

    def test_vm_that_has_just_arrived(self):
        # Its host in Nova's record is the source a moment longer.
        vm = instance({'compute_node_id': 2})
        vm.compute_id = 1
        self.assertEqual(['0000:83:00.1'], self.found(vm))

    def test_only_the_aliases_that_are_gpus(self):
        vm = instance({})
        self.assertEqual([], self.found(vm, ['crypto']))
        self.assertEqual(1, len(self.found(vm, ['crypto', 'gpu-vf'])))

    def test_vm_without_pci(self):
        self.assertEqual([], self.found(objects.Instance(
            uuid=uuids.instance, pci_requests=None, pci_devices=None)))


class NamesTest(testtools.TestCase):

    def test_destination_is_not_in_the_migration_yet(self):
        migration = objects.Migration(
            uuid=uuids.migration, source_compute='a', dest_compute=None)
        self.assertEqual(
            internals.MoveNames(uuids.migration, 'a', 'b'),
            internals.names(migration, 'b'))

    def test_data_without_a_migration(self):
        self.assertIsNone(internals.names_of(None))
        self.assertIsNone(internals.names_of(
            objects.LibvirtLiveMigrateData()))

    def test_no_pci_was_claimed(self):
        data = objects.LibvirtLiveMigrateData()
        self.assertEqual({}, internals.claimed_vfs(data))
        data.pci_dev_map_src_dst = {'0000:83:00.1': '0000:83:00.2'}
        self.assertEqual({'0000:83:00.1': '0000:83:00.2'},
                         internals.claimed_vfs(data))
