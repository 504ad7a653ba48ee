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

"""A VF is reset, or vanishes, in each phase of a move, at either end.

The fault happens inside the observer of a phase, so nothing of the next one
has been done. A twin that stayed shows that no command is lost or run twice.
"""

import threading

from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import port
from tests import gpu_lab
from tests.integration import test_landing
from tests import two_hosts

Phase = phases.Phase
State = ownership.State
Role = phases.Role
PATIENCE = two_hosts.PATIENCE
LOST = 'GPU state is lost'


class ResetCase(test_landing.LandingCase):

    def reset_at(self, phase, host, vf):
        """Reset the VF when the source enters a phase; the move's end."""
        self.move.on_phase[phase] = lambda: host.admin.call('reset', vf=vf)
        return self.move.run()

    def vanish_at(self, phase, host, vf):
        self.move.on_phase[phase] = lambda: host.knob(vf, 'vanish', True)
        try:
            return self.move.run()
        finally:
            host.knob(vf, 'vanish', False)

    def recovery(self, host):
        def guest(instance):
            try:
                return host.vmm.guest(instance)
            except port.GuestNotFound:
                return None

        return recovery.Recovery(
            host.journal, driver_for=lambda _: host.driver,
            guest_for=guest, ask_source=lambda _: self.move.ask_source(),
            push_destination=lambda entry: two_hosts.heard(
                self.there, entry))

    def nothing_reserved(self, host, vf, role):
        self.assertTrue(host.journal.get(self.move.uuid, role).settled)
        gpu_lab.until(lambda: host.vf(vf)['free'], f'{vf} to be free')

    def moved_on(self, done):
        """It runs at the destination, all of it; then all is finished."""
        self.assertEqual(('', phases.Outcome.COMPLETED),
                         (done.reason, done.outcome))
        self.landed()
        self.finished()

    def finished(self):
        self.vm.close()
        self.recovery(self.here).finish(self.move.uuid, Role.SOURCE)
        self.recovery(self.there).finish(self.move.uuid, Role.DESTINATION)
        self.nothing_reserved(self.here, self.vf, Role.SOURCE)
        self.assertTrue(self.there.journal.get(
            self.move.uuid, Role.DESTINATION).settled)

    def returned(self, done, vf, phase):
        """It runs at the source only, and nothing is left in between."""
        self.assertEqual((phases.Outcome.FAILED, Phase.RETURNED),
                         (done.outcome, done.phase), done.reason)
        self.assertIn(vf, done.reason)
        self.assertRegex(done.reason, phase)
        if self.move.states()[1] is State.LOADING:
            # What the source's agent asks for over RPC.
            self.move.destination.drop('the source went back')
        self.assertTrue(self.move.destination.wait(PATIENCE))
        self.assertEqual((State.RETURNED, State.DROPPED),
                         self.move.states())
        for host in (self.here, self.there):
            self.recovery(host).housekeep(())
        self.assertEqual('running', self.vm.call('state'))
        self.assertEqual('paused', self.moved.call('state'))
        self.assertEqual('RUNNING',
                         self.here.vf(self.vf)['migration_state'])
        self.assertTrue(self.here.journal.get(
            self.move.uuid, Role.SOURCE).settled)
        self.moved.close()
        self.nothing_reserved(self.there, self.target, Role.DESTINATION)

    def goes_on(self):
        self.assert_equal_to_twin(self.here, self.vf, self.vm)


class AfterTheLastRead:
    """All of the source's VF has been read: what is loaded is whole."""

    def test_load(self):
        self.moved_on(self.fault_at(Phase.LOAD, self.here, self.vf))

    def test_commit(self):
        self.moved_on(self.fault_at(Phase.COMMIT, self.here, self.vf))

    def test_run(self):
        self.moved_on(self.fault_at(Phase.RUN, self.here, self.vf))


class BeforePrepared:
    """What the destination's VF has got is gone: the source goes on."""

    def check(self, phase):
        done = self.fault_at(phase, self.there, self.target)
        self.returned(done, self.target, r'gave up: [a-z-]+: ')
        self.goes_on()

    def test_prepare(self):
        self.check(Phase.PREPARE)

    def test_pre_copy(self):
        self.check(Phase.PRECOPY)

    def test_switchover(self):
        self.check(Phase.SWITCHOVER)

    def test_load(self):
        self.check(Phase.LOAD)


class SourceResetTest(AfterTheLastRead, ResetCase):

    def fault_at(self, *where):
        return self.reset_at(*where)

    def test_pre_copy(self):
        done = self.reset_at(Phase.PRECOPY, self.here, self.vf)
        self.returned(done, self.vf, '^pre-copy: ')

    def test_switchover(self):
        done = self.reset_at(Phase.SWITCHOVER, self.here, self.vf)
        self.assertIn(LOST, done.reason)
        self.returned(done, self.vf, '^switchover: ')


class DestinationResetTest(BeforePrepared, ResetCase):

    def fault_at(self, *where):
        return self.reset_at(*where)

    def lost(self, phase):
        self.reset_at(phase, self.there, self.target)
        self.assertTrue(self.move.destination.wait(PATIENCE))
        self.assertIn(f'VF {self.target} was reset between PREPARED',
                      self.move.destination.record.reason)
        self.assertEqual((State.GIVEN_UP, State.OWNED), self.move.states())
        self.assertEqual('paused', self.vm.call('state'))
        self.assertEqual('running', self.moved.call('state'))
        self.finished()

    def test_commit(self):
        self.lost(Phase.COMMIT)

    def test_run(self):
        self.lost(Phase.RUN)


class SourceVanishTest(AfterTheLastRead, ResetCase):

    def fault_at(self, *where):
        return self.vanish_at(*where)

    def test_prepare(self):
        done = self.vanish_at(Phase.PREPARE, self.here, self.vf)
        self.returned(done, self.vf, '^prepare: ')
        self.goes_on()

    def test_pre_copy(self):
        done = self.vanish_at(Phase.PRECOPY, self.here, self.vf)
        self.returned(done, self.vf, '^pre-copy: ')

    def test_switchover(self):
        done = self.vanish_at(Phase.SWITCHOVER, self.here, self.vf)
        self.returned(done, self.vf, '^switchover: ')


class DestinationVanishTest(BeforePrepared, ResetCase):

    def fault_at(self, *where):
        return self.vanish_at(*where)

    def comes_back(self, phase):
        """It is the destination's to run, and does when the VF is back."""
        def seen():
            return 'ENODEV' in self.move.destination.record.reason

        def back():
            try:
                gpu_lab.until(seen, 'a run that is tried again')
            finally:
                self.there.knob(self.target, 'vanish', False)

        waiter = threading.Thread(target=back)

        def vanish():
            self.there.knob(self.target, 'vanish', True)
            waiter.start()

        self.move.on_phase[phase] = vanish
        done = self.move.run()
        waiter.join(PATIENCE)
        self.moved_on(done)

    def test_commit(self):
        self.comes_back(Phase.COMMIT)

    def test_run(self):
        self.comes_back(Phase.RUN)
