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

"""Two compute hosts as processes: agents and software GIMs, over RabbitMQ."""

import os
import pathlib
import signal
import subprocess
import sys
import tempfile
from typing import Any
import unittest
import uuid

from oslo_config import cfg
from oslo_context import context
import oslo_messaging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from tests import gpu_lab
from tests.integration import broker
from tests import move_request

CONFIG = """
[DEFAULT]
transport_url = {url}
debug = true
log_file = {folder}/agent.log
[vgpu_mig_agent]
step_timeout = 20
host = {host}
data_port = 0
journal = {folder}/journal.sqlite
periodic_seconds = 1
reservation_seconds = {reservation}
rpc_timeout = 10
[vgpu_mig_migration]
silence_timeout = 5
reconnect_timeout = 1
[vgpu_mig_libvirt]
uri =
[software_gim]
runtime_dir = {folder}/gim
[vmm_standin]
runtime_dir = {folder}/vmm
[oslo_messaging_rabbit]
heartbeat_in_pthread = false
"""


class Host:
    """A GIM, which lives on, and an agent, which may be killed."""

    def __init__(self, case: unittest.TestCase, name: str, pf: str,
                 url: str, root: pathlib.Path,
                 reservation: int = 600) -> None:
        self.name = name
        self.folder = root / name
        for part in ('gim', 'vmm'):
            (self.folder / part).mkdir(parents=True)
        self.config = self.folder / 'agent.conf'
        self.config.write_text(CONFIG.format(
            url=url, host=name, folder=self.folder, reservation=reservation))
        self.gim = gpu_lab.GIMProcess(self.folder / 'gim', pf,
                                      options=('--migration-version', '1'))
        case.addCleanup(self.gim.stop)
        self.vfs = gpu_lab.vf_addresses(self.gim)
        self.process: subprocess.Popen[bytes] | None = None
        case.addCleanup(self.kill)

    def start(self, die_at: str | None = None) -> None:
        module = ('nova_vgpu_mig.cmd.agent' if die_at is None
                  else 'tests.integration.dying_agent')
        with (self.folder / 'console').open('ab') as console:
            self.process = subprocess.Popen(
                [sys.executable, '-W', 'ignore', '-m', module,
                 '--config-file', str(self.config)],
                env={**os.environ, 'NOVA_VGPU_MIG_TEST_DIE': die_at or ''},
                stdout=console, stderr=console, start_new_session=True)

    def kill(self) -> None:
        """SIGKILL to the agent with its parent, as at a power cut."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.process = None

    def terminate(self) -> int:
        """SIGTERM, and wait for the end."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(gpu_lab.PATIENCE)

    def await_death(self) -> None:
        assert self.process is not None
        self.process.wait(gpu_lab.PATIENCE)

    def log(self) -> str:
        return ''.join(path.read_text(errors='replace')[-6000:]
                       for path in (self.folder / 'console',
                                    self.folder / 'agent.log')
                       if path.exists())


