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

"""Shared memory as the engines see it: bytes, and 64-bit words.

Frame buffers and guest RAM are memfds, so that the agent, the guest and the
engines work on the same pages and untouched memory costs nothing.
"""

import fcntl
import mmap
import os

import numpy
import numpy.typing

Octets = numpy.typing.NDArray[numpy.uint8]
Words = numpy.typing.NDArray[numpy.uint64]

_CHUNK = 1024 * 1024


def buffer(length: int) -> mmap.mmap:
    """Return anonymous memory that is the system's again when dropped.

    A large bytearray may come from, and stay in, the arena of whichever
    thread made it: each move would leave its package behind in another one.
    """
    return mmap.mmap(-1, length,
                     flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class SharedMemory:
    """A mapped memfd; `fd` belongs to it from now on."""

    def __init__(self, fd: int, length: int) -> None:
        """:param length: bytes, a multiple of 8."""
        self.fd = fd
        self.length = length
        self._map = mmap.mmap(fd, length)
        self.octets: Octets = numpy.frombuffer(self._map, numpy.uint8)
        self.words: Words = self.octets.view(numpy.uint64)

    @classmethod
    def create(cls, name: str, length: int) -> 'SharedMemory':
        """Make a sparse memfd that nobody can shrink under our feet."""
        fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, length)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS,
                    fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
        return cls(fd, length)

    @classmethod
    def adopt(cls, fd: int, length: int) -> 'SharedMemory':
        """Map a memfd that a guest handed over.

        :raises ValueError: it is shorter than `length`.
        """
        held = os.fstat(fd).st_size
        if length <= 0 or length % 8 or held < length:
            raise ValueError(f'guest RAM of {length} bytes cannot be mapped '
                             f'from a file of {held} bytes')
        try:
            # A file cut short later would end this process by SIGBUS.
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        except PermissionError:
            pass
        return cls(fd, length)

    def clear(self) -> None:
        """Give every page back; all of it reads as zero afterwards."""
        self._map.madvise(mmap.MADV_REMOVE)

    def chunks(self) -> 'list[tuple[int, int]]':
        """(offset, length) pieces of a size fit for a buffer."""
        return [(start, min(_CHUNK, self.length - start))
                for start in range(0, self.length, _CHUNK)]

    def close(self) -> None:
        """Drop the mapping (it goes when the last view does) and the fd."""
        os.close(self.fd)
        self.octets = numpy.empty(0, numpy.uint8)
        self.words = numpy.empty(0, numpy.uint64)
