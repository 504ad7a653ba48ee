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
import time
from typing import Any

from rich import box
from rich import console as rich_console
from rich import progress as rich_progress
from rich import table as rich_table

from nova_vgpu_mig.compatibility import verdict
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


class Display:
    """Prints a run of the demo as it goes."""

    def __init__(self, console: rich_console.Console | None = None) -> None:
        # Wide enough for the sentences where there is no terminal to ask.
        self.console = console or rich_console.Console(
            highlight=False, soft_wrap=False)
        if not self.console.is_terminal:
            self.console = console or rich_console.Console(
                highlight=False, width=100)
        self._began = time.monotonic()
        self._progress: rich_progress.Progress | None = None
        self._task: rich_progress.TaskID | None = None

    def step(self, text: str) -> None:
        elapsed = time.monotonic() - self._began
        self.console.print(f'[dim]{elapsed:6.1f} s[/dim]  {text}')

    def _table(self, title: str,
               columns: Sequence[tuple[str, str]]) -> rich_table.Table:
        table = rich_table.Table(title=title, box=box.SIMPLE_HEAD,
                                 title_justify='left', title_style='bold')
        for name, justify in columns:
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        return table

    def what_is_real(self, versions: Mapping[str, str]) -> None:
        table = self._table('What is real, and what is stood in for',
                            (('part', 'left'), ('here', 'left')))
        for part, here in REAL:
            table.add_row(part.format(**versions), here)
        self.console.print(table)

    def verdicts(self, rows: Iterable[tuple[str, str, verdict.Verdict]],
                 ) -> None:
        """Print for each host and PF its verdict, rule by rule."""
        table = self._table(
            'Verdicts on the hosts, by rule',
            (('host', 'left'), ('PF', 'left'), ('verdict', 'left'),
             ('rule', 'left'), ('source', 'left'), ('destination', 'left')))
        for host, pf_address, judged in rows:
            word = ('[green]can take it[/green]' if judged.compatible
                    else '[red]refused[/red]')
            shown = [*judged.refusals, *judged.warnings]
            if not shown:
                table.add_row(host, pf_address, word,
                              f'all {len(judged.findings)} hold', '', '')
            for finding in shown:
                table.add_row(host, pf_address, word, finding.rule,
                              str(finding.source_value),
                              str(finding.destination_value))
                host = pf_address = word = ''
        self.console.print(table)

    def plan(self, plan: Mapping[str, Any]) -> None:
        fits = ('[green]fits[/green]' if plan['fits']
                else '[red]does not fit[/red]')
        self.step(
            f'plan: {mib(plan["bytes"])} MiB in {plan["seconds"]:.1f} s, '
            f'downtime {plan["downtime_ms"]:.0f} ms; limit '
            f'{plan["limit_ms"]:.0f} ms: {fits}')

    def moving(self, record: migration_record.MigrationRecord) -> None:
        """Draw the bar for a move under way; call it as often as wished."""
        if self._progress is None:
            self._progress = rich_progress.Progress(
                rich_progress.TextColumn('         {task.description:<10}'),
                rich_progress.BarColumn(bar_width=30),
                rich_progress.TextColumn('{task.fields[detail]}'),
                console=self.console, transient=False)
            self._progress.start()
            self._task = self._progress.add_task('', total=1, detail='')
        assert self._task is not None
        done = record.transferred_bytes
        rounds = [r for r in record.rounds if not r.stop_copy]
        rate = rounds[-1].dirty_bytes_per_second if rounds else 0.0
        self._progress.update(
            self._task, description=str(record.phase), completed=done,
            total=max(1, done + record.remaining_bytes),
            detail=f'round {len(rounds)}, {mib(done)} MiB sent, '
                   f'{mib(record.remaining_bytes)} left, dirtied at '
                   f'{mib(rate)} MiB/s')

    def stopped(self) -> None:
        """End the bar, whatever became of the move."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None

    def rounds(self, record: migration_record.MigrationRecord) -> None:
        table = self._table('Rounds', (
            ('round', 'right'), ('frame buffer MiB', 'right'),
            ('zero MiB', 'right'), ('sections MiB', 'right'),
            ('guest RAM MiB', 'right'), ('ms', 'right'),
            ('dirtied MiB/s', 'right'), ('predicted downtime ms', 'right')))
        for row in record.rounds:
            label = 'stop-copy' if row.stop_copy else str(row.number)
            table.add_row(
                label, mib(row.frame_buffer_bytes), mib(row.zero_bytes),
                mib(row.stream_bytes), mib(row.memory_bytes),
                milliseconds(row.seconds), mib(row.dirty_bytes_per_second),
                milliseconds(row.predicted_downtime_seconds))
        self.console.print(table)

    def downtime(self, record: migration_record.MigrationRecord) -> None:
        table = self._table('Downtime, ms', (
            *((part.replace('_', ' '), 'right')
              for part in migration_record.DOWNTIME_PARTS),
            ('in all', 'right'), ('predicted', 'right'), ('limit', 'right'),
            ('first fence', 'right')))
        table.add_row(
            *(milliseconds(record.downtime_parts.get(part))
              for part in migration_record.DOWNTIME_PARTS),
            milliseconds(record.downtime_seconds),
            milliseconds(record.predicted_downtime_seconds),
            milliseconds(record.limit_seconds),
            milliseconds(record.first_fence_seconds))
        self.console.print(table)

    def slices(self, rows: Iterable[tuple[str, str, Sequence[int]]]) -> None:
        """Print (VF, whose, slices before, during and after the move)."""
        table = self._table(
            'Slices granted to the other VFs, a second',
            (('VF', 'left'), ('of', 'left'), ('before', 'right'),
             ('during', 'right'), ('after', 'right')))
        for address, whose, counts in rows:
            table.add_row(address, whose, *(str(c) for c in counts))
        self.console.print(table)

    def comparison(self, title: str,
                   rows: Iterable[tuple[str, str, str, bool]]) -> None:
        """Print (what, value of the mover, of the twin, equal)."""
        table = self._table(title, (
            ('what', 'left'), ('the VM that moved', 'left'),
            ('its twin that stayed', 'left'), ('', 'left')))
        for what, moved, stayed, equal in rows:
            table.add_row(what, moved, stayed, '[green]equal[/green]'
                          if equal else '[red]DIFFERENT[/red]')
        self.console.print(table)

    def checks(self, rows: Iterable[tuple[str, bool, str]]) -> None:
        """Print what was promised, whether it held, and what was seen."""
        for promise, held, seen in rows:
            mark = '[green]ok[/green]  ' if held else '[red]FAIL[/red]'
            self.console.print(f'  {mark} {promise}: {seen}')
