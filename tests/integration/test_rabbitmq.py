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

"""A move over RabbitMQ, and what becomes of it when messages go astray."""

import os
import subprocess
import sys
import uuid

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm.standin import process
from tests import gpu_lab
from tests.integration import broker
from tests.integration import cluster

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION


class TestMove(cluster.ClusterCase):

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-m',
             'nova_vgpu_mig.cmd.operator', '--config-file',
             str(self.a.config), '--host', self.a.name, '--host',
             self.b.name, *arguments],
            capture_output=True, text=True, timeout=gpu_lab.PATIENCE,
            check=False, env={**os.environ, 'HOME': str(self.a.folder)})

    def test_move_seen_by_the_operator(self) -> None:
        self.up()
        request = self.begin()
        migration = request.migration_uuid
        watched = self.cli('watch', request.instance_uuid)
        self.assertEqual(0, watched.returncode,
                         watched.stdout + watched.stderr)
        self.assertIn('completed', watched.stdout)
        record = self.outcome(migration)
        self.assertEqual(phases.Outcome.COMPLETED, record.outcome,
                         record.reason)
        self.guest.close()
        self.api.finish(self.ctxt, self.a.name, migration, SOURCE)
        self.api.finish(self.ctxt, self.b.name, migration, DESTINATION)
        self.until_states(migration, 'FINISHED', 'FINISHED')
        self.until_device(self.b, request.destination_vf,
                          contract.DeviceState.RUNNING)
        self.until_free(self.a, request.source_vf)
        hosts = self.cli('hosts', '-f', 'json')
        self.assertEqual(2, hosts.stdout.count('"Free VFs"'), hosts.stderr)
        listed = self.cli('list', '-f', 'json')
        self.assertEqual(2, listed.stdout.count(migration), listed.stderr)
        shown = self.cli('show', migration, '-f', 'json')
        self.assertIn('"FINISHED"', shown.stdout, shown.stderr)
        for host in (self.a, self.b):
            self.assertEqual(0, host.terminate(), host.log())

    def test_guest_goes_on_at_the_destination(self) -> None:
        self.guest.close()
        request = self.request()

        def boot(host: cluster.Host, vf: str, incoming: bool
                 ) -> process.GuestLauncher:
            made = process.GuestLauncher(
                request.instance_uuid, host.folder / 'vmm',
                gim_socket=host.gim.path, vf=vf, ram_mib=16,
                incoming=incoming)
            self.addCleanup(made.close)
            return made

        here = boot(self.a, request.source_vf, False)
        here.call('wait', phase='ready')
        here.call('workload', name='mixed', frames_per_second=20)
        here.call('wait', frame=2)
        self.up()
        self.assertEqual(['agent'], self.api.describe(
            self.ctxt, self.a.name).carriers)
        self.api.claim(self.ctxt, self.b.name, request)
        there = boot(self.b, request.destination_vf, True)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        record = self.outcome(request.migration_uuid)
        self.assertEqual(phases.Outcome.COMPLETED, record.outcome,
                         record.reason)
        frame = there.call('workload_status')['frames_retired']
        there.call('wait', frame=frame + 2)
        self.assertGreaterEqual(frame, 2)
        here.close()
        migration = request.migration_uuid
        self.api.finish(self.ctxt, self.a.name, migration, SOURCE)
        self.api.finish(self.ctxt, self.b.name, migration, DESTINATION)
        self.until_states(migration, 'FINISHED', 'FINISHED')
        self.until_free(self.a, request.source_vf)

    def test_agent_that_is_down(self) -> None:
        self.a.start()
        self.await_up(self.a)
        self.conf.set_override('step_timeout', 2, 'vgpu_mig_agent')
        with self.assertRaises(errors.AgentUnreachable) as caught:
            self.api.claim(self.ctxt, self.b.name, self.request())
        self.assertIn(self.b.name, caught.exception.message)
        listed = self.cli('list')
        self.assertEqual(0, listed.returncode, listed.stderr)
        self.assertIn(self.b.name, listed.stderr)

    def test_unknown_migration(self) -> None:
        self.up()
        with self.assertRaises(errors.MigrationNotFound) as caught:
            self.api.ownership(self.ctxt, self.a.name, str(uuid.uuid4()))
        self.assertIs(errors.MigrationNotFound, type(caught.exception))
        self.assertNotIn('Traceback', str(caught.exception))

    def test_broker_that_is_down(self) -> None:
        dead = f'127.0.0.1:{broker.free_port()}'
        self.a.config.write_text(
            f'[DEFAULT]\ntransport_url = rabbit://guest:guest@{dead}//\n')
        done = self.cli('list')
        self.assertNotEqual(0, done.returncode)
        self.assertIn(dead, done.stderr)
        self.assertIn('transport_url', done.stderr)


class TestNotifications(cluster.ClusterCase):

    def test_post_ends_the_move_where_no_hook_came(self) -> None:
        self.up()
        request = self.begin()
        self.outcome(request.migration_uuid)
        self.guest.close()
        for _ in range(2):
            self.notify('post.end', self.a.name, request.instance_uuid)
            self.notify('post_dest.end', self.b.name, request.instance_uuid)
        self.until_states(request.migration_uuid, 'FINISHED', 'FINISHED')
        self.until_free(self.a, request.source_vf)

    def test_rollback_frees_a_destination_without_a_hook(self) -> None:
        self.up()
        request = self.request()
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare(self.ctxt, self.b.name, request.migration_uuid)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.notify('rollback.end', self.a.name, request.instance_uuid)
        self.until_states(request.migration_uuid, 'RETURNED', 'DROPPED')
        self.until_free(self.b, request.destination_vf)
        self.work()

    def test_late_rollback_leaves_the_next_move_alone(self) -> None:
        self.up()
        old = self.request(request_id='req-old')
        self.api.prepare_source(self.ctxt, self.a.name, old)
        self.api.rollback(self.ctxt, self.a.name, old.migration_uuid, SOURCE)
        new = self.request(instance_uuid=old.instance_uuid,
                           request_id='req-new')
        self.api.claim(self.ctxt, self.b.name, new)
        self.api.prepare_source(self.ctxt, self.a.name, new)
        self.notify('rollback.end', self.a.name, old.instance_uuid,
                    'req-old')
        # The next one on the same queue shows that the late one is through.
        self.notify('pre.end', self.b.name, new.instance_uuid, 'req-new')
        self.until_states(new.migration_uuid, 'ACTIVE', 'LOADING')

    def test_default_queue_does_not_grow(self) -> None:
        own = broker.own()
        if own is None:
            self.skipTest('the broker is not ours to look into')
        self.up()
        for _ in range(20):
            self.notify('post.end', 'elsewhere', str(uuid.uuid4()))
        gpu_lab.until(
            lambda: own.queues().get('vgpu_mig_notifications.info') == 0,
            'an empty default queue')


class TestNoNotification(cluster.ClusterCase):

    reservation = 2

    def test_completed_move_is_finished_without_a_hook(self) -> None:
        self.up()
        request = self.begin()
        self.outcome(request.migration_uuid)
        self.guest.close()
        self.until_states(request.migration_uuid, 'FINISHED', 'FINISHED')
        self.until_free(self.a, request.source_vf)

    def test_move_that_is_never_started_ends_by_itself(self) -> None:
        self.up()
        request = self.request()
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.until_states(request.migration_uuid, 'RETURNED', '')
        self.work()

    def test_reservation_ends_by_itself(self) -> None:
        self.up()
        request = self.request()
        self.api.claim(self.ctxt, self.b.name, request)
        self.until_free(self.b, request.destination_vf)
