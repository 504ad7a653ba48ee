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


"""Moves of whole VMs under load, compared with a twin that stayed."""

import dataclasses
import random
import uuid

from oslotest import base
from testtools import content

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from tests import gpu_lab
from tests import two_hosts

State = ownership.State
Phase = phases.Phase
PATIENCE = two_hosts.PATIENCE
FRAMES = 120


class GuestCase(base.BaseTestCase):
    """A VM and its twin at the source, a paused VM at the destination."""

    def setUp(self):
        super().setUp()
        self.pair = two_hosts.Pair(
            self, vfs=3, frame_buffer_mib=32, unit_bytes=gpu_lab.MIB // 4,
            work_unit_bytes=64 * 1024)
        self.here, self.there = self.pair.source, self.pair.destination
        self.vf, self.twin_vf, _ = self.here.vfs
        self.target = self.there.vfs[2]
        self.seed = random.SystemRandom().randrange(2 ** 32)
        self.addDetail('seed', content.text_content(str(self.seed)))
        self.uuid = str(uuid.uuid4())
        self.vm = self.here.boot(self, self.vf, self.uuid)
        self.twin = self.here.boot(self, self.twin_vf, str(uuid.uuid4()))

    def work(self, name='mixed', frames=FRAMES):
        for vm in (self.vm, self.twin):
            vm.call('wait', phase='ready')
            vm.call('workload', name=name, seed=self.seed, frames=frames,
                    frames_per_second=60.0, working_set_mib=4)

    def wait_frame(self, vm, frame):
        vm.call('wait', frame=frame)

    def guest_move(self, **options):
        """A move, with the VM's process at the destination."""
        self.moved = self.there.boot(self, self.target, self.uuid,
                                     incoming=True)
        guest = self.here.vmm.guest(self.uuid)
        target = self.there.vmm.guest(self.uuid)
        self.addCleanup(guest.close)
        self.addCleanup(target.close)
        return self.pair.move(self.vf, self.target, instance=self.uuid,
                              guest=guest, target=target, **options)

    def snapshot(self, host, vf, vm):
        vm.call('wait', frame=FRAMES, phase='ready')
        vm.call('stop')
        return {'frame_buffer': host.admin.call('digest', vf=vf),
                'vf': host.admin.call('vf_state', vf=vf),
                'ram': vm.call('ram_digest'),
                'status': vm.call('workload_status')}

    def assert_equal_to_twin(self, host, vf, vm):
        mine = self.snapshot(host, vf, vm)
        twin = self.snapshot(self.here, self.twin_vf, self.twin)
        self.assertEqual(0, mine['status']['tdr_events'])
        self.assertEqual(twin, mine, f'seed {self.seed}')

    def assert_completed(self, move, done):
        self.assertEqual('', done.reason)
        self.assertIs(phases.Outcome.COMPLETED, done.outcome)
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual('paused', self.vm.call('state'))
        self.assertEqual('running', self.moved.call('state'))
        self.assert_equal_to_twin(self.there, self.target, self.moved)

    def assert_returned(self, move, done):
        self.assertIs(Phase.RETURNED, done.phase)
        entry = self.here.journal.get(move.uuid, phases.Role.SOURCE)
        self.assertTrue(entry.settled)
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual('running', self.vm.call('state'))
        self.assertEqual('paused', self.moved.call('state'))
        self.assert_equal_to_twin(self.here, self.vf, self.vm)


class LoadTest(GuestCase):

    def _moves(self, level, workload):
        self.work(workload)
        self.wait_frame(self.vm, random.Random(self.seed).randrange(2, 20))
        done = (move := self.guest_move(limits=dataclasses.replace(
            two_hosts.LIMITS, level=level, fence_seconds=5.0))).run()
        self.assert_completed(move, done)
        self.assertLess(0, sum(r.memory_bytes for r in done.rounds))
        self.assertGreater(done.first_fence_seconds, done.downtime_seconds)

    def test_units_mixed(self):
        self._moves(contract.Level.UNITS, 'mixed')

    def test_units_render(self):
        self._moves(contract.Level.UNITS, 'render')

    def test_stream_compute(self):
        self._moves(contract.Level.STREAM, 'compute')

    def test_stream_video(self):
        self._moves(contract.Level.STREAM, 'video')

    def test_no_guest_waits_there(self):
        self.work()
        move = self.guest_move()
        move.target = None
        done = move.run()
        self.assertIn('no endpoint for the RAM', done.reason)
        move.destination.drop('the source went back')
        self.assert_returned(move, done)