class ClusterCase(unittest.TestCase):
    """`self.a` and `self.b`, started with `up()`."""

    reservation = 600

    def setUp(self) -> None:
        self.url = broker.get()
        made = tempfile.TemporaryDirectory(prefix='cluster')
        self.addCleanup(made.cleanup)
        root = pathlib.Path(made.name)
        tag = uuid.uuid4().hex[:8]
        self.a = Host(self, f'a-{tag}', '0000:41:00.0', self.url, root,
                      self.reservation)
        self.b = Host(self, f'b-{tag}', '0000:81:00.0', self.url, root,
                      self.reservation)
        self.conf = cfg.ConfigOpts()
        self.conf([], project='nova-vgpu-mig', default_config_files=[])
        self.api = rpcapi.AgentAPI(self.conf, url=self.url)
        self.addCleanup(self.api.close)
        for name in ('rpc_timeout', 'step_timeout'):
            self.conf.set_override(name, 10, 'vgpu_mig_agent')
        self.ctxt = context.RequestContext(request_id='req-1')
        self.guest = gpu_lab.Guest(self.a.gim, self.a.vfs[0])
        self.guest.load_driver()
        self.work()

    def tearDown(self) -> None:
        """Show what the agents wrote when a test has failed."""
        # unittest has no public word for it, and a result knows only later.
        if not self._outcome.success:  # type: ignore[attr-defined]
            for host in (self.a, self.b):
                sys.stderr.write(f'--- {host.name}\n{host.log()}\n')

    def work(self) -> None:
        """The guest at the source uses its VF: proof that it runs there."""
        self.guest.submit(abi.Engine.SDMA, abi.Opcode.RMW, va=65536,
                          length=65536, arg0=7, arg1=1)
        self.guest.wait(abi.Engine.SDMA)

    def up(self, die_a: str | None = None, die_b: str | None = None) -> None:
        self.a.start(die_a)
        self.b.start(die_b)
        self.await_up(self.a, self.b)

    def await_up(self, *hosts: Host) -> None:
        def answers(host: Host) -> bool:
            assert host.process is not None
            if host.process.poll() is not None:
                raise AssertionError(f'{host.name} has ended: {host.log()}')
            try:
                self.api.describe(self.ctxt, host.name)
            except errors.AgentUnreachable:
                return False
            return True

        self.conf.set_override('rpc_timeout', 1, 'vgpu_mig_agent')
        for host in hosts:
            gpu_lab.until(lambda host=host: answers(host),  # type: ignore
                          f'the agent of {host.name}')
        self.conf.set_override('rpc_timeout', 10, 'vgpu_mig_agent')

    def request(self, **changes: Any) -> objects.VFMigrationRequest:
        return move_request.between(self.a, self.b, **changes)

    def begin(self, **changes: Any) -> objects.VFMigrationRequest:
        """All steps up to the start of the transfer."""
        request = self.request(**changes)
        uuid_ = request.migration_uuid
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare(self.ctxt, self.b.name, uuid_)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        return request

    def state(self, host: Host, migration: str) -> str:
        """The journal's state at a host; '' while it does not answer."""
        try:
            found = self.api.records(self.ctxt, host.name)
        except errors.AgentUnreachable:
            return ''
        return next((str(entry['state']) for entry in found if
                     entry['record']['migration_uuid'] == migration), '')

    def until_states(self, migration: str, a: str, b: str) -> None:
        seen: list[tuple[str, str]] = []

        def reached() -> bool:
            seen.append((self.state(self.a, migration),
                         self.state(self.b, migration)))
            return seen[-1] == (a, b)

        try:
            gpu_lab.until(reached, f'{a} and {b}')
        except AssertionError as exc:
            raise AssertionError(f'{exc}; last seen {seen[-1]}') from exc

    def until_free(self, host: Host, address: str) -> None:
        gpu_lab.until(lambda: {
            vf.address: vf.free for pool in
            self.api.describe(self.ctxt, host.name).as_pools()
            for vf in pool.vfs}[address], f'{address} to be free')

    def until_device(self, host: Host, address: str,
                     state: contract.DeviceState) -> None:
        def reached() -> bool:
            try:
                device = host.gim.open(address)
            except OSError:
                return False
            try:
                return device.state() == state
            finally:
                device.close()

        gpu_lab.until(reached, f'{address} of {host.name} in {state.name}')

    def record(self, host: Host, migration: str) -> record_.MigrationRecord:
        return self.api.get(self.ctxt, host.name, migration)

    def outcome(self, migration: str) -> record_.MigrationRecord:
        gpu_lab.until(lambda: self.record(self.a, migration).phase.terminal,
                      'the end of the move')
        return self.record(self.a, migration)

    def notify(self, event: str, host: str, instance_uuid: str,
               request_id: str = 'req-1') -> None:
        """Send what nova-compute of `host` would send."""
        conf = cfg.ConfigOpts()
        conf([], project='nova', default_config_files=[])
        oslo_messaging.set_transport_defaults('nova')
        rpcapi.get_transport(conf, self.url).cleanup()
        conf.set_override('control_exchange', 'nova')
        transport = oslo_messaging.get_notification_transport(
            conf, url=self.url)
        try:
            oslo_messaging.Notifier(
                transport, f'nova-compute:{host}', driver='messagingv2',
                topics=['vgpu_mig_notifications']).info(
                    {}, f'instance.live_migration_{event}', {
                        'nova_object.name': 'InstanceActionPayload',
                        'nova_object.version': '1.8',
                        'nova_object.data': {
                            'uuid': instance_uuid, 'host': host,
                            'request_id': request_id}})
        finally:
            transport.cleanup()


ROLES = (phases.Role.SOURCE, phases.Role.DESTINATION)
