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


"""nova-compute is killed and started again while a VM is being moved.

Killed: a nova-compute that is told to stop waits for its moves. What Nova
does with a move that it finds when it starts is Nova's. Ours is the rest: one
side runs, no agent holds anything, and the VM can be moved again.
"""

import threading

from nova.tests.fixtures import libvirt as fakelibvirt

from nova_vgpu_mig.migration import phases
from tests.functional import base


class Killed(BaseException):
    """Ends a thread of a nova-compute; no handler of Nova's takes it."""


class MortalGuest:
    """The guest as a monitor sees it, as long as its process lives."""

    def __init__(self, guest, dying, dead):
        self._guest = guest
        self._dying = dying
        self._dead = dead

    def __getattr__(self, name):
        if self._dying.is_set():
            self._dead.set()
            raise Killed()
        return getattr(self._guest, name)


class RestartTest(base.CloudTestCase):

    def moving(self):
        """Return a VM that is held in pre-copy on its way to compute2."""
        server = self.boot()
        self.dying, self.dead = threading.Event(), threading.Event()
        self.operations = []
        driver = self.cloud.nova.computes['compute1'].driver
        monitor = driver._live_migration_monitor

        def mortal(context, instance, guest, *args):
            self.operations += [arg for arg in args if hasattr(arg, 'done')]
            monitor(context, instance,
                    MortalGuest(guest, self.dying, self.dead), *args)

        driver._live_migration_monitor = mortal
        self.addCleanup(delattr, driver, '_live_migration_monitor')
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server, 'compute2')
        held.reached()
        return server, held

    def restart(self, host):
        """Start a new nova-compute in the place of one that was killed."""
        service = self.cloud.nova.computes[host]
        service.manager.graceful_shutdown = lambda timeout: None
        self.cloud.nova.restart_compute_service(host)

    def kill_monitor(self):
        self.dying.set()
        self.assertTrue(self.dead.wait(base.TIMEOUT))

    def forget_job(self, server_id):
        """Ask for the end of the job, as the dead monitor would have."""
        [operation] = self.operations
        operation.result(base.TIMEOUT)
        libvirt = self.cloud.computes['compute1'].libvirt
        self.assertEqual(
            fakelibvirt.VIR_DOMAIN_JOB_CANCELLED,
            libvirt.lookupByUUIDString(server_id).jobStats()['type'])

    def test_source_in_precopy(self):
        server, held = self.moving()
        self.kill_monitor()
        self.restart('compute1')
        held.release()
        migration = self.cloud.wait_migrated(server)
        self.forget_job(server)
        # What Nova itself makes of it.
        self.assertEqual('error', migration['status'])
        self.assert_active(server, 'compute1')
        self.assertEqual(phases.Outcome.ABORTED,
                         self.record('compute1', server).outcome)
        self.assert_reserved({server: 'compute1'})
        self.assertEqual(
            [], self.cloud.nova.allocated_hosts(migration['uuid']))
        self.assertEqual('completed', self.move(server)['status'])
        self.assert_active(server, 'compute2')
        self.assert_reserved({server: 'compute2'})

    def test_destination_in_precopy(self):
        server, held = self.moving()
        self.restart('compute2')
        held.release()
        self.assertEqual('completed',
                         self.cloud.wait_migrated(server)['status'])
        self.assert_active(server, 'compute2')
        self.assert_reserved({server: 'compute2'})
        self.assertEqual('completed',
                         self.move(server, 'compute1')['status'])
        self.assert_active(server, 'compute1')
        self.assert_reserved({server: 'compute1'})
