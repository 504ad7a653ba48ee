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

"""A guest without a disk, which holds one mediated device or more.

It never gets beyond its BIOS, if it has one: what the tests look at is the
devices, and a BIOS is there for those that have to be given their addresses.
"""

import re
import shlex
import uuid

from lab import node as node_
from lab import places
from lab import wait

PATIENCE = 120
_XML = """\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{name}</name>
  <uuid>{uuid}</uuid>
  <memory unit='MiB'>64</memory>
  <vcpu>1</vcpu>
  <os><type arch='x86_64' machine='q35'>hvm</type>{loader}</os>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    <video><model type='none'/></video>
{devices}  </devices>
  <qemu:override>
{events}  </qemu:override>
</domain>
"""
_HALT = "<loader type='rom'>/run/halt.rom</loader>"
_DEVICE = """\
    <hostdev mode='subsystem' type='mdev' model='vfio-pci'>
      <source><address uuid='{mdev}'/></source>
      <alias name='ua-gpu{number}'/>
    </hostdev>
"""
_EVENTS = """\
    <qemu:device alias='ua-gpu{number}'>
      <qemu:frontend>
        <qemu:property name='migration-events' type='bool' value='true'/>
      </qemu:frontend>
    </qemu:device>
"""


class Guest:
    """`node` and `mdevs` are where it runs, and what it holds there."""

    def __init__(self, node: node_.Node, *mdevs: str,
                 bios: bool = False) -> None:
        """Start it on this node.

        :param bios: run the BIOS, which costs a node some ten seconds;
            else the guest's only instruction is a halt.
        """
        self.bios = bios
        self.name = f'guest-{mdevs[0][:8]}'
        self.uuid = str(uuid.uuid4())
        self.node = node
        self.mdevs = mdevs
        # Persistent, as Nova's are.
        node.run(f'virsh -q define /dev/stdin && virsh -q start {self.name}',
                 self.xml(mdevs).encode())

    def xml(self, mdevs: tuple[str, ...]) -> str:
        """Return the XML of this guest with these devices."""
        numbered = list(enumerate(mdevs))
        return _XML.format(
            name=self.name, uuid=self.uuid,
            loader='' if self.bios else _HALT,
            devices=''.join(_DEVICE.format(number=number, mdev=mdev)
                            for number, mdev in numbered),
            events=''.join(_EVENTS.format(number=number)
                           for number, _ in numbered))

    def state(self, node: node_.Node) -> str:
        """Return libvirt's word for its state there, '' if it is none."""
        done = node.attempt(f'virsh -q domstate {self.name}')
        return '' if done.returncode else done.stdout.decode().strip()

    def monitor(self, command: str) -> str:
        """Give QEMU's monitor a command for people."""
        return self.node.run(f'virsh -q qemu-monitor-command {self.name} '
                             f'--hmp {shlex.quote(command)}').strip()

    def ports(self) -> int:
        """Return where the BIOS put the first device's first I/O ports."""
        found: list[int] = []

        def placed() -> bool:
            text = self.monitor('info pci')
            _, _, device = text.partition('id "ua-gpu0"')
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
    return text[:text.index('id "ua-gpu0"')].rpartition('  Bus ')[2]
