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


"""What the benchmarks print, and write as JSON."""

from collections.abc import Sequence
import dataclasses
import json
import pathlib

from rich import console as console_
from rich import table as table_

from benchmarks import pairs

_BAR = 40


@dataclasses.dataclass(frozen=True, slots=True)
class Table:
    """Rows of text below a title; the first column is to the left."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclasses.dataclass(slots=True)
class Section:
    """What one benchmark found."""

    results: list[pairs.Result] = dataclasses.field(default_factory=list)
    tables: list[Table] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)


def bar(value: float, largest: float) -> str:
    """Return a bar as long as `value` is of `largest`."""
    return '█' * max(1, round(_BAR * value / largest))


def verdict(result: pairs.Result) -> str:
    return {True: 'met', False: 'missed', None: ''}[result.met]


def aim(result: pairs.Result) -> str:
    if result.bound is None:
        return 'none'
    return f'{result.aim} {result.bound:g}'


def summary(results: Sequence[pairs.Result]) -> Table:
    return Table(
        'Ratios: median of the pairs, 95 % interval; met if all of it is',
        ('name', 'ratio', 'low', 'high', 'aim', ''),
        [(r.name, f'{r.ratio:.3f}', f'{r.low:.3f}', f'{r.high:.3f}', aim(r),
          verdict(r)) for r in results])


def show(console: console_.Console, section: Section) -> None:
    for found in section.tables:
        table = table_.Table(title=found.title, title_justify='left')
        for number, column in enumerate(found.columns):
            bars = any('█' in row[number] for row in found.rows)
            table.add_column(
                column, justify='right' if number and not bars else 'left')
        for row in found.rows:
            table.add_row(*row)
        console.print(table)
    for note in section.notes:
        console.print(note, highlight=False)
    console.print()


def write(path: pathlib.Path, results: Sequence[pairs.Result]) -> None:
    """Write the results as JSON.

    :raises OSError: not there.
    """
    path.write_text(json.dumps([r.as_dict() for r in results], indent=1)
                    + '\n')
