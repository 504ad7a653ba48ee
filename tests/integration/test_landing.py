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

"""The end of a move at its destination, when something goes wrong there."""

import os
import signal
import threading
import uuid

from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import port
from tests import gpu_lab
from tests.integration import test_guest_move
from tests import two_hosts

State = ownership.State
Phase = phases.Phase
PATIENCE = test_guest_move.PATIENCE
SHORT = 0.3
"""Seconds that stand for the minute after which a call is given up."""


class LandingCase(test_guest_move.GuestCase):

    def setUp(self):
        super().setUp()
        self.work()
        self.wait_frame(self.vm, 2)
        self.move = self.guest_move()

    def landed(self):
        self.assertTrue(self.move.destination.wait(PATIENCE))
        self.assertEqual((State.GIVEN_UP, State.OWNED), self.move.states())
        self.assertIs(phases.Outcome.COMPLETED,
                      self.move.destination.record.outcome)
        self.assertEqual('paused', self.vm.call('state'))
        self.assertEqual('running', self.moved.call('state'))
        self.assert_equal_to_twin(self.there, self.target, self.moved)


class RestartTest(LandingCase):
    """The destination's agent ends when all but the word is said."""

    def recoveries(self):
        def guest_at(host):
            def guest(instance):
                try:
                    return host.vmm.guest(instance)
                except port.GuestNotFound:
                    return None
            return guest

        def push(entry):
            there.step(entry.migration_uuid, phases.Role.DESTINATION)
            return two_hosts.heard(self.there, entry)

        there = recovery.Recovery(
            self.there.journal, driver_for=lambda _: self.there.driver,
            guest_for=guest_at(self.there),
            ask_source=lambda _: self.move.ask_source(),
            push_destination=push)
        here = recovery.Recovery(
            self.here.journal, driver_for=lambda _: self.here.driver,
            guest_for=guest_at(self.here), ask_source=lambda _: None,
            push_destination=push)
        return here, there

    def restarted(self):
        self.move.on_phase[Phase.RUN] = self.move.destination.close
        done = self.move.run()
        self.assertIsNone(done.outcome)
        self.assertEqual((State.GIVEN_UP, State.PREPARED),
                         self.move.states())
        return self.recoveries()

    def outcome(self, host, role):
        return host.journal.get(self.move.uuid, role).record['outcome']

    def test_a_first_run_that_fails(self):
        here, there = self.restarted()
        self.there.knob(self.target, 'fail_run_once', True)
        self.assertIn('OWNED', here.housekeep(())[0])
        # The right to run is not that it runs.
        self.assertIsNone(self.outcome(self.here, phases.Role.SOURCE))
        self.there.knob(self.target, 'fail_run_once', True)
        self.assertRaises(OSError, there.finish, self.move.uuid,
                          phases.Role.DESTINATION)
        self.assertEqual(State.OWNED, self.move.states()[1])
        there.finish(self.move.uuid, phases.Role.DESTINATION)
        self.assertEqual(State.FINISHED, self.move.states()[1])
        here.housekeep(())
        self.assertEqual('completed',
                         self.outcome(self.here, phases.Role.SOURCE))
        self.assertEqual('running', self.moved.call('state'))
        self.assert_equal_to_twin(self.there, self.target, self.moved)


    def test_a_reset_before_the_run(self):
        here, _ = self.restarted()
        self.there.admin.call('reset', vf=self.target)
        here.housekeep(())
        for host, role in ((self.here, phases.Role.SOURCE),
                           (self.there, phases.Role.DESTINATION)):
            values = host.journal.get(self.move.uuid, role).record
            self.assertEqual('completed', values['outcome'])
            self.assertIn('GPU state is lost', values['reason'])
        self.assertEqual('running', self.moved.call('state'))


class HousekeepingTest(LandingCase):

    def test_a_move_that_became_live_meanwhile(self):
        there = recovery.Recovery(
            self.there.journal, driver_for=lambda _: self.there.driver,
            guest_for=self.there.vmm.guest, ask_source=lambda _: None,
            push_destination=lambda _: doubt.Answer())
        key = (self.move.uuid, phases.Role.DESTINATION)
        live, said = set(), []
        listed = threading.Event()
        entries = self.there.journal.entries

        def observed(**options):
            found = entries(**options)
            listed.set()
            return found

        self.there.journal.entries = observed
        keeping = threading.Thread(
            target=lambda: said.extend(there.housekeep(live)))
        with there._mutex:
            keeping.start()
            self.assertTrue(listed.wait(PATIENCE))
            live.add(key)
            made = self.move.prepare()
        keeping.join(PATIENCE)
        self.assertEqual([], said)
        self.move.begin(made)
        self.move.source.run()
        self.landed()


