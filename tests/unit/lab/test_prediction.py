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

"""The table of the lab's moves, of values."""

import unittest

from tests.lab import prediction

RECORD = {
    'outcome': 'completed', 'rounds': [{'stop_copy': False},
                                       {'stop_copy': True}],
    'predicted_stop_copy_bytes': 4 << 20, 'stop_copy_bytes': 2 << 20,
    'predicted_downtime_seconds': 1.0, 'downtime_seconds': 1.5,
    'downtime_error_seconds': 0.02}


class TestTable(unittest.TestCase):

    def test_a_seed_has_one_workload(self) -> None:
        self.assertEqual(prediction.workload(7), prediction.workload(7))
        self.assertLess(1, len({prediction.workload(n) for n in range(15)}))

    def test_a_move(self) -> None:
        made = prediction.row(1, True, RECORD, 'completed')
        self.assertEqual(list(prediction.COLUMNS), list(made))
        self.assertEqual(
            ['completed', 1, '4.0', '2.0', '1000.0', '1500.0', '20.0'],
            list(made.values())[4:])

    def test_one_without_a_record(self) -> None:
        made = prediction.row(1, False, None, 'failed')
        self.assertEqual(['no', 'failed', ''], [
            made['steered'], made['outcome'], made['measured downtime ms']])

    def test_what_they_come_to(self) -> None:
        rows = [prediction.row(1, True, RECORD, 'completed'),
                prediction.row(2, True, {
                    **RECORD, 'downtime_seconds': 4.0}, 'completed'),
                prediction.row(3, True, None, 'failed'),
                prediction.row(1, False, None, 'failed')]
        self.assertEqual([
            'steered: 2 of 3 completed, 1 of these above the limit, '
            'stop-copy measured/predicted 0.50 (0.50-0.50), '
            'downtime measured/predicted 2.75 (1.50-4.00)',
            'not steered: 0 of 1 completed, 0 of these above the limit'],
            prediction.summary(rows))
