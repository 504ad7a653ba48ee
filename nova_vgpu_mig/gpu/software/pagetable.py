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

"""GPU virtual addresses to frame buffer and guest RAM.

A command is translated whole before its first work unit, in a few vector
operations, and contiguous pages become one segment. Translating each work
unit by itself cost more than the arithmetic it was for.
"""

import bisect
import enum
import itertools
from typing import NamedTuple

import numpy
import numpy.typing

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import memory

_ADDRESS = numpy.uint64(~(abi.PAGE_BYTES - 1) & (2**64 - 1))
_FLAGS = numpy.uint64(abi.PTE_VALID | abi.PTE_SYSTEM)
_PAGE = numpy.uint64(abi.PAGE_BYTES)
_SHIFT = numpy.uint64(abi.PAGE_BYTES.bit_length() - 1)


class FaultKind(enum.IntEnum):
    """Why an engine stopped. The numbers travel in the stream."""

    NUMBER = 1
    """A packet's number is not the one after its predecessor's."""
    COMMAND = 2
    """An opcode that does not exist, or arguments that make no sense."""
    PAGE = 3
    """An address without a valid page table entry, or an entry that points
    outside of memory."""
    RING = 4
    """Ring, fence or doorbell registers that make no sense."""
    INTERNAL = 5
    """The engine itself failed; its log has the trace."""


class Fault(Exception):
    """The VF did something wrong; the engine stops until a reset."""

    def __init__(self, kind: FaultKind, address: int) -> None:
        super().__init__(f'{kind.name} fault at {address:#x}')
        self.kind = kind
        self.address = address


class Limits(NamedTuple):
    """Bytes of frame buffer and of guest RAM."""

    frame_buffer: int
    ram: int


class Segment(NamedTuple):
    """A contiguous run of physical memory."""

    system: bool
    offset: int
    length: int


def _check(entries: memory.Words, virtual: memory.Words,
           limits: Limits) -> None:
    """Every entry is valid and points into memory, or a fault."""
    system = (entries & numpy.uint64(abi.PTE_SYSTEM)) != 0
    top = numpy.where(system, numpy.uint64(limits.ram),
                      numpy.uint64(limits.frame_buffer))
    start = entries & _ADDRESS
    # Not start + page <= top: that wraps around for the last page.
    bad = (((entries & numpy.uint64(abi.PTE_VALID)) == 0)
           | (top < _PAGE) | (start > top - _PAGE))
    if bad.any():
        raise Fault(FaultKind.PAGE, int(virtual[int(numpy.argmax(bad))]))


class Span:
    """A range of virtual addresses, translated."""

    def __init__(self, table: memory.Words, va: int, length: int,
                 limits: Limits) -> None:
        """:raises Fault: a page of it is not mapped."""
        first = va // abi.PAGE_BYTES
        end = (va + length - 1) // abi.PAGE_BYTES + 1
        if length <= 0 or end > len(table):
            raise Fault(FaultKind.PAGE, va)
        entries = table[first:end] & (_ADDRESS | _FLAGS)
        pages = numpy.arange(first, end, dtype=numpy.uint64) << _SHIFT
        _check(entries, pages, limits)
        breaks = (numpy.flatnonzero(numpy.diff(entries) != _PAGE) + 1)
        bounds = [0, *breaks.tolist(), end - first]
        self.length = length
        self._segments: list[Segment] = []
        self._starts: list[int] = []
        position = 0
        skip = va % abi.PAGE_BYTES
        for low, high in itertools.pairwise(bounds):
            entry = int(entries[low])
            run = min((high - low) * abi.PAGE_BYTES - skip,
                      length - position)
            address = entry & int(_ADDRESS)
            self._segments.append(Segment(bool(entry & abi.PTE_SYSTEM),
                                          address + skip, run))
            self._starts.append(position)
            position += run
            skip = 0

    def at(self, position: int) -> Segment:
        """What lies at a position, to the end of its segment."""
        index = bisect.bisect_right(self._starts, position) - 1
        segment = self._segments[index]
        inside = position - self._starts[index]
        return Segment(segment.system, segment.offset + inside,
                       segment.length - inside)


class Sites(NamedTuple):
    """Physical addresses of many short pieces, none crossing a page."""

    offsets: memory.Words
    system: numpy.typing.NDArray[numpy.bool_]


def sites(table: memory.Words, va: int, count: int, stride: int,
          limits: Limits) -> Sites:
    """Translate va + i * stride for i < count.

    :raises Fault: a page is not mapped.
    """
    if count <= 0 or ((va + (count - 1) * stride) // abi.PAGE_BYTES
                      >= len(table)):
        raise Fault(FaultKind.PAGE, va)
    virtual = (numpy.uint64(va) + numpy.arange(count, dtype=numpy.uint64)
               * numpy.uint64(stride))
    entries = table[virtual >> _SHIFT]
    _check(entries, virtual, limits)
    return Sites((entries & _ADDRESS) + (virtual & ~_ADDRESS),
                 (entries & numpy.uint64(abi.PTE_SYSTEM)) != 0)
