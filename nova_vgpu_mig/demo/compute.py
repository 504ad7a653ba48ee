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


"""One compute of the demo's cloud: GIM, agent and libvirt.

The GIM is a process and so is each VM, because they stand for what goes on
when an agent dies. The agent is in threads of this process, with options of
its own; nova-compute is the harness's.
"""

from collections.abc import Callable
import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

from nova.tests.fixtures import libvirt as fakelibvirt
from oslo_config import cfg

from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.agent import service
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.conf import software_gim as gim_conf
from nova_vgpu_mig.conf import vmm_standin as standin_conf
from nova_vgpu_mig.demo import harness
from nova_vgpu_mig.demo import libvirt
from nova_vgpu_mig.migration import record as migration_record
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm.standin import process

PF_ADDRESS = '0000:83:00.0'
OLD_FIRMWARE = {'MEC': '0x8a', 'RLC': '0x5e'}
"""Of the compute that was not upgraded."""

STREAM_VERSION = 1 << 16 | 1
"""Of the GIM's migration stream: the state may go into any VF index."""

Observer = Callable[[str, migration_record.MigrationRecord], None]
"""Called with a host and the record of a move there that got on."""


class CloudError(Exception):
    """The cloud did not do what was waited for."""


@dataclasses.dataclass(slots=True)
class Plan:
    """What the cloud is made of."""

    hosts: tuple[str, ...] = ('compute1', 'compute2', 'compute3')
    old_hosts: tuple[str, ...] = ('compute3',)
    """Those with older GPU firmware."""

    frame_buffer_mib: int = 16
    vfs: int = 4
    memory_mib: int = 32
    """Guest RAM of a VM."""


class GIM:
    """The software GIM of a compute: one PF, as a process."""

    def __init__(self, directory: pathlib.Path, plan: Plan,
                 firmware: dict[str, str]) -> None:
        """:raises CloudError: it did not come up; with what it said."""
        self.directory = directory
        directory.mkdir(parents=True)
        self._errors = (directory / 'gim.log').open('wb')
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'nova_vgpu_mig.gpu.software',
             '--pf', PF_ADDRESS, '--runtime-dir', str(directory),
             '--vfs', str(plan.vfs), '--die-with-parent',
             '--frame-buffer-mib', str(plan.frame_buffer_mib),
             '--migration-version', str(STREAM_VERSION),
             *(f'--firmware={name}={version}'
               for name, version in firmware.items())],
            stdout=subprocess.PIPE, stderr=self._errors)

    def wait(self) -> None:
        """Return when it listens."""
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            self.close()
            raise CloudError('the software GIM did not start: '
                             + (self.directory / 'gim.log').read_text())
        self._client = unixcall.Client(self.path)

    @property
    def path(self) -> str:
        """Its socket."""
        return str(self.directory / f'{PF_ADDRESS}.sock')

    def call(self, method: str, **args: Any) -> Any:
        """A call of gpu/software/abi.py, as an administrator."""
        return self._client.call(method, **args)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._errors.close()


class Compute:
    """One compute: GIM, agent, libvirt; nova-compute is the harness's."""

    def __init__(self, host: str, directory: pathlib.Path, plan: Plan,
                 observer: Observer) -> None:
        self.host = host
        self._observer = observer
        self.directory = directory
        firmware = OLD_FIRMWARE if host in plan.old_hosts else {}
        self.gim = GIM(directory / 'gim', plan, firmware)
        # The agent takes the stand-in for its VMM where this exists.
        self.guests.mkdir()
        self.conf = self._options()
        self.agent: service.Agent | None = None
        self.libvirt: libvirt.Connection

    def _options(self) -> cfg.ConfigOpts:
        conf = cfg.ConfigOpts()
        conf([], project='nova-vgpu-mig', default_config_files=[],
             default_config_dirs=[])
        for module in (agent_conf, libvirt_conf, migration_conf, gim_conf,
                       standin_conf):
            module.register_opts(conf)
        rpcapi.get_transport(conf, 'fake://').cleanup()
        conf.set_override('transport_url', 'fake://')
        for name, value in {
                'host': self.host, 'data_port': 0,
                'journal': str(self.directory / 'journal.sqlite'),
                'periodic_seconds': 1,
                # Nova's notifiers are doubles here.
                'listen_notifications': False}.items():
            conf.set_override(name, value, agent_conf.GROUP)
        conf.set_override('uri', '', libvirt_conf.GROUP)
        conf.set_override('runtime_dir', str(self.gim.directory),
                          gim_conf.GROUP)
        conf.set_override('runtime_dir', str(self.guests),
                          standin_conf.GROUP)
        return conf

    @property
    def guests(self) -> pathlib.Path:
        return self.directory / 'guests'

    def vfs(self) -> dict[str, int]:
        """Return VF address -> VF index."""
        return {vf['address']: vf['index']
                for vf in self.gim.call('describe')['vfs']}

    def pci_info(self) -> fakelibvirt.HostPCIDevicesInfo:
        """Return the PF and its VFs as libvirt lists them."""
        addresses = sorted(self.vfs())
        devices = fakelibvirt.HostPCIDevicesInfo(num_pfs=0, num_vfs=0)
        common = {'numa_node': 0, 'vf_ratio': len(addresses),
                  'vend_id': harness.VENDOR_ID, 'vend_name': 'software GIM'}
        pf = _parse(PF_ADDRESS)
        devices.add_device('PF', *pf, iommu_group=40, prod_id='74a1',
                           driver_name='gim', **common)
        for number, address in enumerate(addresses, 41):
            devices.add_device('VF', *_parse(address), iommu_group=number,
                               prod_id=harness.DEVICE_ID, parent=pf,
                               driver_name='vfio-pci', **common)
        return devices

    def start_agent(self) -> None:
        """Start the agent, or start it again on the same journal."""
        self.agent = service.Agent(
            self.conf, lambda record: self._observer(self.host, record))
        self.agent.start()

    def stop_agent(self) -> None:
        agent, self.agent = self.agent, None
        if agent is not None:
            agent.stop()

    def launch(self, instance_uuid: str, vf_address: str, ram_bytes: int, *,
               incoming: bool) -> libvirt.GuestProcess:
        """Start the process of a VM."""
        return process.GuestLauncher(
            instance_uuid, self.guests, gim_socket=self.gim.path,
            vf=vf_address, ram_mib=ram_bytes // 2 ** 20, incoming=incoming)


def _parse(address: str) -> tuple[int, int, int]:
    _, bus, rest = address.split(':')
    slot, function = rest.split('.')
    return int(bus, 16), int(slot, 16), int(function, 16)
