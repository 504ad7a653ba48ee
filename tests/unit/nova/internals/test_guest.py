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


import fixtures
from nova.tests.fixtures import libvirt as fakelibvirt
from nova.virt.libvirt import guest as nova_guest
import testtools

from nova_vgpu_mig.nova.internals import guest

MIB = 1024 ** 2
JOB = {'downtime_limit_ms': 20, 'parallel_connections': 4,
       'switchover_bandwidth': 1000 * MIB}


class Domain:
    """What a guest asks of libvirt, noted."""

    def __init__(self):
        self.calls = []

    def migrateToURI3(self, dconnuri, params, flags):
        self.calls.append(('migrateToURI3', dconnuri, params, flags))

    def jobStats(self):
        return {'type': fakelibvirt.VIR_DOMAIN_JOB_UNBOUNDED,
                'memory_total': 7}

    def UUIDString(self):
        return 'the uuid'

    def __getattr__(self, name):
        return lambda *args: self.calls.append((name, *args))


class SteeredGuestTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.useFixture(fakelibvirt.LibvirtFixture())
        self.useFixture(fixtures.MonkeyPatch(
            'nova.tests.fixtures.libvirt'
            '.VIR_MIGRATE_PARAM_BANDWIDTH_AVAIL_SWITCHOVER',
            'bandwidth.avail.switchover'))
        self.domain = Domain()

    def guest(self, job):
        return guest.SteeredGuest(nova_guest.Guest(self.domain), job)

    def test_what_reaches_libvirt(self):
        self.guest(JOB).migrate(
            'qemu+tcp://there/system', migrate_uri='tcp://there',
            flags=(fakelibvirt.VIR_MIGRATE_LIVE
                   | fakelibvirt.VIR_MIGRATE_POSTCOPY),
            migrate_disks=[], destination_xml='<domain/>', bandwidth=5,
            parallel=1)
        self.assertEqual([(
            'migrateToURI3', 'qemu+tcp://there/system',
            {'bandwidth': 5, 'destination_xml': '<domain/>',
             'persistent_xml': '<domain/>', 'migrate_uri': 'tcp://there',
             'parallel.connections': 4, 'bandwidth.avail.switchover': 1000},
            fakelibvirt.VIR_MIGRATE_LIVE | fakelibvirt.VIR_MIGRATE_PARALLEL,
        )], self.domain.calls)

    def test_novas_own_settings_without_a_job(self):
        self.guest({}).migrate('uri', flags=fakelibvirt.VIR_MIGRATE_PARALLEL,
                               parallel=3)
        self.assertEqual([(
            'migrateToURI3', 'uri',
            {'bandwidth': 0, 'parallel.connections': 3},
            fakelibvirt.VIR_MIGRATE_PARALLEL)], self.domain.calls)

    def test_nova_never_writes_the_downtime(self):
        log = self.useFixture(fixtures.FakeLogger(level=10))
        steered = self.guest(JOB)
        for step in (50, 500):
            steered.migrate_configure_max_downtime(step)
        self.assertEqual([], self.domain.calls)
        self.assertEqual(1, log.output.count('50 ms'))
        self.assertNotIn('500 ms', log.output)

    def test_the_rest_passes_through(self):
        steered = self.guest(JOB)
        info = steered.get_job_info()
        self.assertEqual((fakelibvirt.VIR_DOMAIN_JOB_UNBOUNDED, 7),
                         (info.type, info.memory_total))
        steered.abort_job()
        steered.pause()
        self.assertEqual([('abortJob',), ('suspend',)], self.domain.calls)
        self.assertEqual('the uuid', steered.uuid)
