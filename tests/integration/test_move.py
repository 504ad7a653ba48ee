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


"""Moves between two GIM processes, over TCP, with real journals."""

import dataclasses
import threading

from oslotest import base

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import channel
from nova_vgpu_mig.migration import dialled
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.migration import source
from tests import gpu_lab
from tests import two_hosts

State = ownership.State
Phase = phases.Phase
PATIENCE = two_hosts.PATIENCE


class MoveCase(base.BaseTestCase):
    """A VF with work done at the source, and a VF that waits for it."""

    def setUp(self):
        super().setUp()
        self.pair = two_hosts.Pair(self)
        self.here, self.there = self.pair.source, self.pair.destination
        # Another index at the other end.
        self.vf, self.target = self.here.vfs[0], self.there.vfs[1]
        self.guest = gpu_lab.Guest(self.here.gim, self.vf)
        self.addCleanup(self.guest.close)
        self.guest.load_driver()
        self.work()

    def work(self):
        """Something to move; and that the VF is served."""
        self.guest.submit(abi.Engine.GFX, abi.Opcode.RMW, va=1 << 20,
                          length=1 << 20, arg0=5, arg1=9)
        self.guest.wait(abi.Engine.GFX)

    def digest(self, host, vf):
        return host.admin.call('digest', vf=vf)

    def assert_moved(self, move, done):
        self.assertEqual('', done.reason)
        self.assertEqual((phases.Outcome.COMPLETED, Phase.COMPLETED),
                         (done.outcome, done.phase))
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual((State.GIVEN_UP, State.OWNED), move.states())
        self.assertEqual(self.digest(self.here, self.vf),
                         self.digest(self.there, self.target))
        self.assertEqual('RUNNING',
                         self.there.vf(self.target)['migration_state'])
        self.assertNotEqual('RUNNING',
                            self.here.vf(self.vf)['migration_state'])

    def assert_returned(self, move, done, *, outcome=phases.Outcome.FAILED):
        self.assertEqual((outcome, Phase.RETURNED),
                         (done.outcome, done.phase), done.reason)
        self.assertNotEqual('', done.reason)
        entry = self.here.journal.get(move.uuid, phases.Role.SOURCE)
        self.assertEqual((State.RETURNED, True),
                         (entry.state, entry.settled))
        self.assertEqual('RUNNING',
                         self.here.vf(self.vf)['migration_state'])
        self.work()
        # Nothing is left at the other end.
        self.assertTrue(move.destination.wait(PATIENCE))
        entry = self.there.journal.get(move.uuid, phases.Role.DESTINATION)
        self.assertEqual((State.DROPPED, True), (entry.state, entry.settled))
        gpu_lab.until(lambda: self.there.vf(self.target)['free'],
                      'the VF to be free')
        self.assertEqual(0, self.there.vf(self.target)['used_bytes'])

    def level(self, level):
        return dataclasses.replace(two_hosts.LIMITS, level=level)


