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

"""What is left after an interrupt: the lab's own main() gets a signal."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import unittest

from lab import places
from lab import wait
from tests.unit import mounts

SECONDS = 20

_BUILD = """
import sys
from lab import __main__ as main, cache, cluster, host, jail

def build(being):
    (being / 'half').write_text('of it')
    jail.run('part', cache.log('part'), ['sh', '-ec', '''
        mkdir "$0/mounted"
        mount -t tmpfs lab "$0/mounted"
        trap '' INT TERM HUP
        setsid sleep 1000 &
        echo it is mounted >>"$LOG"
        sleep 1000
        ''', being])

host.prepare = lambda: None
cluster.up = lambda: cache.entry('part', 'key', build)
sys.argv = ['lab', 'up']
sys.exit(main.main())
"""

_APT_GET = """#!/bin/sh
echo "apt-get $* is at work"
case $* in *"{which}")
    {does}
esac
echo "apt-get $* is done"
"""
_HANG = """
    trap '' INT TERM HUP
    sleep 1000
"""
_WAIT_FOR_A_FILE = """
    tries=0
    until [ -e "$LOG" ]; do
        tries=$((tries + 1))
        [ $tries -lt 200 ] || exit 1
        sleep 0.1
    done
"""
_INSTALL = """
import sys
from lab import __main__ as main, cluster, host, places
host.require_root = lambda: None
host.prepare = lambda: host.install(['thing'], places.logs() / 'apt.log')
sys.argv = ['lab', 'up']
sys.exit(main.main())
"""

_TESTS = """
import subprocess, unittest

class ATestCase(unittest.TestCase):
    def test_it(self):
        child = subprocess.Popen(['sh', '-c', '''
            trap "" INT TERM HUP
            echo a test is at work >>"$LOG"
            sleep 1000
            '''])
        child.wait()
"""
_TEST = """
import sys
from lab import __main__ as main, cluster, host, state
host.require_root = lambda: None
state.running = lambda: None
cluster.update = lambda state: None
main._ENDING_SECONDS = 2
sys.argv = ['lab', 'test', 'its_tests']
sys.exit(main.main())
"""


class InterruptTestCase(unittest.TestCase):

    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.top = pathlib.Path(made.name)
        self.cache = self.top / 'cache'
        self.log = self.top / 'log'
        self.apt_log = self.cache / 'log' / 'apt.log'
        self.said = self.top / 'said'

    def _begin(self, script: str, log: pathlib.Path,
               line: str) -> subprocess.Popen[bytes]:
        """Start it, and return when the log has this line."""
        with self.said.open('wb') as said:
            process = subprocess.Popen(
                [sys.executable, '-c', script], cwd=places.CHECKOUT,
                stdout=subprocess.DEVNULL, stderr=said,
                start_new_session=True, env={
                    **os.environ, places.VARIABLE: str(self.cache),
                    'LOG': str(self.log),
                    'PATH': f'{self.top}:{os.environ["PATH"]}',
                    'PYTHONPATH': f'{places.CHECKOUT}:{self.top}'})
        self.addCleanup(self._end, process)
        wait.for_line(line, line, log, SECONDS,
                      lambda: process.poll() is None)
        return process

    def _end(self, process: subprocess.Popen[bytes]) -> None:
        process.kill()
        process.wait()
        # A test that has failed leaves nothing either.
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _processes(self) -> list[int]:
        """Those that have our directory in their environment."""
        mark = f'{places.VARIABLE}={self.cache}'.encode()
        found = []
        for path in pathlib.Path('/proc').glob('[0-9]*/environ'):
            try:
                if mark in path.read_bytes().split(b'\0'):
                    found.append(int(path.parent.name))
            except OSError:
                continue
        return found

    def _interrupt(self, process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)
        self._assert_ends_as_interrupted(process)

    def _assert_ends_as_interrupted(
            self, process: subprocess.Popen[bytes]) -> None:
        process.wait(SECONDS)
        said = self.said.read_text()
        self.assertEqual(130, process.returncode, said)
        self.assertTrue(said.rstrip().endswith('interrupted'), said)
        self.assertNotIn('Traceback', said)

    def _assert_nothing_runs_or_is_mounted(self) -> None:
        self.assertEqual([], self._processes())
        mounted = pathlib.Path('/proc/self/mountinfo').read_text()
        self.assertEqual([], [line for line in mounted.splitlines()
                              if str(self.cache) in line])

    def _begin_build(self) -> subprocess.Popen[bytes]:
        mounts.require(self)
        process = self._begin(_BUILD, self.log, 'it is mounted')
        # The shell, two sleeps, and what is around them.
        self.assertGreater(len(self._processes()), 3)
        return process

    def test_a_build(self) -> None:
        self._interrupt(self._begin_build())
        self._assert_nothing_runs_or_is_mounted()
        self.assertEqual(
            [], [path for path in self.cache.iterdir() if path.name not in
                 ('lock', 'log', places.marker().name)])

    def test_a_build_that_is_killed(self) -> None:
        process = self._begin_build()
        process.kill()
        # The kernel ends what is left, and takes its time.
        wait.until('nothing runs', lambda: not self._processes(), SECONDS,
                   self.log)
        self._assert_nothing_runs_or_is_mounted()

    def _begin_apt_get(self, which: str,
                       does: str) -> subprocess.Popen[bytes]:
        """Return when that one of its calls is doing this."""
        program = self.top / 'apt-get'
        program.write_text(_APT_GET.format(which=which, does=does))
        program.chmod(0o755)
        return self._begin(_INSTALL, self.apt_log, f'{which} is at work')

    def test_an_install_comes_to_its_end(self) -> None:
        install = '-y install --no-install-recommends thing'
        process = self._begin_apt_get(install, _WAIT_FOR_A_FILE)
        process.send_signal(signal.SIGINT)
        wait.for_line('it is waited for', 'waiting for it', self.said,
                      SECONDS, lambda: process.poll() is None)
        self.log.touch()
        self._assert_ends_as_interrupted(process)
        self.assertEqual(
            [f'apt-get -q {what} is {state}' for what in ('update', install)
             for state in ('at work', 'done')],
            self.apt_log.read_text().splitlines())

    def test_an_update_is_killed(self) -> None:
        self._interrupt(self._begin_apt_get('update', _HANG))
        wait.until('nothing runs', lambda: not self._processes(), SECONDS,
                   self.apt_log)
        self.assertEqual('apt-get -q update is at work\n',
                         self.apt_log.read_text())
        self.assertNotIn('waiting for it', self.said.read_text())

    def test_tests_end_quietly(self) -> None:
        (self.top / 'its_tests.py').write_text(_TESTS)
        process = self._begin(_TEST, self.log, 'a test is at work')
        self._interrupt(process)
        # It was killed, and not waited for.
        wait.until('nothing runs', lambda: not self._processes(), SECONDS,
                   self.log)
