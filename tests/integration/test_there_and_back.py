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

"""One VM under load, fifty times from host to host, beside its twin.

Guest processes at both ends, guest RAM by their own stream, the real engine
and its journals. What one move loses or keeps for itself, fifty add up: a
command, an interrupt, a descriptor, a thread, a mapping, a row.
"""

import dataclasses
import os
import pathlib
import random
import sys
import time
import uuid

from oslotest import base
from testtools import content

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import phases
from tests import gpu_lab
from tests.integration import one_way
from tests.integration import resources
from tests import two_hosts

MOVES = 50
SETTLED = 10
"""Moves after which nothing may grow any more; even: the VM is at home."""

GROWTH = 4 * gpu_lab.MIB
"""What an allocator may keep; forty times a frame buffer is far more."""

MARGIN = 60
"""Frames between now and the workload's end."""


def say(text):
    """To whoever waits for it; a test's own output may be captured."""
    sys.__stderr__.write(f'{text}\n')
    sys.__stderr__.flush()


class ThereAndBackTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.seed = int(os.environ.get('NOVA_VGPU_MIG_SEED')
                        or random.SystemRandom().randrange(2**32))
        self.addDetail('seed', content.text_content(str(self.seed)))
        self.draw = random.Random(self.seed)
        self.pair = two_hosts.Pair(
            self, vfs=3, frame_buffer_mib=16, unit_bytes=gpu_lab.MIB // 4,
            work_unit_bytes=32 * 1024)
        self.home = self.pair.source
        self.hosts = [self.pair.source, self.pair.destination]
        self.uuid = str(uuid.uuid4())
        self.twin_vf, self.vf, _ = self.home.vfs
        self.twin = self.home.boot(self, self.twin_vf, str(uuid.uuid4()))
        self.vm = self.home.boot(self, self.vf, self.uuid)
        for vm in (self.vm, self.twin):
            vm.call('wait', phase='ready')

    def work(self, workload):
        for vm in (self.vm, self.twin):
            vm.call('workload', name=workload, seed=self.seed,
                    frames_per_second=30.0, working_set_mib=2,
                    fill_percent=50)

    def move_once(self, number):
        """To the other host; a new guest process each time."""
        here, there = self.hosts
        index = here.vfs.index(self.vf)
        target = self.draw.choice([
            vf for vf in there.vfs
            if vf != self.twin_vf and there.vfs.index(vf) != index])
        level = list(contract.Level)[number // 2 % 2]
        arrived = there.boot(self, target, self.uuid, incoming=True)
        with one_way.OneWay(here, there) as way:
            guest, waiting = (host.vmm.guest(self.uuid) for host in
                              (here, there))
            way.addCleanup(guest.close)
            way.addCleanup(waiting.close)
            move = two_hosts.Move(
                way, self.vf, target, guest=guest, target=waiting,
                instance=self.uuid, limits=dataclasses.replace(
                    two_hosts.LIMITS, level=level))
            done = move.run()
            self.assertIs(phases.Outcome.COMPLETED, done.outcome,
                          f'move {number}: {done.reason}')
            self.assertTrue(move.destination.wait(two_hosts.PATIENCE))
            self.assertEqual('paused', self.vm.call('state'))
            self.vm.close()
            way.finish(move.uuid)
        self.vm, self.vf = arrived, target
        self.hosts.reverse()
        status = self.vm.call('workload_status')
        self.assertEqual(('working', 0, ''), (
            status['phase'], status['tdr_events'], status['error']))
        # Let it get somewhere: not all moves in the same frame.
        self.vm.call('wait', frame=status['frames_retired']
                     + self.draw.randrange(3))
        return done

    def finish_work(self):
        """Both end after the same frame."""
        frame = MARGIN + max(
            vm.call('workload_status')['frames_submitted']
            for vm in (self.vm, self.twin))
        for vm in (self.vm, self.twin):
            vm.call('finish_workload', frame=frame)
        for vm in (self.vm, self.twin):
            vm.call('wait', frame=frame, phase='ready', seconds=60.0)
            vm.call('stop')
        return frame

    def look(self, vf, vm):
        host = self.hosts[0] if vm is self.vm else self.home
        return {'frame buffer': host.admin.call('digest', vf=vf),
                'vf': host.admin.call('vf_state', vf=vf),
                'ram': vm.call('ram_digest'),
                'status': vm.call('workload_status')}

    def assert_nothing_lost(self, seen, frame):
        status, vf = seen['status'], seen['vf']
        self.assertEqual(frame, status['frames_retired'])
        self.assertEqual(status['submitted'], status['retired'])
        self.assertEqual([], vf['faults'])
        self.assertEqual(0, status['tdr_events'])
        engines = [vf['engines'][engine.name] for engine in abi.Engine]
        self.assertEqual(status['submitted'],
                         [engine['retired_commands'] for engine in engines])
        self.assertEqual(
            [engine['interrupts_raised'] for engine in engines],
            [received + pending for received, pending in zip(
                status['interrupts_received'],
                status['interrupts_pending'], strict=True)])

    def held(self):
        """What must not grow; the VM is at home."""
        pids = [host.gim.process.pid for host in self.hosts]
        return [*resources.of_processes(
                    [*pids, self.twin.pid, self.vm.pid, os.getpid()]),
                {'processes': resources.children(os.getpid())},
                {'sockets': sum(1 for host in self.hosts for _ in
                                pathlib.Path(host.directory).rglob(
                                    '*.sock'))}]

    def anonymous(self):
        return {pid: resources.anonymous_bytes(pid) for pid in (
            os.getpid(), self.twin.pid,
            *(host.gim.process.pid for host in self.hosts))}

    def _fifty(self, workload):
        self.work(workload)
        say(f'there and back: {MOVES} moves, {workload}, '
            f'NOVA_VGPU_MIG_SEED={self.seed}')
        began, moves = time.monotonic(), []
        for number in range(MOVES):
            moves.append(self.move_once(number))
            if number + 1 == SETTLED:
                before, memory = self.held(), self.anonymous()
        gpu_lab.until(lambda: not resources.grown(before, self.held()),
                      f'what is held to be no more than before: {before}, '
                      f'now {self.held()}')
        grown = {pid: now - memory[pid]
                 for pid, now in self.anonymous().items()}
        self.assertLess(max(grown.values()), GROWTH, grown)
        frame = self.finish_work()
        moved = self.look(self.vf, self.vm)
        self.assert_nothing_lost(moved, frame)
        stayed = self.look(self.twin_vf, self.twin)
        self.assertEqual(stayed, moved, f'seed {self.seed}')
        for host in self.hosts:
            self.assertEqual([], host.journal.entries(unsettled=True))
        moves.sort(key=lambda done: done.downtime_seconds)
        parts = ', '.join(f'{part} {seconds * 1e3:.0f}' for part, seconds
                          in moves[-1].downtime_parts.items())
        say(f'there and back: equal after {MOVES} moves and {frame} frames '
            f'in {time.monotonic() - began:.0f} s; downtime '
            f'{moves[MOVES // 2].downtime_seconds * 1e3:.0f} ms in the '
            f'middle, {moves[-1].downtime_seconds * 1e3:.0f} ms at most '
            f'({parts})')

    def test_mixed(self):
        self._fifty('mixed')

    def test_render(self):
        self._fifty('render')
