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


"""Whether an engine's memory grows with the frame buffer.

RssAnon is what a process holds itself; the mapped frame buffer is RssShmem
and the GPU's. Both pairs of engines live through the whole benchmark, each
move sends a frame buffer that is full.
"""

from collections.abc import Callable
import contextlib
import statistics

from benchmarks import hosts
from benchmarks import pairs
from benchmarks import processes
from benchmarks import report

SMALL_MIB = 512
LARGE_MIB = 2048
_ROLES = ('source', 'destination')


def measure(progress: pairs.Progress) -> report.Section:
    peaks: dict[tuple[str, int], list[float]] = {
        (role, size): [] for role in _ROLES
        for size in (LARGE_MIB, SMALL_MIB)}

    def peak(pair: hosts.Pair) -> Callable[[], float]:
        def run() -> float:
            with processes.Peaks({
                    role: host.engine.pid for role, host in zip(
                        _ROLES, pair.hosts, strict=True)}) as seen:
                pair.move_vf()
            for role in _ROLES:
                peaks[role, pair.frame_buffer_mib].append(
                    seen.bytes[role] / hosts.MIB)
            return sum(seen.bytes.values()) / hosts.MIB
        return run

    with contextlib.ExitStack() as stack:
        made = {}
        for size in (LARGE_MIB, SMALL_MIB):
            made[size] = stack.enter_context(hosts.Pair(size))
            made[size].fill()
        pairs.interleave(
            {f'{size} MiB of frame buffer:': peak(pair)
             for size, pair in made.items()},
            progress=lambda text: progress(f'{text} MiB RssAnon of both'))
    counted = {key: values[-pairs.LEAST_PAIRS:]
               for key, values in peaks.items()}
    return report.Section(
        [pairs.compare(
            f'memory of the {role}, {LARGE_MIB} MiB / {SMALL_MIB} MiB',
            counted[role, LARGE_MIB], counted[role, SMALL_MIB],
            bound=1.1, aim=pairs.Aim.AT_MOST) for role in _ROLES],
        [report.Table(
            'Highest RssAnon during a move, MiB, medians',
            ('', f'{SMALL_MIB} MiB', f'{LARGE_MIB} MiB'),
            [(role, *(f'{statistics.median(counted[role, size]):.1f}'
                      for size in (SMALL_MIB, LARGE_MIB)))
             for role in _ROLES])])
