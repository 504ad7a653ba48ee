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


"""The watches of both ends, on hypervisors that are moved step by step."""

import os
import time
from unittest import mock

import fixtures
from oslotest import base

from nova_vgpu_mig.agent import tenancy
from nova_vgpu_mig.migration.hypervisor import destination
from nova_vgpu_mig.migration.hypervisor import report
from nova_vgpu_mig.migration.hypervisor import source
from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration.hypervisor import watch
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor
from tests import gpu_lab
from tests import hypervisor_standin
from tests import qemu_model

Job = hypervisor.Job
Phase = phases.Phase
SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
State = hypervisor.GuestState
View = hypervisor.View
What = hypervisor.What

INSTANCE = 'instance'
MIB = 1 << 20
UUID = 'migration'


class Peer(watch.Peer):
    """The other end's agent; it is silent where its hypervisor is down."""

    def __init__(self, host):
        self._host = host
        self.has = None
        """Its record."""

    def guest(self):
        try:
            return watch.PeerAnswer(self._host.view(INSTANCE))
        except hypervisor.HypervisorError:
            return watch.PeerAnswer()

    def record(self):
        return self.has


class WatchesCase(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        folder = self.useFixture(fixtures.TempDir()).path
        self.journal = journal.Journal(os.path.join(folder, 'journal'))
        self.addCleanup(self.journal.close)
        self.pair = hypervisor_standin.Pair(INSTANCE)

    def begin(self, role, phase, deadline):
        """A side's scene, with its entry in the journal."""
        made = record.MigrationRecord(
            UUID, INSTANCE, role, 'a', 'b', 'vf-a', 'vf-b',
            carrier=phases.Carrier.HYPERVISOR, phase=phase,
            guest=str(State.RUNNING))
        self.journal.begin(role, made.as_dict(),
                           deadline=time.time() + deadline)
        here, there = self.pair.source, self.pair.destination
        if role is DESTINATION:
            here, there = there, here
        self.peer = Peer(there)
        return watch.Scene(here, self.journal, made, self.peer, 0.01,
                           lambda ended: None)

    def start(self, made):
        self.addCleanup(made.stop)
        made.start()
        return made

    def source(self, phase=Phase.PREPARE, deadline=600):
        made = source.SourceWatch(self.begin(SOURCE, Phase.PREPARE, deadline),
                                  limits.Limits(), steer=True)
        made.hold()
        if phase is Phase.PRECOPY:
            self.pair.source.views[INSTANCE] = View(
                State.RUNNING, 'booted', Job.OUT)
        self.start(made)
        if phase is Phase.PRECOPY:
            self.pair.source.tell(INSTANCE, What.STATUS, 'active')
            self.until(made, phase)
        return made

    def destination(self, deadline=600):
        scene = self.begin(DESTINATION, Phase.CLAIMED, deadline)
        self.journal.move(UUID, DESTINATION, ownership.State.LOADING,
                          deadline=time.time() + deadline)
        return self.start(destination.DestinationWatch(scene))

    def look(self, host=None):
        """Return when a watch has looked at what its host has now."""
        host = host or self.pair.source
        with mock.patch.object(host, 'view', wraps=host.view) as view:
            gpu_lab.until(lambda: view.call_count > 1, 'a look to be over')

    def until(self, made, phase):
        gpu_lab.until(lambda: made.record.phase is phase,
                      f'the watch to be in {phase}')

    def ended(self, made, phase=Phase.RETURNED):
        """Return the reason of a watch that comes to its end."""
        self.assertTrue(made.wait(gpu_lab.PATIENCE))
        self.assertIs(phase, made.record.phase)
        return made.record.reason

    def doubted(self, made, says):
        """Return when a doubt was said, in these words."""
        gpu_lab.until(lambda: any('IN DOUBT' in note and says in note
                                  for note in made.record.notes),
                      f'the doubt "{says}"')

    def state(self, role):
        return self.journal.get(UUID, role).state


class TestWhatWasNotSeen(WatchesCase):
    """The source runs it again, and the destination can't be asked."""

    def come_back(self, job=Job.NONE):
        self.pair.source.views[INSTANCE] = View(
            State.RUNNING, 'migration canceled', job)
        self.pair.destination.down = 'its agent is gone'

    def in_doubt(self, made):
        self.come_back()
        self.doubted(made, 'may run on b as well')
        self.assertIs(ownership.State.ACTIVE, self.state(SOURCE))
        self.pair.destination.down = ''
        self.ended(made)

    def begun(self):
        made = self.source()
        self.come_back(Job.OUT)
        self.look()
        return made

    def test_all_was_seen(self):
        made = self.begun()
        self.come_back()
        self.ended(made)
        self.assertEqual([], made.record.notes)

    def test_it_is_told_while_the_guest_is_looked_at(self):
        made = self.begun()
        host = self.pair.source
        view = host.view

        def look(uuid):
            found = view(uuid)
            if found.job is Job.NONE and not made.record.timeline:
                host.tell(INSTANCE, What.STATUS, 'completed')
            return found

        with mock.patch.object(host, 'view', look):
            self.in_doubt(made)

    def test_without_qemus_events(self):
        self.pair.source.has = hypervisor.Abilities(
            'stand-in', monitor_events=False)
        self.in_doubt(self.begun())

    def test_the_connection_was_lost_meanwhile(self):
        made = self.begun()
        self.pair.source.tell(INSTANCE, What.LOST)
        self.pair.source.tell(INSTANCE, What.BACK)
        self.in_doubt(made)


class TestWithoutEvents(WatchesCase):
    def test_a_job_that_was_seen_before_it_counts_is_steered(self):
        made = self.source()
        self.pair.source.views[INSTANCE] = View(
            State.RUNNING, 'booted', Job.OUT)
        self.look()
        self.pair.source.qemu = one = qemu_model.Qemu(
            used=16 * MIB, working_set=4 * MIB, dirty_rate=400 * MIB,
            bandwidth=100 * MIB)
        one.limit_ms = steering.HOLD_MS
        one.run(0.1)
        self.until(made, Phase.PRECOPY)
        self.look()
        self.assertEqual(
            str(Phase.PRECOPY),
            self.journal.get(UUID, SOURCE).record['phase'])
        for _ in range(10):
            one.run(0.5)
            self.look()
        self.assertEqual(2, len(self.pair.source.limits))
        self.assertIsNotNone(one.stopped)


class TestWithoutEventsOfDevices(WatchesCase):
    """The guest was started before migration-events were set."""

    def completed(self, *devices):
        made = self.source(Phase.PRECOPY)
        source = self.pair.source
        for detail, at in devices:
            source.tell(INSTANCE, What.DEVICE, detail, at=at)
        source.tell(INSTANCE, What.STOP, at=100.0)
        source.tell(INSTANCE, What.STATUS, 'device', at=100.1)
        source.tell(INSTANCE, What.STATUS, 'completed', at=100.5)
        source.final = {'downtime': 700}
        source.tell(INSTANCE, What.JOB_ENDED, **source.final)
        self.pair.destination.views[INSTANCE] = View(
            State.RUNNING, 'migrated')
        source.views.clear()
        self.ended(made, Phase.COMPLETED)
        return made.record

    def test_how_long_the_devices_took_is_not_made_up(self):
        found = self.completed()
        self.assertEqual(['pre_switchover', 'stop_copy'],
                         list(found.downtime_parts))
        self.assertIn(report.NO_DEVICE_EVENTS, found.notes)

    def test_with_them_it_is_measured(self):
        found = self.completed(('pre-copy-p2p', 99.9))
        self.assertAlmostEqual(0.1, found.downtime_parts['drain'])
        self.assertNotIn(report.NO_DEVICE_EVENTS, found.notes)

    def test_a_cold_start_mends_no_old_hypervisor(self):
        self.pair.source.has = hypervisor.Abilities(
            'stand-in', device_events=False)
        self.assertNotIn(report.NO_DEVICE_EVENTS, self.completed().notes)


class TestGuestThatIsGone(WatchesCase):
    OFF = View(State.SHUT_OFF, 'shutdown')

    def test_shut_off_in_the_pre_copy(self):
        made = self.source(Phase.PRECOPY)
        limits_ = list(self.pair.source.limits)
        self.pair.source.views[INSTANCE] = self.OFF
        self.assertIn('shut off during the move', self.ended(made))
        entry = self.journal.get(UUID, SOURCE)
        self.assertIs(ownership.State.RETURNED, entry.state)
        self.assertTrue(entry.settled)
        # There is no QEMU any more that would have a limit.
        self.assertEqual(limits_, self.pair.source.limits)
        self.assertEqual([], made.record.notes)

    def test_the_destination_of_it(self):
        self.pair.destination.views[INSTANCE] = View(
            State.PAUSED, 'migration', Job.IN)
        made = self.destination()
        self.look(self.pair.destination)
        self.pair.source.views[INSTANCE] = self.OFF
        self.pair.destination.views.clear()
        self.assertIn('shut off during the move', self.ended(made))
        self.assertIs(ownership.State.DROPPED, self.state(DESTINATION))

    def test_deleted_and_rolled_back(self):
        made = self.source(Phase.PRECOPY)
        self.pair.source.views.clear()
        self.doubted(made, 'it runs nowhere')
        self.assertIs(ownership.State.ACTIVE, self.state(SOURCE))
        made.give_up('Nova has rolled the migration back')
        self.assertIn('it runs nowhere', self.ended(made))
        self.assertTrue(self.journal.get(UUID, SOURCE).settled)

    def test_deleted_and_nova_says_nothing(self):
        made = self.source(Phase.PRECOPY, deadline=0.3)
        self.pair.source.views.clear()
        self.assertIn('it runs nowhere', self.ended(made))

    def test_gone_from_the_source_and_nobody_there_to_ask(self):
        made = self.source(Phase.PRECOPY)
        self.pair.destination.down = 'its agent is gone'
        self.pair.source.views.clear()
        made.give_up('Nova has rolled the migration back')
        self.doubted(made, 'has to say whether it came')
        # Nova's rollback is not kept waiting for what may never come.
        self.useFixture(fixtures.MockPatchObject(watch, 'DOUBT_SECONDS', 0.1))
        self.useFixture(fixtures.Timeout(int(gpu_lab.PATIENCE), gentle=True))
        self.assertFalse(made.hear(86400))
        self.pair.destination.views[INSTANCE] = View(State.RUNNING)
        self.pair.destination.down = ''
        self.ended(made, Phase.COMPLETED)
        self.assertTrue(made.hear(0))


class TestSourceHostIsLost(WatchesCase):
    """The guest was coming in, and its source will never answer again."""

    def come(self, deadline=600):
        self.pair.destination.views[INSTANCE] = View(
            State.PAUSED, 'migration', Job.IN)
        made = self.destination(deadline)
        self.look(self.pair.destination)
        self.pair.source.down = 'the host is off'
        return made

    def test_past_its_deadline(self):
        made = self.come(deadline=0.1)
        # As long as it comes in it is not late.
        time.sleep(0.2)
        self.assertFalse(made.wait(0))
        self.pair.destination.views.clear()
        self.assertIn('came in and is gone', self.ended(made))
        self.assertIs(ownership.State.DROPPED, self.state(DESTINATION))

    def test_nova_has_given_it_up(self):
        made = self.come()
        self.pair.destination.views.clear()
        self.look(self.pair.destination)
        self.assertFalse(made.wait(0))
        made.give_up('Nova has rolled the migration back')
        self.assertIn('rolled the migration back', self.ended(made))

    def test_a_guest_that_is_here_is_kept(self):
        made = self.come(deadline=0.1)
        paused = View(State.PAUSED, 'migration')
        self.pair.destination.views[INSTANCE] = paused
        made.give_up('Nova has rolled the migration back')
        time.sleep(0.2)
        self.look(self.pair.destination)
        self.assertFalse(made.wait(0))
        self.assertIs(ownership.State.LOADING, self.state(DESTINATION))


class TestAbortBeforeTheJob(WatchesCase):
    REASON = 'aborted by the operator'

    def begin_job(self):
        self.pair.source.qemu = qemu_model.Qemu(
            used=MIB, working_set=0, dirty_rate=0, bandwidth=MIB)
        self.pair.source.views[INSTANCE] = View(
            State.RUNNING, 'booted', Job.OUT)

    def aborted(self):
        gpu_lab.until(lambda: self.pair.source.aborted,
                      'the job to be aborted')

    def test_a_job_that_comes_after_it(self):
        made = self.source()
        made.abort(self.REASON)
        self.look()
        self.assertFalse(made.wait(0))
        self.begin_job()
        self.aborted()
        self.assertFalse(made.wait(0))
        self.pair.go_back('operation aborted')
        self.assertEqual(self.REASON, self.ended(made))
        self.assertIs(phases.Outcome.ABORTED, made.record.outcome)

    def test_a_job_that_nobody_has_looked_at(self):
        made = source.SourceWatch(self.begin(SOURCE, Phase.PREPARE, 600),
                                  limits.Limits(), steer=True)
        self.begin_job()
        made.abort(self.REASON)
        self.assertFalse(self.pair.source.aborted)
        self.start(made)
        self.aborted()

    def test_libvirt_refuses_at_first(self):
        made = self.source()
        made.abort(self.REASON)
        self.begin_job()
        qemu, self.pair.source.qemu = self.pair.source.qemu, None
        self.look()
        self.pair.source.qemu = qemu
        self.aborted()

    def test_no_job_comes_and_nova_rolls_back(self):
        made = self.source()
        made.abort(self.REASON)
        self.look()
        self.assertFalse(made.wait(0))
        made.give_up('Nova has rolled the migration back')
        self.assertEqual(self.REASON, self.ended(made))
        self.assertIs(phases.Outcome.ABORTED, made.record.outcome)

    def test_no_job_comes_in_time(self):
        began = time.time()
        made = self.source(deadline=0.5)
        made.abort(self.REASON)
        self.assertEqual(self.REASON, self.ended(made))
        self.assertGreaterEqual(time.time() - began, 0.5)
        self.assertIs(phases.Outcome.ABORTED, made.record.outcome)


class TestCancelled(WatchesCase):
    """libvirt cancels, and does not say who wanted it."""

    def cancel(self):
        made = self.source(Phase.PRECOPY)
        self.look()
        self.pair.source.tell(INSTANCE, What.STATUS, 'cancelling')
        self.pair.go_back('')
        return made

    def test_novas_word_comes_after_the_deed(self):
        made = self.cancel()
        self.look()
        self.assertFalse(made.wait(0))
        made.abort('aborted by the operator')
        self.assertEqual('aborted by the operator', self.ended(made))
        self.assertIs(phases.Outcome.ABORTED, made.record.outcome)

    def test_nobody_says_anything(self):
        self.assertIn('somebody had it aborted', self.ended(self.cancel()))

    def test_nova_rolls_back_at_once(self):
        made = self.cancel()
        made.give_up('Nova has rolled the migration back')
        self.assertIn('somebody had it aborted', self.ended(made))
        self.assertIs(phases.Outcome.FAILED, made.record.outcome)


class TestPausedGuest(WatchesCase):
    """A guest that somebody had paused before its move."""

    PAUSED = View(State.PAUSED, 'user')

    def test_the_destination_of_one_that_stays(self):
        self.pair.destination.views[INSTANCE] = View(
            State.PAUSED, 'migration', Job.IN)
        made = self.destination()
        theirs = made.record
        theirs.guest = str(State.PAUSED)
        self.peer.has = theirs
        self.look(self.pair.destination)
        self.pair.source.views[INSTANCE] = self.PAUSED
        self.pair.destination.views.clear()
        self.assertIn('went back to the source', self.ended(made))
        self.assertEqual([], made.record.notes)


class TestPausedInThePreCopy(WatchesCase):
    """By somebody else; QEMU has all of the device left for the end."""

    def test_the_limit_is_opened(self):
        made = self.source(Phase.PRECOPY)
        self.pair.source.qemu = qemu_model.Qemu(
            used=16 * MIB, working_set=MIB, dirty_rate=MIB,
            bandwidth=100 * MIB)
        for what, detail in ((What.DEVICE, 'stop-copy'), (What.STOP, '')):
            self.pair.source.tell(INSTANCE, what, detail,
                                  at=time.time() - timeline.PAUSE_SECONDS)
        self.pair.source.qemu.run(0.1)
        gpu_lab.until(
            lambda: self.pair.source.limits[-1] == source.PAUSED_LIMIT_MS,
            'the limit to be opened')
        (note,) = made.record.notes
        self.assertIn('paused during its migration', note)
        now = time.time()
        for detail, at in (('pre-switchover', 0), ('device', 0.1),
                           ('completed', 0.2)):
            self.pair.source.tell(INSTANCE, What.STATUS, detail, at=now + at)
        self.pair.source.final = {'downtime': 5000}
        self.pair.arrive(now + 1)
        self.ended(made, Phase.COMPLETED)
        self.assertEqual([note], made.record.notes[:1])
        self.assertEqual({}, made.record.downtime_parts)


class TestLimitIsUndone(WatchesCase):
    def stays(self, looks):
        """Return the watch of a guest that stays, and its new limits."""
        made = self.source(Phase.PRECOPY)
        host, asked = self.pair.source, []

        def limit(uuid, milliseconds):
            asked.append(milliseconds)
            if len(asked) <= looks:
                raise hypervisor.HypervisorError('libvirtd is away')

        self.useFixture(fixtures.MockPatchObject(
            host, 'limit_downtime', limit))
        self.pair.go_back('operation aborted')
        self.ended(made)
        return made, asked

    def test_at_a_later_look(self):
        made, asked = self.stays(looks=2)
        self.assertEqual([300] * 3, asked)
        self.assertEqual([], made.record.notes)

    def test_an_operator_is_told_what_to_type(self):
        made, asked = self.stays(looks=1000)
        self.assertEqual(source.LOOKS_FOR_THE_END + 1, len(asked))
        (note,) = made.record.notes
        self.assertIn('virsh migrate-setmaxdowntime instance 300', note)


class TestKilledAtTheEnd(WatchesCase):
    """The journal takes one more write, and the agent is gone."""

    def kept(self, role, made):
        """Return the entry that the next agent finds."""
        self.assertTrue(made.wait(gpu_lab.PATIENCE))
        found = journal.Journal(self.journal.path)
        self.addCleanup(found.close)
        return found.get(UUID, role)

    def kill_at_the_end(self):
        move = self.journal.move

        def last_move(*args, **values):
            try:
                return move(*args, **values)
            finally:
                self.journal.close()

        self.useFixture(fixtures.MockPatchObject(self.journal, 'move',
                                                 last_move))

    def moves(self):
        self.pair.source.views.clear()
        self.pair.destination.views[INSTANCE] = View(State.RUNNING)

    def test_source_of_what_has_moved(self):
        made = self.source(Phase.PRECOPY)
        self.kill_at_the_end()
        self.moves()
        self.assertTrue(tenancy.over(self.kept(SOURCE, made)))

    def test_destination_of_what_has_moved(self):
        made = self.destination()
        self.kill_at_the_end()
        self.moves()
        self.assertTrue(tenancy.over(self.kept(DESTINATION, made)))

    def test_source_of_what_stays(self):
        made = self.source(Phase.PRECOPY)
        self.kill_at_the_end()
        self.pair.go_back('operation aborted')
        entry = self.kept(SOURCE, made)
        self.assertTrue(entry.settled)
        self.assertIn('operation aborted', entry.record['reason'])

    def test_destination_of_what_stays(self):
        made = self.destination()
        self.kill_at_the_end()
        made.give_up('Nova has rolled the migration back')
        entry = self.kept(DESTINATION, made)
        self.assertTrue(entry.settled)
        self.assertEqual('Nova has rolled the migration back',
                         entry.record['reason'])
