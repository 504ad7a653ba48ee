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

"""The filter inside Nova's scheduler, and nothing else of ours.

Nova's own libvirt driver runs on Nova's double; only what its nodes publish
is ours. So a failure here is the filter's, or Nova has changed.
"""

import dataclasses
import json

import fixtures
from nova import context
from nova import objects
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.tests.functional.libvirt import base
from nova.virt.libvirt import driver
from oslo_utils import versionutils

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.demo import harness
from nova_vgpu_mig.nova.internals import controller
from nova_vgpu_mig.nova import publication

GOOD = identity.VFIdentity(
    vendor_id='8086', device_id='1515', frame_buffer_mib=512, num_vfs=1,
    migration_version=1, driver_version='8.3.0', vbios_version='113-A1',
    partition='SPX', firmware={'MEC': '0x9c'}, engines={'VCN': 3},
    time_slices_us={'GFX': 4000})
OLD = dataclasses.replace(GOOD, firmware={'MEC': '0x9b'})
DEVICE = {'vendor_id': fakelibvirt.PCI_VEND_ID,
          'product_id': fakelibvirt.VF_PROD_ID, 'live_migratable': 'yes'}


class TestFilterInScheduler(base.LibvirtMigrationMixin,
                            base.ServersTestBase):
    ADMIN_API = True
    CAST_AS_CALL = False
    microversion = 'latest'
    ADDITIONAL_FILTERS = ['PciPassthroughFilter', 'VFCompatibilityFilter']

    def setUp(self):
        self.published = {}
        self.flags(group='wsgi', api_paste_config=harness.paste_config())
        self.flags(group='filter_scheduler', available_filters=[
            'nova.scheduler.filters.all_filters',
            'nova_vgpu_mig.nova.filter.VFCompatibilityFilter'])
        self.flags(group='pci', device_spec=[json.dumps(DEVICE)], alias=[
            json.dumps({**DEVICE, 'device_type': 'type-VF', 'name': 'gpu'})])
        super().setUp()
        self.neutron = self.useFixture(base.LibvirtNeutronFixture(self))
        self.publish()
        self.source_of = self.useFixture(fixtures.MockPatchObject(
            controller, 'source_of',
            wraps=controller.source_of)).mock

    def publish(self):
        original = driver.LibvirtDriver.get_available_resource

        def get_available_resource(libvirt_driver, nodename):
            resources = original(libvirt_driver, nodename)
            if nodename in self.published:
                resources['stats'] = {
                    publication.KEY: self.published[nodename]}
            return resources

        self.useFixture(fixtures.MonkeyPatch(
            'nova.virt.libvirt.driver.LibvirtDriver.get_available_resource',
            get_available_resource))

    def start(self, name, *kinds):
        """Start a compute with a PF of one VF for each identity."""
        self.published[name] = publication.encode(publication.Publication(
            tuple(publication.Pool.of(
                f'0000:82:{number:02x}.0', kind,
                [publication.VF(f'0000:82:{number:02x}.1', 0, True)])
                for number, kind in enumerate(kinds))))
        self.start_compute(
            hostname=name, pci_info=fakelibvirt.HostPCIDevicesInfo(
                num_pfs=len(kinds), num_vfs=len(kinds), bus=0x82),
            libvirt_version=versionutils.convert_version_to_int(
                driver.MIN_VFIO_PCI_VARIANT_LIBVIRT_VERSION),
            qemu_version=versionutils.convert_version_to_int(
                driver.MIN_VFIO_PCI_VARIANT_QEMU_VERSION))

    def boot(self):
        flavor = self._create_flavor(
            vcpu=1, extra_spec={'pci_passthrough:alias': 'gpu:1'})
        server = self._create_server(host='source', flavor_id=flavor,
                                     networks='none')
        self.source_of.assert_not_called()
        return server

    def migrate(self, server, expected):
        # Nova's double has to be told where its domain will be.
        self.server = server
        self.src, self.dest = (self.computes[name]
                               for name in ('source', expected))
        self._live_migrate(server, 'completed')
        self.assertEqual(expected, self.host_of(server))

    def host_of(self, server):
        return self.api.get_server(server['id'])['OS-EXT-SRV-ATTR:host']

    def held_vf(self, server):
        return [device.address for device in
                objects.PciDeviceList.get_by_instance_uuid(
                    context.get_admin_context(), server['id'])]

    def test_the_compatible_host_is_chosen_with_one_look_up(self):
        self.start('source', GOOD)
        server = self.boot()
        for name, kind in (('old1', OLD), ('good', GOOD), ('old2', OLD)):
            self.start(name, kind)
        self.migrate(server, 'good')
        self.assertEqual(1, self.source_of.call_count)
        for name in ('old1', 'old2'):
            self.assertIn(f'Host {name}, PF 0000:82:00.0 cannot take VM '
                          f'{server["id"]}: firmware: MEC 0x9c at the source',
                          self.stdlog.logger.output)

    def test_no_compatible_host_leaves_the_vm_alone(self):
        self.start('source', GOOD)
        server = self.boot()
        self.start('old', OLD)
        self.start('garbage', GOOD)
        self.published['garbage'] = '{"v":'
        self._run_periodics()
        self.api.post_server_action(server['id'], {'os-migrateLive': {
            'host': None, 'block_migration': 'auto'}})
        self._wait_for_migration_status(server, ['error'])
        server = self._wait_for_state_change(server, 'ACTIVE')
        self.assertEqual('source', self.host_of(server))
        self.assertIn('Host garbage cannot take VM',
                      self.stdlog.logger.output)
        self.assertIn('is not JSON', self.stdlog.logger.output)
        event = self._wait_for_action_fail_completion(
            server, 'live-migration', 'conductor_live_migrate_instance')
        self.assertIn('garbage: what it publishes cannot be read',
                      event['details'])
        self.assertIn('old: firmware: MEC 0x9c at the source',
                      event['details'])


class TestFilterWithPCIInPlacement(TestFilterInScheduler):
    def setUp(self):
        self.flags(group='pci', report_in_placement=True)
        self.flags(group='filter_scheduler', pci_in_placement=True)
        super().setUp()

    def test_the_suitable_pf_is_claimed(self):
        self.start('source', GOOD)
        server = self.boot()
        self.start('mixed', OLD, GOOD, OLD)
        self.migrate(server, 'mixed')
        self.assertEqual(['0000:82:01.1'], self.held_vf(server))
