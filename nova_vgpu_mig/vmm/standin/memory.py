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


"""Guest RAM: a memfd, and the dirty log of what the vCPUs write to it.

The VMM logs vCPU writes here, as KVM does for QEMU: write, then mark. A
reader of the log clears first and copies afterwards, so a write that comes
between is copied or logged again, never lost. Writes of the GPU do not pass
through this process and are found by DMA logging.

Rejected: userfaultfd write protection, which costs privileges, and soft-dirty
bits, which a container may not have.
"""

import mmap
import os
import threading

import numpy
import numpy.typing

from nova_vgpu_mig.vmm.standin import layout

Pages = numpy.typing.NDArray[numpy.bool_]


class GuestMemory:
    """Guest RAM of `size` bytes; safe to share between the vCPUs."""

    def __init__(self, size: int) -> None:
        """:raises ValueError: too small, or not whole GPU pages."""
        if size < layout.MINIMUM_RAM or size % 0x10000:
            raise ValueError(
                f'guest RAM of {size} bytes: it must be a multiple of 64 KiB '
                f'and at least {layout.MINIMUM_RAM} bytes')
        self.size = size
        self.pages = size // layout.PAGE
        self.fd = os.memfd_create('guest-ram', os.MFD_CLOEXEC)
        os.ftruncate(self.fd, size)
        self._map = mmap.mmap(self.fd, size)
        self.view = memoryview(self._map)
        self._words = self.view.cast('Q')
        self._lock = threading.Lock()
        self._log: Pages | None = None

    def read_word(self, address: int) -> int:
        """Read an aligned u64 in one access, as a CPU does."""
        return int(self._words[address >> 3])

    def write_word(self, address: int, value: int) -> None:
        self._words[address >> 3] = value
        self._mark(address, 8)

    def write(self, address: int, data: bytes) -> None:
        self.view[address:address + len(data)] = data
        self._mark(address, len(data))

    def clear(self) -> None:
        """Make all of it zero, and have every page there.

        As with a device that does DMA all of guest RAM is resident; page
        faults would otherwise be taken in the last round's digest.
        """
        self._map.madvise(mmap.MADV_REMOVE)
        self.used_pages()

    def start_log(self) -> None:
        with self._lock:
            self._log = numpy.zeros(self.pages, dtype=bool)

    def stop_log(self) -> None:
        with self._lock:
            self._log = None

    def read_log(self) -> Pages:
        """Read and clear: one flag for each page the vCPUs wrote."""
        with self._lock:
            if self._log is None:
                raise ValueError('the dirty log is off')
            log, self._log = self._log, numpy.zeros(self.pages, dtype=bool)
            return log

    def used_pages(self) -> Pages:
        """One flag for each page that holds anything but zeros.

        Works in pieces of 1 MiB, to need no second copy of guest RAM.
        """
        used = numpy.zeros(self.pages, dtype=bool)
        words = numpy.frombuffer(self.view, dtype='<u8').reshape(
            self.pages, layout.PAGE // 8)
        piece = (1 << 20) // layout.PAGE
        for first in range(0, self.pages, piece):
            used[first:first + piece] = words[first:first + piece].any(
                axis=1)
        return used

    def _mark(self, address: int, length: int) -> None:
        if self._log is None:
            return
        with self._lock:
            if self._log is not None:
                last = (address + length - 1) // layout.PAGE
                self._log[address // layout.PAGE:last + 1] = True