class SuccessTest(MoveCase):

    def test_units(self):
        move = self.pair.move(self.vf, self.target)
        done = move.run()
        self.assert_moved(move, done)
        self.assertEqual('units', done.level)
        self.assertEqual(
            [Phase.PREPARE, Phase.PRECOPY, Phase.SWITCHOVER, Phase.LOAD,
             Phase.COMMIT, Phase.RUN, Phase.COMPLETED], move.phases)

    def test_stream(self):
        move = self.pair.move(self.vf, self.target,
                              limits=self.level(contract.Level.STREAM))
        done = move.run()
        self.assert_moved(move, done)
        self.assertEqual(0, sum(r.frame_buffer_bytes for r in done.rounds))

    def test_the_source_chooses_the_level(self):
        move = self.pair.move(self.vf, self.target)
        move.limits = self.level(contract.Level.STREAM)
        self.assert_moved(move, move.run())

    def test_levels_that_are_forced_apart(self):
        move = self.pair.move(self.vf, self.target,
                              limits=self.level(contract.Level.UNITS))
        move.limits = self.level(contract.Level.STREAM)
        done = move.run()
        self.assertIn('level stream', done.reason)
        self.assert_returned(move, done)

    def test_the_report_adds_up(self):
        done = self.pair.move(self.vf, self.target).run()
        self.assertEqual(record.DOWNTIME_PARTS, tuple(done.downtime_parts))
        self.assertAlmostEqual(done.downtime_seconds,
                               sum(done.downtime_parts.values()), places=6)
        self.assertTrue(done.rounds[-1].stop_copy)
        self.assertIsNotNone(done.predicted_downtime_seconds)
        sent = sum(r.frame_buffer_bytes + r.zero_bytes + r.stream_bytes
                   for r in done.rounds)
        self.assertEqual(sent, done.transferred_bytes)
        self.assertEqual(done, record.MigrationRecord.from_dict(
            done.as_dict()))

    def test_zero_units_are_not_sent(self):
        # Made zero again by the guest: dirty, but nothing to send.
        self.guest.submit(abi.Engine.GFX, abi.Opcode.RMW, va=1 << 20,
                          length=1 << 20, arg0=0, arg1=0)
        self.guest.wait(abi.Engine.GFX)
        done = self.pair.move(self.vf, self.target).run()
        self.assertEqual(1 << 20, done.rounds[0].zero_bytes)
        self.assertEqual(self.digest(self.here, self.vf),
                         self.digest(self.there, self.target))

    def test_what_was_in_the_destination_is_gone(self):
        device = self.there.gim.open(self.target)
        device.frame_buffer[-4096:] = b'\xaa' * 4096
        device.close()
        gpu_lab.until(lambda: self.there.vf(self.target)['free'],
                      'the VF to be free')
        move = self.pair.move(self.vf, self.target)
        self.assert_moved(move, move.run())

    def test_the_source_is_released(self):
        move = self.pair.move(self.vf, self.target)
        move.run()
        self.assertEqual('completed', move.destination.record.phase)


