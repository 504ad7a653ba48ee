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

"""Tables that show every heading and every value whole.

rich cuts what does not fit and puts an ellipsis there, in the middle of a
number if need be. Here a column is never narrower than its longest word:
what is too wide is wrapped between words, and the space between the columns
is given up first.
"""

from collections.abc import Iterable, Sequence
from typing import Literal

from rich import box
from rich import table as rich_table
from rich import text as rich_text

Column = tuple[str, Literal['left', 'right']]


GAP = 2
"""Between two columns; one of them is the rule's, and stays."""


def _plain(cell: str) -> str:
    return rich_text.Text.from_markup(cell).plain


def _longest_word(cell: str) -> int:
    return max((len(word) for word in _plain(cell).split()), default=0)


def widths(columns: Sequence[Column], rows: Sequence[Sequence[str]],
           room: int) -> list[int]:
    """Return how wide each column is to be. Pure.

    No column is narrower than its longest word, even where that is more
    than there is room for: a terminal's own wrapping loses nothing.
    """
    lines = [[name for name, _ in columns], *rows]
    least = [max(map(_longest_word, cells))
             for cells in zip(*lines, strict=True)]
    most = [max(len(_plain(cell)) for cell in cells)
            for cells in zip(*lines, strict=True)]
    made, spare = list(least), room - sum(least)
    # Those that lack least first: it is the sentences that are wrapped.
    lacking = sorted(range(len(made)), key=lambda i: most[i] - least[i])
    for left, index in zip(range(len(made), 0, -1), lacking, strict=True):
        share = min(most[index] - least[index], max(0, spare) // left)
        made[index] += share
        spare -= share
    return made


def build(title: str, columns: Sequence[Column],
          rows: Iterable[Sequence[str]], width: int,
          caption: str | None = None) -> rich_table.Table:
    """Return a table for a console of so many columns.

    :param rows: cells with rich's markup.
    """
    rows = list(rows)
    between = len(columns) - 1
    made = widths(columns, rows, width - GAP * between)
    roomy = sum(made) + GAP * between <= width
    if not roomy:
        made = widths(columns, rows, width - between)
    table = rich_table.Table(
        title=title, box=box.SIMPLE_HEAD, title_justify='left',
        title_style='bold', caption=caption, caption_justify='left',
        caption_style='', padding=(0, GAP - 1, 0, 0) if roomy else 0,
        pad_edge=False, show_edge=False)
    for (name, justify), wide in zip(columns, made, strict=True):
        table.add_column(name, justify=justify, width=wide, overflow='fold')
    for row in rows:
        table.add_row(*row)
    return table