class ResetTest(LandingCase):

    def test_the_source_in_pre_copy(self):
        self.move.on_phase[Phase.SWITCHOVER] = (
            lambda: self.here.admin.call('reset', vf=self.vf))
        done = self.move.run()
        self.assertIs(phases.Outcome.FAILED, done.outcome)
        self.assertIn('GPU state is lost', done.reason)
        self.assertEqual('running', self.vm.call('state'))
        self.assertEqual('RUNNING',
                         self.here.vf(self.vf)['migration_state'])

    def test_the_source_is_aborted_after_it(self):
        def reset():
            self.here.admin.call('reset', vf=self.vf)
            self.move.source.abort('enough')

        self.move.on_phase[Phase.PRECOPY] = reset
        done = self.move.run()
        self.assertIs(phases.Outcome.ABORTED, done.outcome)
        self.assertEqual(f'enough; VF {self.vf} was reset during the move: '
                         f'its GPU state is lost', done.reason)

    def test_the_destination_after_prepared(self):
        self.move.on_phase[Phase.COMMIT] = (
            lambda: self.there.admin.call('reset', vf=self.target))
        done = self.move.run()
        self.assertTrue(self.move.destination.wait(PATIENCE))
        lost = self.move.destination.record.reason
        self.assertIn('GPU state is lost', lost)
        # The operator looks at the source's report first.
        self.assertEqual((f'{self.there.name}: {lost}',
                          phases.Outcome.COMPLETED),
                         (done.reason, done.outcome))
        self.assertEqual('running', self.moved.call('state'))
        self.assertEqual('paused', self.vm.call('state'))


class UnreachableTest(LandingCase):
    """A guest that can't be reached is not one that is not there."""

    def test_nothing_is_settled(self):
        socket = self.here.guests / f'{self.uuid}.sock'
        self.vm.call('stop')
        hidden = socket.with_name('hidden')
        socket.rename(hidden)
        # Nobody can connect to a link that leads to itself: ELOOP.
        socket.symlink_to(socket)
        here = recovery.Recovery(
            self.here.journal, driver_for=lambda _: self.here.driver,
            guest_for=self.here.vmm.guest, ask_source=lambda _: None,
            push_destination=lambda _: doubt.Answer())
        journal = self.here.journal
        journal.save_record(
            self.move.uuid, phases.Role.SOURCE,
            self.move.source_record.as_dict() | {'guest': 'running'})
        self.assertIn('tried again', here.start()[0])
        entry = self.here.journal.get(self.move.uuid, phases.Role.SOURCE)
        self.assertEqual((State.RETURNED, False),
                         (entry.state, entry.settled))
        hidden.rename(socket)
        here.housekeep(())
        self.assertTrue(self.here.journal.get(
            self.move.uuid, phases.Role.SOURCE).settled)
        self.assertEqual('running', self.vm.call('state'))

    def test_gone_for_certain(self):
        self.assertRaises(port.GuestNotFound, self.here.vmm.guest,
                          str(uuid.uuid4()))


class StallTest(LandingCase):
    """Who is to run the VF does not answer in time, once."""

    def stalls(self, pid, client):
        """Stop a process at the commit, until a call has failed by it."""
        def stop():
            client._sock.settimeout(SHORT)
            os.kill(pid, signal.SIGSTOP)
            waiter.start()

        def go_on():
            try:
                gpu_lab.until(lambda: 'tried again' in
                              self.move.destination.record.reason,
                              'a call that had no answer')
            finally:
                os.kill(pid, signal.SIGCONT)

        waiter = threading.Thread(target=go_on)
        self.move.on_phase[Phase.COMMIT] = stop
        self.move.run()
        waiter.join(PATIENCE)
        self.landed()

    def test_the_guest(self):
        self.stalls(self.moved.pid, self.move.target._client)

    def test_the_gpu(self):
        self.move.begin()
        device = self.move.destination._device
        self.move.begin = lambda: None
        self.stalls(self.there.gim.process.pid, device._client)