class ReturnTest(MoveCase):

    def fails(self, expected, **options):
        move = self.pair.move(self.vf, self.target, **options)
        done = move.run()
        self.assertIn(expected, done.reason)
        self.assert_returned(move, done)
        return done

    def test_pre_copy_export(self):
        self.here.knob(self.vf, 'export_error', 'pre-copy')
        self.fails('pre-copy: VF ' + self.vf)

    def test_stop_copy_export(self):
        self.here.knob(self.vf, 'export_error', 'stop-copy')
        self.fails('switchover: VF ' + self.vf)

    def test_each_import_phase(self):
        for phase in (1, 2, 3):
            self.there.knob(self.target, 'import_error', phase)
            done = self.fails(f'VF {self.target}')
            self.assertIn('gave up', done.reason)

    def test_a_ticket_that_is_wrong(self):
        move = self.pair.move(self.vf, self.target)
        offer = dataclasses.replace(move.prepare(), ticket='00' * 32)
        move.begin(offer)
        done = move.source.run()
        self.assertIn('wrong ticket', done.reason)
        move.destination.drop('the source went back')
        self.assert_returned(move, done)

    def test_nobody_at_the_data_port(self):
        move = self.pair.move(self.vf, self.target)
        offer = move.prepare()
        self.there.server.close()
        move.begin(offer)
        done = move.source.run()
        self.assertIn('data_port', done.reason)
        move.destination.drop('the source went back')
        self.assert_returned(move, done)

    def test_a_limit_that_cannot_be_held(self):
        limits = dataclasses.replace(two_hosts.LIMITS,
                                     downtime_seconds=0.001)
        done = self.fails('cannot keep the downtime limit of 1 ms',
                          limits=limits)
        self.assertIn('would need', done.reason)

    def test_the_destination_is_taken(self):
        taken = gpu_lab.Guest(self.there.gim, self.target)
        self.addCleanup(taken.close)
        move = self.pair.move(self.vf, self.target)
        error = self.assertRaises(contract.DeviceError, move.prepare)
        self.assertIn('was taken', str(error))
        taken.load_driver()
        entry = self.there.journal.get(move.uuid, phases.Role.DESTINATION)
        self.assertEqual(State.DROPPED, entry.state)

    def test_a_reservation_that_ends(self):
        move = self.pair.move(self.vf, self.target, reservation=0.2)
        move.prepare()
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual(State.DROPPED, move.states()[1])
        self.assertIn('did not connect', move.destination.record.reason)

    def test_a_second_move_of_the_vf(self):
        move = self.pair.move(self.vf, self.target)
        error = self.assertRaises(
            journal.AlreadyMoving, self.pair.move, self.vf,
            self.there.vfs[0])
        self.assertIn(move.uuid, str(error))

    def test_abort_in_each_phase(self):
        for phase in (Phase.PREPARE, Phase.PRECOPY, Phase.SWITCHOVER,
                      Phase.LOAD, Phase.COMMIT):
            move = self.pair.move(self.vf, self.target)
            move.on_phase[phase] = lambda m=move: m.source.abort('enough')
            done = move.run()
            self.assertEqual('enough', done.reason)
            self.assertEqual(phase, move.phases[-2])
            if phase is Phase.PREPARE:
                move.destination.drop('the source went back')
            self.assert_returned(move, done,
                                 outcome=phases.Outcome.ABORTED)

    def test_abort_after_the_commit_is_refused(self):
        move = self.pair.move(self.vf, self.target)
        refused = []

        def abort():
            try:
                move.source.abort('too late')
            except source.AbortRefused as exc:
                refused.append(str(exc))

        move.on_phase[Phase.RUN] = abort
        done = move.run()
        self.assertEqual(1, len(refused))
        self.assertIn('given the VF up', refused[0])
        self.assert_moved(move, done)

    def test_somebody_else_has_decided_to_return(self):
        for phase in (Phase.SWITCHOVER, Phase.COMMIT):
            move = self.pair.move(self.vf, self.target)
            move.on_phase[phase] = lambda m=move: self.here.journal.move(
                m.uuid, phases.Role.SOURCE, State.RETURNED)
            done = move.run()
            self.assertIn('GIVEN_UP may not follow RETURNED', done.reason)
            # Left in doubt where it was verified; the journal decides.
            move.destination.look()
            self.assertTrue(move.destination.wait(PATIENCE))
            self.assert_returned(move, done)

    def test_abort_of_a_source_that_hangs(self):
        move = self.pair.move(self.vf, self.target)
        move.on_phase[Phase.PRECOPY] = lambda: self.there.knob(
            self.target, 'hang_at', 'STOP')
        loading = threading.Event()
        move.on_phase[Phase.LOAD] = loading.set
        thread = move.start()
        self.assertTrue(loading.wait(PATIENCE))
        move.source.abort('enough')
        thread.join(PATIENCE)
        self.there.knob(self.target, 'hang_at', '')
        self.assert_returned(move, move.source.record,
                             outcome=phases.Outcome.ABORTED)

    def test_connection_cut_in_each_phase(self):
        for phase in (Phase.PRECOPY, Phase.SWITCHOVER, Phase.LOAD):
            move = self.pair.move(self.vf, self.target)
            move.on_phase[phase] = move.cut
            done = move.run()
            self.assertEqual(phase, move.phases[-2])
            self.assertIn('connection', done.reason)
            self.assert_returned(move, done)

    def test_the_source_vf_vanishes(self):
        move = self.pair.move(self.vf, self.target)
        move.on_phase[Phase.PRECOPY] = lambda: self.here.knob(
            self.vf, 'vanish', True)
        done = move.run()
        self.assertIn('ENODEV', done.reason)
        entry = self.here.journal.get(move.uuid, phases.Role.SOURCE)
        # Not forgotten: it is tried again.
        self.assertEqual((State.RETURNED, False),
                         (entry.state, entry.settled))
        self.here.knob(self.vf, 'vanish', False)


