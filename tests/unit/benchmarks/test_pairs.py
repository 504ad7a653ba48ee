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
import unittest

from hypothesis import given
from hypothesis import strategies as st

from benchmarks import pairs


class TestMedianInterval(unittest.TestCase):

    def test_nine_pairs_leave_one_out_at_each_end(self):
        # 1 - 2 * (C(9,0) + C(9,1)) / 2**9 = 0.961
        self.assertEqual((2, 8), pairs.median_interval(range(1, 10)))

    def test_too_few(self):
        with self.assertRaisesRegex(ValueError, '5 ratios'):
            pairs.median_interval([1.0] * 5)

    @given(st.lists(st.floats(0.01, 100), min_size=6, max_size=40))
    def test_holds_the_median_and_covers(self, ratios):
        low, high = pairs.median_interval(ratios)
        ordered = sorted(ratios)
        self.assertLessEqual(low, ordered[len(ordered) // 2])
        self.assertGreaterEqual(high, ordered[(len(ordered) - 1) // 2])
        left_out = sum(r < low for r in ratios)
        outside = 2 * sum(math.comb(len(ratios), i)
                          for i in range(left_out)) / 2 ** len(ratios)
        self.assertLessEqual(outside, 0.05)


class TestResult(unittest.TestCase):

    def test_met_only_with_the_whole_interval(self):
        def result(low, high, aim):
            return pairs.Result('x', 1.0, low, high, 0.85, aim).met
        self.assertTrue(result(0.86, 0.99, pairs.Aim.AT_LEAST))
        self.assertFalse(result(0.84, 0.99, pairs.Aim.AT_LEAST))
        self.assertTrue(result(0.1, 0.85, pairs.Aim.AT_MOST))
        self.assertFalse(result(0.1, 0.86, pairs.Aim.AT_MOST))

    def test_pairs_are_interleaved(self):
        calls = []

        def measure(name, value):
            def run():
                calls.append(name)
                return value
            return run
        values = pairs.interleave(
            {'a': measure('a', 2.0), 'b': measure('b', 4.0)})
        self.assertEqual(['a', 'b'] * 10, calls)
        self.assertEqual({'a': [2.0] * 9, 'b': [4.0] * 9}, values)
        result = pairs.compare('x', values['a'], values['b'])
        self.assertEqual((0.5, 0.5, 0.5),
                         (result.ratio, result.low, result.high))
        self.assertIsNone(result.met)

    def test_a_pair_that_lacks_one(self):
        with self.assertRaises(ValueError):
            pairs.compare('x', [1.0] * 9, [1.0] * 8)
