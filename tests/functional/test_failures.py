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


"""Moves that fail in a phase, and what is left of them."""

import threading
from unittest import mock

from nova.virt.libvirt import migration as libvirt_migration

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.migration import phases
from tests.functional import base


class FailureTest(base.CloudTestCase):

    def goes_on_at_the_source(self, phase):
        server = self.boot()
        source_vf = self.cloud.vf_of(server)
        self.cloud.fail_in(phase)
        migration = self.move(server)
        self.assertEqual('failed', migration['status'])
        self.assert_active(server, 'compute1')
        self.assertEqual(source_vf, self.cloud.vf_of(server))
        self.cloud.heal()
        self.assert_reserved({server: 'compute1'})
        # As if nothing had happened: it can be moved.
        self.assertEqual('completed', self.move(server)['status'])
        self.assert_active(server, 'compute2')

    def test_prepare(self):
        self.goes_on_at_the_source(phases.Phase.PREPARE)
        self.assertIn('has gone (knob vanish)', ' '.join(
            self.cloud.refusals(self.servers[-1])))

    def test_precopy(self):
        self.goes_on_at_the_source(phases.Phase.PRECOPY)

    def test_switchover(self):
        self.goes_on_at_the_source(phases.Phase.SWITCHOVER)

    def test_load(self):
        self.goes_on_at_the_source(phases.Phase.LOAD)

    def test_commit(self):
        # Given up at the source: it can only go forward.
        server = self.boot()
        self.cloud.fail_in(phases.Phase.COMMIT)
        migration = self.move(server)
        self.assertEqual('completed', migration['status'])
        self.assert_active(server, 'compute2')
        self.cloud.heal()
        self.assert_reserved({server: 'compute2'})

    def test_source_agent_is_gone_when_the_move_begins(self):
        # What leaves Nova's migrate call would end in ERROR.
        server = self.boot()
        compute = self.cloud.computes['compute1']
        self.cloud.nova.option('vgpu_mig_agent', step_timeout=3)
        self.addCleanup(self.cloud.nova.option, 'vgpu_mig_agent',
                        step_timeout=60)

        def stop(host, record):
            if (record.role, record.phase) == (
                    phases.Role.DESTINATION, phases.Phase.PREPARE):
                compute.stop_agent()

        self.cloud.observers.append(stop)
        migration = self.move(server)
        self.assertEqual('failed', migration['status'])
        self.assert_active(server, 'compute1')
        compute.start_agent()
        # The fake bus keeps what nobody took, where RabbitMQ drops a call at
        # its time-out. After a rollback they find the move over.
        self.cloud.agents.rollback(self.cloud.context, 'compute1',
                                   migration['uuid'], phases.Role.SOURCE)
        self.assert_reserved({server: 'compute1'})

    def test_source_agent_is_restarted_in_precopy(self):
        server = self.boot()
        compute = self.cloud.computes['compute1']
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server)
        held.reached()
        # The stop waits for the move to go back, and that for its thread.
        stopping = threading.Thread(target=compute.stop_agent)
        stopping.start()
        held.release()
        stopping.join()
        compute.start_agent()
        self.assertIn(self.cloud.wait_migrated(server)['status'],
                      ('cancelled', 'failed'))
        self.assert_active(server, 'compute1')
        self.assert_reserved({server: 'compute1'})

    def test_abort_of_a_time_out_that_fails(self):
        # The move goes on, and Nova has to learn how it ends.
        server = self.boot()
        tried = threading.Event()

        def unreachable(api, context, host, instance_uuid):
            tried.set()
            raise errors.AgentUnreachable(f'agent of {host}: no answer')

        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        with mock.patch.object(rpcapi.AgentAPI, 'abort', unreachable), \
                mock.patch.object(
                    libvirt_migration, 'should_trigger_timeout_action',
                    lambda *args: not tried.is_set()):
            self.cloud.live_migrate(server)
            held.reached()
            self.assertTrue(tried.wait(base.TIMEOUT))
            held.release()
            migration = self.cloud.wait_migrated(server)
        self.assertEqual('completed', migration['status'])
        self.assert_active(server, 'compute2')
        self.assert_reserved({server: 'compute2'})


class AbortTest(base.CloudTestCase):

    def test_abort_in_precopy(self):
        server = self.boot()
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server)
        held.reached()
        self.cloud.abort(server)
        self.cloud.wait_event(server, 'live_migration_cancel',
                              'compute_live_migration_abort')
        held.release()
        migration = self.cloud.wait_migrated(server)
        self.assertEqual('cancelled', migration['status'])
        self.assert_active(server, 'compute1')
        record = self.record('compute1', server)
        self.assertEqual(phases.Outcome.ABORTED, record.outcome)
        self.assert_reserved({server: 'compute1'})

    def test_force_complete_is_refused_and_the_move_goes_on(self):
        server = self.boot()
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server)
        held.reached()
        running = self.cloud.migration(server)
        self.cloud.nova.api.api_post(
            f'/servers/{server}/migrations/{running["id"]}/action',
            {'force_complete': None}, check_response_status=[202])
        event = self.cloud.wait_event(
            server, 'live_migration_force_complete',
            'compute_live_migration_force_complete')
        self.assertEqual('Error', event['result'])
        self.assertIn('cannot be forced', event['details'])
        held.release()
        migration = self.cloud.wait_migrated(server)
        self.assertEqual('completed', migration['status'])
        self.assert_active(server, 'compute2')
