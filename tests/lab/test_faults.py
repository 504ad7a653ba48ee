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

"""A fault in each phase of a move: the guest runs on, once, and whole.

One test for each fault, in which seven moves are held, each in its phase.
What became of it is printed at the end, as a table: what the client was told,
libvirt's words for both ends, and what the agents say.

One case has no good end: the network is cut in libvirt's own finish, after
the destination was told to run the guest and before the source has heard of
it. libvirt then runs it on both. Nobody can undo that, but the agents have to
say so; and so they have where a half of the guest is left.
"""

import sys
import time

from tests.lab import base
from tests.lab import faults
from tests.lab import gpu as gpu_
from tests.lab import matrix
from tests.lab import scene

HELD = ('running', 'paused')
"""States in which a guest holds its device."""


def tearDownModule() -> None:
    print(f'\n{matrix.text()}', file=sys.stderr)


class FaultsTestCase(base.LabTestCase):

    def _meet(self, fault: faults.Fault) -> None:
        """Let it come while each phase is held; check what became of it."""
        cases = scene.begin_all(self)
        began = time.monotonic()
        fault.strike((self.one, self.two))
        for case in cases:
            case.held.release()
        results = [case.move.result() for case in cases]
        seconds = time.monotonic() - began
        states = scene.settle(cases)
        reports = scene.reports(cases)
        for case, result, state, report in zip(
                cases, results, states, reports, strict=True):
            matrix.add(matrix.Row(fault.name, str(case.phase),
                                  result['outcome'], *state, report.words()))
            with self.subTest(fault=fault.name, phase=str(case.phase)):
                self._check_guest(fault, case, state)
                self._check_agents(case, state, report)
        print(f'(all calls of libvirt ended {seconds:.0f} s after it) ',
              end='', file=sys.stderr)

    def _check_guest(self, fault: faults.Fault, case: scene.Case,
                     states: tuple[str, str]) -> None:
        runs = _where(case, states, ('running',))
        if fault is faults.CUT_FOR_GOOD and case.phase.in_finish:
            self.assertIn(case.destination, runs)
        else:
            self.assertEqual(1, len(runs), states)
        for gpu in runs:
            gpu.await_more()
            digest, expected = gpu.digests()
            self.assertEqual(expected, digest)

    def _check_agents(self, case: scene.Case, states: tuple[str, str],
                      report: scene.Report) -> None:
        held = _where(case, states, HELD)
        for gpu in case.ends():
            if gpu not in held:
                self.assertEqual('0', gpu.get('guest_present'))
                self.assertIn(gpu.mdev, report.free[gpu.node.name])
        if len(held) == 1:
            self.assertTrue(report.settled, report)
        else:
            self.assertTrue(report.notes, report)

    def test_libvirtd_at_the_source(self) -> None:
        self._meet(faults.SOURCE_LIBVIRTD)

    def test_libvirtd_at_the_destination(self) -> None:
        self._meet(faults.DESTINATION_LIBVIRTD)

    def test_cut_for_a_while(self) -> None:
        self._meet(faults.CUT_FOR_A_WHILE)

    def test_cut_for_good(self) -> None:
        self._meet(faults.CUT_FOR_GOOD)

    def test_agent_at_the_source(self) -> None:
        self._meet(faults.SOURCE_AGENT)

    def test_agent_at_the_destination(self) -> None:
        self._meet(faults.DESTINATION_AGENT)

    def test_broker(self) -> None:
        self._meet(faults.BROKER)


def _where(case: scene.Case, states: tuple[str, str],
           words: tuple[str, ...]) -> list[gpu_.GPU]:
    """Return the ends whose state begins with one of the words."""
    return [gpu for gpu, state in zip(case.ends(), states, strict=True)
            if state.startswith(words)]
