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

"""Two agents in threads, each with a software GIM of its own."""

import os
import pathlib
import tempfile
import threading
from typing import Any
import unittest
import uuid

from oslo_config import cfg
from oslo_context import context

from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.agent import service
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.vmm import hypervisor
from tests import gpu_lab
from tests import move_request

PFS = ('0000:41:00.0', '0000:81:00.0', '0000:c1:00.0')

ANY_INDEX = ('--migration-version', '1')
"""A stream version that a VF with another index takes."""


def configuration(folder: pathlib.Path, host: str,
                  url: str = 'fake://', **options: Any) -> cfg.ConfigOpts:
    """Return a ConfigOpts with all of an agent's state in `folder`."""
    conf = cfg.ConfigOpts()
    for module in (agent_conf, libvirt_conf, migration_conf, software_gim,
                   vmm_standin):
        module.register_opts(conf)
    conf([], project='nova-vgpu-mig', default_config_files=[])
    rpcapi.get_transport(conf, 'fake://').cleanup()
    conf.set_override('transport_url', url)
    settings = {'host': host, 'data_port': 0, 'rpc_timeout': 10,
                'journal': str(folder / host / 'journal.sqlite'),
                'periodic_seconds': 1, 'listen_notifications': False,
                **options}
    for name, value in settings.items():
        conf.set_override(name, value, agent_conf.GROUP)
    conf.set_override('uri', '', libvirt_conf.GROUP)
    conf.set_override('runtime_dir', str(folder / host / 'gim'),
                      software_gim.GROUP)
    conf.set_override('runtime_dir', str(folder / host / 'vmm'),
                      vmm_standin.GROUP)
    return conf


class Host:
    """A compute host: a software GIM, and an agent that can be restarted."""

    def __init__(self, cleanup: Any, folder: pathlib.Path,
                 name: str, pf: str, gim_options: tuple[str, ...] = (),
                 **options: Any) -> None:
        self.name = name
        self.folder = folder
        self.options = options
        for part in ('gim', 'vmm'):
            os.makedirs(folder / name / part, exist_ok=True)
        self.gim = gpu_lab.GIMProcess(folder / name / 'gim', pf,
                                      options=(*ANY_INDEX, *gim_options))
        cleanup(self.gim.stop)
        self.vfs = gpu_lab.vf_addresses(self.gim)
        self.conf = configuration(folder, name, **options)
        self.agent: service.Agent | None = None
        self.hypervisor: hypervisor.Hypervisor | None = None

    def start(self, observer: node.Observer | None = None) -> None:
        self.agent = service.Agent(self.conf, observer, self.hypervisor)
        self.agent.start()

    def stop(self) -> None:
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.stop()


def bring_up(owner: Any, cleanup: Any, gim_options_b: tuple[str, ...] = (),
             observer: node.Observer | None = None) -> None:
    """Give `owner` (a test, or its class) two hosts and a client."""
    made = tempfile.TemporaryDirectory(prefix='agents')
    cleanup(made.cleanup)
    folder = pathlib.Path(made.name)
    tag = uuid.uuid4().hex[:8]
    owner.a = Host(cleanup, folder, f'a-{tag}', PFS[0])
    owner.b = Host(cleanup, folder, f'b-{tag}', PFS[1], gim_options_b)
    owner.ctxt = context.RequestContext(request_id='req-1')
    owner.api = rpcapi.AgentAPI(owner.a.conf)
    cleanup(owner.api.close)
    cleanup(_stop, owner.a, owner.b)
    owner.a.start(observer)
    owner.b.start(observer)


def _stop(*hosts: Host) -> None:
    """Stop all at once; each waits for its last poll of the bus."""
    threads = [threading.Thread(target=host.stop) for host in hosts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class AgentsCase(unittest.TestCase):
    """`self.a` and `self.b`, up, and `self.api` to talk to them."""

    a: Host
    b: Host
    api: rpcapi.AgentAPI
    ctxt: context.RequestContext

    gim_options_b: tuple[str, ...] = ()

    def setUp(self) -> None:
        super().setUp()
        bring_up(self, self.addCleanup, self.gim_options_b, self.observe)

    def observe(self, record: record_.MigrationRecord) -> None:
        """Called in the agents' threads as moves go on."""

    def request(self, **changes: Any) -> objects.VFMigrationRequest:
        return move_request.between(self.a, self.b, **changes)

    def free(self, host: Host, address: str) -> bool:
        return {vf.address: vf.free for pool in
                self.api.describe(self.ctxt, host.name).as_pools()
                for vf in pool.vfs}[address]

    def device_state(self, host: Host, address: str
                     ) -> contract.DeviceState:
        device = host.gim.open(address)
        try:
            return device.state()
        finally:
            device.close()


class SharedAgentsCase(AgentsCase):
    """The same pair for all tests of a class, which leave it as it was."""

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        bring_up(cls, cls.addClassCleanup)

    def setUp(self) -> None:
        unittest.TestCase.setUp(self)

    def claimed(self) -> objects.VFMigrationRequest:
        """A move that the destination has reserved a VF for."""
        request = self.request()
        self.addCleanup(self.api.rollback, self.ctxt, self.b.name,
                        request.migration_uuid, phases.Role.DESTINATION)
        self.api.claim(self.ctxt, self.b.name, request)
        return request
