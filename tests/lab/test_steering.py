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

"""The agents' part of a move that QEMU carries: judge, steer, measure."""

import re
from typing import Any

from lab import node as node_
from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration import phases
from tests.lab import base
from tests.lab import gpu as gpu_
from tests.lab import guest as guest_
from tests.lab import options


class SteeringTestCase(base.LabTestCase):

    def _pair(self) -> tuple[gpu_.GPU, gpu_.GPU]:
        return (gpu_.GPU(self.one, self.mdev(self.one, gpu_.KIND)),
                gpu_.GPU(self.two, self.mdev(self.two, gpu_.KIND)))

    def _move(self, guest: guest_.Guest, to: node_.Node, there: gpu_.GPU,
              **more: Any) -> dict[str, Any]:
        return self.begin_watched(guest, to, there.mdev, **more).result()

    def test_a_move_is_watched_steered_and_measured(self) -> None:
        here, there = self._pair()
        guest = guest_.Guest(self.one, here.mdev)
        here.work()
        result = self._move(guest, self.two, there)
        self.assertEqual('completed', result['outcome'], result)
        record = result['source_record']
        self.assertEqual('hypervisor', record['carrier'])
        self.assertEqual([], record['notes'])
        self.assertEqual(list(timeline.PARTS),
                         list(record['downtime_parts']))
        self.assertAlmostEqual(record['downtime_seconds'],
                               sum(record['downtime_parts'].values()),
                               delta=2 * record['downtime_error_seconds'])
        for phase in ('prepare', 'pre-copy', 'switchover', 'load', 'run',
                      'completed'):
            self.assertIn(phase, record['phase_times'])
        self.assertGreater(record['stop_copy_bytes'], 0)
        self.assertGreater(record['predicted_stop_copy_bytes'], 0)
        self.assertTrue(any(event['detail'] == 'stop-copy'
                            for event in record['timeline']))
        self.assert_nothing_open(record['migration_uuid'], free=[here])
        there.await_work(here.done())
        digest, expected = there.digests()
        self.assertEqual(expected, digest)

    def test_another_firmware_is_refused_before_the_move(self) -> None:
        here, there = self._pair()
        there.set('identity/firmware', '2.0')
        guest = guest_.Guest(self.one, here.mdev)
        here.work()
        result = self._move(guest, self.two, there)
        self.assertEqual('refused', result['outcome'], result)
        self.assertIn('firmware', result['error'])
        self.assertIn('2.0', result['error'])
        self.assert_only_at(guest, self.one)
        # Nova let it pass: then its agent refuses. That the device does is
        # in test_device.
        result = self._move(guest, self.two, there, judge=False)
        self.assertEqual('refused', result['outcome'], result)
        self.assertIn('firmware', result['error'])
        self.assert_only_at(guest, self.one)
        here.await_work(here.done())

    def test_given_up_early_then_moved_with_what_it_needs(self) -> None:
        here, there = self._pair()
        guest = guest_.Guest(self.one, here.mdev)
        # All of it is dirty at each look.
        here.work(gpu_.FRAME_BUFFER, 4 * gpu_.FRAME_BUFFER)
        result = self._move(guest, self.two, there, limit_ms=400)
        self.assertEqual('failed', result['outcome'], result)
        record = result['source_record']
        self.assertEqual(phases.Outcome.FAILED, record['outcome'])
        needed = re.search(r'would need a limit of (\d+) ms',
                           record['reason'])
        assert needed is not None, record['reason']
        self.assertGreater(int(needed[1]), 400)
        self.assert_only_at(guest, self.one)
        self.assert_nothing_open(record['migration_uuid'], free=[there])
        here.await_work(here.done())
        # Far above it: what the way carries is never twice the same here.
        there = gpu_.GPU(self.two, self.mdev(self.two, gpu_.KIND))
        self.assertLess(int(needed[1]), base.PATIENT_MS)
        result = self._move(guest, self.two, there)
        self.assertEqual('completed', result['outcome'], result)
        there.await_work(here.done())

    def test_parallel_connections_and_a_bandwidth_that_is_told(self) -> None:
        self.addCleanup(options.change, self.one)
        options.change(self.one, parallel_connections=2,
                       switchover_bandwidth_mib=5)
        here, there = self._pair()
        guest = guest_.Guest(self.one, here.mdev)
        here.work()
        result = self._move(guest, self.two, there)
        self.assertEqual('completed', result['outcome'], result)
        self.assertEqual(2, result['source_record']['job'][
            'parallel_connections'])
        there.await_work(here.done())
        digest, expected = there.digests()
        self.assertEqual(expected, digest)
