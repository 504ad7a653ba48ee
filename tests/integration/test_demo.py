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

"""The demo as a user runs it: its exit status, its record, what it leaves."""

import json
import pathlib
import re
import subprocess
import sys
import tempfile

import testtools
from testtools import content

from nova_vgpu_mig.migration import phases

ROOT = pathlib.Path(__file__).parents[2]
TIMEOUT = 300.0

BROKEN = '''
import sys
from nova_vgpu_mig.demo import __main__
from nova_vgpu_mig.demo import failure
from nova_vgpu_mig.migration import phases
failure.FAILURES[phases.Phase.COMMIT] = failure.Failure(
    phases.Role.SOURCE, phases.Phase.PREPARE, 'lose_interrupt', True, 'broken')
sys.exit(__main__.main())
'''
"""The demo on a GPU that loses interrupts; only its twin can tell."""


def environment():
    """Return what `tools/demo` sets."""
    script = (ROOT / 'tools' / 'demo').read_text()
    return dict(re.findall(r'^    ([A-Z_]+)=(\S+)', script, re.MULTILINE))


def processes_with(text):
    """Return the processes that have a text in their environment."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
        try:
            if text.encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            # It has ended, or is another user's.
            continue
    return found


class DemoCase(testtools.TestCase):

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory(prefix='d-')
        self.addCleanup(directory.cleanup)
        self.directory = pathlib.Path(directory.name)
        # Short, because of the Unix sockets in it.
        self.temporary = self.directory / 't'
        self.temporary.mkdir()
        self.json = self.directory / 'record.json'

    def start(self, *arguments, program=('-m', 'nova_vgpu_mig.demo')):
        """Run it to its end; nothing of it is left then."""
        done = subprocess.run(
            [sys.executable, *program, *arguments], cwd=ROOT,
            env={'PATH': '/usr/bin:/bin', 'HOME': str(self.directory),
                 'TMPDIR': str(self.temporary), **environment()},
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=TIMEOUT)
        self.addDetail('stdout', content.text_content(done.stdout))
        self.addDetail('stderr', content.text_content(done.stderr))
        self.assertEqual([], processes_with(str(self.temporary)))
        self.assertEqual([], list(self.temporary.iterdir()))
        return done

    def report(self, status, *arguments, **kwargs):
        # A busy machine is no failure: the limit is given again where it is
        # what the test is about, and the last one counts.
        done = self.start('--frame-buffer', '16', '--json', str(self.json),
                          '--limit-ms', '60000', *arguments, **kwargs)
        self.assertEqual(status, done.returncode)
        report = json.loads(self.json.read_text())
        self.assertEqual(status == 0, report['held'])
        self.assertEqual(status == 0, all(
            check['held'] for check in report['checks']))
        return report

    def assert_equal_to_twin(self, report):
        self.assertTrue(report['comparisons'])
        for title, rows in report['comparisons'].items():
            self.assertTrue(rows, title)
            for row in rows:
                self.assertTrue(row['equal'], f'{title}: {row}')
                self.assertEqual(row['moved'], row['stayed'], title)

    def assert_moved(self, report):
        self.assertEqual('completed', report['migration']['status'])
        self.assertEqual('compute2', report['migration']['dest_compute'])
        self.assertEqual('completed', report['record']['outcome'])
        self.assert_equal_to_twin(report)

    def assert_stayed(self, report, status):
        self.assertEqual(status, report['migration']['status'])
        self.assertIn('compute1', [
            check['seen'] for check in report['checks']
            if check['promise'] == 'it runs on compute1'])
        self.assert_equal_to_twin(report)


class SuccessTest(DemoCase):

    def test_default(self):
        report = self.report(0)
        self.assert_moved(report)
        record = report['record']
        self.assertEqual('render', report['options']['workload'])
        self.assertEqual(
            list(range(1, len(record['rounds']) + 1)),
            [each['number'] for each in record['rounds']])
        # The first round is all of the frame buffer, whatever is in it.
        self.assertEqual(16 << 20,
                         record['rounds'][0]['frame_buffer_bytes'])
        self.assertEqual(
            [False] * (len(record['rounds']) - 1) + [True],
            [each['stop_copy'] for each in record['rounds']])
        self.assertAlmostEqual(record['downtime_seconds'],
                               sum(record['downtime_parts'].values()),
                               places=4)
        self.assertTrue(report['plan']['fits'])
        self.assertEqual(
            {'compute2': True, 'compute3': False},
            {each['host']: each['compatible']
             for each in report['verdicts']})
        self.assertEqual(2, len(report['comparisons']))

    def test_idle(self):
        # Filling so much takes longer than it takes to ask for the move.
        report = self.report(0, '--workload', 'idle',
                             '--frame-buffer', '512')
        self.assert_moved(report)
        slices = {row['of']: row for row in report['slices']}
        self.assertFalse(slices['twin']['has_work'])
        # Its set-up is over, or "before" would be that of the set-up.
        self.assertEqual(0, slices['twin']['before'])
        self.assertTrue(slices['neighbour']['has_work'])

    def test_compute(self):
        self.assert_moved(self.report(0, '--workload', 'compute'))

    def test_video(self):
        self.assert_moved(self.report(0, '--workload', 'video'))


class StayTest(DemoCase):

    def test_only_incompatible(self):
        report = self.report(0, '--only-incompatible')
        self.assert_stayed(report, 'error')
        self.assertIsNone(report['record'])
        self.assertIn('compute2: firmware', ' '.join(report['refusals']))

    def test_abort(self):
        report = self.report(0, '--abort')
        self.assert_stayed(report, 'cancelled')
        self.assertEqual('aborted', report['record']['outcome'])

    def fails(self, phase):
        report = self.report(0, '--fail', str(phase))
        self.assert_stayed(report, 'failed')
        self.assertEqual('failed', report['record']['outcome'])

    def test_fail_prepare(self):
        report = self.report(0, '--fail', str(phases.Phase.PREPARE))
        self.assert_stayed(report, 'failed')
        self.assertIn('vanish', ' '.join(report['refusals']))

    def test_fail_precopy(self):
        self.fails(phases.Phase.PRECOPY)

    def test_fail_switchover(self):
        self.fails(phases.Phase.SWITCHOVER)

    def test_fail_load(self):
        self.fails(phases.Phase.LOAD)

    def test_fail_commit_goes_forward(self):
        self.assert_moved(self.report(0, '--fail',
                                      str(phases.Phase.COMMIT)))


class BrokenPromiseTest(DemoCase):

    def test_limit_that_can_not_be_kept(self):
        report = self.report(1, '--limit-ms', '1')
        self.assertNotEqual('completed', report['migration']['status'])

    def test_gpu_that_loses_interrupts(self):
        report = self.report(1, '--fail', str(phases.Phase.COMMIT),
                             program=('-c', BROKEN))
        self.assertEqual('completed', report['migration']['status'])
        self.assertIn(False, [
            row['equal'] for rows in report['comparisons'].values()
            for row in rows])


class OptionsTest(DemoCase):

    def refused(self, words, *arguments):
        done = self.start(*arguments)
        self.assertEqual(2, done.returncode)
        self.assertEqual('', done.stdout)
        self.assertIn(words, done.stderr)
        self.assertNotIn('Traceback', done.stderr)

    def test_size(self):
        self.refused('3 MiB: must be an even number from 16',
                     '--frame-buffer', '3')

    def test_limit(self):
        self.refused('-3: must be more than 0', '--limit-ms', '-3')

    def test_no_number(self):
        self.refused("'x': must be a whole number", '--seed', 'x')

    def test_workload(self):
        self.refused('invalid choice', '--workload', 'mining')

    def test_two_endings(self):
        self.refused('not allowed with', '--abort', '--only-incompatible')

    def test_file_in_no_directory(self):
        self.refused('is not a directory', '--json',
                     str(self.directory / 'none' / 'record.json'))