class DropTest(MoveCase):

    def test_drop_while_the_source_never_rests(self):
        move = self.pair.move(self.vf, self.target)
        offer = move.prepare()
        device = move.destination._device
        feeder = dialled.Dialled.connect(
            offer.host, offer.port,
            frames.Hello(move.uuid, bytes.fromhex(offer.ticket)),
            connect_seconds=PATIENCE, patience=link.Patience(PATIENCE))
        self.addCleanup(feeder.close)
        feeder.send(frames.Kind.BEGIN, frames.encode_begin(frames.Begin(
            contract.Level.UNITS, device.unit_size,
            len(device.frame_buffer) // device.unit_size, '')))
        feeder.receive(frozenset((frames.Kind.READY,)))
        feeding = threading.Event()

        def feed():
            zero = frames.encode_zero(0, 1)
            try:
                while True:
                    feeder.send(frames.Kind.ZERO, zero)
                    feeding.set()
            except link.ChannelError:
                pass

        thread = threading.Thread(target=feed)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(feeder.close)
        self.assertTrue(feeding.wait(PATIENCE))
        move.destination.drop('enough')
        self.assertTrue(move.destination.wait(0))
        self.assertEqual('enough', move.destination.record.reason)
        self.assertEqual(State.DROPPED, move.states()[1])


class DoubtTest(MoveCase):
    """The connection is lost between PREPARED and RAN."""

    def cut(self, phase):
        move = self.pair.move(self.vf, self.target)
        move.on_phase[phase] = move.cut
        return move, move.run()

    def test_cut_before_the_commit(self):
        # PREPARED has arrived; the source gives up, then can't say so.
        move, done = self.cut(Phase.COMMIT)
        self.assertIsNone(done.outcome)
        self.assertIn('asked again', done.reason)
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual((State.GIVEN_UP, State.OWNED), move.states())
        self.assertEqual(self.digest(self.here, self.vf),
                         self.digest(self.there, self.target))

    def test_prepared_waits_for_the_journal(self):
        asked = threading.Event()
        answer = []
        move = self.pair.move(self.vf, self.target)

        def ask():
            asked.set()
            return answer[0] if answer else None

        move.destination._ask_source = ask
        move.on_phase[Phase.COMMIT] = move.cut
        move.run()
        self.assertTrue(asked.wait(PATIENCE))
        asked.clear()
        self.assertTrue(asked.wait(PATIENCE))
        self.assertEqual(State.PREPARED, move.states()[1])
        self.assertEqual('STOP',
                         self.there.vf(self.target)['migration_state'])
        self.assertIn('in doubt', move.destination.record.reason)
        answer.append(move.ask_source())
        move.destination.look()
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual(State.OWNED, move.states()[1])

    def test_a_run_that_fails_is_tried_again(self):
        self.there.knob(self.target, 'fail_run_once', True)
        move = self.pair.move(self.vf, self.target)
        self.assert_moved(move, move.run())

    def test_cut_while_it_is_verified(self):
        # The source goes back before it has heard PREPARED.
        move = self.pair.move(self.vf, self.target)
        move.on_phase[Phase.PRECOPY] = lambda: self.there.knob(
            self.target, 'hang_at', 'STOP')
        move.on_phase[Phase.LOAD] = move.cut
        done = move.run()
        self.there.knob(self.target, 'hang_at', '')
        self.assert_returned(move, done)


class LieTest(MoveCase):
    """What a source says is compared with what has come."""

    def lies(self, alter):
        move = self.pair.move(self.vf, self.target)
        move.begin()
        true = channel.Channel.send

        def send(this, kind, *parts):
            true(this, kind, *alter(kind, parts))

        self.addCleanup(setattr, channel.Channel, 'send', true)
        channel.Channel.send = send
        done = move.source.run()
        channel.Channel.send = true
        self.assert_returned(move, done)
        return done.reason

    def test_a_unit_that_changed_on_the_way(self):
        changed = []

        def alter(kind, parts):
            if kind.name == 'UNIT' and not changed:
                changed.append(1)
                body = bytearray(parts[1])
                body[5] ^= 1
                return parts[0], bytes(body)
            return parts

        self.assertIn('1 of 64 units of the frame buffer differ',
                      self.lies(alter))

    def test_a_stream_of_another_digest(self):
        def alter(kind, parts):
            if kind.name == 'VERIFY':
                body = bytearray(parts[0])
                # Behind the count of bytes, which stays right.
                body[12] ^= 1
                return bytes(body), parts[1]
            return parts

        self.assertIn('data stream differs', self.lies(alter))
