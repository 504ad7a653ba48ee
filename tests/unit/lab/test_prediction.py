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

import csv
import pathlib
import tempfile
from typing import Any
import unittest
from unittest import mock

from tests.lab import prediction

RECORD = {
    'outcome': 'completed', 'rounds': [{'stop_copy': False},
                                       {'stop_copy': True}],
    'predicted_stop_copy_bytes': 4 << 20, 'stop_copy_bytes': 2 << 20,
    'predicted_downtime_seconds': 1.0, 'downtime_seconds': 1.5,
    'downtime_error_seconds': 0.02,
    'downtime_parts': {'pre_switchover': 0.1, 'stop_copy': 1.2,
                       'handover': 0.2}}


class TestTable(unittest.TestCase):

    def test_a_seed_has_one_workload(self) -> None:
        self.assertEqual(prediction.workload(7), prediction.workload(7))
        self.assertLess(1, len({prediction.workload(n) for n in range(15)}))

    def test_a_move(self) -> None:
        made = prediction.row(1, True, RECORD, 'completed')
        self.assertEqual(list(prediction.COLUMNS), list(made))
        self.assertEqual(
            ['completed', 1, '4.0', '2.0', '1000.0', '1500.0', '20.0',
             '', '100.0', '1200.0', '200.0'],
            list(made.values())[4:])

    def test_one_without_a_record(self) -> None:
        made = prediction.row(1, False, None, 'failed')
        self.assertEqual(['no', 'failed', ''], [
            made['steered'], made['outcome'], made['measured downtime ms']])

    def test_one_before_each_way_is_not_in_it(self) -> None:
        made: list[tuple[int, bool, bool]] = []

        def one(seed: int, steered: bool,
                first: bool = False) -> dict[str, Any]:
            made.append((seed, steered, first))
            return prediction.row(seed, steered, RECORD, 'completed')

        with tempfile.TemporaryDirectory(prefix='prediction') as folder:
            path = pathlib.Path(folder) / 'table.csv'
            with mock.patch.object(prediction, '_one', one):
                prediction.measure(4, 7, path)
            with path.open(newline='') as file:
                table = list(csv.DictReader(file))
        self.assertEqual(
            [(6, True, True), (7, True, False), (8, True, False),
             (6, False, True), (7, False, False), (8, False, False)], made)
        self.assertEqual(
            [('7', 'yes'), ('8', 'yes'), ('7', 'no'), ('8', 'no')],
            [(row['seed'], row['steered']) for row in table])

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