class PausedTest(GuestCase):
    """A guest that somebody has paused is paused after the move too."""

    def paused_move(self):
        self.work()
        self.wait_frame(self.vm, 2)
        self.vm.call('stop')
        return self.guest_move()

    def goes_on(self, host, vf, vm):
        self.assertEqual('paused', vm.call('state'))
        # It is its owner's, like any other paused guest.
        vm.call('cancel_memory')
        vm.call('run')
        self.assert_equal_to_twin(host, vf, vm)

    def test_it_moves(self):
        move = self.paused_move()
        done = move.run()
        self.assertEqual(('', phases.Outcome.COMPLETED),
                         (done.reason, done.outcome))
        self.assertTrue(move.destination.wait(PATIENCE))
        self.assertEqual('paused', self.vm.call('state'))
        # Nothing of it was held up.
        self.assertEqual((None, {}, None), (
            done.downtime_seconds, done.downtime_parts,
            done.first_fence_seconds))
        for host, role in ((self.here, phases.Role.SOURCE),
                           (self.there, phases.Role.DESTINATION)):
            self.assertEqual('paused', host.journal.get(
                move.uuid, role).record['guest'])
        self.goes_on(self.there, self.target, self.moved)

    def test_it_stays_after_a_failure(self):
        self.here.knob(self.vf, 'export_error', 'stop-copy')
        move = self.paused_move()
        self.assertIs(Phase.RETURNED, move.run().phase)
        self.here.knob(self.vf, 'export_error', '')
        self.goes_on(self.here, self.vf, self.vm)

    def test_it_stays_after_an_abort(self):
        move = self.paused_move()
        move.on_phase[Phase.PRECOPY] = lambda: move.source.abort('enough')
        self.assertIs(phases.Outcome.ABORTED, move.run().outcome)
        self.goes_on(self.here, self.vf, self.vm)

    def test_paused_in_the_middle(self):
        self.work()
        self.wait_frame(self.vm, 2)
        move = self.guest_move()
        move.on_phase[Phase.SWITCHOVER] = lambda: self.vm.call('stop')
        done = move.run()
        self.assertIn('was running when the move began and is paused',
                      done.reason)
        self.goes_on(self.here, self.vf, self.vm)


class FailureTest(GuestCase):
    """VM and VF go on at the source as if nothing had happened."""

    def _fails(self, break_it, expected, phase):
        self.work()
        self.wait_frame(self.vm, 2)
        move = self.guest_move()
        break_it(move)
        done = move.run()
        self.assertIn(expected, done.reason)
        self.assertEqual(phase, move.phases[-2])
        self.assert_returned(move, done)

    def test_pre_copy(self):
        self._fails(lambda _: self.here.knob(
            self.vf, 'export_error', 'pre-copy'), 'pre-copy', Phase.PRECOPY)

    def test_switchover(self):
        self._fails(lambda _: self.here.knob(
            self.vf, 'export_error', 'stop-copy'), 'switchover',
            Phase.SWITCHOVER)

    def test_load(self):
        self._fails(lambda _: self.there.knob(
            self.target, 'import_error', 3), self.target, Phase.LOAD)

    def test_connection_lost_in_the_switchover(self):
        def cut(move):
            move.on_phase[Phase.SWITCHOVER] = move.cut
        self._fails(cut, 'connection', Phase.SWITCHOVER)

    def test_abort(self):
        def abort(move):
            move.on_phase[Phase.PRECOPY] = \
                lambda: move.source.abort('enough')
        self._fails(abort, 'enough', Phase.PRECOPY)

    def test_the_destinations_guest_dies(self):
        def kill(move):
            move.on_phase[Phase.LOAD] = self.moved.process.kill
        self.work()
        self.wait_frame(self.vm, 2)
        move = self.guest_move()
        kill(move)
        done = move.run()
        self.assertIs(Phase.RETURNED, done.phase)
        self.assertIn(self.uuid, done.reason)
        self.assert_equal_to_twin(self.here, self.vf, self.vm)

    def test_a_second_try_succeeds(self):
        self.work()
        self.here.knob(self.vf, 'export_error', 'stop-copy')
        move = self.guest_move()
        self.assertIs(Phase.RETURNED, move.run().phase)
        self.here.knob(self.vf, 'export_error', '')
        self.assertTrue(move.destination.wait(PATIENCE))
        self.moved.close()
        move = self.guest_move()
        self.assert_completed(move, move.run())
