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


import io
import json
import os
import pathlib
import tempfile
import time
import unittest

from rich import console as console_

from benchmarks import downtime
from benchmarks import pairs
from benchmarks import processes
from benchmarks import report

RESULTS = [
    pairs.Result('fast enough', 0.9, 0.86, 1.0, 0.85, pairs.Aim.AT_LEAST),
    pairs.Result('too slow', 0.4, 0.2, 0.5, 0.3, pairs.Aim.AT_MOST),
    pairs.Result('only told', 0.7, 0.6, 0.8, None, None)]


class TestReport(unittest.TestCase):

    def test_json_is_the_promised_list(self):
        with tempfile.TemporaryDirectory() as directory:
            path = pathlib.Path(directory, 'out.json')
            report.write(path, RESULTS)
            found = json.loads(path.read_text())
        self.assertEqual(
            {'name': 'fast enough', 'ratio': 0.9, 'low': 0.86, 'high': 1.0,
             'bound': 0.85, 'met': True}, found[0])
        self.assertEqual([True, False, None], [r['met'] for r in found])

    def test_a_missed_aim_is_shown_as_missed(self):
        output = io.StringIO()
        report.show(console_.Console(file=output, width=120),
                    report.Section(tables=[report.summary(RESULTS)]))
        lines = {line.split('│')[1].strip(): line
                 for line in output.getvalue().splitlines() if '│' in line}
        self.assertIn(' met ', lines['fast enough'])
        self.assertIn(' missed ', lines['too slow'])
        self.assertNotIn('m', lines['only told'].split('│')[-2])

    def test_bars(self):
        self.assertEqual(2 * len(report.bar(1, 2)), len(report.bar(2, 2)))
        self.assertEqual(1, len(report.bar(0, 2)))


class TestPace(unittest.TestCase):

    def test_never_more_bytes_than_the_default_set(self):
        most = downtime.WORKING_SET_MIB * downtime.FRAMES_PER_SECOND
        for size in downtime.WORKING_SETS_MIB:
            self.assertLessEqual(size * downtime.pace(size), most)


class TestProcesses(unittest.TestCase):

    def test_memory_that_is_held_for_a_while_is_seen(self):
        before = processes.rss_anon(os.getpid())
        with processes.Peaks({'me': os.getpid()}) as peaks:
            held = bytearray(os.urandom(1 << 20)) * 64
            end = time.monotonic() + 30
            while (peaks.bytes['me'] < before + (48 << 20)
                   and time.monotonic() < end):
                time.sleep(0.001)
            del held
        self.assertGreaterEqual(peaks.bytes['me'], before + (48 << 20))
        self.assertGreater(processes.cpu_seconds(os.getpid()), 0)
