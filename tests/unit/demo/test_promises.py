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

"""What is enough for a promise, and what a broken one says."""

import unittest

from nova_vgpu_mig.demo import promises

ENOUGH = promises.ENOUGH_SLICES


def row(of: str = 'twin', has_work: bool = True, during: float = 60.0,
        expected: float = 100.0) -> dict[str, object]:
    return {'vf': f'VF of {of}', 'of': of, 'host': 'compute1',
            'has_work': has_work, 'before': 97.0, 'during': during,
            'after': 60.0, 'expected_during': expected}


class TestServed(unittest.TestCase):

    def test_an_idle_one_needs_nothing(self) -> None:
        check = promises.served([
            row('idler', has_work=False, during=0.0), row(during=58.0)])
        assert check is not None
        self.assertTrue(check.held)
        self.assertEqual('at least 58 slices a second', check.seen)

    def test_a_starved_one_is_named(self) -> None:
        check = promises.served([row('busy'), row('starved', during=0.0)])
        assert check is not None
        self.assertFalse(check.held)
        self.assertEqual('no slice for VF of starved (starved on compute1)',
                         check.seen)

    def test_too_short_a_move_tells_nothing(self) -> None:
        self.assertIsNone(promises.served([
            row(during=0.0, expected=ENOUGH / 2),
            row(has_work=False, during=0.0)]))
        self.assertIsNone(promises.served([]))

    def test_just_enough_tells_something(self) -> None:
        check = promises.served([row(during=0.0, expected=ENOUGH)])
        assert check is not None
        self.assertFalse(check.held)
