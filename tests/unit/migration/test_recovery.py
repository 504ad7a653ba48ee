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

"""Recovery, with a device and a guest that only know what they are."""

import pathlib
import tempfile
import threading
import time
import uuid

from oslotest import base

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import port

Device = contract.DeviceState
State = ownership.State
SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
PATIENCE = 60.0


class VF:
    """A GPU driver with one VF, and that VF."""

    address = '0000:81:00.1'

    def __init__(self):
        self.now = Device.STOP
        self.fails = 0

    def open(self, address):
        return self

    def state(self):
        return self.now

    def set_state(self, state):
        if self.fails:
            self.fails -= 1
            raise contract.DeviceError(5, self.address, 'not yet')
        self.now = state

    def reset(self):
        self.now = Device.RUNNING

    def scrub(self, address):
        pass

    def close(self):
        pass


class Guest:
    """A guest of the VMM, stopped by a move."""

    def __init__(self, instance_uuid):
        self.instance_uuid = instance_uuid
        self.now = 'stopped'
        self.fails = 0

    def run(self):
        if self.fails:
            self.fails -= 1
            raise port.VMMError('not yet')
        self.now = 'running'

    def take_over(self):
        self.now = 'taken over'

    def cancel_memory(self):
        pass

    def close(self):
        pass


