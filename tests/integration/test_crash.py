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


"""An agent is killed in each phase, at either end, and started again."""

import json
import subprocess
import sys
import threading

from nova_vgpu_mig.migration import offer
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import port
from tests.integration import test_guest_move
from tests import two_hosts

State = ownership.State
Phase = phases.Phase
SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
PATIENCE = two_hosts.PATIENCE


class CrashCase(test_guest_move.GuestCase):

    def setUp(self):
        super().setUp()
        self.work()
        self.wait_frame(self.vm, 2)
        self.move = self.guest_move()

    def kill_in(self, host, phase, record, **more):
        """Run one side as a process, and kill it in the phase."""
        host.stop_agent()
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'tests.one_side', json.dumps({
                'directory': str(host.directory), 'stand_still': phase,
                'record': record.as_dict(), **more})],
            stdout=subprocess.PIPE, text=True)
        self.addCleanup(self.process.stdout.close)
        self.addCleanup(self.process.wait)
        self.addCleanup(self.process.kill)

    def wait_line(self, wanted=None):
        for line in self.process.stdout:
            if wanted is None or line.strip() == wanted:
                return line
        raise AssertionError(f'the process ended before {wanted}')

    def restart(self, host):
        self.process.kill()
        self.process.wait()
        host.start_agent()

    def recovery(self, host, peer, role):
        """What the restarted agent of `host` does."""

        def guest_for(instance):
            try:
                return host.vmm.guest(instance)
            except port.GuestNotFound:
                return None

        def ask(entry):
            return peer.journal.get(entry.migration_uuid, SOURCE).state

        def push(entry):
            self.move.destination.look()
            self.move.destination.wait(PATIENCE)
            return two_hosts.heard(peer, entry)

        return recovery.Recovery(
            host.journal, driver_for=lambda _: host.driver,
            guest_for=guest_for, ask_source=ask, push_destination=push)

    def assert_paused_goes_on(self, host, vf, vm):
        self.assertEqual('paused', vm.call('state'))
        vm.call('run')
        self.assert_equal_to_twin(host, vf, vm)

    def assert_one_runs(self):
        self.assertEqual(
            {'running', 'paused'},
            {self.vm.call('state'), self.moved.call('state')})


class BothEnds:
    """Whichever agent is killed in these phases, the VM goes on."""

    def test_pre_copy(self):
        self._returns(Phase.PRECOPY)

    def test_switchover(self):
        self._returns(Phase.SWITCHOVER)

    def test_load(self):
        self._returns(Phase.LOAD)


class SourceKilledTest(BothEnds, CrashCase):

    def killed(self, phase):
        made = self.move.prepare()
        alive = threading.Event()
        self.move.destination._ask_source = lambda: (
            self.move.ask_source() if alive.is_set() else None)
        self.kill_in(self.here, phase, self.move.source_record,
                     offer=made.as_dict())
        self.wait_line(phase)
        self.restart(self.here)
        said = self.recovery(self.here, self.there, SOURCE)
        alive.set()
        told = said.start()
        self.assertEqual(1, len(told), told)
        said.housekeep(())
        self.move.destination.look()
        return said

    def _returns(self, phase):
        said = self.killed(phase)
        entry = self.here.journal.get(self.move.uuid, SOURCE)
        self.assertEqual((State.RETURNED, True),
                         (entry.state, entry.settled))
        self.assertEqual([], said.start())
        if phase == Phase.PREPARE:
            # It never came to the data port.
            self.move.destination.drop('the source went back')
        self.assertTrue(self.move.destination.wait(PATIENCE))
        self.assertEqual(State.DROPPED, self.move.states()[1])
        self.assert_one_runs()
        self.assert_equal_to_twin(self.here, self.vf, self.vm)

    def test_prepare(self):
        self._returns(Phase.PREPARE)

    def test_commit(self):
        # The destination has said PREPARED; nothing was given up.
        self._returns(Phase.COMMIT)

    def test_a_paused_guest_stays_paused(self):
        self.vm.call('stop')
        self.killed(Phase.LOAD)
        self.assertEqual(State.RETURNED, self.move.states()[0])
        self.assert_paused_goes_on(self.here, self.vf, self.vm)

    def test_given_up(self):
        said = self.killed(Phase.RUN)
        self.assertTrue(self.move.destination.wait(PATIENCE))
        self.assertEqual((State.GIVEN_UP, State.OWNED), self.move.states())
        self.assertEqual('completed', self.here.journal.get(
            self.move.uuid, SOURCE).record['outcome'])
        self.assert_one_runs()
        self.assert_equal_to_twin(self.there, self.target, self.moved)
        # Nova has removed the source's VM; the VF is released.
        self.vm.close()
        said.finish(self.move.uuid, SOURCE)
        said.finish(self.move.uuid, SOURCE)
        self.assertTrue(self.here.vf(self.vf)['free'])
        self.assertEqual([], self.here.journal.entries(unsettled=True))


class DestinationKilledTest(BothEnds, CrashCase):

    def killed(self, phase):
        self.kill_in(self.there, phase, self.move.destination_record)
        made = offer.Offer.from_dict(json.loads(self._offer()))
        self.move.begin(made)
        thread = threading.Thread(target=self.move.source.run)
        thread.start()
        self.wait_line(phase)
        self.restart(self.there)
        thread.join(PATIENCE)
        self.said = self.recovery(self.there, self.here, DESTINATION)
        told = self.said.start()
        self.assertEqual(1, len(told), told)
        self.said.housekeep(())
        self.assertEqual([], self.said.start())

    def _offer(self):
        while not (line := self.wait_line()).startswith('{'):
            pass
        return line

    def _returns(self, phase):
        self.killed(phase)
        entry = self.there.journal.get(self.move.uuid, DESTINATION)
        self.assertEqual((State.DROPPED, True), (entry.state, entry.settled))
        self.assertEqual(State.RETURNED, self.move.states()[0])
        self.assert_one_runs()
        self.assert_equal_to_twin(self.here, self.vf, self.vm)

    def test_prepared_and_never_said(self):
        self._returns(Phase.COMMIT)

    def test_told_to_run(self):
        self.killed(Phase.RUN)
        self.assertEqual((State.GIVEN_UP, State.OWNED), self.move.states())
        self.assert_one_runs()
        self.assert_equal_to_twin(self.there, self.target, self.moved)

    def test_a_paused_guest_stays_paused(self):
        self.vm.call('stop')
        self.killed(Phase.RUN)
        self.assertEqual((State.GIVEN_UP, State.OWNED), self.move.states())
        self.assert_paused_goes_on(self.there, self.target, self.moved)
