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


"""How fast the carrier is: one move of a VF against plain copies.

The VF is idle and its frame buffer is full of data that is not zero. A move
is counted from the source's first step until the VF runs at the destination:
connecting, rounds, verification and both journals are in it.
"""

from collections.abc import Callable
import statistics

from benchmarks import hosts
from benchmarks import pairs
from benchmarks import plain
from benchmarks import report

FRAME_BUFFER_MIB = 1024
PAIRS = 15
"""More than needed: they are short, and the bound is near."""

_GIB = 1 << 30


def measure(progress: pairs.Progress) -> report.Section:
    cpu: dict[str, list[float]] = {}

    def note(name: str, seconds: float, size: int) -> None:
        cpu.setdefault(name, []).append(seconds / size * _GIB)

    def copy(name: str, hashed: bool) -> Callable[[], float]:
        def run() -> float:
            done = plain.copy(memory, hashed=hashed)
            note(name, done.cpu_seconds, memory.size)
            return memory.size / done.seconds / _GIB
        return run

    def carry() -> float:
        done = pair.move_vf()
        note('carrier', done.cpu_seconds, done.sent_bytes)
        return done.sent_bytes / done.seconds / _GIB

    with (plain.Memory(FRAME_BUFFER_MIB * hosts.MIB) as memory,
          hosts.Pair(FRAME_BUFFER_MIB) as pair):
        pair.fill()
        rates = pairs.interleave({
            'carrier': carry, 'plain copy, hashed': copy(
                'plain copy, hashed', True),
            'plain copy, bare': copy('plain copy, bare', False)},
            rounds=PAIRS,
            progress=lambda text: progress(f'{text} GiB/s'))
    hashed, bare = rates['plain copy, hashed'], rates['plain copy, bare']
    return report.Section(
        [pairs.compare('carrier / plain copy with hashes', rates['carrier'],
                       hashed, bound=0.85, aim=pairs.Aim.AT_LEAST),
         pairs.compare('carrier / bare sockets', rates['carrier'], bare)],
        [report.Table(
            f'Carrier: an idle VF with {FRAME_BUFFER_MIB} MiB of data, '
            'medians',
            ('what', 'GiB/s', 'CPU s per GiB'),
            [(name, f'{statistics.median(values):.2f}',
              f'{statistics.median(cpu[name]):.2f}')
             for name, values in rates.items()])],
        ['CPU time is of both processes. Level: units (software GPU); '
         'nothing is claimed for AMD hardware. The memory is there before, '
         'at both ends of each; each maps its source anew.'])
