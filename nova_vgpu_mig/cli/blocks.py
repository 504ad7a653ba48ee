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

"""A table that can be read at any width: one record per block.

Two uuids, two hosts and a reason do not fit side by side on a terminal, and
cliff's own table then cuts them into columns of eight characters. Here each
value has a line of its own and is wrapped between words only, so that a uuid
can be copied; into a pipe it is not wrapped at all, so that it can be found.
"""

import argparse
from collections.abc import Iterable
from collections.abc import Sequence
import textwrap
from typing import Any
from typing import TextIO

from cliff.formatters import base
from cliff import utils

LEAST = 20
"""Characters that a value gets on however narrow a terminal."""


def block(names: Sequence[str], values: Sequence[Any], width: int) -> str:
    """Return the lines of one record; what is empty is left out. Pure.

    :param width: of the terminal; 0: nothing is wrapped.
    """
    shown = [(name, str(value)) for name, value in
             zip(names, values, strict=True) if value not in (None, '')]
    column = max((len(name) for name, _ in shown), default=0) + 2
    lines = []
    for name, text in shown:
        parts = textwrap.wrap(
            text, max(LEAST, width - column), break_long_words=False,
            break_on_hyphens=False) if width else [text]
        lines.append(f'{name:<{column}}{parts[0] if parts else ""}')
        lines += [' ' * column + part for part in parts[1:]]
    return '\n'.join(lines) + '\n'


class Blocks(base.ListFormatter, base.SingleFormatter):  # type: ignore[misc]
    """What cliff calls instead of its table."""

    def add_argument_group(self, parser: argparse.ArgumentParser) -> None:
        """Nothing: the table that this stands for has added its own."""

    def emit_list(self, column_names: Sequence[str],
                  data: Iterable[Sequence[Any]], stdout: TextIO,
                  parsed_args: argparse.Namespace) -> None:
        width = _width(stdout, parsed_args)
        stdout.write('\n'.join(block(column_names, values, width)
                               for values in data))

    def emit_one(self, column_names: Sequence[str], data: Sequence[Any],
                 stdout: TextIO, parsed_args: argparse.Namespace) -> None:
        stdout.write(block(column_names, list(data),
                           _width(stdout, parsed_args)))


def _width(stdout: TextIO, parsed_args: argparse.Namespace) -> int:
    if parsed_args.max_width > 0:
        return int(parsed_args.max_width)
    if stdout.isatty() or parsed_args.fit_width:
        return utils.terminal_width() or 0
    return 0


class InBlocks:
    """Before Lister or ShowOne among the bases of a command."""

    def produce_output(self, parsed_args: argparse.Namespace,
                       column_names: Sequence[str], data: Any) -> int:
        if parsed_args.formatter == 'table':
            self.formatter = Blocks()
        made: int = super().produce_output(  # type: ignore[misc]
            parsed_args, column_names, data)
        return made
