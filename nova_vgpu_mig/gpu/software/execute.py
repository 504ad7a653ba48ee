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

"""What each opcode does, in work units.

A command becomes a `Work`: how many units it has, and a function that does
the unit with a given index. Preemption happens between units, so a unit is
also the bound of what a world switch waits for: at the default of 256 KiB
it is some tens of microseconds. The count of units follows from the packet
alone, so that a peer's claim about a preempted command can be checked before
its page table is there.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import memory
from nova_vgpu_mig.gpu.software import pagetable

SITE_BYTES = 64
MAX_BITSTREAM_BYTES = 16 * 1024 * 1024

_Step = Callable[[int], None]


class Work(NamedTuple):
    """A command made ready: `step(i)` does work unit i of `total`."""

    total: int
    step: _Step


def items_per_unit(opcode: abi.Opcode, work_unit_bytes: int) -> int:
    """How much of a command's `length` one work unit does."""
    if opcode is abi.Opcode.SPARSE:
        # A site is a cache miss or two: far dearer than its 64 bytes.
        return max(1, work_unit_bytes // 4096)
    if opcode is abi.Opcode.WRITE_PTE:
        return max(1, work_unit_bytes // 64)
    return work_unit_bytes


def unit_count(command: abi.Command, work_unit_bytes: int) -> int:
    """Work units of a command, from the packet alone; at least 1."""
    if command.opcode is abi.Opcode.NOP:
        return 1
    step = items_per_unit(command.opcode, work_unit_bytes)
    return max(1, -(-command.length // step))


class Space:
    """The memory of a VF as one engine reaches it."""

    def __init__(self, frame_buffer: memory.SharedMemory,
                 ram: memory.SharedMemory, units: dirty.DirtyUnits,
                 log: dirty.DMALog, work_unit_bytes: int) -> None:
        self.frame_buffer = frame_buffer
        self.ram = ram
        self.units = units
        self.log = log
        self.work_unit_bytes = work_unit_bytes
        self.limits = pagetable.Limits(frame_buffer.length, ram.length)
        self.scratch = numpy.empty(work_unit_bytes // 8, numpy.uint64)

    def octets(self, system: bool) -> memory.Octets:
        return self.ram.octets if system else self.frame_buffer.octets

    def words(self, system: bool) -> memory.Words:
        return self.ram.words if system else self.frame_buffer.words

    def written(self, system: bool, offset: int, length: int) -> None:
        """Mark what has been written; always after the write."""
        if system:
            self.log.mark(offset, length)
        else:
            self.units.mark(offset, length)

    def table(self, root: int, entries: int) -> memory.Words:
        """:raises Fault: the page table is not inside the frame buffer."""
        if root % 8 or root + entries * 8 > self.frame_buffer.length:
            raise pagetable.Fault(pagetable.FaultKind.PAGE, root)
        return self.frame_buffer.words[root // 8:root // 8 + entries]


def prepare(command: abi.Command, space: Space, pt_root: int,
            pt_entries: int) -> Work:
    """Check and translate a command.

    :raises Fault: bad arguments, or an address that is not mapped.
    """
    table = space.table(pt_root, pt_entries)
    build = _BUILDERS[command.opcode]
    return Work(unit_count(command, space.work_unit_bytes),
                build(command, space, table, pt_root))


def _require(condition: bool, command: abi.Command) -> None:
    if not condition:
        raise pagetable.Fault(pagetable.FaultKind.COMMAND, command.va)


def _nop(command: abi.Command, space: Space, table: memory.Words,
         pt_root: int) -> _Step:
    return lambda index: None


def _each_word(command: abi.Command, space: Space, table: memory.Words,
               operate: Callable[[memory.Words, int], None]) -> _Step:
    """A step that calls `operate(words, index of the first word)`."""
    _require(command.length > 0 and command.length % 8 == 0
             and command.va % 8 == 0, command)
    span = pagetable.Span(table, command.va, command.length, space.limits)
    size = space.work_unit_bytes

    def step(index: int) -> None:
        position = index * size
        end = min(position + size, command.length)
        while position < end:
            segment = span.at(position)
            length = min(segment.length, end - position)
            words = space.words(segment.system)
            first = segment.offset // 8
            operate(words[first:first + length // 8], position // 8)
            space.written(segment.system, segment.offset, length)
            position += length

    return step


def _rmw(command: abi.Command, space: Space, table: memory.Words,
         pt_root: int) -> _Step:
    factor, addend = numpy.uint64(command.arg0), numpy.uint64(command.arg1)

    def operate(words: memory.Words, first: int) -> None:
        numpy.multiply(words, factor, out=words)
        numpy.add(words, addend, out=words)

    return _each_word(command, space, table, operate)


def _mix(command: abi.Command, space: Space, table: memory.Words,
         pt_root: int) -> _Step:
    factor, addend = numpy.uint64(command.arg0), numpy.uint64(command.arg1)
    seven = numpy.uint64(7)

    def operate(words: memory.Words, first: int) -> None:
        shifted = space.scratch[:len(words)]
        numpy.right_shift(words, seven, out=shifted)
        numpy.bitwise_xor(words, shifted, out=words)
        numpy.multiply(words, factor, out=words)
        numpy.add(words, addend, out=words)

    return _each_word(command, space, table, operate)


def _decode(command: abi.Command, space: Space, table: memory.Words,
            pt_root: int) -> _Step:
    _require(0 < command.arg1 <= MAX_BITSTREAM_BYTES
             and command.arg1 % 8 == 0 and command.arg0 % 8 == 0, command)
    span = pagetable.Span(table, command.arg0, command.arg1, space.limits)
    count = command.arg1 // 8
    stream = numpy.empty(command.arg1, numpy.uint8)
    position = 0
    while position < command.arg1:
        segment = span.at(position)
        stream[position:position + segment.length] = space.octets(
            segment.system)[segment.offset:segment.offset + segment.length]
        position += segment.length
    # Long enough that a work unit never has to wrap around.
    wrapped = numpy.resize(stream.view(numpy.uint64),
                           count + space.work_unit_bytes // 8)
    three = numpy.uint64(3)

    def operate(words: memory.Words, first: int) -> None:
        numpy.multiply(words, three, out=words)
        start = first % count
        numpy.add(words, wrapped[start:start + len(words)], out=words)

    return _each_word(command, space, table, operate)


def _sparse(command: abi.Command, space: Space, table: memory.Words,
            pt_root: int) -> _Step:
    _require(command.length > 0 and command.va % SITE_BYTES == 0
             and command.arg0 >= SITE_BYTES
             and command.arg0 % SITE_BYTES == 0, command)
    found = pagetable.sites(table, command.va, command.length, command.arg0,
                            space.limits)
    size = items_per_unit(command.opcode, space.work_unit_bytes)
    factor = numpy.uint64(command.arg1)
    lanes = numpy.arange(SITE_BYTES // 8, dtype=numpy.uint64)
    eight = numpy.uint64(8)

    def step(index: int) -> None:
        low, high = index * size, min((index + 1) * size, command.length)
        numbers = numpy.arange(low, high, dtype=numpy.uint64)
        for system in (False, True):
            chosen = found.system[low:high] == system
            offsets = found.offsets[low:high][chosen]
            if not len(offsets):
                continue
            words = space.words(system)
            where = (offsets // eight)[:, None] + lanes
            words[where] = words[where] * factor + numbers[chosen][:, None]
            if system:
                for offset in offsets.tolist():
                    space.log.mark(offset, SITE_BYTES)
            else:
                space.units.mark_units(
                    offsets // numpy.uint64(space.units.unit_bytes))

    return step


def _copy(command: abi.Command, space: Space, table: memory.Words,
          pt_root: int) -> _Step:
    _require(command.length > 0, command)
    source = pagetable.Span(table, command.va, command.length, space.limits)
    target = pagetable.Span(table, command.arg0, command.length,
                            space.limits)
    size = space.work_unit_bytes

    def step(index: int) -> None:
        position = index * size
        end = min(position + size, command.length)
        while position < end:
            read, write = source.at(position), target.at(position)
            length = min(read.length, write.length, end - position)
            space.octets(write.system)[
                write.offset:write.offset + length] = space.octets(
                    read.system)[read.offset:read.offset + length]
            space.written(write.system, write.offset, length)
            position += length

    return step


def _write_pte(command: abi.Command, space: Space, table: memory.Words,
               pt_root: int) -> _Step:
    _require(command.length > 0
             and command.va + command.length <= len(table), command)
    size = items_per_unit(command.opcode, space.work_unit_bytes)
    base, stride = numpy.uint64(command.arg0), numpy.uint64(command.arg1)

    def step(index: int) -> None:
        low, high = index * size, min((index + 1) * size, command.length)
        first = command.va + low
        table[first:first + high - low] = (
            numpy.arange(low, high, dtype=numpy.uint64) * stride + base)
        space.units.mark(pt_root + first * 8, (high - low) * 8)

    return step


_BUILDERS: dict[abi.Opcode, Callable[
    [abi.Command, Space, memory.Words, int], _Step]] = {
        abi.Opcode.NOP: _nop,
        abi.Opcode.RMW: _rmw,
        abi.Opcode.SPARSE: _sparse,
        abi.Opcode.COPY: _copy,
        abi.Opcode.WRITE_PTE: _write_pte,
        abi.Opcode.DECODE: _decode,
        abi.Opcode.MIX: _mix,
    }
