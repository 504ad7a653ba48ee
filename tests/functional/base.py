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


"""A cloud for each test class, and what must hold after every move."""

import threading

import testtools
from testtools import content

from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.demo import cloud
from nova_vgpu_mig.demo import compute
from nova_vgpu_mig.migration import phases

TIMEOUT = 180.0
"""Seconds until a wait is given up; nothing here takes as long."""

LIMIT_MS = 60_000
"""Downtime that the agents allow: a busy machine is no failure."""


class Held:
    """Stops a move in a phase, so that a test can act there."""

    def __init__(self, role, phase):
        self._where = (role, phase)
        self._reached = threading.Event()
        self._released = threading.Event()

    def __call__(self, host, record):
        if (record.role, record.phase) == self._where:
            self._reached.set()
            self._released.wait(TIMEOUT)

    def reached(self):
        """Wait until the move stands there."""
        if not self._reached.wait(TIMEOUT):
            raise AssertionError(f'no move got to {self._where}')

    def release(self):
        self._released.set()


class CloudTestCase(testtools.TestCase):
    """Tests in one cloud: each deletes its VMs and heals the GIMs."""

    PLAN = compute.Plan()
    CLOUD = cloud.Cloud

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cloud = cls.CLOUD(cls.PLAN)
        cls.addClassCleanup(cls.cloud.close)
        cls.cloud.start()
        for host in cls.cloud.computes.values():
            host.conf.set_override('max_downtime_ms', LIMIT_MS,
                                   migration_conf.GROUP)

    def setUp(self):
        super().setUp()
        self.addCleanup(self._clean)
        self.servers = []

    def _clean(self):
        del self.cloud.observers[:]
        self.cloud.heal()
        for server_id in self.servers:
            self.cloud.delete(server_id)
        self.assert_reserved({})

    def boot(self, host='compute1', **kwargs):
        server = self.cloud.boot(f'vm-{len(self.servers)}', host, **kwargs)
        self.servers.append(server['id'])
        return server['id']

    def move(self, server_id, host=None, **kwargs):
        """Live-migrate and return Nova's migration when it has ended."""
        self.cloud.live_migrate(server_id, host, **kwargs)
        migration = self.cloud.wait_migrated(server_id, TIMEOUT)
        self.addDetail(f'events of {server_id}', content.text_content(
            '\n'.join(self.cloud.refusals(server_id))))
        return migration

    def assert_active(self, server_id, host):
        server = self.cloud.server(server_id)
        self.assertEqual(
            ('ACTIVE', None, host),
            (server['status'], server['OS-EXT-STS:task_state'],
             server['OS-EXT-SRV-ATTR:host']))
        self.assertEqual(1, server['OS-EXT-STS:power_state'])

    def assert_reserved(self, holders):
        """Nothing is held but by these VMs: {server id: host}.

        In Nova's PCI tracker, in Placement, in the agents' journals, and in
        the GPUs themselves.
        """
        for host in self.cloud.computes:
            self.assertEqual([], self.cloud.unsettled(host, TIMEOUT),
                             f'moves that {host} still holds')
        # Not before: a VF that is still being cleared is published as taken.
        self.cloud.nova.report()
        for host in self.cloud.computes:
            held = [s for s, where in holders.items() if where == host]
            self.assertEqual(
                (len(held), 0), self.cloud.nova.pci_devices(host),
                f'PCI devices allocated and claimed on {host}')
            self._assert_agent_holds(host, len(held))
        for server_id, host in holders.items():
            self.assertEqual(
                [host], self.cloud.nova.allocated_hosts(server_id))

    def _assert_agent_holds(self, host, count):
        taken = [vf.address for pool in self.cloud.agents.describe(
                     self.cloud.context, host).pools
                 for vf in pool.vfs if not vf.free]
        self.assertEqual(count, len(taken), f'{host} holds {taken}')

    def hold(self, role, phase):
        """Hold the next move when an agent enters the phase."""
        held = Held(role, phase)
        self.cloud.observers.append(held)
        self.addCleanup(held.release)
        return held

    def record(self, host, server_id, role=phases.Role.SOURCE):
        return self.cloud.record(host, server_id, role)
