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

from hypothesis import given
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.migration.hypervisor import report
from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor

MIB = 1 << 20
MARKS = timeline.Marks(still=10.0, stopped=10.1, saving=10.3, saved=11.0)


def trace(*looks):
    return [report.Sent(at, sent * MIB) for at, sent in looks]


def record():
    return record_.MigrationRecord(
        'm', 'i', phases.Role.SOURCE, 'a', 'b', 'va', 'vb')


class TestSentAtStop(base.BaseTestCase):
    def test_a_look_in_the_pause_is_exact(self):
        self.assertEqual(70 * MIB, report.sent_at_stop(
            trace((9, 50), (10, 60), (10.2, 70), (10.5, 99)), MARKS))

    def test_else_the_rate_before_it_is_carried_on(self):
        self.assertAlmostEqual(61 * MIB, report.sent_at_stop(
            trace((9, 50), (10, 60), (10.5, 99)), MARKS), delta=2)

    def test_a_later_look_bounds_the_guess(self):
        self.assertEqual(60.5 * MIB, report.sent_at_stop(
            trace((9, 50), (10, 60), (10.4, 60.5)), MARKS))

    def test_nothing_is_made_up(self):
        self.assertIsNone(report.sent_at_stop([], MARKS))
        self.assertIsNone(report.sent_at_stop(
            trace((9, 50)), timeline.Marks()))
        self.assertIsNone(report.sent_at_stop(trace((10.5, 99)), MARKS))

    @given(strategies.lists(strategies.tuples(
        strategies.floats(0, 20), strategies.integers(0, 1000))))
    def test_never_less_than_what_was_seen_before_the_stop(self, looks):
        looks = list(zip(sorted(at for at, _ in looks),
                         sorted(sent for _, sent in looks), strict=True))
        found = report.sent_at_stop(trace(*looks), MARKS)
        before = [sent for at, sent in looks if at < MARKS.stopped]
        if before:
            self.assertGreaterEqual(found, before[-1] * MIB)


class TestRounds(base.BaseTestCase):
    def test_devices_and_the_rest_apart(self):
        samples = [steering.Sample(0, 1, 0, 0),
                   steering.Sample(1, 2, 100, 80),
                   steering.Sample(2, 6, 140, 112)]
        first, second = report.rounds(samples)
        self.assertEqual((80, 20), (first.stream_bytes, first.memory_bytes))
        self.assertEqual((32, 8), (second.stream_bytes, second.memory_bytes))
        self.assertEqual(32, second.dirty_bytes_per_second)

    def test_guest_ram_is_not_the_vfs_time(self):
        samples = [steering.Sample(0, 1, 0, 0),
                   steering.Sample(65, 2, 65 * 1024 * MIB, 1024 * MIB),
                   steering.Sample(67, 4, 65 * 1024 * MIB, 1024 * MIB)]
        first, waiting = report.rounds(samples)
        self.assertEqual((65, 2), (first.seconds, waiting.seconds))
        self.assertAlmostEqual(1.0, first.sending_seconds)
        self.assertEqual(0.0, waiting.sending_seconds)


class TestEndings(base.BaseTestCase):
    def test_without_events_it_is_libvirts_own_figure(self):
        one = record()
        report.complete(one, marks=timeline.Marks(), resumed_at=None,
                        clock_error=0.1, final={'downtime': 871}, at_stop=None)
        self.assertEqual(0.871, one.downtime_seconds)
        self.assertIsNone(one.downtime_error_seconds)
        self.assertIsNone(one.stop_copy_bytes)
        self.assertIn('libvirt\'s own figure', one.notes[0])

    def test_what_the_stop_copy_sent(self):
        one = record()
        report.complete(
            one, marks=MARKS, resumed_at=11.5, clock_error=0.01,
            final={'vfio_data_transferred': 90, 'memory_processed': 99},
            at_stop=60)
        self.assertEqual(30, one.stop_copy_bytes)
        self.assertEqual(1.5, one.downtime_seconds)
        self.assertEqual(0.01, one.downtime_error_seconds)
        self.assertTrue(one.rounds[-1].stop_copy)
        self.assertEqual(0, one.rounds[-1].memory_bytes)

    def test_and_of_guest_ram(self):
        one = record()
        report.complete(
            one, marks=MARKS, resumed_at=11.5, clock_error=0.01,
            final={'vfio_data_transferred': 90, 'memory_processed': 399},
            at_stop=60, ram_at_stop=300)
        self.assertEqual((30, 9), (one.rounds[-1].stream_bytes,
                                   one.rounds[-1].memory_bytes))

    def test_why_it_stayed(self):
        for begun, aborting, final, outcome, says in (
                (False, '', {}, 'failed', 'did not begin in time'),
                (True, 'aborted by the operator', {}, 'aborted', 'operator'),
                (True, 'cannot keep the limit', {}, 'failed', 'cannot keep'),
                (True, '', {'errmsg': 'operation aborted: canceled'},
                 'aborted', 'canceled'),
                (True, '', {'errmsg': 'load failed: Invalid argument'},
                 'failed', 'Invalid argument'),
                (True, '', {}, 'failed', '/var/log/libvirt/qemu')):
            found, reason = report.why_returned(
                record(), begun=begun, aborting=aborting, final=final)
            self.assertEqual(outcome, found)
            self.assertIn(says, reason)

    def test_it_stayed_as_libvirtd_was_restarted(self):
        one = record()
        one.timeline.append(
            hypervisor.Event(hypervisor.What.LOST, 1.0).as_dict())
        _, reason = report.why_returned(one, begun=True, aborting='',
                                        final={})
        self.assertIn('libvirtd was restarted', reason)
