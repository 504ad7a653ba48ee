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


"""The identity of a kernel device, from what sysfs says.

The uAPI has no word for firmware, partitions or frame buffers: a variant
driver compares them in its stream, half-way through the move. What sysfs has
is taken as it is; a driver that wants its devices judged before a move can
put an `identity` directory of plain attributes beside them.
"""

import pathlib

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu.vfio import sysfs

NO_VENDOR = '0000'
"""No PCI vendor has it: a mediated device whose parent is not on PCI."""

_MIB = 2 ** 20
_MEMORY = 0x200
"""IORESOURCE_MEM, in the third column of a PCI `resource` file."""


def of(node: sysfs.Node) -> identity.VFIdentity:
    """Describe a device.

    Mediated devices are made and removed with their guests, so that their
    number says nothing of one: its type says what share of the parent it is.
    """
    told = node.path / 'identity'
    ids = _pci_ids(node)
    return identity.VFIdentity(
        vendor_id=_hex_id(told / 'vendor_id') or ids[0],
        device_id=_hex_id(told / 'device_id') or ids[1],
        frame_buffer_mib=(_number(told / 'frame_buffer_mib')
                          or _largest_bar(node.path) // _MIB or None),
        num_vfs=_number(node.parent / 'sriov_numvfs') or 1,
        migration_version=_number(told / 'migration_version'),
        driver_version=(sysfs.text(told / 'driver_version')
                        or _driver(node)),
        vbios_version=sysfs.text(told / 'vbios'),
        partition=sysfs.text(told / 'partition') or node.type,
        subsystem=_subsystem(node),
        revision=sysfs.text(_pci(node) / 'revision'),
        firmware=_firmware(told))


def _pci(node: sysfs.Node) -> pathlib.Path:
    """The PCI function that the device is, or is a part of."""
    return node.path if node.kind is sysfs.Kind.PCI else node.parent


def _pci_ids(node: sysfs.Node) -> tuple[str, str]:
    # A VF's config space has ffff here; the kernel fills in what it is.
    where = _pci(node)
    return (_hex_id(where / 'vendor') or NO_VENDOR,
            _hex_id(where / 'device') or NO_VENDOR)


def _hex_id(path: pathlib.Path) -> str | None:
    try:
        return f'{int(sysfs.text(path) or "", 16):04x}'
    except ValueError:
        return None


def _number(path: pathlib.Path) -> int | None:
    """A number as sysfs writes it: decimal, or hexadecimal with 0x."""
    value = sysfs.text(path)
    try:
        return None if value is None else int(value, 0)
    except ValueError:
        return None


def _driver(node: sysfs.Node) -> str:
    """Its name, and its version where the module has one of its own."""
    version = sysfs.text(node.path / 'driver/module/version')
    return f'{node.driver} {version}' if version else node.driver


def _firmware(told: pathlib.Path) -> dict[str, str]:
    version = sysfs.text(told / 'firmware')
    return {'firmware': version} if version else {}


def _subsystem(node: sysfs.Node) -> str | None:
    where = _pci(node)
    ids = (_hex_id(where / 'subsystem_vendor'),
           _hex_id(where / 'subsystem_device'))
    return None if None in ids else '{}:{}'.format(*ids)


def _largest_bar(path: pathlib.Path) -> int:
    """Bytes of the largest memory BAR: what shows of the frame buffer."""
    largest = 0
    for line in (sysfs.text(path / 'resource') or '').splitlines():
        try:
            first, last, flags = (int(word, 16) for word in line.split())
        except ValueError:
            continue
        if flags & _MEMORY and last > first:
            largest = max(largest, last - first + 1)
    return largest
