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

import json
import math

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import downtime
from nova_vgpu_mig.planning import estimate

MIB = 1 << 20
COSTS = downtime.FixedCosts(vcpus=0.001, drain=0.02, state=0.002,
                            verify=0.002, commit=0.003, run=0.002)

WORKLOADS = strategies.builds(
    estimate.Workload, used_bytes=strategies.integers(0, 1 << 38),
    dirty_bytes_per_second=strategies.floats(0, 1e11),
    working_set_bytes=strategies.none() | strategies.integers(0, 1 << 38))
BANDWIDTHS = strategies.floats(1e6, 1e11)
LIMITS = strategies.floats(0.001, 10)


def plan(workload, bandwidth=1e9, limit=0.3):
    return estimate.plan(workload, bandwidth=bandwidth, limit_seconds=limit,
                         costs=COSTS)


class TestPlan(base.BaseTestCase):
    def test_idle(self):
        found = plan(estimate.Workload(512 * MIB, 0.0))
        self.assertTrue(found.converges)
        self.assertEqual((1, 512 * MIB, 0), (
            found.rounds, found.precopy_bytes, found.stop_copy_bytes))
        self.assertAlmostEqual(COSTS.total, found.downtime_seconds)

    def test_busy_converges_over_rounds(self):
        found = plan(estimate.Workload(1024 * MIB, 5e8))
        self.assertTrue(found.converges)
        self.assertGreater(found.rounds, 1)
        self.assertLessEqual(found.downtime_seconds, 0.3)
        self.assertAlmostEqual(found.downtime_seconds,
                               math.fsum(found.downtime_parts.values()))

    def test_working_set_bounds_the_downtime(self):
        found = plan(estimate.Workload(1024 * MIB, 9e9, 128 * MIB))
        self.assertTrue(found.converges)
        self.assertEqual(128 * MIB, found.stop_copy_bytes)

    def test_too_busy_is_planned_as_an_abort(self):
        found = plan(estimate.Workload(1024 * MIB, 9e9))
        self.assertFalse(found.converges)
        self.assertIn('would need a limit of 1104 ms', found.reason)
        self.assertEqual(convergence.STALL_ROUNDS + 1, found.rounds)

    def test_unknown_rate_has_only_the_worst_case(self):
        found = plan(estimate.Workload(1024 * MIB))
        self.assertIsNone(found.downtime_seconds)
        self.assertIsNone(found.converges)
        self.assertAlmostEqual(1.073741824 + COSTS.total,
                               found.worst_downtime_seconds)
        self.assertIn('not known', found.reason)
        self.assertTrue(plan(estimate.Workload(64 * MIB)).converges)

    def test_the_move_s_bound_on_rounds_is_the_plan_s(self):
        found = estimate.plan(
            estimate.Workload(1024 * MIB, 5e8), bandwidth=1e9,
            limit_seconds=0.04, costs=COSTS, max_rounds=2)
        self.assertEqual((2, False), (found.rounds, found.converges))
        self.assertIn('not converged in 2 rounds', found.reason)

    def test_bad_numbers(self):
        for workload in (estimate.Workload(-1), estimate.Workload(1, -1.0),
                         estimate.Workload(1, math.nan),
                         estimate.Workload(1, 1.0, -1)):
            self.assertRaises(ValueError, plan, workload)
        self.assertRaises(ValueError, plan, estimate.Workload(1),
                          bandwidth=0)

    @hypothesis.given(WORKLOADS, BANDWIDTHS, LIMITS)
    def test_any_plan_adds_up(self, workload, bandwidth, limit):
        found = plan(workload, bandwidth, limit)
        json.dumps(found.as_dict(), allow_nan=False)
        self.assertEqual(found.precopy_bytes + found.stop_copy_bytes,
                         found.total_bytes)
        self.assertLessEqual(found.rounds, convergence.MAX_ROUNDS)
        self.assertLessEqual(found.downtime_seconds,
                             found.worst_downtime_seconds + 1e-6)
        self.assertEqual(found.converges, found.downtime_seconds <= limit)

    @hypothesis.given(WORKLOADS, BANDWIDTHS, LIMITS,
                      strategies.floats(1, 50))
    def test_a_faster_network_never_loses_convergence(
            self, workload, bandwidth, limit, factor):
        if plan(workload, bandwidth, limit).converges:
            self.assertTrue(
                plan(workload, bandwidth * factor, limit).converges)
