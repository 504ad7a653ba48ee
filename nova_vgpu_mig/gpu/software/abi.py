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

"""What a guest driver and the software GIM agree on: the VF's interface.

This is the software GPU's programming model, as a data sheet would have it:
the doorbell page, the rings in guest RAM, the command packet, the page
table, the registers. The guest (vmm/standin) and the GIM process import it;
nothing else does.

The properties that the twin test rests on are here. Commands read, modify
and write, so that one that ran twice shows. Numbers are consecutive for each
ring, so that one that was lost shows. Engines share data only through
semaphores, and a guest submits by fence values, never by time, so that the
state at a given count of retired work is the same in every run.

Guest RAM is mapped for DMA as one range: an IOVA is an offset into it.
"""

import dataclasses
import enum
import struct


class Engine(enum.IntEnum):
    """Each VF has one ring and one interrupt vector for each engine."""

    GFX = 0
    COMPUTE = 1
    SDMA = 2
    VCN = 3


PAGE_BYTES = 64 * 1024
"""GPU page: what one page table entry maps."""

DOORBELL_PAGE_BYTES = 4096
DOORBELL_STRIDE = 64
"""The doorbell of an engine: u64 at engine * DOORBELL_STRIDE, the count of
packets ever submitted (the ring's write pointer, never wrapped). After
writing it the guest adds 1 to the kick eventfd."""

COMMAND = struct.Struct('<QHHHHQQQQQQ')
"""One packet: number, opcode, flags, wait semaphore, signal semaphore, va,
length, arg0, arg1, wait value, signal value."""

COMMAND_BYTES = COMMAND.size  # 64

SEMAPHORES = 64
"""u64 each, in the VF. A wait holds while semaphore < wait value; a signal
sets semaphore to max(semaphore, signal value) when the command retires."""


class Flag(enum.IntFlag):
    WAIT = 1
    SIGNAL = 2
    INTERRUPT = 4


NO_FLAGS = Flag(0)


class Opcode(enum.IntEnum):
    """What a command does; each works in chunks, a chunk is a work unit.

    All arithmetic is on little-endian u64, modulo 2**64.

    NOP: one work unit, nothing.
    RMW: each u64 of [va, va + length): x = x * arg0 + arg1 (arg0 odd).
    SPARSE: `length` sites of 64 bytes at va + i * arg0: x = x * arg1 + i.
    COPY: `length` bytes from va to arg0 (either may be guest RAM).
    WRITE_PTE: `length` entries of the page table from index va on;
        entry i becomes arg0 + i * arg1 (arg0 has the flag bits).
    DECODE: each u64 at va + 8 * k, for k < length / 8: x = x * 3 +
        bitstream[k % (arg1 / 8)], where the bitstream is arg1 bytes at va
        arg0 (guest RAM). What a video engine does to its reference frame.
    MIX: each u64 of [va, va + length): x ^= x >> 7; x = x * arg0 + arg1.
        What a compute kernel does.
    """

    NOP = 0
    RMW = 1
    SPARSE = 2
    COPY = 3
    WRITE_PTE = 4
    DECODE = 5
    MIX = 6


PTE_VALID = 1
PTE_SYSTEM = 2
"""Page table entry: u64, PAGE_BYTES-aligned physical address | flags.
PTE_SYSTEM: the address is an IOVA in guest RAM, else a frame buffer offset.
The table is an array of entries in the frame buffer at register PT_ROOT."""


