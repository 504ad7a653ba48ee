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

import math

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.migration import record
from nova_vgpu_mig.planning import downtime

BYTES = strategies.integers(0, 1 << 40)
RATES = strategies.floats(1, 1e12)


class TestDowntime(base.BaseTestCase):
    def test_parts_are_the_record_s(self):
        parts = downtime.parts(1, 1, downtime.FixedCosts())
        self.assertEqual(record.DOWNTIME_PARTS, tuple(parts))

    @hypothesis.given(BYTES, BYTES, RATES, RATES)
    def test_monotonic(self, dirty, more, bandwidth, faster):
        costs = downtime.FixedCosts()
        base_time = downtime.seconds(dirty, bandwidth, costs)
        self.assertGreaterEqual(
            downtime.seconds(dirty + more, bandwidth, costs), base_time)
        self.assertLessEqual(
            downtime.seconds(dirty, bandwidth + faster, costs), base_time)
        self.assertGreaterEqual(base_time, costs.total)

    def test_no_bandwidth(self):
        costs = downtime.FixedCosts()
        self.assertEqual(math.inf, downtime.seconds(1, 0, costs))
        self.assertEqual(costs.total, downtime.seconds(0, 0, costs))

    def test_measured_costs_replace_the_defaults(self):
        costs = downtime.FixedCosts.from_parts(
            {'drain': 0.5, 'dirty_units': 9.0, 'first_fence': 3.0})
        self.assertEqual(0.5, costs.drain)
        self.assertEqual(downtime.FixedCosts().run, costs.run)

    def test_numbers_that_are_none(self):
        for bad in (-1, math.nan, math.inf):
            self.assertRaises(ValueError, downtime.FixedCosts, drain=bad)
            self.assertRaises(ValueError, downtime.seconds, bad, 1,
                              downtime.FixedCosts())
            self.assertRaises(ValueError, downtime.seconds, 1, bad,
                              downtime.FixedCosts())
