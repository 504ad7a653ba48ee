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

"""What a VM and its twin submit: batches from a seed, as pure functions.

Commands are long compared with the gaps between them, and engines overlap:
only then does a switchover that comes at any moment find one of them inside
a command. Each engine works in a half of its own region, the next batch in
the other half; what engines hand to each other goes by semaphores, so the
state at a given count of retired work is one state, whatever the timing.

`rest` says where the engines come to rest when each may do so many work
units and no more, which is how a test knows that a VF is there.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import random

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import execute

E, Op, Flag = abi.Engine, abi.Opcode, abi.Flag
PAGE = abi.PAGE_BYTES

FRAME_BUFFER_MIB = 4
WORK_UNIT_BYTES = 8192
RAM_PAGES = 16
RESULTS, BITSTREAM = 8, 14
"""GPU pages of guest RAM: where results go, what a video engine reads."""

DONE = 0
"""Semaphore: the last batch that is retired as a whole. 1 + engine: the
last one that the engine is through with."""

_REGION = {E.GFX: (1, 10), E.COMPUTE: (21, 10), E.VCN: (41, 8)}
"""First page in the frame buffer, pages of each half. Page 0 has the page
table; from page 57 on it is SDMA's, which maps its pages anew."""

_SDMA_PAGES = (57, 7)

Batch = list[tuple[abi.Engine, dict[str, int]]]


def batch(seed: int, serial: int) -> Batch:
    """Return batch `serial` (1 is the first): engine, fields of a command.

    In the order of submission; the numbers are the guest's.
    """
    draw = random.Random(f'{seed} {serial}')
    works: Batch = []
    for make in (_gfx, _compute, _vcn, _sdma):
        works += make(draw, serial)
    return works


def _half(engine: abi.Engine, serial: int) -> tuple[int, int]:
    first, pages = _REGION[engine]
    return first + serial % 2 * pages, pages


def _first(serial: int) -> dict[str, int]:
    """The batch that used this half must be retired as a whole."""
    return {'wait_semaphore': DONE, 'wait_value': max(0, serial - 2),
            'flags': Flag.WAIT}


def _last(semaphore: int, serial: int) -> dict[str, int]:
    return {'signal_semaphore': semaphore, 'signal_value': serial,
            'flags': Flag.SIGNAL | Flag.INTERRUPT}


def _after(engine: abi.Engine, serial: int) -> dict[str, int]:
    return {'wait_semaphore': 1 + engine, 'wait_value': serial,
            'flags': Flag.WAIT}


def _work(opcode: abi.Opcode, *parts: Mapping[str, int],
          **fields: int) -> dict[str, int]:
    made: dict[str, int] = {'opcode': opcode, 'flags': 0}
    for part in parts:
        flags = made['flags'] | part.get('flags', 0)
        made |= part
        made['flags'] = flags
    return made | fields


def _odd(draw: random.Random) -> int:
    return draw.getrandbits(62) | 1


def _gfx(draw: random.Random, serial: int) -> Batch:
    first, pages = _half(E.GFX, serial)
    return [
        (E.GFX, _work(Op.RMW, _first(serial), va=first * PAGE,
                      length=draw.randint(4, pages) * PAGE, arg0=_odd(draw),
                      arg1=serial)),
        (E.GFX, _work(Op.SPARSE, va=first * PAGE,
                      length=draw.randint(8, 48), arg0=draw.randint(
                          1, PAGE * pages // 48 // 64) * 64,
                      arg1=_odd(draw))),
        (E.GFX, _work(Op.MIX, _last(1 + E.GFX, serial), va=first * PAGE,
                      length=draw.randint(5, pages) * PAGE,
                      arg0=_odd(draw), arg1=serial)),
    ]


def _compute(draw: random.Random, serial: int) -> Batch:
    first, pages = _half(E.COMPUTE, serial)
    picture, _ = _half(E.GFX, serial)
    return [
        (E.COMPUTE, _work(Op.MIX, _first(serial), va=first * PAGE,
                          length=draw.randint(5, pages) * PAGE,
                          arg0=_odd(draw), arg1=serial)),
        (E.COMPUTE, _work(Op.COPY, _after(E.GFX, serial),
                          _last(1 + E.COMPUTE, serial), va=picture * PAGE,
                          length=draw.randint(1, 3 * PAGE // 8) * 8,
                          arg0=first * PAGE)),
    ]


def _vcn(draw: random.Random, serial: int) -> Batch:
    first, pages = _half(E.VCN, serial)
    return [(E.VCN, _work(
        Op.DECODE, _first(serial), _last(1 + E.VCN, serial),
        va=first * PAGE, length=draw.randint(4, pages) * PAGE,
        arg0=ram_va(BITSTREAM), arg1=draw.randint(1, PAGE // 8) * 8))]


def _sdma(draw: random.Random, serial: int) -> Batch:
    """Results to guest RAM, and a page mapped anew and written."""
    results = []
    for place, engine in enumerate((E.GFX, E.COMPUTE, E.VCN)):
        first, _ = _half(engine, serial)
        results.append((E.SDMA, _work(
            Op.COPY, _after(engine, serial), va=first * PAGE,
            length=draw.randint(1, PAGE), arg0=ram_va(
                RESULTS + place * 2 + serial % 2))))
    start, pages = _SDMA_PAGES
    entry = start + draw.randrange(pages)
    target = (start + draw.randrange(pages)) * PAGE
    picture, _ = _half(E.COMPUTE, serial)
    return [
        *results,
        (E.SDMA, _work(Op.WRITE_PTE, va=entry, length=1,
                       arg0=target | abi.PTE_VALID, arg1=0)),
        (E.SDMA, _work(Op.COPY, _last(DONE, serial), va=picture * PAGE,
                       length=PAGE, arg0=entry * PAGE)),
    ]


def ram_va(page: int) -> int:
    """Return the GPU's address of a page of guest RAM."""
    return FRAME_BUFFER_MIB * 2**20 + page * PAGE


Rings = Mapping[abi.Engine, Sequence[abi.Command]]
Counts = dict[abi.Engine, int]


def units(command: abi.Command) -> int:
    return execute.unit_count(command, WORK_UNIT_BYTES)


def total(rings: Rings) -> Counts:
    """Work units of all that has been submitted."""
    return {engine: sum(map(units, ring)) for engine, ring in rings.items()}


def rest(rings: Rings, holds: Mapping[abi.Engine, int]) -> Counts:
    """Work units that each engine retires before nothing moves any more."""
    semaphores = [0] * abi.SEMAPHORES
    retired = dict.fromkeys(rings, 0)
    place = dict.fromkeys(rings, 0)
    moved = True
    while moved:
        moved = False
        for engine, ring in rings.items():
            while place[engine] < len(ring):
                command = ring[place[engine]]
                if (command.flags & Flag.WAIT and semaphores[
                        command.wait_semaphore] < command.wait_value):
                    break
                after = retired[engine] + units(command)
                if after > holds[engine]:
                    break
                retired[engine] = after
                place[engine] += 1
                moved = True
                if command.flags & Flag.SIGNAL:
                    semaphores[command.signal_semaphore] = max(
                        semaphores[command.signal_semaphore],
                        command.signal_value)
    for engine, ring in rings.items():
        # Into the command at which the hold is, unless it waits.
        if place[engine] < len(ring):
            command = ring[place[engine]]
            if not command.flags & Flag.WAIT or semaphores[
                    command.wait_semaphore] >= command.wait_value:
                retired[engine] = holds[engine]
    return retired
