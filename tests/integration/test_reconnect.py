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

"""The agents' connection is lost and comes back, or does not."""

import dataclasses
import threading
import uuid

from oslotest import base

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import window
from tests import gpu_lab
from tests.integration import cutting
from tests.integration import one_way
from tests.integration import test_move
from tests.integration import twins
from tests import two_hosts

Cut, Kind, Phase = cutting.Cut, frames.Kind, phases.Phase
PATIENCE = two_hosts.PATIENCE
LONG = 600.0
"""A wait for a connection that a test would not see the end of."""

BULK = {contract.Level.UNITS: Kind.UNIT, contract.Level.STREAM: Kind.STREAM}


class TwinTest(base.BaseTestCase):
    """What has moved over broken connections equals what has stayed."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.lab = twins.Lab(cls)
        for host in cls.lab.hosts:
            host.server._reconnect_seconds = PATIENCE

    def moves(self, cuts):
        """At each level; `cuts` makes them of the level's bulk frames."""
        for seed, level in enumerate(contract.Level):
            hosts = self.lab.hosts
            with one_way.OneWay(*hosts) as way:
                trial = twins.Trial(way, seed, '')
                self.assertIs(level, trial.result.level)
                move = trial._move
                move.limits = dataclasses.replace(
                    move.limits, reconnect_seconds=PATIENCE,
                    downtime_seconds=PATIENCE)
                made = cuts(BULK[level])
                proxy = cutting.Proxy(way, *made)
                true = move.prepare
                move.prepare = lambda t=true, p=proxy: p.between(t())
                result = trial.run()
                self.assertEqual({}, result.different, str(result))
                self.assertEqual(len(made), proxy.done, 'not all was cut')
                # One that is lost before it was answered is no success at
                # the source, and may have been one at the destination.
                back = sum(cut.kind is not Kind.RESUME for cut in made)
                self.assertEqual(back, move.source.record.reconnects)
                self.assertIn(move.destination.record.reconnects,
                              range(back - 1, len(made) + 1))
                self.assertEqual(1 + len(made), proxy.connections)

    def test_inside_the_bulk_of_pre_copy(self):
        self.moves(lambda bulk: [Cut(bulk, 2, 0.5)])

    def test_inside_a_header(self):
        self.moves(lambda bulk: [Cut(bulk, 1, 0.00001, reset=True)])

    def test_behind_the_switchover(self):
        self.moves(lambda bulk: [Cut(Kind.SWITCHOVER)])

    def test_inside_the_bulk_of_stop_copy(self):
        # The device's state goes as a stream at either level.
        self.moves(lambda bulk: [Cut(Kind.SWITCHOVER, reset=True),
                                 Cut(Kind.STREAM, 1, 0.5)])

    def test_inside_what_is_to_be_verified(self):
        self.moves(lambda bulk: [Cut(Kind.VERIFY, 1, 0.9)])

    def test_what_the_destination_says(self):
        self.moves(lambda bulk: [Cut(Kind.READY, 1, 0.5), Cut(Kind.ACK)])

    def test_before_a_word_was_said(self):
        self.moves(lambda bulk: [Cut(Kind.HELLO), Cut(Kind.RESUME)])

    def test_again_and_again(self):
        self.moves(lambda bulk: [
            Cut(Kind.BEGIN, 1, 0.3), Cut(Kind.ACK, reset=True),
            Cut(bulk, 1, 0.2), Cut(bulk, 1, 0.99),
            Cut(Kind.RESUME, reset=True), Cut(bulk),
            Cut(Kind.SWITCHOVER, 1, 0.5), Cut(Kind.STREAM, 1, 0.7),
            Cut(Kind.VERIFY, 1, 0.1)])


class LossCase(test_move.MoveCase):
    """A VF alone, whose connection is cut by a test."""

    def setUp(self):
        super().setUp()
        self.wait(LONG)

    def wait(self, source, destination=None):
        """How long each side waits for a connection that is lost."""
        self.limits = dataclasses.replace(two_hosts.LIMITS,
                                          reconnect_seconds=source)
        self.there.server._reconnect_seconds = (
            two_hosts.LIMITS.reconnect_seconds if destination is None
            else destination)

    def lossy(self, *cuts, **options):
        move = self.pair.move(self.vf, self.target, limits=self.limits,
                              **options)
        self.proxy = cutting.Proxy(self, *cuts)
        move.begin(self.proxy.between(move.prepare()))
        return move


