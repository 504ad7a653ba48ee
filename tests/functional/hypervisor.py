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


"""A cloud whose VMs are in QEMU: agents and libvirt, stood in for.

The agents here take the calls of the driver extension and keep records, but
prepare and watch nothing: what is tested is what Nova and the extension do
with them. libvirt is the demo's double with VMs of its own, as if a QEMU held
them, and with notes of what Nova asked of it.
"""

import contextlib
import functools
import threading
from unittest import mock

import oslo_messaging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.demo import cloud
from nova_vgpu_mig.demo import compute
from nova_vgpu_mig.demo import harness
from nova_vgpu_mig.demo import libvirt
from nova_vgpu_mig.gpu.software import driver as software
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from tests.functional import base

QEMU_VERSION = 9_001_000
"""The first with migration-events."""

JOB = {'downtime_limit_ms': 20, 'parallel_connections': 4,
       'switchover_bandwidth': 1000 * 2 ** 20}

_expected = oslo_messaging.expected_exceptions(errors.AgentError)


class Agent:
    """An agent of a host with libvirt; starts like agent.service.Agent."""

    target = oslo_messaging.Target(version=rpcapi.VERSION)

    def __init__(self, conf, observe):
        self.host = conf[agent_conf.GROUP].host
        self.carriers = [objects.CARRIER_HYPERVISOR]
        self.steps = []
        """(step, role or None) in the order in which they were asked."""

        self.before_source = lambda: None
        """Called in `prepare_source`, the last step before libvirt's."""

        self.aborted = threading.Event()
        self._conf = conf
        self._moves = {}

    def start(self):
        self._transport = rpcapi.get_transport(self._conf)
        self._server = oslo_messaging.get_rpc_server(
            self._transport, oslo_messaging.Target(
                exchange=rpcapi.EXCHANGE, topic=rpcapi.TOPIC,
                server=self.host),
            [self], executor='threading', serializer=rpcapi.Serializer())
        self._server.start()

    def stop(self):
        self._server.stop()
        self._server.wait()
        self._transport.cleanup()

    def _find(self, migration_uuid, role):
        try:
            return self._moves[migration_uuid, str(role)]
        except KeyError:
            raise errors.MigrationNotFound(
                f'no migration {migration_uuid} on {self.host}') from None

    def _note(self, request, role, **values):
        if request.carrier not in self.carriers:
            raise errors.BadRequest(f'{self.host} has no {request.carrier}')
        made = self._moves[request.migration_uuid, str(role)] = (
            record.MigrationRecord(
                migration_uuid=request.migration_uuid,
                instance_uuid=request.instance_uuid, role=role,
                source_host=request.source_host,
                destination_host=request.destination_host,
                source_vf=request.source_vf,
                destination_vf=request.destination_vf, **values))
        return made.as_dict()

    @_expected
    def describe(self, ctxt):
        return objects.HostDescription(
            host=self.host, version='1', rpc_version=rpcapi.VERSION,
            data_host='127.0.0.1', data_port=0, carriers=self.carriers,
            pools=[objects.PoolDescription.from_pool(pool) for pool in
                   software.SoftwareGPUDriver(self._conf).pools()])

    @_expected
    def plan(self, ctxt, instance_uuid, vf_address, limit_ms):
        return {'bytes': 1, 'seconds': 1.0, 'downtime_ms': 1.0,
                'limit_ms': 60_000.0, 'fits': True, 'reason': 'it fits',
                'carrier': objects.CARRIER_HYPERVISOR}

    @_expected
    def get(self, ctxt, migration_uuid, instance_uuid, role):
        for found in reversed(self._moves.values()):
            if (migration_uuid in (None, found.migration_uuid)
                    and instance_uuid in (None, found.instance_uuid)
                    and role in (None, str(found.role))):
                return found.as_dict()
        raise errors.MigrationNotFound(f'no such move on {self.host}')

    @_expected
    def records(self, ctxt):
        return [{'record': found.as_dict(), 'state': str(found.phase),
                 'settled': found.phase.terminal}
                for found in self._moves.values()]

    @_expected
    def claim(self, ctxt, request):
        self.steps.append(('claim', 'destination'))
        return self._note(request, phases.Role.DESTINATION)

    @_expected
    def prepare(self, ctxt, migration_uuid):
        self.steps.append(('prepare', 'destination'))
        self._find(migration_uuid, 'destination').phase = (
            phases.Phase.PREPARE)
        return {}

    @_expected
    def prepare_source(self, ctxt, request):
        self.steps.append(('prepare_source', 'source'))
        self.before_source()
        return self._note(request, phases.Role.SOURCE, job=dict(JOB))

    @_expected
    def abort(self, ctxt, instance_uuid):
        found = [each for each in self._moves.values()
                 if each.instance_uuid == instance_uuid][-1]
        found.outcome = phases.Outcome.ABORTED
        self.aborted.set()
        return found.as_dict()

    @_expected
    def finish(self, ctxt, migration_uuid, role):
        self.steps.append(('finish', role))
        return self._end(migration_uuid, role, phases.Phase.COMPLETED)

    @_expected
    def rollback(self, ctxt, migration_uuid, role):
        self.steps.append(('rollback', role))
        return self._end(migration_uuid, role, phases.Phase.RETURNED)

    def _end(self, migration_uuid, role, phase):
        with contextlib.suppress(errors.MigrationNotFound):
            self._find(migration_uuid, role).phase = phase
        return None


