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
import math

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import downtime

MIB = 1 << 20
COSTS = downtime.FixedCosts(vcpus=0.001, drain=0.02, state=0.002,
                            verify=0.002, commit=0.003, run=0.002)
NO_COSTS = downtime.FixedCosts(0, 0, 0, 0, 0, 0)

DIRTY = strategies.lists(strategies.integers(0, 1 << 40), min_size=1,
                         max_size=12)
BANDWIDTHS = strategies.floats(0, 1e11)
LIMITS = strategies.floats(0, 10)


def observe(dirty):
    return [convergence.Observation(MIB, 0.1, number) for number in dirty]


def decide(dirty, limit=0.3, bandwidth=1e9, costs=COSTS, **kwargs):
    return convergence.decide(observe(dirty), limit_seconds=limit,
                              bandwidth=bandwidth, costs=costs, **kwargs)


class TestDecide(base.BaseTestCase):
    def test_switches_over_within_the_limit(self):
        decision = decide([512 * MIB, 100 * MIB])
        self.assertIs(convergence.Action.SWITCHOVER, decision.action)
        self.assertAlmostEqual(100 * MIB / 1e9 + COSTS.total,
                               decision.predicted_downtime_seconds)

    def test_goes_on_while_it_shrinks(self):
        dirty = [int(2000 * MIB * 0.9 ** n) for n in range(6)]
        for last in range(1, 7):
            self.assertIs(convergence.Action.CONTINUE,
                          decide(dirty[:last]).action)

    def test_slow_progress_is_progress(self):
        dirty = [int(2000 * MIB * 0.98 ** n) for n in range(10)]
        self.assertIs(convergence.Action.CONTINUE, decide(dirty).action)

    def test_stalled_says_what_would_have_been_needed(self):
        dirty = [900 * MIB, 702 * MIB, 700 * MIB, 720 * MIB]
        self.assertIs(convergence.Action.CONTINUE, decide(dirty).action)
        decision = decide([*dirty, 710 * MIB])
        self.assertIs(convergence.Action.ABORT, decision.action)
        self.assertIn('would need a limit of 765 ms or 2,600 MiB/s '
                      'instead of 954 MiB/s', decision.reason)
        self.assertLess(len(decision.reason), 200)

    def test_one_bad_round_is_not_a_stall(self):
        self.assertIs(convergence.Action.CONTINUE,
                      decide([900 * MIB, 800 * MIB, 1500 * MIB,
                              700 * MIB]).action)

    def test_fixed_costs_above_the_limit_abort_at_once(self):
        decision = decide([512 * MIB], limit=0.02)
        self.assertIs(convergence.Action.ABORT, decision.action)
        self.assertIn('idle VM', decision.reason)
        self.assertIsNone(decision.needed_bandwidth)

    def test_no_bandwidth(self):
        decision = decide([MIB] * 4, bandwidth=0)
        self.assertIs(convergence.Action.ABORT, decision.action)
        self.assertEqual(math.inf, decision.predicted_downtime_seconds)
        self.assertIsNone(decision.needed_limit_seconds)
        decision = decide([MIB] * 4, bandwidth=0, limit=0.001)
        self.assertIn('a connection that moves', decision.reason)

    def test_numbers_beyond_all_measure(self):
        for bandwidth in (5e-324, 1e-300, 1e-9):
            decision = decide([1 << 40], bandwidth=bandwidth, max_rounds=1)
            self.assertIs(convergence.Action.ABORT, decision.action)
            self.assertIsNone(decision.needed_limit_seconds)
        limit = math.nextafter(COSTS.total, 1)
        decision = decide([1 << 40], limit=limit, max_rounds=1)
        self.assertIsNone(decision.needed_bandwidth)

    def test_advice_is_above_a_whole_number_of_milliseconds(self):
        decision = decide([27236], limit=0.0, bandwidth=1000.0)
        self.assertGreater(decision.needed_limit_seconds,
                           decision.predicted_downtime_seconds)

    def test_bad_numbers(self):
        self.assertRaises(ValueError, decide, [])
        for kwargs in ({'limit': math.nan}, {'bandwidth': -1.0},
                       {'bandwidth': math.inf}):
            self.assertRaises(ValueError, decide, [MIB], **kwargs)

    @hypothesis.given(DIRTY, BANDWIDTHS, LIMITS)
    def test_never_switches_over_above_the_limit(self, dirty, bandwidth,
                                                 limit):
        decision = decide(dirty, limit, bandwidth)
        predicted = downtime.seconds(dirty[-1], bandwidth, COSTS)
        self.assertEqual(
            decision.action is convergence.Action.SWITCHOVER,
            predicted <= limit)
        self.assertEqual(predicted, decision.predicted_downtime_seconds)

    def test_the_limit_itself_is_within_the_limit(self):
        limit = downtime.seconds(MIB, 1e9, COSTS)
        self.assertIs(convergence.Action.SWITCHOVER,
                      decide([MIB], limit).action)
        self.assertIsNot(convergence.Action.SWITCHOVER,
                         decide([MIB], math.nextafter(limit, 0)).action)

    @hypothesis.given(DIRTY, strategies.floats(1, 1e11),
                      strategies.floats(1, 100), LIMITS)
    def test_more_bandwidth_never_makes_it_worse(self, dirty, bandwidth,
                                                 factor, limit):
        rank = {convergence.Action.ABORT: 0, convergence.Action.CONTINUE: 1,
                convergence.Action.SWITCHOVER: 2}
        slow = decide(dirty, limit, bandwidth)
        fast = decide(dirty, limit, bandwidth * factor)
        self.assertGreaterEqual(rank[fast.action], rank[slow.action])

    @hypothesis.given(
        strategies.lists(strategies.integers(0, 1 << 40), min_size=1,
                         max_size=8),
        strategies.integers(1, 40), strategies.floats(1, 1e10), LIMITS)
    def test_any_sequence_ends(self, cycle, max_rounds, bandwidth, limit):
        dirty = []
        for number in itertools.cycle(cycle):
            dirty.append(number)
            decision = decide(dirty, limit, bandwidth,
                              max_rounds=max_rounds)
            if decision.action is not convergence.Action.CONTINUE:
                break
            self.assertLess(len(dirty), max_rounds)

    @hypothesis.given(DIRTY, strategies.floats(1e3, 1e11),
                      strategies.floats(0, 10))
    def test_following_the_advice_suffices(self, dirty, bandwidth, limit):
        decision = decide(dirty, limit, bandwidth, max_rounds=1)
        if decision.action is not convergence.Action.ABORT:
            return
        best = [min(dirty[-convergence.STALL_ROUNDS:])]
        if decision.needed_limit_seconds is not None:
            advised = decide(best, decision.needed_limit_seconds, bandwidth)
            self.assertIs(convergence.Action.SWITCHOVER, advised.action)
        if decision.needed_bandwidth is not None:
            # Sums of floats may be off by their last digit.
            advised = decide(best, limit + 1e-9, decision.needed_bandwidth)
            self.assertIs(convergence.Action.SWITCHOVER, advised.action)

    @hypothesis.given(strategies.floats(0, 1e12))
    def test_rates_are_readable(self, bandwidth):
        decision = decide([1 << 40], limit=0.1,
                          bandwidth=bandwidth, max_rounds=1)
        self.assertNotIn('e+', decision.reason)

