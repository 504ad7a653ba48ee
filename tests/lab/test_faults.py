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
What libvirt made of it is printed at the end, as a table.

One case has no good end: the network is cut in libvirt's own finish, after
the destination was told to run the guest and before the source has heard of
it. libvirt then runs it on both. That is recorded, not asserted.
"""

import sys
import time

from lab import places
from tests.lab import base
from tests.lab import faults
from tests.lab import matrix
from tests.lab import scene

AGENTS = (places.CHECKOUT / 'nova_vgpu_mig/migration/hypervisor').exists()


def tearDownModule() -> None:
    print(f'\n{matrix.text()}', file=sys.stderr)


class FaultsTestCase(base.LabTestCase):

    def _meet(self, fault: faults.Fault) -> None:
        """Let it come while each phase is held; check what became of it."""
        cases = scene.begin_all(self, AGENTS)
        struck = time.monotonic()
        fault.strike((self.one, self.two))
        for case in cases:
            case.held.release()
        rows = []
        for case in cases:
            result = case.move.result()
            rows.append((case, result, time.monotonic() - struck))
        states = scene.settle(cases)
        for (case, result, seconds), found in zip(rows, states, strict=True):
            matrix.add(matrix.Row(
                fault.name, str(case.phase), result['outcome'], *found,
                seconds))
        for case, found in zip(cases, states, strict=True):
            with self.subTest(fault=fault.name, phase=str(case.phase)):
                self._check(fault, case, found)

    def _check(self, fault: faults.Fault, case: scene.Case,
               states: tuple[str, str]) -> None:
        runs = [gpu for gpu, state in zip(case.ends(), states, strict=True)
                if state.startswith('running')]
        if fault is faults.CUT_FOR_GOOD and case.phase.in_finish:
            self.assertIn(case.destination, runs)
        else:
            self.assertEqual(1, len(runs), states)
        for gpu in runs:
            gpu.await_more()
            digest, expected = gpu.digests()
            self.assertEqual(expected, digest)
        for gpu, state in zip(case.ends(), states, strict=True):
            if not state.startswith(('running', 'paused')):
                self.assertEqual('0', gpu.get('guest_present'))

    def test_libvirtd_at_the_source(self) -> None:
        self._meet(faults.SOURCE_LIBVIRTD)

    def test_libvirtd_at_the_destination(self) -> None:
        self._meet(faults.DESTINATION_LIBVIRTD)

    def test_cut_for_a_while(self) -> None:
        self._meet(faults.CUT_FOR_A_WHILE)

    def test_cut_for_good(self) -> None:
        self._meet(faults.CUT_FOR_GOOD)

    def test_agent_at_the_source(self) -> None:
        self._meet_with_agents(faults.SOURCE_AGENT)

    def test_agent_at_the_destination(self) -> None:
        self._meet_with_agents(faults.DESTINATION_AGENT)

    def test_broker(self) -> None:
        self._meet_with_agents(faults.BROKER)

    def _meet_with_agents(self, fault: faults.Fault) -> None:
        if not AGENTS:
            self.skipTest('the agents take no part yet')
        self._meet(fault)