class Libvirt:
    """What Nova asked of the double, and a hold on its migrations.

    A migration goes on when Nova has looked at its job twice: by then Nova
    would have written a downtime.
    """

    def __init__(self, computes):
        self.xml = []
        self.migrations = []
        """(parameters, flags) as they reached migrateToURI3."""

        self.downtimes = []
        self.fail = False
        self._computes = computes
        self._polls = 0
        self._polled = threading.Event()

    @contextlib.contextmanager
    def installed(self):
        with contextlib.ExitStack() as stack:
            for kind, name, ours in (
                    (libvirt.Domain, 'migrateToURI3', self._migrate),
                    (libvirt.Domain, 'migrateSetMaxDowntime',
                     self._set_max_downtime),
                    (libvirt.Domain, 'jobStats', self._job_stats),
                    (libvirt.Connection, 'defineXML', self._define)):
                original = getattr(kind, name)
                stack.enter_context(mock.patch.object(
                    kind, name, functools.partialmethod(
                        lambda domain, ours, original, *args, **kwargs:
                        ours(functools.partial(original, domain), domain,
                             *args, **kwargs), ours, original)))
            yield

    def wait_migrating(self):
        """Return when Nova follows a job."""
        if not self._polled.wait(base.TIMEOUT):
            raise AssertionError('Nova does not look at the job')

    def _define(self, original, connection, xml):
        self.xml.append(xml)
        return original(xml)

    def _set_max_downtime(self, original, domain, *args):
        self.downtimes.append(args)

    def _job_stats(self, original, domain, flags=0):
        stats = original(flags)
        if stats['type'] == libvirt.JOB_RUNNING:
            self._polls += 1
            if self._polls >= 2:
                self._polled.set()
        return stats

    def _migrate(self, original, domain, dconnuri, params, flags):
        self.migrations.append((dict(params), flags))
        self._polls = 0
        self._polled.clear()
        agent = self._computes[domain._connection.host].agent
        create = libvirt.Connection.create_incoming

        def held(connection, xml):
            self.wait_migrating()
            if self.fail == 'aborted':
                agent.aborted.wait(base.TIMEOUT)
                [found] = [each for each in agent._moves.values()
                           if each.outcome is phases.Outcome.ABORTED]
                domain._job.record = found
            if self.fail:
                raise libvirt.failure('operation failed: as the test wants')
            return create(connection, xml)

        with mock.patch.object(libvirt.Connection, 'create_incoming', held):
            original(dconnuri, params, flags)


class Cloud(cloud.Cloud):
    """The demo's cloud without guests and agents of its own."""

    def _libvirt(self, compute_):
        made = super()._libvirt(compute_)
        made.gpu_vfs = frozenset()
        return made


class HypervisorTestCase(base.CloudTestCase):

    CLOUD = Cloud

    @classmethod
    def setUpClass(cls):
        for patch in (
                mock.patch.object(compute.service, 'Agent', Agent),
                mock.patch.object(harness, 'QEMU_VERSION', QEMU_VERSION)):
            patch.start()
            cls.addClassCleanup(patch.stop)
        super().setUpClass()
        cls.libvirt = Libvirt(cls.cloud.computes)
        cls.enterClassContext(cls.libvirt.installed())

    def agent(self, host):
        return self.cloud.computes[host].agent

    def setUp(self):
        super().setUp()
        self.libvirt.__init__(self.cloud.computes)
        for each in self.cloud.computes.values():
            each.agent.steps.clear()
            each.agent.aborted.clear()

    def _assert_agent_holds(self, host, count):
        """Nothing: these agents do not know which VFs QEMU has open."""
