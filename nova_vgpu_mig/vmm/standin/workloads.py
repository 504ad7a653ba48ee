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


"""What the guest makes the GPU do: pure generators of command lists.

A batch is one frame of a workload, or one piece of the start-up fill. It is
a function of the workload's parameters and the batch's number alone, so a
twin with the same seed submits the same, whatever time does to either.

Engines share data only through semaphores. Every engine's first command of a
batch waits for the batch before it (DONE), and the SDMA engine, last in
every batch, signals it; within a batch the engines overlap.

Rejected: recorded command lists of real programs, which nobody could
compare with what they should have done.
"""

from collections.abc import Callable
import dataclasses
import hashlib

import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.vmm.standin import layout

MIB = 1 << 20
UNIT = 2 * MIB
"""Dirty unit of the software GPU, bytes."""

RESULT = 64 * 1024
"""Bytes of result that each part of a batch copies to guest RAM."""

SPARSE_SITES = 64
FILL_UNITS = 8
"""Units of the frame buffer that one batch fills."""

DONE = 0
"""Semaphore: the last batch that is retired as a whole."""


@dataclasses.dataclass(frozen=True, slots=True)
class Defaults:
    frames_per_second: float
    working_set: int
    """Bytes."""


DEFAULTS = {
    layout.Workload.IDLE: Defaults(0, 0),
    layout.Workload.RENDER: Defaults(10, 64 * MIB),
    layout.Workload.COMPUTE: Defaults(3, 64 * MIB),
    layout.Workload.VIDEO: Defaults(30, 24 * MIB),
    layout.Workload.MIXED: Defaults(10, 48 * MIB),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Space:
    """The GPU's address space: the mapped frame buffer, then guest RAM.

    The frame buffer is mapped from its end downwards, so that a page table
    that is lost or wrong does not look like one that is right.
    """

    frame_buffer_bytes: int
    ram_bytes: int

    @property
    def entries(self) -> int:
        return (self.data_bytes + self.ram_bytes) // abi.PAGE_BYTES

    @property
    def data_bytes(self) -> int:
        """Frame buffer that workloads may use; the table has the rest."""
        pages = (self.frame_buffer_bytes + self.ram_bytes) // abi.PAGE_BYTES
        table = -(-pages * 8 // UNIT) * UNIT
        return self.frame_buffer_bytes - table

    def ram(self, address: int) -> int:
        """Return the GPU's address of a byte in guest RAM."""
        return self.data_bytes + address


@dataclasses.dataclass(frozen=True, slots=True)
class Work:
    """One command before it has a number, and the engine it is for."""

    engine: abi.Engine
    opcode: abi.Opcode
    va: int = 0
    length: int = 0
    arg0: int = 0
    arg1: int = 0
    after: int | None = None
    """Semaphore to wait for, at the batch's own serial."""
    signals: bool = False
    """Signals the engine's semaphore, as its last work does anyway."""


@dataclasses.dataclass(frozen=True, slots=True)
class Batch:
    """Work in the order of submission, and the input the CPU lays down."""

    works: tuple[Work, ...]
    result_bytes: int = 0
    inputs: tuple[tuple[int, bytes], ...] = ()
    """Guest RAM address, data."""


@dataclasses.dataclass(frozen=True, slots=True)
class Parameters:
    """What a batch depends on."""

    workload: layout.Workload
    seed: int
    working_set: int
    space: Space
    fill_batches: int


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A part of the address space, whole GPU pages."""

    start: int
    length: int


def signal(engine: abi.Engine) -> int:
    """Return the semaphore that an engine's last work of a batch sets."""
    return 1 + engine


def boot(space: Space) -> Batch:
    """Write the page table: frame buffer downwards, guest RAM upwards."""
    data = space.data_bytes // abi.PAGE_BYTES
    top = space.frame_buffer_bytes - abi.PAGE_BYTES
    sdma = abi.Engine.SDMA
    return Batch((
        Work(sdma, abi.Opcode.WRITE_PTE, 0, data, top | abi.PTE_VALID,
             -abi.PAGE_BYTES % 2**64),
        Work(sdma, abi.Opcode.WRITE_PTE, data,
             space.ram_bytes // abi.PAGE_BYTES,
             abi.PTE_VALID | abi.PTE_SYSTEM, abi.PAGE_BYTES)))


def fill_batches(space: Space, percent: int) -> int:
    """Return how many batches fill `percent` of the frame buffer."""
    units = space.data_bytes // UNIT * percent // 100
    return -(-units // FILL_UNITS)  # The last one may fill some more.


def batch(parameters: Parameters, step: int, serial: int) -> Batch:
    """Return a workload's batch number `step`, the fill's ones first.

    :param serial: the batch's number since boot: which slot it uses.
    """
    if step < parameters.fill_batches:
        return _fill(parameters, step)
    frame = step - parameters.fill_batches
    whole = Region(0, parameters.space.data_bytes)
    if parameters.workload is layout.Workload.MIXED:
        return _mixed(parameters, frame, serial)
    return _PARTS[parameters.workload](
        parameters, whole, frame, serial, 0)


def pattern(seed: int) -> bytes:
    """Return the block of data that the fill spreads."""
    return hashlib.shake_128(f'pattern {seed}'.encode()).digest(
        layout.PATTERN_BYTES)


def _draw(parameters: Parameters, what: str, number: int) -> int:
    return xxhash.xxh3_64_intdigest(f'{what} {number}'.encode(),
                                    parameters.seed)


def _fill(parameters: Parameters, step: int) -> Batch:
    """Spread the pattern over units, then make each unit another one."""
    units = parameters.space.data_bytes // UNIT
    first = step * FILL_UNITS
    copies: list[Work] = []
    changes: list[Work] = []
    source = parameters.space.ram(layout.PATTERN)
    for unit in range(first, min(units, first + FILL_UNITS)):
        copies += [
            Work(abi.Engine.SDMA, abi.Opcode.COPY, source,
                 layout.PATTERN_BYTES, unit * UNIT + part)
            for part in range(0, UNIT, layout.PATTERN_BYTES)]
        changes.append(
            Work(abi.Engine.GFX, abi.Opcode.RMW, unit * UNIT, UNIT,
                 _draw(parameters, 'fill', unit) | 1, unit + 1))
    copies[-1] = dataclasses.replace(copies[-1], signals=True)
    changes[0] = dataclasses.replace(
        changes[0], after=signal(abi.Engine.SDMA))
    return Batch((*copies, *changes,
                  Work(abi.Engine.SDMA, abi.Opcode.NOP,
                       after=signal(abi.Engine.GFX))))


def _pages(length: int) -> int:
    return max(abi.PAGE_BYTES, length // abi.PAGE_BYTES * abi.PAGE_BYTES)


def _result(parameters: Parameters, va: int, serial: int, part: int,
            engine: abi.Engine) -> Work:
    """Copy a result out once `engine` is through with this batch."""
    target = layout.result(serial) + part * RESULT
    return Work(abi.Engine.SDMA, abi.Opcode.COPY, va, RESULT,
                parameters.space.ram(target), after=signal(engine))


def _render(parameters: Parameters, region: Region, frame: int, serial: int,
            part: int) -> Batch:
    """Read, modify and write the working set; touch other units a bit."""
    working_set = _pages(min(parameters.working_set,
                             region.length * 3 // 4))
    draws = min(4, working_set // abi.PAGE_BYTES)
    step = _pages(working_set // draws)
    works = []
    for number in range(draws):
        start = number * step
        length = working_set - start if number == draws - 1 else step
        works.append(Work(
            abi.Engine.GFX, abi.Opcode.RMW, region.start + start, length,
            _draw(parameters, 'render', frame * 4 + number) | 1,
            frame + 1))
    first = -(-(region.start + working_set) // UNIT) * UNIT
    sites = min(SPARSE_SITES, (region.start + region.length - first) // UNIT)
    if sites > 0:
        works.append(Work(
            abi.Engine.GFX, abi.Opcode.SPARSE, first + frame * 64 % UNIT,
            sites, UNIT, _draw(parameters, 'sparse', frame) | 1))
    works.append(_result(parameters, region.start, serial, part,
                         abi.Engine.GFX))
    return Batch(tuple(works), RESULT)


def _compute(parameters: Parameters, region: Region, frame: int, serial: int,
             part: int) -> Batch:
    """Two long kernels over a window that moves on with each frame."""
    window = _pages(min(parameters.working_set, region.length))
    windows = max(1, region.length // window)
    start = region.start + frame % windows * window
    kernels = tuple(
        Work(abi.Engine.COMPUTE, abi.Opcode.MIX, start, window,
             _draw(parameters, 'compute', frame * 2 + number) | 1,
             frame + number)
        for number in range(2))
    return Batch((*kernels, _result(parameters, start, serial, part,
                                    abi.Engine.COMPUTE)), RESULT)


def _video(parameters: Parameters, region: Region, frame: int, serial: int,
           part: int) -> Batch:
    """Decode a bitstream from guest RAM into one of eight pictures."""
    picture = _pages(min(parameters.working_set, region.length) // 8)
    pictures = max(1, min(8, region.length // picture))
    va = region.start + frame % pictures * picture
    bits = hashlib.shake_128(
        f'bits {parameters.seed} {frame}'.encode()).digest(RESULT)
    address = layout.input_data(serial)
    decode = Work(abi.Engine.VCN, abi.Opcode.DECODE, va, picture,
                  parameters.space.ram(address), len(bits))
    return Batch((decode, _result(parameters, va, serial, part,
                                  abi.Engine.VCN)),
                 RESULT, ((address, bits),))


def _mixed(parameters: Parameters, frame: int, serial: int) -> Batch:
    """Run the other three at once, each in its third of the memory."""
    third = _pages(parameters.space.data_bytes // 3)
    shared = dataclasses.replace(parameters,
                                 working_set=parameters.working_set // 3)
    parts = [part(shared, Region(number * third, third), frame, serial,
                  number)
             for number, part in enumerate((_render, _compute, _video))]
    return Batch(
        tuple(work for part in parts for work in part.works),
        sum(part.result_bytes for part in parts),
        tuple(data for part in parts for data in part.inputs))


_PARTS: dict[layout.Workload, Callable[
    [Parameters, Region, int, int, int], Batch]] = {
        layout.Workload.RENDER: _render,
        layout.Workload.COMPUTE: _compute,
        layout.Workload.VIDEO: _video,
    }
