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

import itertools

from hypothesis import given
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import hypervisor

What = hypervisor.What
SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION

# As libvirt 11.3 and QEMU 10.0 told a move of the lab's GPU.
RECORDED = (
    (What.STATUS, 2.957, 'setup'), (What.PASS, 2.995, '1'),
    (What.DEVICE, 2.999, 'pre-copy'), (What.STATUS, 2.9994, 'active'),
    (What.PASS, 6.926, '7'),
    (What.DEVICE, 7.0442, 'pre-copy-p2p'),
    (What.DEVICE, 7.0448, 'stop-copy'), (What.STOP, 7.0450, ''),
    (What.LIFECYCLE, 7.060, 'suspended/migrated'),
    (What.STATUS, 7.0514, 'pre-switchover'), (What.STATUS, 7.1156, 'device'),
    (What.PASS, 7.1164, '10'), (What.STATUS, 7.3285, 'completed'),
    (What.DEVICE, 7.3365, 'stop'),
    (What.LIFECYCLE, 7.637, 'stopped/migrated'))


def events(rows=RECORDED):
    return [hypervisor.Event(what, at, detail) for what, at, detail in rows]


class TestTimeline(base.BaseTestCase):
    def test_phases_of_a_move(self):
        seen = [timeline.phase(event, SOURCE) for event in events()]
        self.assertEqual(
            ['pre-copy', 'switchover', 'load', 'run'],
            [phase for phase, _ in itertools.groupby(
                str(phase) for phase in seen if phase is not None)])

    def test_phases_at_the_destination(self):
        rows = ((What.DEVICE, 1, 'resuming'), (What.DEVICE, 2, 'running-p2p'),
                (What.DEVICE, 3, 'running'), (What.RESUME, 4, ''))
        self.assertEqual(
            [phases.Phase.PRECOPY, None, None, phases.Phase.RUN],
            [timeline.phase(event, DESTINATION) for event in events(rows)])

    def test_downtime_and_its_parts(self):
        whole, parts = timeline.downtime(timeline.marks(events()), 7.5442)
        self.assertAlmostEqual(0.5, whole)
        self.assertEqual(list(timeline.PARTS), list(parts))
        self.assertAlmostEqual(whole, sum(parts.values()))
        self.assertAlmostEqual(0.2129, parts['stop_copy'], places=4)

    def test_without_the_events_of_the_devices(self):
        rows = [row for row in RECORDED if row[0] is not What.DEVICE]
        whole, parts = timeline.downtime(
            timeline.marks(events(rows)), 7.5450)
        self.assertAlmostEqual(0.5, whole)
        self.assertEqual(list(timeline.PARTS[1:]), list(parts))
        self.assertAlmostEqual(whole, sum(parts.values()))

    def test_a_device_that_is_told_late(self):
        rows = [(what, at + (1 if what is What.DEVICE else 0), detail)
                for what, at, detail in RECORDED]
        whole, parts = timeline.downtime(
            timeline.marks(events(rows)), 7.5450)
        self.assertAlmostEqual(0.5, whole)
        self.assertEqual(0.0, parts['drain'])

    def test_nothing_is_made_up(self):
        self.assertEqual((None, {}), timeline.downtime(timeline.Marks(), 3.0))
        whole, parts = timeline.downtime(timeline.marks(events()), None)
        self.assertIsNone(whole)
        self.assertNotIn('handover', parts)

    def test_a_switchover_that_went_back_does_not_count(self):
        later = [(what, at + 100, detail) for what, at, detail in RECORDED]
        first = RECORDED[:9]
        both = events((*first, (What.RESUME, 8.0, ''), *later))
        self.assertEqual(107.0442, timeline.marks(both).still)
        self.assertIsNone(timeline.marks(events(
            (*first, (What.RESUME, 8.0, '')))).stopped)

    def test_a_device_without_pre_copy(self):
        rows = ((What.DEVICE, 1.0, 'running-p2p'), (What.DEVICE, 1.4, 'stop'),
                (What.STOP, 1.5, ''), (What.STATUS, 1.6, 'device'),
                (What.DEVICE, 1.7, 'stop-copy'),
                (What.STATUS, 2.0, 'completed'))
        whole, parts = timeline.downtime(timeline.marks(events(rows)), 2.2)
        self.assertAlmostEqual(1.2, whole)
        self.assertAlmostEqual(0.5, parts['drain'])
        # Nor does one that tells too late say that it took no time.
        whole, parts = timeline.downtime(
            timeline.marks(events(rows[2:])), 2.2)
        self.assertAlmostEqual(0.7, whole)
        self.assertNotIn('drain', parts)

    def test_a_pause_by_somebody_else(self):
        stopped = ((What.STATUS, 1, 'active'),
                   (What.DEVICE, 2, 'pre-copy-p2p'),
                   (What.DEVICE, 2, 'stop-copy'), (What.STOP, 2, ''),
                   (What.LIFECYCLE, 2, 'suspended/migrated'))
        late = 2 + timeline.PAUSE_SECONDS
        self.assertTrue(timeline.paused(events(stopped), late + 0.1))
        self.assertFalse(timeline.paused(events(stopped), late))
        self.assertFalse(timeline.paused(events(stopped[:1]), late + 9))
        for what, detail in ((What.STATUS, 'pre-switchover'),
                             (What.STATUS, 'cancelling'), (What.RESUME, '')):
            self.assertFalse(timeline.paused(events(
                (*stopped, (what, 2.1, detail))), late + 9))

    @given(strategies.permutations(RECORDED),
           strategies.floats(0, 20))
    def test_parts_never_exceed_the_whole(self, rows, resumed):
        whole, parts = timeline.downtime(
            timeline.marks(events(rows)), resumed)
        self.assertTrue(all(part >= 0 for part in parts.values()))
        if whole is not None and resumed > 7.3285:
            self.assertAlmostEqual(whole, sum(parts.values()))
