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

"""list, show, resolve."""

import argparse
from typing import Any

from cliff import command
from cliff import lister
from cliff import show

from nova_vgpu_mig.cli import ask
from nova_vgpu_mig.cli import blocks
from nova_vgpu_mig.cli import report
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery

COLUMNS = ('Migration', 'Instance', 'Role', 'Host', 'Peer', 'VF', 'Phase',
           'Journal', 'Outcome', 'Reason')


def row(host: str, entry: dict[str, Any]) -> tuple[str, ...]:
    """Return one line of the list. Pure."""
    record = entry['record']
    source = record['role'] == phases.Role.SOURCE
    return (record['migration_uuid'], record['instance_uuid'],
            record['role'], host,
            record['destination_host' if source else 'source_host'],
            record['source_vf' if source else 'destination_vf'],
            record['phase'], entry['state'], record['outcome'] or '',
            record['reason'])


class ListMoves(blocks.InBlocks, lister.Lister):  # type: ignore[misc]
    """List the moves that the agents of the given hosts know."""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument('--open', action='store_true',
                            help='only those with something left to do')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        found, missing = ask.everywhere(self.app.api, self.app.hosts)
        for text in missing:
            self.app.stderr.write(f'{text}\n')
        if len(missing) == len(self.app.hosts):
            raise RuntimeError('no agent has answered')
        return COLUMNS, [row(host, entry) for host, entry in found
                         if not (parsed_args.open and entry['settled'])]


class ShowMove(blocks.InBlocks, show.ShowOne):  # type: ignore[misc]
    """Show one move in full, from one side.

    A table has numbers with their units; other formats have the record.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument('uuid', help='of the migration, or of the '
                            'instance: then its newest move')
        parser.add_argument('--role', choices=[str(r) for r in phases.Role],
                            help='which side (default: source if known)')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> Any:
        found, missing = ask.everywhere(self.app.api, self.app.hosts)
        sides = [side for side in ask.of_migration(found, parsed_args.uuid)
                 if parsed_args.role in (None, side[1]['record']['role'])]
        if not sides:
            raise RuntimeError(
                '; '.join([f'{", ".join(self.app.hosts)}: no move of '
                           f'{parsed_args.uuid}', *missing])
                + f'; "{ask.typed(self.app, "list")}" shows what is known')
        sides.sort(key=lambda s: s[1]['record']['role'] != 'source')
        host, entry = sides[0]
        if parsed_args.formatter == 'table':
            return tuple(zip(*report.lines(host, entry), strict=True))
        values = {'host': host, 'journal': entry['state'],
                  'meaning': report.MEANING.get(entry['state'], ''),
                  **entry['record']}
        return tuple(values), tuple(values.values())


class ResolveMove(command.Command):  # type: ignore[misc]
    """Decide a move that could not decide itself.

    The agent says what it is going to do and why before it does it, and
    refuses what could make a VM run twice or lose its state. Without
    --yes nothing is done.
    """

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().get_parser(prog_name)
        parser.add_argument('uuid', help='of the migration')
        parser.add_argument(
            '--role', required=True, choices=[str(r) for r in phases.Role],
            help='the side of the host that is asked')
        parser.add_argument(
            '--action', default=str(recovery.Choice.AUTO),
            choices=[str(c) for c in recovery.Choice],
            help='auto: what both journals say; run: the VF runs on this '
            'host; drop: this host throws away what has come (default: auto)')
        parser.add_argument('--yes', action='store_true',
                            help='do it, do not only explain it')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> int:
        if len(self.app.hosts) != 1:
            raise RuntimeError('resolve decides on one host: give one --host')
        answer = self.app.api.resolve(
            ask.request(), self.app.hosts[0], parsed_args.uuid,
            phases.Role(parsed_args.role), parsed_args.action,
            dry_run=not parsed_args.yes)
        self.app.stdout.write(f'{answer["explanation"]}\n')
        if not parsed_args.yes:
            again = ask.typed(
                self.app, 'resolve', parsed_args.uuid, '--role',
                parsed_args.role, '--action', parsed_args.action, '--yes')
            self.app.stdout.write(
                f'Nothing was done. This does it:\n  {again}\n')
            return 0
        return 0 if answer['done'] else 1
