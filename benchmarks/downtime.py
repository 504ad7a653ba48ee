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


"""How long a VM stands still: pre-copy, and stopping first.

The VM renders all the time and goes there and back, one move with pre-copy,
one that stops first and copies everything then, by the same engine
(engine.LateDevice). Both count from the last guest instruction at the source
to the first at the destination.

The workload is paced: a software GPU without pace takes a whole core, and
what is measured then is two processes that fight for it. Above the default
working set the frames become rarer, so that the bytes a second stay.
"""

from collections.abc import Callable
import statistics

from benchmarks import hosts
from benchmarks import pairs
from benchmarks import report
from nova_vgpu_mig.migration import record as record_

FRAME_BUFFER_MIB = 1024
WORKING_SET_MIB = 64
WORKING_SETS_MIB = (16, 32, 64, 128, 256, 512)
FRAMES_PER_SECOND = 10.0
MOST_SHARE = 0.15
"""Of a core that a PF's software GPU may take."""

_SHARE_SECONDS = 2.0
_SETTLE_FRAMES = 2


def pace(working_set_mib: int) -> float:
    """Return frames a second: never more bytes than the default does."""
    return FRAMES_PER_SECOND * min(1.0, WORKING_SET_MIB / working_set_mib)


class Mover:
    """Moves with and without pre-copy, and what became of them."""

    def __init__(self, pair: hosts.Pair) -> None:
        self._pair = pair
        self.moves: dict[bool, list[hosts.Move]] = {False: [], True: []}

    def seconds(self, late: bool) -> Callable[[], float]:
        """A measure for pairs.interleave()."""
        def run() -> float:
            self._pair.wait_frames(_SETTLE_FRAMES)
            done = self._pair.move_vm(late=late)
            self.moves[late].append(done)
            return done.downtime
        return run

    def measure(self, name: str, working_set_mib: int, least: int,
                progress: pairs.Progress, *, warm_up: int,
                bound: float | None = None) -> pairs.Result:
        values = pairs.interleave(
            {'pre-copy': self.seconds(False),
             'stop first': self.seconds(True)},
            rounds=least, warm_up=warm_up,
            progress=lambda text: progress(
                f'{working_set_mib} MiB working set, {text} s'))
        return pairs.compare(
            name, values['pre-copy'], values['stop first'], bound=bound,
            aim=None if bound is None else pairs.Aim.AT_MOST)


def render(progress: pairs.Progress) -> report.Section:
    """The render workload, and the bound."""
    with hosts.Pair(FRAME_BUFFER_MIB) as pair:
        pair.fill()
        share = _start(pair, WORKING_SET_MIB)
        mover = Mover(pair)
        result = mover.measure(
            'downtime, render, pre-copy / stop first', WORKING_SET_MIB,
            pairs.LEAST_PAIRS, progress, warm_up=1, bound=0.3)
    return report.Section(
        [result],
        [parts_table(
            f'Downtime by part, ms, medians: render, {FRAME_BUFFER_MIB} MiB',
            [('pre-copy', mover.moves[False]),
             ('stop first', mover.moves[True])])],
        [f'Render: {FRAMES_PER_SECOND:g} frames a second, each '
         f'{WORKING_SET_MIB} MiB of read-modify-write and 64 bytes in each '
         'of 64 other units of 2 MiB.', _say_share([share]),
         _say_worst(mover.moves[False])])


def curve(progress: pairs.Progress) -> report.Section:
    """The same over working sets, with fewer pairs."""
    results, rows, shares = [], [], []
    largest = 0.0
    with hosts.Pair(FRAME_BUFFER_MIB) as pair:
        pair.fill()
        for size in WORKING_SETS_MIB:
            shares.append(_start(pair, size))
            mover = Mover(pair)
            results.append(mover.measure(
                f'downtime, working set {size} MiB, pre-copy / stop first',
                size, pairs.FEWEST_PAIRS, progress, warm_up=0))
            ours, theirs = (statistics.median(
                move.downtime for move in mover.moves[late])
                for late in (False, True))
            largest = max(largest, ours, theirs)
            rows.append((size, ours, theirs))
            pair.idle()
    lines = []
    for (size, ours, theirs), result in zip(rows, results, strict=True):
        lines += [
            (f'{size} MiB, {pace(size):g}/s', 'pre-copy',
             f'{ours * 1000:.0f}', report.bar(ours, largest),
             f'{result.ratio:.2f}'),
            ('', 'stop first', f'{theirs * 1000:.0f}',
             report.bar(theirs, largest), '')]
    return report.Section(
        results,
        [report.Table(
            f'Downtime over working sets: render, {FRAME_BUFFER_MIB} MiB',
            ('working set, frames', '', 'ms', '', 'ratio'), lines)],
        [f'{pairs.FEWEST_PAIRS} pairs for each: the interval is from the '
         'least to the greatest ratio.', _say_share(shares)])


