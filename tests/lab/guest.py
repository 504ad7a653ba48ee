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

"""A guest without a disk, which holds one mediated device.

It never gets beyond its BIOS: that has given the device its addresses, and
what the tests look at is the device.
"""

import re
import shlex
import uuid

from lab import network
from lab import node as node_
from lab import places
from lab import wait

URI = 'qemu+tcp://{address}/system'
PATIENCE = 120
_XML = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type></os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
      <source><address uuid='{mdev}'/></source>
      <alias name='ua-gpu'/>
    </hostdev>
  </devices>
  <qemu:override>
    <qemu:device alias='ua-gpu'>
      <qemu:frontend>
        <qemu:property name='migration-events' type='bool' value='true'/>
      </qemu:frontend>
    </qemu:device>
  </qemu:override>
</domain>
"""


class Guest:
    def __init__(self, node: node_.Node, mdev: str) -> None:
        """Start it on this node."""
        self.name = f'guest-{mdev[:8]}'
        self.uuid = str(uuid.uuid4())
        self.node = node
        self._write(node, mdev)
        # Statistics of a job that has ended are kept for a persistent one.
        node.run(f'virsh -q define /run/{self.name}.xml && '
                 f'virsh -q start {self.name}')

    def _write(self, node: node_.Node, mdev: str) -> None:
        xml = _XML.format(name=self.name, uuid=self.uuid, mdev=mdev)
        node.run(f'cat >/run/{self.name}.xml', xml.encode())

    def migrate(self, to: node_.Node, mdev: str) -> dict[str, str]:
        """Live, to a device of that node; return the job's statistics.

        :raises LabError: it was refused, or failed.
        """
        source = self.node
        self._write(source, mdev)
        uri = URI.format(address=network.node_address(to.number))
        source.run(f'virsh -q migrate --live --p2p --persistent '
                   f'--xml /run/{self.name}.xml {self.name} {uri}')
        self.node = to
        lines = source.run(f'virsh -q domjobinfo {self.name} --completed '
                           '--rawstats').splitlines()
        return dict(line.split(': ', 1) for line in lines if ': ' in line)

    def state(self, node: node_.Node) -> str:
        """Return libvirt's word for its state there, '' if it is none."""
        done = node.attempt(f'virsh -q domstate {self.name}')
        return '' if done.returncode else done.stdout.decode().strip()

    def monitor(self, command: str) -> str:
        """Give QEMU's monitor a command for people."""
        return self.node.run(f'virsh -q qemu-monitor-command {self.name} '
                             f'--hmp {shlex.quote(command)}').strip()

    def ports(self) -> int:
        """Return where the BIOS put the device's first I/O ports."""
        found: list[int] = []

        def placed() -> bool:
            text = self.monitor('info pci')
            _, _, device = text.partition('id "ua-gpu"')
            text = text if not device else _before(text)
            places_ = re.findall(r'BAR0: I/O at 0x([0-9a-f]{4}) ', text)
            found.extend(int(place, 16) for place in places_)
            return bool(found)

        wait.until(f'{self.name}: PCI set up', placed, PATIENCE,
                   places.run() / f'{self.node.name}.console')
        return found[-1]

    def write(self, port: int, value: int) -> None:
        self.monitor(f'o /b {port:#x} {value:#x}')

    def read(self, port: int) -> int:
        return int(self.monitor(f'i /b {port:#x}').split('=')[1], 16)


def _before(text: str) -> str:
    """Return the part of `info pci` about the device with our id."""
    return text[:text.index('id "ua-gpu"')].rpartition('  Bus ')[2]