class RecoveryCase(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        made = tempfile.TemporaryDirectory(prefix='recovery')
        self.addCleanup(made.cleanup)
        self.journal = journal.Journal(str(pathlib.Path(made.name, 'j')))
        self.addCleanup(self.journal.close)
        self.vf = VF()
        self.guests = {}
        self.no_vmm = ''
        self.answers = {}
        self.recovery = recovery.Recovery(
            self.journal, driver_for=lambda address: self.vf,
            guest_for=self.guests.get, ask_source=self.ask,
            push_destination=self.push, no_vmm=lambda: self.no_vmm)

    def ask(self, entry):
        return self.answers.get(entry.migration_uuid)

    def push(self, entry):
        return self.answers.get(entry.migration_uuid, doubt.Answer())

    def entry(self, role, *states, deadline=None, guest='running',
              there=True, **changes):
        """Enter a move and take it through `states`; its uuid."""
        migration, instance = str(uuid.uuid4()), str(uuid.uuid4())
        values = record.MigrationRecord(
            migration, instance, role, 'here', 'there', f's-{migration}',
            f'd-{migration}', guest=guest).as_dict() | changes
        if there:
            self.guests[instance] = Guest(instance)
        self.journal.begin(role, values, deadline=deadline)
        for state in states:
            self.journal.move(migration, role, state)
        return migration

    def get(self, migration, role):
        return self.journal.get(migration, role)

    def guest_of(self, migration, role):
        return self.guests[self.get(migration, role).instance_uuid]

    prepared = (State.LOADING, State.PREPARED)


class GuestTest(RecoveryCase):
    """The guest is what it was before, at either end."""

    def test_at_the_source(self):
        for guest, now in (('running', 'running'), ('paused', 'stopped'),
                           ('', 'stopped')):
            migration = self.entry(SOURCE, guest=guest)
            self.recovery.step(migration, SOURCE)
            self.assertEqual(now, self.guest_of(migration, SOURCE).now)
            self.assertTrue(self.get(migration, SOURCE).settled)

    def test_at_the_destination(self):
        for guest, now in (('running', 'running'), ('paused', 'taken over'),
                           ('', 'stopped')):
            migration = self.entry(DESTINATION, *self.prepared, guest=guest)
            self.answers[migration] = State.GIVEN_UP
            self.recovery.step(migration, DESTINATION)
            self.assertEqual(now, self.guest_of(migration, DESTINATION).now)

    def test_an_entry_from_before_it_was_noted(self):
        migration = self.entry(SOURCE)
        values = self.get(migration, SOURCE).record
        del values['guest']
        self.journal.save_record(migration, SOURCE, values)
        self.recovery.step(migration, SOURCE)
        self.assertEqual('running', self.guest_of(migration, SOURCE).now)


class GoneTest(RecoveryCase):
    """A guest that took part is not simply forgotten."""

    def test_at_the_source(self):
        migration = self.entry(SOURCE, there=False)
        self.recovery.step(migration, SOURCE)
        entry = self.get(migration, SOURCE)
        self.assertTrue(entry.settled)
        self.assertIn(f'{entry.instance_uuid}, which took part in the move, '
                      'is gone', entry.record['reason'])

    def test_at_the_destination(self):
        migration = self.entry(DESTINATION, *self.prepared, there=False)
        self.answers[migration] = State.GIVEN_UP
        self.recovery.step(migration, DESTINATION)
        values = self.get(migration, DESTINATION).record
        self.assertEqual('completed', values['outcome'])
        self.assertIn('is gone', values['reason'])

    def test_a_vf_alone(self):
        migration = self.entry(SOURCE, guest='', there=False)
        self.recovery.step(migration, SOURCE)
        self.assertNotIn('gone',
                         self.get(migration, SOURCE).record['reason'])

    def test_no_vmm_port_is_not_no_guest(self):
        migration = self.entry(SOURCE)
        instance = self.get(migration, SOURCE).instance_uuid
        guest = self.guests.pop(instance)
        self.no_vmm = 'create the directory'
        said = self.recovery.step(migration, SOURCE)
        self.assertIn('tried again', said)
        self.assertIn('create the directory', said)
        self.assertFalse(self.get(migration, SOURCE).settled)
        self.guests[instance], self.no_vmm = guest, ''
        self.recovery.housekeep(())
        self.assertTrue(self.get(migration, SOURCE).settled)
        self.assertEqual('running', guest.now)


class SilentPeerTest(RecoveryCase):
    """A peer that does not answer keeps nobody else waiting."""

    def setUp(self):
        super().setUp()
        self.asked, self.answering = threading.Event(), threading.Event()
        self.doubtful = self.entry(DESTINATION, *self.prepared)
        self.answers[self.doubtful] = State.GIVEN_UP

    def ask(self, entry):
        self.asked.set()
        self.answering.wait()
        return super().ask(entry)

    def in_thread(self, call, *args):
        thread = threading.Thread(target=call, args=args)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(self.answering.set)
        return thread

    def others_go_on(self, call, *args):
        """`call` asks, in vain; somebody else's entry is decided."""
        asking = self.in_thread(call, *args)
        self.assertTrue(self.asked.wait(PATIENCE))
        other = self.entry(SOURCE)
        step = self.in_thread(self.recovery.step, other, SOURCE)
        step.join(PATIENCE)
        self.assertFalse(step.is_alive())
        self.assertTrue(self.get(other, SOURCE).settled)
        self.answering.set()
        asking.join(PATIENCE)
        self.assertEqual(State.OWNED,
                         self.get(self.doubtful, DESTINATION).state)

    def test_housekeeping(self):
        overdue = self.entry(DESTINATION, deadline=time.time() - 1)
        newest = self.entry(DESTINATION, *self.prepared)
        self.answers[newest] = State.RETURNED
        self.others_go_on(self.recovery.housekeep, ())
        self.assertEqual(State.DROPPED, self.get(newest, DESTINATION).state)
        self.assertEqual(State.DROPPED, self.get(overdue, DESTINATION).state)

    def test_in_the_same_round(self):
        overdue = self.entry(DESTINATION, deadline=time.time() - 1)
        newest = self.entry(DESTINATION, *self.prepared)
        self.in_thread(self.recovery.housekeep, ())
        self.assertTrue(self.asked.wait(PATIENCE))
        self.assertEqual(State.DROPPED, self.get(overdue, DESTINATION).state)
        self.assertEqual(State.PREPARED, self.get(newest, DESTINATION).state)

    def test_a_step(self):
        self.others_go_on(self.recovery.step, self.doubtful, DESTINATION)

    def test_an_operator(self):
        self.others_go_on(self.recovery.resolve, self.doubtful, DESTINATION,
                          recovery.Choice.AUTO)

    def test_somebody_has_decided_meanwhile(self):
        step = self.in_thread(self.recovery.step, self.doubtful, DESTINATION)
        self.assertTrue(self.asked.wait(PATIENCE))
        self.journal.move(self.doubtful, DESTINATION, State.DROPPED)
        self.answering.set()
        step.join(PATIENCE)
        entry = self.get(self.doubtful, DESTINATION)
        self.assertEqual((State.DROPPED, True), (entry.state, entry.settled))
        self.assertEqual('stopped',
                         self.guest_of(self.doubtful, DESTINATION).now)

    def test_become_live_meanwhile(self):
        live = set()
        step = self.in_thread(self.recovery.housekeep, live)
        self.assertTrue(self.asked.wait(PATIENCE))
        live.add((self.doubtful, DESTINATION))
        self.answering.set()
        step.join(PATIENCE)
        self.assertEqual(State.PREPARED,
                         self.get(self.doubtful, DESTINATION).state)


class StartTest(RecoveryCase):

    def test_only_what_needs_no_peer(self):
        prepared = self.entry(DESTINATION, *self.prepared)
        given_up = self.entry(SOURCE, State.GIVEN_UP)
        active = self.entry(SOURCE)
        self.answers = {prepared: State.GIVEN_UP, given_up: doubt.Answer(
            State.OWNED, phases.Outcome.COMPLETED)}
        said = self.recovery.start()
        self.assertEqual(3, len(said))
        self.assertEqual(2, sum('is asked as soon' in one for one in said))
        self.assertTrue(self.get(active, SOURCE).settled)
        self.assertEqual(State.PREPARED,
                         self.get(prepared, DESTINATION).state)
        self.assertIsNone(self.get(given_up, SOURCE).record['outcome'])
        self.recovery.housekeep(())
        self.assertEqual(State.OWNED, self.get(prepared, DESTINATION).state)
        self.assertEqual('completed',
                         self.get(given_up, SOURCE).record['outcome'])


class ResetTest(RecoveryCase):
    """A VF that was reset between PREPARED and its first run here."""

    def reset_at(self, *states, **changes):
        migration = self.entry(DESTINATION, *states, **changes)
        self.answers[migration] = State.GIVEN_UP
        self.vf.reset()
        return migration

    def reason(self, migration):
        self.recovery.step(migration, DESTINATION)
        return self.get(migration, DESTINATION).record['reason']

    def test_in_prepared(self):
        migration = self.reset_at(*self.prepared)
        self.assertIn('GPU state is lost', self.reason(migration))
        self.assertEqual('completed', self.get(
            migration, DESTINATION).record['outcome'])

    def test_owned_and_no_run_tried(self):
        migration = self.reset_at(*self.prepared, State.OWNED)
        self.assertIn('GPU state is lost', self.reason(migration))

    def test_owned_and_perhaps_run(self):
        migration = self.reset_at(*self.prepared, State.OWNED,
                                  run_tried=True)
        self.assertEqual('', self.reason(migration))

    def test_owned_before_it_was_noted(self):
        migration = self.reset_at(*self.prepared, State.OWNED)
        values = self.get(migration, DESTINATION).record
        del values['run_tried']
        self.journal.save_record(migration, DESTINATION, values)
        self.assertEqual('', self.reason(migration))

    def test_a_run_that_fails_first(self):
        migration = self.reset_at(*self.prepared)
        self.guest_of(migration, DESTINATION).fails = 1
        self.assertIn('GPU state is lost', self.reason(migration))
        self.assertIsNone(self.get(migration, DESTINATION).record['outcome'])
        self.assertIn('GPU state is lost', self.reason(migration))
        self.assertEqual('completed', self.get(
            migration, DESTINATION).record['outcome'])

    def test_the_run_itself_is_no_reset(self):
        migration = self.entry(DESTINATION, *self.prepared)
        self.answers[migration] = State.GIVEN_UP
        self.guest_of(migration, DESTINATION).fails = 1
        self.assertEqual('', self.reason(migration))
        self.assertEqual(Device.RUNNING, self.vf.now)
        self.assertEqual('', self.reason(migration))

    def test_the_source_is_told(self):
        migration = self.entry(SOURCE, State.GIVEN_UP)
        self.answers[migration] = doubt.Answer(
            State.OWNED, phases.Outcome.COMPLETED, 'its GPU state is lost')
        self.recovery.step(migration, SOURCE)
        self.assertEqual('there: its GPU state is lost',
                         self.get(migration, SOURCE).record['reason'])
