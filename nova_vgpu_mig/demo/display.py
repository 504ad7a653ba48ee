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

"""What the demo prints: tables and a progress bar from plain records.

All of it is drawn from the same values that `--json` writes, so that what a
person reads and what a program reads cannot differ. Nothing here decides
anything. rich is used because it draws in a terminal and degrades to plain
lines in a pipe; curses would have needed a terminal.
"""

from collections.abc import Iterable, Mapping, Sequence
import os
import time
from typing import Any

from rich import console as rich_console
from rich import markup
from rich import progress as rich_progress
from rich import text as rich_text

from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.demo import tables
from nova_vgpu_mig.demo import timeline
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as migration_record

MIB = 1024 * 1024

REAL = (
    ("Nova {nova}: API over HTTP, conductor, scheduler, three computes; "
     "Placement {placement}", 'real, in one process'),
    ('driver extension, VFCompatibilityFilter', 'real, loaded by Nova'),
    ('agents, RPC (oslo.messaging), TCP data channel, journals',
     'real; agents are threads here, RPC is fake://'),
    ('GPU', 'stood in for: the software GIM, one process for each PF'),
    ('libvirt and QEMU', "stood in for: Nova's libvirt double, each VM a "
                         'guest process with two vCPU threads'),
    ('Keystone, Neutron, Glance, Cinder', "stood in for: Nova's fixtures"),
)


def mib(count: float) -> str:
    return f'{count / MIB:,.1f}'


def milliseconds(seconds: float | None) -> str:
    return '-' if seconds is None else f'{seconds * 1000:,.1f}'


PARTS = {
    'vcpus': 'the vCPUs are stopped',
    'drain': 'the GPU is preempted and drained',
    'dirty_units': 'what is still dirty of the frame buffer is sent',
    'state': "the GPU's state and the last of guest RAM are sent",
    'verify': 'all of it is loaded and verified at the destination',
    'commit': 'the right to run is handed over, durably',
    'run': 'the GPU and the vCPUs run again',
}
"""What goes on in each part of the downtime."""

FITS = {True: ('fits', 'green'), False: ('does not fit', 'red'),
        None: ('can not be said yet', 'yellow')}
"""Of a plan's `fits`: word and style. Only False refuses a move."""

ROUNDS_LEGEND = (
    "zero: told, not sent; sections: the rest of the GPU's state; dirtied "
    'at least: dirty at its end / ms')
"""'At least', because what was written twice in a round is dirty once."""

PLAIN_WIDTH = 100
"""Columns where there is neither a terminal nor COLUMNS to ask."""

INDENT = 10
DETAIL_WIDTH = 46
"""Of the text beside the bar, at most."""


def _console() -> rich_console.Console:
    made = rich_console.Console(highlight=False)
    if not made.is_terminal and not os.environ.get('COLUMNS'):
        made = rich_console.Console(highlight=False, width=PLAIN_WIDTH)
    return made


