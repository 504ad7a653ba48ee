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

"""What an operator reads, from values."""

import types
import unittest
import uuid

from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.cli import ask
from nova_vgpu_mig.cli import blocks
from nova_vgpu_mig.cli import hosts
from nova_vgpu_mig.cli import moves
from nova_vgpu_mig.cli import report
from nova_vgpu_mig.cli import watch
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record


def made(**changes: object) -> record.MigrationRecord:
    values = {
        'migration_uuid': 'm', 'instance_uuid': 'i',
        'role': phases.Role.SOURCE, 'source_host': 's',
        'destination_host': 'd', 'source_vf': 'v1', 'destination_vf': 'v2'}
    return record.MigrationRecord(**(values | changes))  # type: ignore


def entry(changed_at: float = 0, **changes: object) -> dict[str, object]:
    return {'record': made(**changes).as_dict(), 'state': 'ACTIVE',
            'settled': False, 'changed_at': changed_at}


class TestOutput(unittest.TestCase):

    def test_row_names_the_own_vf_and_the_peer(self) -> None:
        self.assertEqual(('m', 'i', 'source', 's', 'd', 'v1'),
                         moves.row('s', entry())[:6])
        self.assertEqual(
            ('m', 'i', 'destination', 'd', 's', 'v2'),
            moves.row('d', entry(role=phases.Role.DESTINATION))[:6])

    def test_reconnects_are_told_where_there_were_any(self) -> None:
        told = dict(report.lines('s', entry(reconnects=2,
                                            resent_bytes=3 << 20)))
        self.assertEqual('2 times, 3.0 MiB sent again', told['Reconnected'])
        self.assertNotIn('Reconnected', dict(report.lines('s', entry())))
        older = entry()
        del older['record']['reconnects']  # type: ignore[attr-defined]
        self.assertNotIn('Reconnected', dict(report.lines('s', older)))

    def test_what_qemu_has_carried(self) -> None:
        told = report.lines('s', entry(
            carrier=phases.Carrier.HYPERVISOR, notes=['IN DOUBT: look'],
            downtime_seconds=0.5, downtime_error_seconds=0.02,
            predicted_stop_copy_bytes=2 << 20, stop_copy_bytes=3 << 20,
            timeline=[{'at': 0.0, 'what': 'device', 'detail': 'stop-copy',
                       'device': 'ua-gpu'}]))
        for line in (
                ('Carried by', 'hypervisor'), ('Note', 'IN DOUBT: look'),
                ('Downtime measured',
                 '500.0 ms (by two clocks, 20.0 ms apart at most)'),
                ('Stop-copy of the VF predicted', '2.0 MiB'),
                ('Stop-copy of the VF measured', '3.0 MiB'),
                ('Event', '1970-01-01 00:00:00.000 UTC: device ua-gpu '
                 'stop-copy')):
            self.assertIn(line, told)

    def test_every_state_has_a_meaning(self) -> None:
        self.assertEqual({str(s) for s in ownership.State},
                         set(report.MEANING))

    def test_instance_means_its_newest_move(self) -> None:
        old = ('s', entry(1, migration_uuid='old'))
        new = ('s', entry(2, migration_uuid='new'))
        self.assertEqual([new], ask.of_migration([old, new], 'i'))
        self.assertEqual([old], ask.of_migration([old, new], 'old'))
        self.assertEqual([], ask.of_migration([old, new], 'other'))

    def test_host_without_a_gpu(self) -> None:
        found = objects.HostDescription(
            host='h', version='1.2', rpc_version='1.0', data_host='d',
            data_port=1, pools=[])
        self.assertEqual([('h', '1.2', '1.0', 'd:1', 'none', '', 0, 0)],
                         hosts.rows(found))

    def test_report_of_a_move_that_has_just_begun(self) -> None:
        found = dict(report.lines('s', entry()))
        self.assertEqual('s (source)', found['Seen from'])
        self.assertNotIn('Outcome', found)
        self.assertNotIn('Downtime measured', found)

    def test_report_has_units_and_no_reprs(self) -> None:
        found = dict(report.lines('s', entry(
            downtime_seconds=0.1234, downtime_parts={'vcpus': 0.02},
            plan={'total_bytes': 3 * 2 ** 20, 'converges': True,
                  'bandwidth_bytes_per_second': 2.0 ** 30,
                  'total_seconds': 2.5, 'limit_seconds': 0.3,
                  'limit_ms': 300.0, 'downtime_ms': 120.0,
                  'downtime_parts': {'state': 0.5}, 'rounds': None},
            phase_times={'run': 1700000001.5, 'claimed': 1700000000.0},
            rounds=[record.Round(number=1, frame_buffer_bytes=2 ** 21,
                                 seconds=0.25),
                    record.Round(number=2, stop_copy=True)])))
        self.assertEqual('123.4 ms', found['Downtime measured'])
        self.assertEqual('20.0 ms', found['- vcpus'])
        self.assertEqual('3.0 MiB', found['Plan: total bytes'])
        self.assertEqual('1,024.0 MiB/s',
                         found['Plan: bandwidth'])
        self.assertEqual('2,500.0 ms', found['Plan: total time'])
        self.assertEqual('300.0 ms', found['Plan: limit'])
        self.assertEqual('120.0 ms', found['Plan: downtime'])
        self.assertEqual('yes', found['Plan: converges'])
        self.assertEqual('state 500.0 ms', found['Plan: downtime parts'])
        self.assertEqual('2.0 MiB frame buffer in 250.0 ms',
                         found['Round 1'])
        self.assertIn('Stop-copy', found)
        self.assertEqual('2023-11-14 22:13:20.000 UTC',
                         found['Phase claimed'])
        self.assertEqual('2023-11-14 22:13:21.500 UTC, after 1.500 s',
                         found['Phase run'])
        for text in found.values():
            self.assertNotRegex(text, r'[{\[]|None|True')

    def test_report_of_what_qemu_carries(self) -> None:
        made = report.lines('s', entry(
            transferred_bytes=2 ** 21, remaining_bytes=2 ** 20,
            timeline=[{'at': at, 'what': what, 'device': '', 'detail': ''}
                      for at, what in ((2.0, 'resume'), (1.0, 'stop'))]))
        # It knows no total, and an event may be told late.
        self.assertEqual('2.0 MiB, 1.0 MiB left', dict(made)['Sent'])
        self.assertEqual(['stop', 'resume'], [
            text.split()[-1] for name, text in made if name == 'Event'])

    def test_a_block_breaks_no_uuid(self) -> None:
        number = str(uuid.uuid4())
        text = blocks.block(
            ('Migration', 'Reason', 'Outcome'),
            (number, f'see "nova-vgpu-mig --host c1 show {number}", or wait '
             'until the source has answered', ''), 60)
        rows = text.splitlines()
        self.assertEqual(f'Migration  {number}', rows[0])
        self.assertLessEqual(max(map(len, rows)), 60)
        self.assertEqual(2, text.count(number))
        self.assertNotIn('Outcome', text)

    def test_a_pipe_gets_a_line_for_each_value(self) -> None:
        text = blocks.block(('Reason',), ('word ' * 100 + 'end',), 0)
        self.assertEqual(1, len(text.splitlines()))

    def test_what_is_told_to_be_typed_is_a_command(self) -> None:
        told = types.SimpleNamespace(
            hosts=['c1'], options=types.SimpleNamespace(
                config_file=['/a file']))
        self.assertEqual(
            "nova-vgpu-mig --config-file '/a file' --host c1 list",
            ask.typed(told, 'list'))

    def test_a_long_line_is_rewritten_over_all_its_rows(self) -> None:
        self.assertEqual('\r\033[Jnew', watch.rewritten('x' * 80, 'new', 80))
        self.assertEqual('\r\033[2A\033[Jnew',
                         watch.rewritten('x' * 161, 'new', 80))
        self.assertEqual('\r\033[Jnew', watch.rewritten('', 'new', 0))

    def test_line_before_anything_is_known(self) -> None:
        self.assertIn('claimed', watch.line(made()))
        self.assertIn('.' * watch.BAR, watch.line(made()))

    def test_line_half_way(self) -> None:
        text = watch.line(made(
            phase=phases.Phase.PRECOPY, transferred_bytes=2 ** 20,
            remaining_bytes=2 ** 20, limit_seconds=0.5,
            predicted_downtime_seconds=0.12))
        self.assertIn('#' * (watch.BAR // 2) + '.', text)
        self.assertIn('120 of 500 ms', text)

    def test_line_at_the_end(self) -> None:
        text = watch.line(made(
            phase=phases.Phase.COMPLETED, downtime_seconds=0.1,
            outcome=phases.Outcome.COMPLETED))
        self.assertIn('#' * watch.BAR, text)
        self.assertIn('measured 100 ms', text)