class BackTest(LossCase):

    def verifying(self, *, for_good=False):
        """A move that will be cut while its destination is busy."""
        self.wait(PATIENCE, PATIENCE)
        self.limits = dataclasses.replace(self.limits,
                                          downtime_seconds=PATIENCE)
        move = self.lossy(Cut(Kind.VERIFY))
        self.proxy.for_good = for_good
        move.on_phase[Phase.PRECOPY] = lambda: self.there.knob(
            self.target, 'hang_at', 'STOP')
        thread = threading.Thread(target=move.source.run)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        return move, thread

    def test_while_it_is_verified(self):
        move, thread = self.verifying()
        gpu_lab.until(lambda: move.source.record.reconnects,
                      'the source to be connected again')
        self.there.knob(self.target, 'hang_at', '')
        thread.join(PATIENCE)
        self.assert_moved(move, move.source.record)

    def test_not_yet_when_it_is_verified(self):
        move, thread = self.verifying(for_good=True)
        self.assertTrue(self.proxy.cut.wait(PATIENCE))
        channel = self.there.server._sessions[move.uuid].channel
        self.there.knob(self.target, 'hang_at', '')
        gpu_lab.until(lambda: channel._lost_at or channel._sealed,
                      'the destination to see that it is alone')
        self.proxy.for_good = False
        thread.join(PATIENCE)
        self.assert_moved(move, move.source.record)

    def test_refused_by_the_network_at_first(self):
        self.wait(PATIENCE, PATIENCE)
        move = self.lossy(Cut(Kind.UNIT))
        self.proxy.refuse_after_a_cut = 2
        done = move.source.run()
        self.assert_moved(move, done)
        self.assertEqual(1, done.reconnects)
        self.assertEqual(4, self.proxy.connections)

    def test_the_destination_does_not_see_it(self):
        self.wait(PATIENCE, PATIENCE)
        self.limits = dataclasses.replace(self.limits,
                                          downtime_seconds=PATIENCE)
        move = self.lossy(Cut(Kind.UNIT, 1, 0.5), Cut(Kind.SWITCHOVER),
                          Cut(Kind.STREAM, 1, 0.5), Cut(Kind.VERIFY, 1, 0.5))
        self.proxy.half = True
        done = move.source.run()
        self.assert_moved(move, done)
        self.assertEqual(4, done.reconnects)

    def test_strangers_do_not_touch_it(self):
        move = self.lossy()
        said = []

        def strange():
            right = bytes.fromhex(move.source._export._offer.ticket)
            other = str(uuid.uuid4())
            for kind, number, ticket, sequence in (
                    (Kind.RESUME, move.uuid, bytes(32), 1),
                    (Kind.RESUME, other, right, 1),
                    (Kind.HELLO, move.uuid, right, 0),
                    (Kind.RESUME, move.uuid, right, 1 << 20)):
                said.append(self.dial(kind, frames.Hello(number, ticket),
                                      sequence))

        move.on_phase[Phase.PRECOPY] = strange
        done = move.source.run()
        for words, expected in zip(said, (
                'wrong ticket', 'wrong ticket', 'connected already',
                f'expects sequence {1 << 20}'), strict=True):
            self.assertIn(expected, words)
        self.assert_moved(move, done)
        self.assertEqual((0, 0), (done.reconnects,
                                  move.destination.record.reconnects))

    def dial(self, kind, hello, sequence):
        """Greet the data port; what it says before it closes."""
        line = link.Line.dial(*self.there.server.address, PATIENCE,
                              link.Patience(PATIENCE))
        self.addCleanup(line.close)
        body = frames.encode_hello(hello)
        line.send([frames.header(kind, len(body), sequence), body])
        head = frames.decode_header(
            line.exactly(frames.HEADER.size), 0, frozenset((Kind.FAIL,)),
            frames.Bounds())
        return frames.decode_text(line.exactly(head.length))