def talk(progress: pairs.Progress) -> report.Section:
    """Beside the table of the KVM Forum talk of 2018."""
    cells = []
    for size in (512, 1024):
        with hosts.Pair(size) as pair:
            pair.fill()
            for busy in (False, True):
                if busy:
                    _start(pair, WORKING_SET_MIB)
                moves = []
                for number in range(1, _TALK_MOVES + 1):
                    if busy:
                        pair.wait_frames(_SETTLE_FRAMES)
                    moves.append(pair.move_vm())
                    progress(f'{size} MiB, {"busy" if busy else "idle"}: '
                             f'{number} of {_TALK_MOVES}: '
                             f'{moves[-1].downtime:.4g} s')
                cells.append((size, busy, moves))
    rows = [(f'{size} MiB', 'render' if busy else 'idle',
             _span([move.downtime for move in moves]),
             _TALK.get((size, busy), 'not given'))
            for size, busy, moves in cells]
    return report.Section(
        [],
        [report.Table(
            f'Downtime, ms: median (least to greatest) of {_TALK_MOVES} '
            'moves, beside KVM Forum 2018',
            ('frame buffer', 'workload', 'here', 'talk, MI25'), rows),
         parts_table('Downtime by part, ms, medians',
                     [(f'{"render" if busy else "idle"}, {size} MiB', moves)
                      for size, busy, moves in cells])],
        ['Not a comparison: another machine, and a software GPU at level '
         'units here against a real one without dirty tracking there '
         '(Unigine Heaven for its busy case). No ratio is claimed.'])


_TALK_MOVES = 5
_TALK = {(512, False): 'about 350', (1024, True): 'about 500'}


def parts_table(title: str,
                cells: list[tuple[str, list[hosts.Move]]]) -> report.Table:
    """Medians of each part; they need not add up to that of the sum."""
    def median(values: list[float]) -> str:
        return f'{statistics.median(values) * 1000:.1f}' if values else '-'

    rows = []
    for name, moves in cells:
        fences = [fence for move in moves if (
            fence := move.record.first_fence_seconds) is not None]
        last = [move.record.rounds[-1].frame_buffer_bytes / hosts.MIB
                for move in moves]
        rows.append((
            name, f'{statistics.median(last):.0f}',
            *(median([move.record.downtime_parts[part] for move in moves])
              for part in record_.DOWNTIME_PARTS),
            median([move.downtime for move in moves]), median(fences)))
    return report.Table(
        title, ('', 'MiB left', *(part.replace('_', ' ')
                                  for part in record_.DOWNTIME_PARTS),
                'downtime', 'first fence'), rows)


def _start(pair: hosts.Pair, working_set_mib: int) -> float:
    pair.render(working_set_mib, pace(working_set_mib))
    return pair.gim_share(_SHARE_SECONDS)


def _span(seconds: list[float]) -> str:
    low, middle, high = (round(value * 1000) for value in (
        min(seconds), statistics.median(seconds), max(seconds)))
    return f'{middle} ({low} to {high})'


def _say_worst(moves: list[hosts.Move]) -> str:
    worst = max(moves, key=lambda move: move.downtime)
    part, seconds = max(worst.record.downtime_parts.items(),
                        key=lambda item: item[1])
    return (f'The longest downtime with pre-copy was '
            f'{worst.downtime * 1000:.0f} ms, of which '
            f'{part.replace("_", " ")} took {seconds * 1000:.0f} ms.')


def _say_share(shares: list[float]) -> str:
    most = max(shares)
    kept = 'kept' if most <= MOST_SHARE else 'NOT kept'
    return (f'Pace: at most {MOST_SHARE:.0%} of a core for the software GPU '
            f'of a PF; measured {most:.1%}: {kept}.')
