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

"""How well a switchover is foretold: many moves of real QEMU, in a table.

Started as `tools/lab predict`. Each move has its own seed, which chooses
working set and rate; every second one goes without our steering, with the
same limit given to QEMU once, so that the same workloads are seen both ways.
The table is CSV, with the unit in each column's name: the documentation draws
it.
"""

import argparse
from collections.abc import Sequence
import csv
import pathlib
import random
import statistics
import sys
from typing import Any

from lab import progress
from nova_vgpu_mig.migration.hypervisor import timeline
from tests.lab import base
from tests.lab import gpu as gpu_
from tests.lab import guest as guest_
from tests.lab import options

KIND = 'vgpu_lab-64'
LIMIT_MS = 3000
MIB = 1024 * 1024
WORKING_SETS = (2, 4, 8, 16, 32)
"""MiB."""
RATES = (1, 8, 64)
"""MiB a second of the sweep: below, at, and above what the way carries."""

COLUMNS = ('seed', 'steered', 'working set MiB', 'sweep MiB/s', 'outcome',
           'rounds', 'predicted stop-copy MiB', 'measured stop-copy MiB',
           'predicted downtime ms', 'measured downtime ms', '+/- ms',
           *(f'{part} ms' for part in timeline.PARTS))


def workload(seed: int) -> tuple[int, int]:
    """Return working set and rate of a seed, bytes; pure."""
    chosen = random.Random(seed)
    return (chosen.choice(WORKING_SETS) * MIB, chosen.choice(RATES) * MIB)


def row(seed: int, steered: bool, record: dict[str, Any] | None,
        outcome: str) -> dict[str, Any]:
    """Return a move's line of the table; pure."""
    working_set, rate = workload(seed)
    record = record or {}
    parts = record.get('downtime_parts', {})

    def scaled(key: str, unit: float,
               values: dict[str, Any] = record) -> str:
        value = values.get(key)
        return '' if value is None else f'{value * unit:.1f}'

    return dict(zip(COLUMNS, (
        seed, 'yes' if steered else 'no', working_set // MIB, rate // MIB,
        record.get('outcome') or outcome,
        sum(not r['stop_copy'] for r in record.get('rounds', ())),
        scaled('predicted_stop_copy_bytes', 1 / MIB),
        scaled('stop_copy_bytes', 1 / MIB),
        scaled('predicted_downtime_seconds', 1000),
        scaled('downtime_seconds', 1000),
        scaled('downtime_error_seconds', 1000),
        *(scaled(part, 1000, parts) for part in timeline.PARTS)),
        strict=True))


def summary(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return a sentence on the steered moves, and one on the others; pure.

    :param rows: as row() gives them.
    """
    said = []
    for steered, words in (('yes', 'steered'), ('no', 'not steered')):
        ours = [row for row in rows if row['steered'] == steered]
        done = [row for row in ours if row['measured downtime ms']]
        late = sum(float(row['measured downtime ms']) > LIMIT_MS
                   for row in done)
        parts = [f'{len(done)} of {len(ours)} completed',
                 f'{late} of these above the limit']
        parts += [f'{what} measured/predicted {ratio}' for what, ratio in (
            (what, _ratios(done, what, unit)) for what, unit in (
                ('stop-copy', 'MiB'), ('downtime', 'ms'))) if ratio]
        said.append(f'{words}: {", ".join(parts)}')
    return said


def _ratios(rows: Sequence[dict[str, Any]], what: str, unit: str) -> str:
    """Return median and range; '' where nothing was predicted."""
    pairs = [(row[f'measured {what} {unit}'], row[f'predicted {what} {unit}'])
             for row in rows]
    found = [float(measured) / float(predicted)
             for measured, predicted in pairs
             if measured and predicted and float(predicted)]
    if not found:
        return ''
    return (f'{statistics.median(found):.2f} '
            f'({min(found):.2f}-{max(found):.2f})')


class Moves(base.LabTestCase):
    """Not a test: what the tests use to set a move up."""

    def runTest(self) -> None:
        """A name that unittest wants."""

    def one_move(self, seed: int) -> tuple[dict[str, Any] | None, str]:
        """Return the source's record, and the client's outcome."""
        working_set, rate = workload(seed)
        here, there = self.mdev(self.one, KIND), self.mdev(self.two, KIND)
        guest = guest_.Guest(self.one, here)
        gpu_.GPU(self.one, here).work(working_set, rate)
        result = self.begin(guest, self.two, there, agents=True,
                            limit_ms=LIMIT_MS).result()
        return result['source_record'], result['outcome']


def measure(moves: int, seed: int, path: pathlib.Path) -> None:
    """Make so many moves, and write each as it ends.

    Before each way one more that is not in the table: it begins with what is
    assumed of a host, and measures what is known to those after it.
    """
    rows = []
    with path.open('w', newline='') as file:
        table = csv.DictWriter(file, COLUMNS, lineterminator='\n')
        table.writeheader()
        for steered in (True, False):
            _one(seed - 1, steered, first=True)
            for number in range(seed, seed + moves // 2):
                rows.append(_one(number, steered))
                table.writerow(rows[-1])
                file.flush()
    for sentence in summary(rows):
        progress.say(sentence)


def _one(seed: int, steered: bool, first: bool = False) -> dict[str, Any]:
    case = Moves()
    case.setUp()
    try:
        if first:
            options.change(case.one, steer=steered)
        record, outcome = case.one_move(seed)
    finally:
        case.doCleanups()
    made = row(seed, steered, record, outcome)
    progress.say(', '.join(f'{name} {value}' for name, value in made.items()
                           if value != ''))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(prog='tools/lab predict')
    parser.add_argument('--moves', type=int, default=30)
    parser.add_argument('--seed', type=int, default=1)
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path('prediction.csv'))
    args = parser.parse_args()
    measure(args.moves, args.seed, args.output)
    progress.say(f'{args.moves} moves: {args.output}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
