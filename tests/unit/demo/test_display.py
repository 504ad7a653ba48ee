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

"""What a person reads of a run: whole at 80 columns, and true."""

import io
import unittest

from rich import console as rich_console

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.demo import display
from nova_vgpu_mig.demo import tables
from nova_vgpu_mig.demo import timeline
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record

MIB = 2 ** 20
PARTS = record.DOWNTIME_PARTS
EVENTS = [
    {'event': 'compute_post_live_migration_at_destination',
     'start_time': '2026-11-24T15:00:09.000000',
     'finish_time': '2026-11-24T15:00:09.500000'},
    {'event': 'compute_live_migration', 'finish_time': None,
     'start_time': '2026-11-24T15:00:01.000000'}]
ASKED = 1795532400.0
"""2026-11-24 15:00 UTC."""


def made(**changes: object) -> record.MigrationRecord:
    """A record with the longest values that the options allow."""
    values: dict[str, object] = {
        'migration_uuid': 'm', 'instance_uuid': 'i',
        'role': phases.Role.SOURCE, 'source_host': 'compute1',
        'destination_host': 'compute2', 'source_vf': 'v1',
        'destination_vf': 'v2', 'outcome': phases.Outcome.COMPLETED,
        'transferred_bytes': 8400 * MIB, 'predicted_downtime_seconds': 1.2875,
        'limit_seconds': 1.0, 'downtime_seconds': 0.7,
        'downtime_parts': dict.fromkeys(PARTS, 0.1),
        'first_fence_seconds': 12.3456,
        'rounds': [
            record.Round(1, 4096 * MIB, 4096 * MIB, 1234 * MIB, 4096 * MIB,
                         123.4567, 2.0, 1234 * MIB, 121.2875),
            record.Round(2, 1024 * MIB, 0, 0, 3 * MIB, 0.25, 0.2, 652 * MIB,
                         0.4364),
            record.Round(3, 192 * MIB, stop_copy=True)],
        'phase_times': {
            'claimed': ASKED + 2, 'pre-copy': ASKED + 3,
            'switchover': ASKED + 5.5, 'completed': ASKED + 8}}
    return record.MigrationRecord(**(values | changes))  # type: ignore


def failed(**changes: object) -> record.MigrationRecord:
    whole = made()
    sent = sum(r.frame_buffer_bytes + r.stream_bytes + r.memory_bytes
               for r in whole.rounds[:2])
    return made(**({
        'outcome': phases.Outcome.FAILED, 'rounds': whole.rounds[:2],
        'transferred_bytes': sent + 12 * MIB, 'downtime_seconds': None,
        'downtime_parts': {'vcpus': 0.1, 'drain': 0.2},
        'first_fence_seconds': None,
        'phase_times': {'pre-copy': 3.0, 'switchover': 5.5,
                        'returned': 6.25}} | changes))


class Base(unittest.TestCase):

    def setUp(self) -> None:
        self.out = io.StringIO()

    def display(self, width: int = 80) -> display.Display:
        return display.Display(rich_console.Console(
            file=self.out, width=width, highlight=False))

    @property
    def lines(self) -> list[str]:
        return [line.rstrip() for line in self.out.getvalue().splitlines()]

    @property
    def words(self) -> list[str]:
        return self.out.getvalue().split()


class TestWhole(Base):
    """Nothing is cut, and nothing is wider than the terminal."""

    def assert_whole(self, *words: str) -> None:
        self.assertNotIn('…', self.out.getvalue())
        self.assertLessEqual(max(map(len, self.lines)), 80)
        for word in words:
            self.assertIn(word, self.words)

    def test_rounds(self) -> None:
        self.display().rounds(made())
        self.assert_whole('stop-copy', 'predicted', 'downtime', 'sections',
                          'MiB/s', '123,456.7', '121,287.5', '4,096.0')

    def test_downtime(self) -> None:
        self.display().downtime(made())
        self.assert_whole('vcpus', 'drain', 'dirty', 'units', 'state',
                          'verify', 'commit', 'run', 'predicted', 'limit',
                          'first', 'fence', '12,345.6', '1,287.5')

    def test_timeline(self) -> None:
        self.display().timeline(timeline.tell(
            {'source compute1': made().phase_times}, EVENTS, ASKED,
            ASKED + 10))
        self.assert_whole('compute_post_live_migration_at_destination',
                          '10,000', 'switchover')

    def test_verdicts(self) -> None:
        values = {'MEC': '0x9c', 'RLC': '0x63'}
        judged = verdict.Verdict((finding.Finding(
            'firmware', finding.Severity.ERROR, str(values), str(values),
            'They differ.'),))
        self.display().verdicts([('compute3', '0000:83:00.0', judged)])
        self.assert_whole('compute3', '0000:83:00.0', 'firmware',
                          'destination')

    def test_comparison_slices_and_versions(self) -> None:
        shown = self.display()
        value = 'GFX 100622/100634, SDMA 100172/100175'
        shown.comparison('At the end', [
            ('guest RAM with DMA (xxh3-128)', value, value, True)])
        shown.slices([('0000:83:00.3', 'neighbour on compute2',
                       (10000, 20000, 30000))])
        shown.what_is_real({'nova': '34.0.0', 'placement': '16.0.0'})
        self.assert_whole('100622/100634,', '(xxh3-128)', 'equal', '30000',
                          'VFCompatibilityFilter')

    def test_bar(self) -> None:
        shown = self.display()
        shown.moving(made(phase=phases.Phase.SWITCHOVER))
        shown.stopped()
        self.assert_whole('switchover', '8,400.0')

    def test_sentences_hang_and_are_whole(self) -> None:
        shown = self.display()
        shown.step('word ' * 30 + 'x' * 100 + ' [not markup]')
        shown.checks([('a promise of many words ' * 5, True, '[seen]')])
        self.assert_whole('[seen]', 'markup]')
        self.assertEqual(100, self.out.getvalue().count('x'))

    def test_wide_terminal_needs_no_wrapping(self) -> None:
        self.display(160).rounds(made())
        self.assertIn('dirtied at least MiB/s', self.out.getvalue())