class Register(enum.IntEnum):
    """Written and read by the calls mmio_write and mmio_read.

    Ring registers are at their number + engine * RING_STRIDE.
    """

    DRIVER_STATE = 0
    """0 none (VF is AVAIL), 1 loading (FULLACCESS), 2 loaded (ACTIVE)."""
    PT_ROOT = 1
    PT_ENTRIES = 2
    RING_BASE = 16
    """IOVA of the ring."""
    RING_ENTRIES = 17
    FENCE_ADDRESS = 18
    """IOVA of a u64: the number of the last retired command. The GPU writes
    it, then, if the command has INTERRUPT, raises the engine's vector."""
    RING_STRIDE = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Command:
    """One packet. `number` is 1 for a ring's first command, then +1."""

    number: int
    opcode: Opcode
    flags: Flag = NO_FLAGS
    wait_semaphore: int = 0
    signal_semaphore: int = 0
    va: int = 0
    length: int = 0
    arg0: int = 0
    arg1: int = 0
    wait_value: int = 0
    signal_value: int = 0

    def pack(self) -> bytes:
        return COMMAND.pack(
            self.number, self.opcode, self.flags, self.wait_semaphore,
            self.signal_semaphore, self.va, self.length, self.arg0,
            self.arg1, self.wait_value, self.signal_value)

    @classmethod
    def unpack(cls, data: bytes | memoryview) -> 'Command':
        """:raises ValueError: an opcode that does not exist."""
        number, opcode, flags, *rest = COMMAND.unpack(data)
        return cls(number, Opcode(opcode), Flag(flags), *rest)


# Calls on <runtime_dir>/<pf address>.sock (nova_vgpu_mig.unixcall).
#
# As a guest (a VMM that opened the VF):
#   attach(vf, ram_bytes, incoming) fds in: [guest RAM memfd]
#       -> {'frame_buffer_bytes', 'unit_size'}, fds out: [doorbell page
#       memfd, kick eventfd, one interrupt eventfd for each Engine]
#       EBUSY: the VF is taken. incoming: the VF stays unscheduled (STOP)
#       until a migration resumes it; without it the VF is reset and its
#       frame buffer cleared. The VF is detached when the connection closes,
#       some time later, or by
#   detach(vf), acknowledged
#       All eventfds are non-blocking: poll them, then read.
#   mmio_write(vf, register, value), mmio_read(vf, register) -> value
#       DRIVER_STATE = 1 clears rings' counts, doorbells and semaphores;
#       engines run only while it is 2.
#   dma_logging_start(vf, page_size, ranges=[[iova, length]]),
#   dma_logging_report(vf, iova, length, page_size) -> bitmap, hexadecimal,
#       least significant bit of the first byte is the first page; cleared.
#       At most REPORT_PAGES pages a call.
#   dma_logging_stop(vf)
#   Interrupts that the guest has not read off an eventfd when the VF is
#   stopped are taken back into the VF's state, and raised (again) when it
#   runs, here or at the destination.
#
# As a migration (the GPU driver of the agent):
#   migration_open(vf) -> {'frame_buffer_bytes', 'unit_size', 'flags',
#       'level'}, fds out: [frame buffer memfd]. EBUSY: open already. The
#       level is `stream` unless a move is under way. When the connection
#       closes the VF may be opened again; its state stays, so that an agent
#       that was killed can read it back and go on (to RUNNING, or reset).
#       The data stream does not come back.
#   migration_close(vf): the same, acknowledged
#   get_state(vf) -> int, set_state(vf, state) -> {'stream': bool}, fds out:
#       [data socket, see client.py] when stream
#   precopy_info(vf) -> {'initial_bytes', 'dirty_bytes'}, data_size(vf),
#   reset(vf), select_level(vf, level)
#   dirty_units(vf, clear) -> bitmap, hexadecimal, as above
#
# As an administrator:
#   describe() -> {'pf', 'identity', 'vfs': [{address, index, state, free,
#       migration_state, used_bytes}]}
#   dirtied(vf, seconds) -> bytes of frame buffer, in whole dirty units, that
#       were written in so long; a migration's dirty units stay as they are.
#       EBUSY: somebody else counts.
#   scrub(vf)
#   vf_state(vf) -> rings (base, entries, read and write pointer), in-flight
#       command of each engine (number, work units done and in all), retired
#       commands and work units of each engine, semaphores, interrupts
#       raised for each vector, page table digest, faults
#   slices() -> {vf address: {engine name: slices granted so far}}
#   digest(vf) -> xxh3-128 of the frame buffer, hexadecimal
#   hold(vf, engine, work_units): the engine stops, unpreempted, when it has
#       retired so many work units in all; release(vf)
#   held(vf) -> {engine name: bool}: which engines stand at their hold
#   knob(vf, name, value): failures for tests and the demo (knobs.py)
#   errors() -> [{vf, code, what}]: the error ring, oldest first

REPORT_PAGES = 256 * 1024