class ForGoodTest(LossCase):
    """The connection never comes back: the VF goes on at the source."""

    def lost(self, cut, expected):
        move = self.lossy(cut)
        self.proxy.for_good = True
        done = move.source.run()
        self.assertIn(expected, done.reason)
        self.assert_returned(move, done)
        return done

    def test_in_pre_copy(self):
        self.wait(0.3)
        done = self.lost(Cut(Kind.UNIT, 1, 0.5), 'no connection again')
        self.assertIn('pre-copy', done.reason)

    def test_the_guest_stands_still(self):
        # Only the downtime limit ends this.
        done = self.lost(Cut(Kind.SWITCHOVER), 'no connection again')
        self.assertIn('switchover', done.reason)

    def test_turned_off(self):
        self.wait(0.0, 0.0)
        self.lost(Cut(Kind.UNIT), 'connection')
        self.assertEqual(1, self.proxy.connections)

    def test_turned_off_at_the_destination(self):
        self.wait(PATIENCE, 0.0)
        # It has thrown everything away before the source is there again.
        move = self.lossy(Cut(Kind.UNIT))
        self.proxy.before_the_next = lambda: move.destination.wait(PATIENCE)
        done = move.source.run()
        self.assertIn('or no longer', done.reason)
        self.assert_returned(move, done)

    def test_the_agent_has_ended(self):
        move = self.lossy(Cut(Kind.UNIT, 1, 0.5))
        self.proxy.gone = True
        done = move.source.run()
        self.assertIn('nobody listens', done.reason)
        self.assert_returned(move, done)

    def test_prepared_does_not_arrive(self):
        move = self.lossy(Cut(Kind.PREPARED, 1, 0.5))
        done = move.source.run()
        self.assertIn('the journals decide', done.reason)
        self.assert_returned(move, done)

    def test_the_window_is_gone(self):
        move = self.lossy(Cut(Kind.UNIT, 3, 0.5))
        move.on_phase[Phase.PRECOPY] = lambda: self.forget(
            move.source._export.channel)
        done = move.source.run()
        self.assertIn('is held any more', done.reason)
        self.assertTrue(self.proxy.cut.is_set())
        self.assert_returned(move, done)

    def forget(self, channel):
        """Before it connects again: the peer's own words are not mocked."""
        true = channel._redial

        def redial(lost):
            channel._window.acknowledge(channel._window.next)
            return true(lost)

        channel._redial = redial


class AbortTest(LossCase):
    """Nobody waits for a connection who was told not to."""

    def test_at_the_source(self):
        move = self.lossy(Cut(Kind.UNIT, 1, 0.5))
        self.proxy.for_good = True
        thread = threading.Thread(target=move.source.run)
        thread.start()
        self.addCleanup(thread.join, PATIENCE)
        self.assertTrue(self.proxy.cut.wait(PATIENCE))
        move.source.abort('enough')
        thread.join(PATIENCE)
        done = move.source.record
        self.assertEqual('enough', done.reason)
        self.assert_returned(move, done, outcome=phases.Outcome.ABORTED)

    def test_at_the_destination(self):
        self.wait(0.0, LONG)
        move = self.lossy(Cut(Kind.UNIT, 1, 0.5))
        done = move.source.run()
        self.assertTrue(self.proxy.cut.is_set())
        self.assertFalse(move.destination.wait(0))
        move.destination.drop('enough')
        self.assert_returned(move, done)
        self.assertEqual('enough', move.destination.record.reason)


class BoundTest(base.BaseTestCase):
    """More than the window holds: what goes twice is bounded by it."""

    FRAME_BUFFER_MIB = 64

    def moved(self, level, kind):
        pair = two_hosts.Pair(self, frame_buffer_mib=self.FRAME_BUFFER_MIB,
                              unit_bytes=gpu_lab.MIB)
        here, there = pair.source, pair.destination
        here_vf, there_vf = here.vfs[0], there.vfs[1]
        guest = gpu_lab.Guest(here.gim, here_vf)
        self.addCleanup(guest.close)
        guest.load_driver()
        guest.submit(abi.Engine.GFX, abi.Opcode.RMW, va=1 << 20,
                     length=(self.FRAME_BUFFER_MIB - 2) << 20, arg0=5, arg1=9)
        guest.wait(abi.Engine.GFX)
        there.server._reconnect_seconds = PATIENCE
        move = pair.move(here_vf, there_vf, limits=dataclasses.replace(
            two_hosts.LIMITS, level=level, reconnect_seconds=PATIENCE))
        proxy = cutting.Proxy(self, Cut(kind, 30, 0.5), Cut(kind, 20))
        move.begin(proxy.between(move.prepare()))
        done = move.source.run()
        self.assertEqual('', done.reason)
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual(ownership.State.OWNED, move.states()[1])
        self.assertEqual(here.admin.call('digest', vf=here_vf),
                         there.admin.call('digest', vf=there_vf))
        most = 2 * window.LIMIT_BYTES
        self.assertEqual(2, done.reconnects)
        self.assertLessEqual(proxy.doubled, done.resent_bytes)
        self.assertLess(0, done.resent_bytes)
        self.assertLessEqual(done.resent_bytes, most)

    def test_units(self):
        self.moved(contract.Level.UNITS, Kind.UNIT)

    def test_stream(self):
        self.moved(contract.Level.STREAM, Kind.STREAM)
