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


"""Nova's own monitor of a live migration, under our driver."""

import collections
from concurrent import futures
from unittest import mock

import fixtures
from nova import objects
from nova.objects import fields
from nova.objects import migrate_data
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt.libvirt import guest as nova_guest
from oslo_utils.fixture import uuidsentinel as uuids
import testtools

from nova_vgpu_mig.conf import nova as nova_opts
from nova_vgpu_mig.nova import driver
from nova_vgpu_mig.nova.internals import compute as internals

objects.register_all()

POLLS = 6
GIB = 1024 ** 3


class Domain:
    """A domain in a job that ends well after some polls."""

    def __init__(self, future):
        self.future = future
        self.polls = 0
        self.asked = []

    def jobStats(self):
        self.polls += 1
        if self.polls <= POLLS:
            return {'type': fakelibvirt.VIR_DOMAIN_JOB_UNBOUNDED}
        if not self.future.done():
            self.future.set_result(None)
        return {'type': fakelibvirt.VIR_DOMAIN_JOB_COMPLETED}

    def UUIDString(self):
        return uuids.instance

    def __getattr__(self, name):
        return lambda *args: self.asked.append(name)


HOUR = 3600
"""Seconds. Within some of these Nova writes the next downtime."""

WEEK = 7 * 24 * HOUR
"""After one of these, each of Nova's time-outs has come."""


class MonitorTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakelibvirt.LibvirtFixture())
        conf = internals.CONF
        nova_opts.register_opts(conf)
        self.addCleanup(conf.reset)
        self.addCleanup(conf.clear_override, 'live_migration_timeout_action',
                        'libvirt')
        conf.set_override('live_migration_timeout_action', 'force_complete',
                          'libvirt')
        self.clock = self.useFixture(fixtures.MockPatch(
            'nova.virt.libvirt.driver.time')).mock.time
        self.useFixture(fixtures.MockPatch(
            'nova_vgpu_mig.nova.monitoring.time'))
        self.refusals = self.useFixture(fixtures.MockPatchObject(
            internals, 'refuse_force_complete',
            wraps=internals.refuse_force_complete)).mock
        self.ended = []

    def driver(self):
        made = driver.VgpuMigLibvirtDriver.__new__(
            driver.VgpuMigLibvirtDriver)
        # As after [libvirt] live_migration_permit_post_copy = True.
        made._live_migration_flags = made._block_migration_flags = (
            fakelibvirt.VIR_MIGRATE_LIVE | fakelibvirt.VIR_MIGRATE_POSTCOPY)
        made._publisher = mock.Mock()
        made._publisher.frame_buffer_bytes.return_value = 48 * GIB
        return made

    def instance(self, vfs):
        made = objects.Instance(
            uuid=uuids.instance, resources=None, vm_state='active',
            flavor=objects.Flavor(memory_mb=4096, extra_specs={}),
            pci_requests=objects.InstancePCIRequests(requests=[
                objects.InstancePCIRequest(
                    request_id=uuids.request, alias_name='gpu', count=1,
                    spec=[])]),
            pci_devices=objects.PciDeviceList(objects=[
                objects.PciDevice(
                    address='0000:83:00.1', request_id=uuids.request,
                    dev_type=fields.PciDeviceType.SRIOV_VF,
                    status=fields.PciDeviceStatus.ALLOCATED)] * vfs))
        self.useFixture(fixtures.MockPatchObject(objects.Instance, 'save'))
        return made

    def monitor(self, vfs, pace):
        """Run it to the end; return what it asked, and Nova's status.

        :param pace: seconds from poll to poll.
        """
        self.clock.side_effect = range(0, 10 ** 9, pace)
        made, instance = self.driver(), self.instance(vfs)
        made.active_migrations = {uuids.instance: collections.deque()}
        future = futures.Future()
        domain = Domain(future)
        migration = objects.Migration(status='running')
        self.useFixture(fixtures.MockPatchObject(objects.Migration, 'save'))
        made._live_migration_monitor(
            None, instance, nova_guest.Guest(domain), 'there',
            lambda *args: self.ended.append('post'),
            lambda *args, **kwargs: self.ended.append('recover'), False,
            migrate_data.LibvirtLiveMigrateData(
                migration=migration, block_migration=False),
            future, [])
        self.assertEqual(['post'], self.ended)
        return domain.asked, migration.status

    def test_of_a_gpu_vm_never_writes_the_downtime(self):
        self.assertEqual(([], 'running'), self.monitor(1, HOUR))
        self.refusals.assert_not_called()

    def test_of_a_gpu_vm_never_forces_an_end(self):
        self.assertEqual(([], 'running'), self.monitor(1, WEEK))
        self.assertEqual(POLLS, self.refusals.call_count)

    def test_of_other_vms_does_all_of_it(self):
        # Else the tests above would show nothing.
        self.assertEqual(
            (['migrateSetMaxDowntime', 'migrateStartPostCopy'],
             'running (post-copy)'), self.monitor(0, WEEK))

    def test_frame_buffer_counts_in_novas_time_outs(self):
        made = self.driver()
        self.assertEqual(4 + 48, made._live_migration_data_gb(
            self.instance(vfs=1), []))
        self.assertEqual(4, made._live_migration_data_gb(
            self.instance(vfs=0), []))
