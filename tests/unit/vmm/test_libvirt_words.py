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

from oslotest import base

from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm.libvirt import words

# The names and numbers of libvirt 11.3 that are used here.
LIBVIRT = types.SimpleNamespace(
    VIR_DOMAIN_RUNNING=1, VIR_DOMAIN_PAUSED=3, VIR_DOMAIN_SHUTOFF=5,
    VIR_DOMAIN_CRASHED=6, VIR_DOMAIN_PAUSED_MIGRATION=2,
    VIR_DOMAIN_RUNNING_MIGRATION_CANCELED=7, VIR_DOMAIN_SHUTOFF_MIGRATED=4,
    VIR_DOMAIN_JOB_NONE=0, VIR_DOMAIN_JOB_OPERATION='operation',
    VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT=5,
    VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN=4,
    VIR_DOMAIN_EVENT_STARTED=2, VIR_DOMAIN_EVENT_SUSPENDED=3,
    VIR_DOMAIN_EVENT_RESUMED=4, VIR_DOMAIN_EVENT_STOPPED=5,
    VIR_DOMAIN_EVENT_STOPPED_MIGRATED=3,
    VIR_DOMAIN_EVENT_SUSPENDED_MIGRATED=1)

# As the lab's libvirt gave them in pre-copy.
STATS = {'type': 2, 'operation': 5, 'time_elapsed': 7094, 'downtime': 20,
         'setup_time': 36, 'data_processed': 13059586, 'data_remaining': 0,
         'memory_total': 67502080, 'memory_processed': 13059586,
         'memory_remaining': 4096, 'memory_bps': 27119689,
         'memory_dirty_rate': 0, 'memory_iteration': 1,
         'vfio_data_transferred': 11534336}


class TestWords(base.BaseTestCase):
    def test_views(self):
        for state, reason, said in (
                (3, 2, 'paused (migration), migration in'),
                (1, 7, 'running (migration canceled), migration in'),
                (5, 4, 'shut off (migrated), migration in'),
                (3, 99, 'paused (99), migration in')):
            self.assertEqual(said, str(words.view(
                LIBVIRT, state, reason, hypervisor.Job.IN)))

    def test_views_cross_the_wire(self):
        view = words.view(LIBVIRT, 3, 2, hypervisor.Job.OUT)
        self.assertEqual(view, hypervisor.View.from_dict(view.as_dict()))
        self.assertRaises(ValueError, hypervisor.View.from_dict,
                          {**view.as_dict(), 'state': 'asleep'})

    def test_jobs(self):
        for stats, job in (({}, hypervisor.Job.NONE),
                           ({'type': 0}, hypervisor.Job.NONE),
                           (STATS, hypervisor.Job.OUT),
                           ({**STATS, 'operation': 4}, hypervisor.Job.IN),
                           ({**STATS, 'operation': 2}, hypervisor.Job.OTHER)):
            self.assertEqual(job, words.job(LIBVIRT, stats))

    def test_samples(self):
        found = words.sample(STATS, 3.5)
        self.assertEqual((3.5, 1, 13059586, 11534336), (
            found.sample.at, found.sample.passes, found.sample.sent_bytes,
            found.sample.device_bytes))
        self.assertEqual(4096, found.remaining_bytes)
        self.assertIsNone(words.sample({**STATS, 'memory_iteration': 0}, 1))
        self.assertIsNone(words.sample({}, 1))

    def test_statistics_of_an_older_libvirt(self):
        stats = dict(STATS)
        del stats['vfio_data_transferred']
        self.assertIsNone(words.sample(stats, 1).sample.device_bytes)

    def test_lifecycle(self):
        self.assertEqual('stopped/migrated', words.lifecycle(LIBVIRT, 5, 3))
        self.assertEqual('suspended/migrated',
                         words.lifecycle(LIBVIRT, 3, 1))
        self.assertEqual('77/1', words.lifecycle(LIBVIRT, 77, 1))

    def test_monitor_events(self):
        told = words.monitor_event(
            'VFIO_MIGRATION', 12, 500000, '{"device-state":"pre-copy-p2p",'
            '"device-id":"ua-gpu","qom-path":"/machine/peripheral/ua-gpu"}')
        self.assertEqual(hypervisor.Event(
            hypervisor.What.DEVICE, 12.5, 'pre-copy-p2p', 'ua-gpu'), told)
        self.assertEqual('7', words.monitor_event(
            'MIGRATION_PASS', 1, 0, '{"pass":7}').detail)
        self.assertEqual(hypervisor.What.STOP, words.monitor_event(
            'STOP', 1, 0, None).what)
        self.assertIsNone(words.monitor_event('RTC_CHANGE', 1, 0, '{}'))

    def test_abilities(self):
        newest = words.abilities(11_003_000, 10_000_013, has_monitor=True)
        self.assertEqual('libvirt 11.3.0, QEMU 10.0.13', newest.version)
        self.assertEqual((), newest.missing)
        self.assertTrue(newest.monitor_events)
        self.assertTrue(newest.device_events)
        oldest = words.abilities(8_000_000, 6_002_000, has_monitor=False)
        self.assertFalse(oldest.monitor_events)
        self.assertFalse(oldest.device_events)
        self.assertFalse(oldest.switchover_bandwidth)
        self.assertTrue(oldest.parallel)
        self.assertEqual(4, len(oldest.missing))