class Display:
    """Prints a run of the demo as it goes."""

    def __init__(self, console: rich_console.Console | None = None) -> None:
        self.console = console or _console()
        self._began = time.monotonic()
        self._after_table = False
        self._progress: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None

    def step(self, text: str, style: str = '') -> None:
        """Print what happens now; text from outside, so without markup."""
        elapsed = time.monotonic() - self._began
        self._hang(f'{elapsed:6.1f} s  ', rich_text.Text(text, style))

    def _hang(self, head: str, body: rich_text.Text) -> None:
        """Print a paragraph that hangs beside its head."""
        self._after_table = False
        indent = rich_text.Text.from_markup(head)
        room = max(20, self.console.width - indent.cell_len)
        for line in body.wrap(self.console, room, overflow='fold'):
            self.console.print(indent + line, soft_wrap=True)
            indent = rich_text.Text(' ' * indent.cell_len)

    def _table(self, title: str, columns: Sequence[tables.Column],
               rows: Iterable[Sequence[str]],
               caption: str | None = None) -> None:
        if not self._after_table:
            self.console.print()
        self.console.print(tables.build(title, columns, rows,
                                        self.console.width, caption))
        self.console.print()
        self._after_table = True

    def what_is_real(self, versions: Mapping[str, str]) -> None:
        self._table('What is real, and what is stood in for',
                    (('part', 'left'), ('here', 'left')),
                    ((part.format(**versions), here) for part, here in REAL))

    def verdicts(self, rows: Iterable[tuple[str, str, verdict.Verdict]],
                 ) -> None:
        """Print for each host and PF its verdict, rule by rule."""
        lines: list[tuple[str, ...]] = []
        for host, pf_address, judged in rows:
            word = ('[green]can take it[/green]' if judged.compatible
                    else '[red]refused[/red]')
            shown = [*judged.refusals, *judged.warnings]
            if not shown:
                lines.append((host, pf_address, word,
                              f'all {len(judged.findings)} hold', '', ''))
            for finding in shown:
                lines.append((host, pf_address, word, finding.rule,
                              markup.escape(str(finding.source_value)),
                              markup.escape(str(finding.destination_value))))
                host = pf_address = word = ''
        self._table('Verdicts on the hosts, by rule', (
            ('host', 'left'), ('PF', 'left'), ('verdict', 'left'),
            ('rule', 'left'), ('source', 'left'), ('destination', 'left')),
            lines)

    def plan(self, plan: Mapping[str, Any], taken: bool = True) -> None:
        """Print a plan, and its reason where it is not a plain yes.

        :param taken: whether there is a host that could take the VM.
        """
        fits, style = FITS[plan['fits']]
        self.step(
            f'plan{"" if taken else ", if a host could take it"}: '
            f'{mib(plan["bytes"])} MiB in '
            f'{milliseconds(plan["seconds"])} ms, downtime '
            f'{plan["downtime_ms"]:,.0f} ms; limit '
            f'{plan["limit_ms"]:,.0f} ms: {fits}'
            + ('' if plan['fits'] else f': {plan["reason"]}'), style)

    def moving(self, record: migration_record.MigrationRecord) -> None:
        """Draw the bar for a move under way; call it as often as wished."""
        if self._progress is None:
            room = self.console.width - INDENT - 12 - DETAIL_WIDTH
            self._progress = rich_progress.Progress(
                rich_progress.TextColumn(
                    f'{"":{INDENT - 1}}{{task.description:<10}}'),
                rich_progress.BarColumn(bar_width=max(5, min(30, room))),
                rich_progress.TextColumn('{task.fields[detail]}'),
                console=self.console, transient=False)
            self._progress.start()
            self._task = self._progress.add_task('', total=1, detail='')
        assert self._task is not None
        done = record.transferred_bytes
        rounds = [r for r in record.rounds if not r.stop_copy]
        self._progress.update(
            self._task, description=str(record.phase), completed=done,
            total=max(1, done + record.remaining_bytes),
            detail=f'round {len(rounds)}, {mib(done)} MiB sent, '
                   f'{mib(record.remaining_bytes)} MiB left')

    def stopped(self) -> None:
        """End the bar, whatever became of the move."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def rounds(self, record: migration_record.MigrationRecord) -> None:
        lines = []
        for row in record.rounds:
            dirty = row.dirty_bytes_per_second
            lines.append((
                'stop-copy' if row.stop_copy else str(row.number),
                mib(row.frame_buffer_bytes), mib(row.zero_bytes),
                mib(row.stream_bytes), mib(row.memory_bytes),
                milliseconds(row.seconds),
                '-' if row.stop_copy else mib(dirty * row.seconds),
                '-' if row.stop_copy else mib(dirty),
                milliseconds(row.predicted_downtime_seconds)))
        self._table('Rounds', (
            ('round', 'right'), ('frame buffer MiB', 'right'),
            ('zero MiB', 'right'), ('sections MiB', 'right'),
            ('guest RAM MiB', 'right'), ('ms', 'right'),
            ('dirty at its end MiB', 'right'),
            ('dirtied at least MiB/s', 'right'),
            ('predicted downtime ms', 'right')), lines,
            '\n'.join(filter(None, (broken_off(record), ROUNDS_LEGEND))))

    def downtime(self, record: migration_record.MigrationRecord) -> None:
        """Print it by part; of a switchover that failed, how far it came."""
        lines = [(part.replace('_', ' '), meaning,
                  milliseconds(record.downtime_parts.get(part)))
                 for part, meaning in PARTS.items()]
        stood = stood_still_seconds(record)
        if record.outcome is phases.Outcome.COMPLETED:
            lines.append(('in all', 'measured downtime',
                          milliseconds(record.downtime_seconds)))
        elif stood is not None:
            lines.append(('in all', 'from the switchover to the return: the '
                          'guest stood still no longer than that',
                          milliseconds(stood)))
        self._table('Downtime', (('part', 'left'), ('in it', 'left'),
                                 ('ms', 'right')), [
            *lines,
            ('predicted', 'at the end of the last round',
             milliseconds(record.predicted_downtime_seconds)),
            ('limit', 'of the flavor', milliseconds(record.limit_seconds)),
            ('first fence', 'from the stop to the first GPU command retired '
             'at the destination', milliseconds(record.first_fence_seconds))])

    def timeline(self, spans: Iterable[timeline.Span]) -> None:
        self._table('Where the time went, since the request', (
            ('at ms', 'right'), ('who', 'left'), ('what', 'left'),
            ('lasts ms', 'right')), (
                (f'{span.at_ms:,.0f}', span.who, markup.escape(span.what),
                 '-' if span.lasts_ms is None else f'{span.lasts_ms:,.0f}')
                for span in spans))

    def slices(self, rows: Iterable[tuple[str, str, Sequence[int]]]) -> None:
        """Print (VF, whose, slices before, during and after the move)."""
        self._table(
            'Slices granted to the other VFs, a second',
            (('VF', 'left'), ('of', 'left'), ('before', 'right'),
             ('during', 'right'), ('after', 'right')),
            ((address, whose, *(str(c) for c in counts))
             for address, whose, counts in rows))

    def comparison(self, title: str,
                   rows: Iterable[tuple[str, str, str, bool]]) -> None:
        """Print (what, value of the mover, of the twin, equal)."""
        self._table(title, (
            ('what', 'left'), ('the VM that moved', 'left'),
            ('its twin that stayed', 'left'), ('', 'left')), (
                (what, moved, stayed, '[green]equal[/green]'
                 if equal else '[red]DIFFERENT[/red]')
                for what, moved, stayed, equal in rows))

    def checks(self, rows: Iterable[tuple[str, bool, str]]) -> None:
        """Print what was promised, whether it held, and what was seen.

        Where some did not, a last line counts them: they may have scrolled
        away.
        """
        rows = list(rows)
        for promise, held, seen in rows:
            mark = '[green]ok[/green]  ' if held else '[red]FAIL[/red]'
            self._hang(f'  {mark} ', rich_text.Text(f'{promise}: {seen}'))
        broken = sum(not held for _, held, _ in rows)
        if broken:
            self.console.print()
            self._hang('', rich_text.Text(
                f'{broken} of {len(rows)} promises not kept', 'red'))


def unfinished_bytes(record: migration_record.MigrationRecord) -> int:
    """Return what was sent of a round that has no row. Pure."""
    return max(0, record.transferred_bytes - sum(
        row.frame_buffer_bytes + row.stream_bytes + row.memory_bytes
        for row in record.rounds))


def broken_off(record: migration_record.MigrationRecord) -> str | None:
    """Return what there is to say of a round that has no row. Pure."""
    rounds = record.rounds
    if (record.outcome is phases.Outcome.COMPLETED
            or (rounds and rounds[-1].stop_copy)):
        return None
    name = ('The stop-copy' if phases.Phase.SWITCHOVER in record.phase_times
            else f'Round {len(rounds) + 1}')
    return (f'{name} was broken off: {mib(unfinished_bytes(record))} MiB of '
            'it had been sent')


def stood_still_seconds(
        record: migration_record.MigrationRecord) -> float | None:
    """Return how long, at most, a failed switchover kept the guest. Pure.

    The record has no time at which the guest ran again at the source; it
    did so before the move was written off as returned.
    """
    began = record.phase_times.get(phases.Phase.SWITCHOVER)
    ended = record.phase_times.get(phases.Phase.RETURNED)
    if began is None or ended is None:
        return None
    return ended - began
