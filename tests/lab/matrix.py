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

"""The table of faults and phases, as it was found in this run."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Row:
    fault: str
    phase: str
    client: str
    source: str
    destination: str
    agents: str


_rows: list[Row] = []


def add(row: Row) -> None:
    _rows.append(row)


def text() -> str:
    """Return it with a heading and a line for each row."""
    heads = [field.name for field in dataclasses.fields(Row)]
    lines = [heads, *(list(dataclasses.astuple(row)) for row in _rows)]
    widths = [max(len(line[column]) for line in lines)
              for column in range(len(heads))]
    return '\n'.join('  '.join(
        cell.ljust(width) for cell, width in zip(line, widths, strict=True)
    ).rstrip() for line in lines)
