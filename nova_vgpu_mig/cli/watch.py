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

"""watch: one move, as it goes on.

One line for each change on a pipe, one text rewritten in place on a
terminal, over as many rows as it needs. It polls: a move takes seconds, and
a subscription would need a queue that outlives a CLI which is ended with
Ctrl-C.
"""

import argparse
import time
from typing import Any

from cliff import command
from cliff import utils

from nova_vgpu_mig.cli import ask
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_

BAR = 24


def line(record: record_.MigrationRecord) -> str:
    """Return the progress in one line. Pure."""
    known = record.transferred_bytes + record.remaining_bytes
    share = 1.0 if record.outcome == phases.Outcome.COMPLETED else (
        record.transferred_bytes / known if known else 0.0)
    filled = int(BAR * min(1.0, share))
    parts = [f'{record.migration_uuid} {record.phase:<10}',
             f'[{"#" * filled}{"." * (BAR - filled)}]',
             f'round {len(record.rounds)}',
             f'{record.transferred_bytes / 2 ** 20:.0f} MiB sent',
             f'{record.remaining_bytes / 2 ** 20:.0f} MiB left']
    if record.predicted_downtime_seconds is not None:
        limit = (f' of {record.limit_seconds * 1000:.0f}'
                 if record.limit_seconds is not None else '')
        parts.append(f'downtime predicted '
                     f'{record.predicted_downtime_seconds * 1000:.0f}'
                     f'{limit} ms')
    if record.downtime_seconds is not None:
        parts.append(f'measured {record.downtime_seconds * 1000:.0f} ms')
    if record.outcome is not None:
        parts.append(str(record.outcome))
    if record.reason:
        parts.append(record.reason)
    return '  '.join(parts)


def rewritten(shown: str, text: str, width: int) -> str:
    """Return what puts `text` on a terminal in place of `shown`. Pure."""
    above = max(0, len(shown) - 1) // width if width else 0
    up = f'\033[{above}A' if above else ''
    return f'\r{up}\033[J{text}'


class WatchMove(command.Command):  # type: ignore[misc]
    """Follow a move until it ends; the exit status is 0 if it completed."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument('instance', help='uuid of the instance')
        parser.add_argument('--interval', type=float, default=0.5,
                            help='seconds between two questions '
                            '(default: %(default)s)')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        host = self._source(parsed_args.instance)
        out = self.app.stdout
        live = out.isatty()
        shown = ''
        while True:
            record = self.app.api.get(
                ask.request(), host, instance_uuid=parsed_args.instance,
                role=phases.Role.SOURCE)
            text = line(record)
            if text != shown:
                out.write(rewritten(shown, text, utils.terminal_width() or 0)
                          if live else f'{text}\n')
                out.flush()
                shown = text
            if record.phase.terminal or record.outcome is not None:
                break
            time.sleep(parsed_args.interval)
        if live:
            out.write('\n')
        return 0 if record.outcome == phases.Outcome.COMPLETED else 1

    def _source(self, instance: str) -> str:
        """Return the host whose agent is the source of the newest move."""
        found, missing = ask.everywhere(self.app.api, self.app.hosts)
        sides: list[tuple[str, dict[str, Any]]] = [
            side for side in ask.of_migration(found, instance)
            if side[1]['record']['role'] == phases.Role.SOURCE]
        if not sides:
            raise RuntimeError(
                '; '.join([f'{", ".join(self.app.hosts)}: no move away of '
                           f'instance {instance}', *missing])
                + f'; "{ask.typed(self.app, "list")}" shows what is known')
        return sides[0][0]
