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


"""VMs in QEMU, moved through Nova's API: libvirt and QEMU carry the state."""

from nova.tests.fixtures import libvirt as fakelibvirt

from nova_vgpu_mig.conf import nova as nova_opts
from nova_vgpu_mig.demo import harness
from nova_vgpu_mig.migration import phases
from tests.functional import hypervisor

FLAGS = (fakelibvirt.VIR_MIGRATE_LIVE | fakelibvirt.VIR_MIGRATE_PEER2PEER
         | fakelibvirt.VIR_MIGRATE_UNDEFINE_SOURCE
         | fakelibvirt.VIR_MIGRATE_PERSIST_DEST)
"""Nova's, with its default options, apart from those for disks."""

EVENTS = 'migration-events'


class MoveTest(hypervisor.HypervisorTestCase):

    def steps(self, host):
        return self.agent(host).steps

    def test_vm_moves_with_the_agents_settings(self):
        server = self.boot()
        migration = self.move(server)
        self.assertEqual('completed', migration['status'])
        self.assert_active(server, 'compute2')

        [(params, flags)] = self.libvirt.migrations
        self.assertEqual(4, params['parallel.connections'])
        self.assertEqual(
            FLAGS | fakelibvirt.VIR_MIGRATE_PARALLEL,
            flags & ~fakelibvirt.VIR_MIGRATE_NON_SHARED_INC)
        # What this libvirt module does not have.
        self.assertNotIn('bandwidth.avail.switchover', params)
        self.assertEqual([], self.libvirt.downtimes)

        self.assertEqual([('claim', 'destination'),
                          ('prepare', 'destination'),
                          ('finish', 'destination')],
                         self.steps('compute2'))
        self.assertEqual([('prepare_source', 'source'),
                          ('finish', 'source')], self.steps('compute1'))
        record = self.record('compute1', server)
        self.assertEqual(migration['uuid'], record.migration_uuid)
        self.assert_reserved({server: 'compute2'})

    def test_vm_without_gpu_is_left_to_nova(self):
        server = self.boot(vfs=0)
        self.assertEqual('completed',
                         self.move(server, 'compute2')['status'])
        [(params, flags)] = self.libvirt.migrations
        self.assertNotIn('parallel.connections', params)
        self.assertFalse(flags & fakelibvirt.VIR_MIGRATE_PARALLEL)
        self.assertNotEqual([], self.libvirt.downtimes)
        self.assertEqual([], self.steps('compute1'))

    def test_move_that_libvirt_gives_up(self):
        server = self.boot()
        self.libvirt.fail = True
        self.assertEqual('failed', self.move(server)['status'])
        self.assert_active(server, 'compute1')
        self.assertIn(('rollback', 'source'), self.steps('compute1'))
        self.assertIn(('rollback', 'destination'), self.steps('compute2'))
        self.assert_reserved({server: 'compute1'})
        self.libvirt.fail = False
        self.assertEqual('completed', self.move(server)['status'])
        self.assert_active(server, 'compute2')

    def test_operators_abort(self):
        server = self.boot()
        self.libvirt.fail = 'aborted'
        self.cloud.live_migrate(server)
        self.libvirt.wait_migrating()
        self.cloud.abort(server)
        migration = self.cloud.wait_migrated(server)
        self.assertEqual('cancelled', migration['status'])
        self.assert_active(server, 'compute1')
        self.assertIs(phases.Outcome.ABORTED,
                      self.record('compute1', server).outcome)
        self.assertIn(('rollback', 'destination'), self.steps('compute2'))
        self.assert_reserved({server: 'compute1'})


class RefusalTest(hypervisor.HypervisorTestCase):

    def refused(self, server_id):
        migration = self.move(server_id, 'compute2')
        self.assertEqual('error', migration['status'])
        self.assert_active(server_id, 'compute1')
        self.assertEqual([], self.libvirt.migrations)
        self.assert_reserved({server_id: 'compute1'})
        return ' '.join(self.cloud.refusals(server_id))

    def permit_post_copy(self, permitted):
        driver = self.cloud.nova.computes['compute1'].driver
        self.cloud.nova.option(
            'libvirt', live_migration_permit_post_copy=permitted)
        # As when nova-compute starts.
        driver._parse_migration_flags()

    def test_post_copy_permitted(self):
        server = self.boot()
        self.permit_post_copy(True)
        self.addCleanup(self.permit_post_copy, False)
        text = self.refused(server)
        self.assertIn('compute1 permits post-copy', text)
        self.assertIn('live_migration_permit_post_copy = False', text)

    def test_post_copy_that_was_permitted_after_the_check(self):
        server = self.boot()
        self.addCleanup(self.permit_post_copy, False)
        agent = self.agent('compute1')
        self.addCleanup(setattr, agent, 'before_source', agent.before_source)
        agent.before_source = lambda: self.permit_post_copy(True)
        self.assertEqual('completed', self.move(server)['status'])
        [(_, flags)] = self.libvirt.migrations
        self.assertFalse(flags & fakelibvirt.VIR_MIGRATE_POSTCOPY)

    def test_destination_without_libvirt(self):
        server = self.boot()
        agent = self.agent('compute2')
        self.addCleanup(setattr, agent, 'carriers', agent.carriers)
        agent.carriers = ['agent']
        text = self.refused(server)
        self.assertIn('compute2 lacks the carrier hypervisor', text)
        self.assertIn('[vgpu_mig_libvirt] uri', text)

    def test_source_that_has_lost_libvirt(self):
        server = self.boot()
        agent = self.agent('compute1')
        self.addCleanup(setattr, agent, 'carriers', agent.carriers)
        agent.carriers = []
        self.assertIn('compute1 lacks the carrier hypervisor',
                      self.refused(server))


class MigrationEventsTest(hypervisor.HypervisorTestCase):

    def xml(self, **kwargs):
        """Boot a VM; return the XML of its domain."""
        del self.libvirt.xml[:]
        self.boot(**kwargs)
        return self.libvirt.xml[-1]

    def test_asked_for_where_it_is_known(self):
        self.assertIn(EVENTS, self.xml())
        self.assertNotIn(EVENTS, self.xml(vfs=0))

    def test_turned_off(self):
        self.cloud.nova.option(nova_opts.GROUP, migration_events=False)
        self.addCleanup(self.cloud.nova.option, nova_opts.GROUP,
                        migration_events=True)
        self.assertNotIn(EVENTS, self.xml())

    def test_older_qemu_and_libvirt(self):
        connection = self.cloud.computes['compute1'].libvirt
        for name, older in (('fakeVersion', 9_000_002),
                            ('fakeLibVersion', 8_001_000)):
            before = getattr(connection, name)
            setattr(connection, name, older)
            self.addCleanup(setattr, connection, name, before)
            self.assertNotIn(EVENTS, self.xml(), name)
            setattr(connection, name, before)
        self.assertEqual(hypervisor.QEMU_VERSION, connection.fakeVersion)
        self.assertEqual(harness.LIBVIRT_VERSION, connection.fakeLibVersion)