class TestTrue(Base):
    """What the headings and captions say is what the values are."""

    def test_dirty_at_the_end_is_what_the_next_round_has_to_send(
            self) -> None:
        self.display(160).rounds(made())
        (row,) = [line.split() for line in self.lines
                  if line.split()[:1] == ['2']]
        self.assertEqual(['250.0', '163.0', '652.0', '436.4'], row[5:])

    def test_columns_are_explained(self) -> None:
        self.display().rounds(made())
        below = ' '.join(self.words)
        for column in ('zero:', 'sections:', 'dirtied at least:'):
            self.assertIn(column, below)

    def test_broken_off_switchover(self) -> None:
        self.display(160).rounds(failed())
        self.assertIn('The stop-copy was broken off: 12.0 MiB of it had been '
                      'sent', self.lines)

    def test_broken_off_round(self) -> None:
        self.display(160).rounds(failed(phase_times={'pre-copy': 3.0}))
        self.assertIn('Round 3 was broken off: 12.0 MiB of it had been sent',
                      self.lines)

    def test_complete_rounds_have_no_caption(self) -> None:
        self.assertIsNone(display.broken_off(made()))
        self.assertIsNone(display.broken_off(
            made(outcome=phases.Outcome.FAILED)))

    def test_failed_switchover_tells_what_it_cost(self) -> None:
        self.display().downtime(failed())
        self.assertIn('750.0', self.words)
        self.assertIn('200.0', self.words)

    def test_no_switchover_costs_nothing(self) -> None:
        self.assertIsNone(display.stood_still_seconds(
            failed(phase_times={'pre-copy': 3.0, 'returned': 4.0})))

    def test_every_part_of_the_downtime_is_told(self) -> None:
        self.assertEqual(PARTS, tuple(display.PARTS))


class TestChecks(Base):
    """What does not hold is counted where one looks last."""

    def test_broken_ones_are_counted_in_the_last_line(self) -> None:
        self.display().checks([('a', True, '1'), ('b', False, '2'),
                               ('c', False, '3')])
        self.assertEqual('2 of 3 promises not kept', self.lines[-1])

    def test_nothing_to_count(self) -> None:
        self.display().checks([('a', True, '1')])
        self.assertEqual(['  ok   a: 1'], self.lines)


class TestPlan(Base):
    """Not known yet is neither of the other two."""

    def plan(self, fits: bool | None, **kwargs: bool) -> str:
        self.display(200).plan({
            'bytes': 45 * MIB, 'seconds': 0.25, 'downtime_ms': 281.0,
            'limit_ms': 5.0, 'fits': fits, 'reason': 'because of [x]'},
            **kwargs)
        return self.out.getvalue().strip()

    def test_fits(self) -> None:
        self.assertTrue(self.plan(True).endswith(
            'plan: 45.0 MiB in 250.0 ms, downtime 281 ms; limit 5 ms: fits'))

    def test_does_not_fit(self) -> None:
        self.assertTrue(self.plan(False).endswith(
            'limit 5 ms: does not fit: because of [x]'))

    def test_not_known_yet(self) -> None:
        self.assertTrue(self.plan(None).endswith(
            'limit 5 ms: can not be said yet: because of [x]'))

    def test_no_host(self) -> None:
        self.assertIn('plan, if a host could take it: 45.0 MiB',
                      self.plan(True, taken=False))


class TestWidths(unittest.TestCase):

    def test_room_is_shared_and_words_stay_whole(self) -> None:
        columns: list[tables.Column] = [('a b', 'left'), ('long', 'right')]
        rows = [('one two three', '[green]1,000.0[/green]')]
        self.assertEqual([13, 7], tables.widths(columns, rows, 50))
        self.assertEqual([9, 7], tables.widths(columns, rows, 16))
        self.assertEqual([5, 7], tables.widths(columns, rows, 3))
