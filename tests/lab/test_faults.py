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

Seven moves are held, each in its phase, and the fault meets all of them. The
faults after which a move goes on come one after the other, to the same seven
moves: after each of them every move has to be where it was. A fault that ends
moves has seven of its own. Before each fault all seven are looked at: a move
that has ended by itself was not hit. What became of all is printed at the
end, as a table: what the client was told, libvirt's words for both ends, and
what the agents say.

One case has no good end: the network is cut in libvirt's own finish, after
the destination was told to run the guest and before the source has heard of
it. libvirt then runs it on both; and so it may if the destination's libvirtd
is killed there. Nobody can undo that, but the agents have to say so, as they
have where a half of the guest is left. Then the test does what they say is to
be done, and they have to see that it was.
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

    def _meet(self, *struck: faults.Fault) -> None:
        """Let them come while each phase is held; check what became of it."""
        cases = scene.begin_all(self)
        for fault in struck:
            # One that has ended by itself would pass for one that was hit.
            self._check_all_wait(f'before: {fault.name}', cases)
            fault.strike((self.one, self.two))
        if struck[-1].passes:
            self._check_all_wait(f'after: {struck[-1].name}', cases)
        began = time.monotonic()
        for case in cases:
            case.held.release()
        results = [case.move.result() for case in cases]
        seconds = time.monotonic() - began
        states = scene.settle(cases)
        reports = scene.reports(cases)
        for case, result, state, report in zip(
                cases, results, states, reports, strict=True):
            for fault in struck:
                matrix.add(matrix.Row(
                    fault.name, str(case.phase), result['outcome'], *state,
                    report.words()))
            with self.subTest(phase=str(case.phase)):
                if all(fault.passes for fault in struck):
                    self.assertEqual('completed', result['outcome'], result)
                self._check_guest(struck, case, state)
                self._check_agents(case, state, report)
        self._decide([case for case, report in zip(
            cases, reports, strict=True) if not report.settled])
        print(f'(all calls of libvirt ended {seconds:.0f} s after it) ',
              end='', file=sys.stderr)

    def _check_all_wait(self, when: str, cases: list[scene.Case]) -> None:
        for case in cases:
            with self.subTest(when, phase=str(case.phase)):
                self.assertTrue(case.held.still())
                self.assertTrue(case.move.running())

    def _check_guest(self, struck: tuple[faults.Fault, ...],
                     case: scene.Case, states: tuple[str, str]) -> None:
        runs = _where(case, states, ('running',))
        if case.phase.in_finish and any(fault.parts for fault in struck):
            self.assertTrue(runs, states)
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
            # Nobody has aborted it: what has not moved has failed.
            self.assertEqual(
                {'completed' if case.destination in held else 'failed'},
                set(report.outcomes), report)
        else:
            self.assertTrue(report.doubts, report)

    def _decide(self, doubted: list[scene.Case]) -> None:
        """Remove the source's half, as the agents ask for."""
        for case in doubted:
            case.source.node.run(f'virsh -q destroy {case.guest.name}')
        if not doubted:
            return
        for case, report in zip(
                doubted, scene.reports(doubted, doubts=False), strict=True):
            with self.subTest(decided=str(case.phase)):
                self.assertEqual({'completed'}, set(report.outcomes))
                self.assertIn(case.source.mdev, report.free[self.one.name])

    def test_what_passes(self) -> None:
        self._meet(*faults.PASSING)

    def test_libvirtd_at_the_source(self) -> None:
        self._meet(faults.SOURCE_LIBVIRTD)

    def test_libvirtd_at_the_destination(self) -> None:
        self._meet(faults.DESTINATION_LIBVIRTD)

    def test_cut_for_good(self) -> None:
        self._meet(faults.CUT_FOR_GOOD)


def _where(case: scene.Case, states: tuple[str, str],
           words: tuple[str, ...]) -> list[gpu_.GPU]:
    """Return the ends whose state begins with one of the words."""
    return [gpu for gpu, state in zip(case.ends(), states, strict=True)
            if state.startswith(words)]
