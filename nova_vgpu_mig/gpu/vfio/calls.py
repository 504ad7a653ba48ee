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


"""The system calls of VFIO, each as a function of a descriptor.

They know nothing of states or addresses: an error is the kernel's bare
OSError, and who called adds what was asked of which device. What is above
them takes a `Kernel`, so that it can be tried on a machine without VFIO.
"""

import ctypes
import errno
import fcntl
import os
from typing import TypeVar

from nova_vgpu_mig.gpu.vfio import uapi

Data = TypeVar('Data', bound=ctypes.Structure)

_NO_DATA = b''


def _ioctl(fd: int, request: int, argument: bytearray | int = 0) -> int:
    """As fcntl.ioctl(), with what the kernel writes in `argument`."""
    if isinstance(argument, int):
        return fcntl.ioctl(fd, request, argument)
    # With a buffer that is written back, the result is the kernel's number.
    return int(fcntl.ioctl(fd, request, argument, True))


class Kernel:
    """VFIO as the kernel of this machine has it."""

    def ioctl(self, fd: int, request: int,
              argument: bytearray | int = 0) -> int:
        """The plain call; what the kernel writes is in `argument` then."""
        return _ioctl(fd, request, argument)

    def read(self, fd: int, view: memoryview) -> int:
        """Read into `view`, without a copy between."""
        return os.readv(fd, [view])

    def write(self, fd: int, view: memoryview) -> int:
        return os.write(fd, view)

    def close(self, fd: int) -> None:
        os.close(fd)


def exchange(kernel: Kernel, fd: int, request: int, data: Data) -> Data:
    """Hand a structure to an ioctl; return it as the kernel left it."""
    buffer = bytearray(data)
    kernel.ioctl(fd, request, buffer)
    return type(data).from_buffer_copy(buffer)


def _feature(kernel: Kernel, fd: int, flags: int, data: bytes) -> bytes:
    size = ctypes.sizeof(uapi.Feature)
    buffer = bytearray(uapi.Feature(size + len(data), flags)) + data
    kernel.ioctl(fd, uapi.DEVICE_FEATURE, buffer)
    return bytes(buffer[size:])


def get_feature(kernel: Kernel, fd: int, feature: int, data: Data) -> Data:
    """VFIO_DEVICE_FEATURE with GET; return the data as the kernel left it."""
    return type(data).from_buffer_copy(
        _feature(kernel, fd, feature | uapi.FEATURE_GET, bytes(data)))


def set_feature(kernel: Kernel, fd: int, feature: int,
                data: Data | None = None) -> bytes:
    """VFIO_DEVICE_FEATURE with SET; return the data as the kernel left it."""
    return _feature(kernel, fd, feature | uapi.FEATURE_SET,
                    _NO_DATA if data is None else bytes(data))


def has_feature(kernel: Kernel, fd: int, feature: int, ways: int) -> bool:
    """Ask whether a device has a feature, without using it.

    :param ways: FEATURE_GET, FEATURE_SET or both.
    """
    try:
        _feature(kernel, fd, feature | ways | uapi.FEATURE_PROBE, _NO_DATA)
    except OSError as exc:
        # ENOTTY: no such feature. EINVAL: it has it, but not these ways.
        if exc.errno in (errno.ENOTTY, errno.EINVAL):
            return False
        raise
    return True
