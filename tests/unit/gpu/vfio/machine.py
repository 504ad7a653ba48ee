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


"""A machine with VFIO devices, for a host that has none.

Real files and descriptors, under a directory; only the ioctls are played,
and they read the bytes by struct, not by what is tested. Whether a kernel
agrees is what tests.conformance finds out.
"""

import ctypes
import errno
import os
import pathlib
import struct
import time

from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import sysfs

PF = '0000:41:00.0'


class Machine(calls.Kernel):
    """Its devices are in RUNNING; `refuse` makes a state change fail.

    A group is exclusive, as the kernel's.
    """

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.files = sysfs.Files(str(root))
        self.states = {}
        self.flags = 3
        self.viable = True
        self.bound = False
        self.migrates = True
        self.refuse = {}
        self.calls = []
        self.closed = []
        self.dirty_word = 0
        self.busy = set()
        self.groups = set()
        self.slow_seconds = 0.0
        self.sizes = True

    def write_file(self, path, text=''):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def link(self, path, target):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        (self.root / target).mkdir(parents=True, exist_ok=True)
        path.symlink_to(self.root / target)

    def add_vf(self, index, driver='mlx5_vfio_pci', group=None):
        address = f'0000:41:00.{index + 1}'
        group = str(index + 10) if group is None else group
        own = f'sys/devices/pci/{address}'
        self._common(own, index, group)
        self.link(f'{own}/driver', f'sys/bus/pci/drivers/{driver}')
        self.link(f'{own}/physfn', f'sys/devices/pci/{PF}')
        self.link(f'sys/devices/pci/{PF}/virtfn{index}', own)
        for name, value in (('vendor', '0x1002'), ('device', '0x74b5'),
                            ('revision', '0x02'),
                            ('subsystem_vendor', '0x1002'),
                            ('subsystem_device', '0x0b36'),
                            ('resource', '0x0 0xffffff 0x40200\n'
                             '0x0 0x3fffffff 0x14220c\n0x0 0x0 0x0\n')):
            self.write_file(f'{own}/{name}', value)
        self.write_file(f'sys/devices/pci/{PF}/sriov_numvfs', '8')
        self.link(f'sys/bus/pci/devices/{address}', own)
        return address

    def bind_anew(self, address):
        link = self.root / f'sys/devices/pci/{address}/driver'
        # Made before the old one goes, so that it can't have its number.
        new = link.with_name('new')
        new.symlink_to(link.readlink())
        new.replace(link)

    def add_mdev(self, uuid, kind='mtty-2', group='7'):
        own = f'sys/devices/virtual/mtty/mtty/{uuid}'
        self._common(own, 90, group)
        self.link(f'{own}/driver', 'sys/bus/mdev/drivers/mtty')
        self.link(f'{own}/mdev_type',
                  f'sys/devices/virtual/mtty/mtty/mdev_supported_types/{kind}')
        self.link(f'sys/bus/mdev/devices/{uuid}', own)
        return uuid

    def _common(self, own, number, group):
        (self.root / own / f'vfio-dev/vfio{number}').mkdir(parents=True)
        self.link(f'{own}/iommu_group', f'sys/kernel/iommu_groups/{group}')
        self.write_file(f'dev/vfio/{group}')
        self.write_file('dev/vfio/vfio')
        self.write_file(f'dev/vfio/devices/vfio{number}')

    def open_file(self, path):
        if path in self.busy or path in self.groups:
            raise OSError(errno.EBUSY, 'Device or resource busy')
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        if pathlib.Path(path).name.isdigit():
            self.groups.add(path)
            time.sleep(self.slow_seconds)
        return fd

    def close(self, fd):
        name = self._name(fd)
        self.closed.append(name)
        super().close(fd)
        self.groups.discard(name)

    @staticmethod
    def _name(fd):
        found = os.readlink(f'/proc/self/fd/{fd}')
        return found.removeprefix('/memfd:').removesuffix(' (deleted)')

    def ioctl(self, fd, request, argument=0):
        name = self._name(fd)
        short = pathlib.Path(name).name
        match request:
            case 0x3b64 | 0x3b66:
                return 0
            case 0x3b65:
                return int(argument == 3)
            case 0x3b67:
                argument[:] = struct.pack('=II', 8, int(self.viable))
            case 0x3b68:
                container, = struct.unpack('=i', argument)
                self.calls.append((short, self._name(container)))
            case 0x3b6a:
                device = argument.rstrip(b'\0').decode()
                return self._device(device)
            case 0x3b76:
                size, flags, iommufd, _ = struct.unpack('=IIiI', argument)
                assert (size, flags) == (16, 0)
                if self.bound:
                    raise OSError(errno.EINVAL, 'Invalid argument')
                self.calls.append((short, self._name(iommufd)))
                self.states.setdefault(name, 2)
            case 0x3b6f:
                self.states[name] = 2
            case 0x3b75:
                self._feature(name, argument)
            case _:
                raise OSError(errno.ENOTTY, 'no such ioctl')
        return 0

    def _device(self, name):
        self.states.setdefault(name, 2)
        return os.memfd_create(name)

    def _feature(self, name, argument):
        size, flags = struct.unpack_from('=II', argument)
        assert size == len(argument), size
        if not self.migrates:
            raise OSError(errno.ENOTTY, 'no such feature')
        match flags:
            case 0x10001:
                struct.pack_into('=Q', argument, 8, self.flags)
            case 0x10002:
                struct.pack_into('=Ii', argument, 8, self.states[name], -1)
            case 0x20002:
                self._set_state(name, argument)
            case 0x10009 if self.sizes:
                struct.pack_into('=Q', argument, 8, 12345)
            case 0x20006:
                self.calls.append(struct.unpack_from('=QIIQ', argument, 8))
            case 0x10008:
                _, _, _, bitmap = struct.unpack_from('=QQQQ', argument, 8)
                _bytes_at(bitmap, 8)[:] = self.dirty_word.to_bytes(8, 'little')
            case _:
                raise OSError(errno.ENOTTY, 'no such feature')

    def _set_state(self, name, argument):
        wanted, _ = struct.unpack_from('=Ii', argument, 8)
        self.calls.append(('set', wanted))
        if wanted in self.refuse:
            code, self.states[name] = self.refuse[wanted]
            raise OSError(code, os.strerror(code))
        self.states[name] = wanted
        struct.pack_into('=Ii', argument, 8, wanted, -1)


def _bytes_at(address, length):
    return memoryview((ctypes.c_ubyte * length).from_address(address)
                      ).cast('B')
