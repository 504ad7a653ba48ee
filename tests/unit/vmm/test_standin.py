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


"""Two guests and two software GIMs, all as real processes."""

import os
import signal
import socket
import struct
import tempfile
import unittest
import uuid

from hypothesis import given
from hypothesis import HealthCheck
from hypothesis import settings
from hypothesis import strategies
from oslo_config import cfg

from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm import registry
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import process
from nova_vgpu_mig.vmm.standin import stream
from tests import gpu_lab

STATE = contract.DeviceState
RAM_MIB = 4


class HostsCase(unittest.TestCase):
    """A source and a destination host; guests go with the test."""

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.here = cls._host('0000:81:00.0')
        cls.there = cls._host('0000:c1:00.0')

    @classmethod
    def _host(cls, pf):
        gim = gpu_lab.GIMProcess(
            gpu_lab.class_directory(cls), pf, frame_buffer_mib=8,
            unit_bytes=2 << 20, work_unit_bytes=64 << 10)
        cls.addClassCleanup(gim.stop)
        gim.vfs = gpu_lab.vf_addresses(gim)
        gim.directory = os.path.dirname(gim.path)
        gim.admin = gim.connect()
        cls.addClassCleanup(gim.admin.close)
        return gim

    def guest(self, host=None, vf=0, *, incoming=False, name=None):
        host = host or self.here
        guest = process.GuestLauncher(
            name or str(uuid.uuid4()), host.directory, gim_socket=host.path,
            vf=host.vfs[vf], ram_mib=RAM_MIB, incoming=incoming)
        self.addCleanup(guest.close)
        guest.host, guest.vf = host, host.vfs[vf]
        if not incoming:
            guest.call('wait', phase='ready')
        return guest

    def vf_state(self, guest):
        return guest.host.admin.call('vf_state', vf=guest.vf)

    def port(self, host):
        conf = cfg.ConfigOpts()
        conf([])
        vmm_standin.register_opts(conf)
        conf.set_override('runtime_dir', host.directory, vmm_standin.GROUP)
        found = registry.PORTS.load(conf)
        self.assertEqual('standin', found.name)
        return found

    def view(self, guest):
        view = self.port(guest.host).guest(guest.uuid)
        self.addCleanup(view.close)
        return view

    def assert_conserved(self, guest):
        """Interrupts: what the VF raised is received or still pending."""
        status = guest.call('workload_status')
        raised = [engine['interrupts_raised']
                  for engine in self.vf_state(guest)['engines'].values()]
        self.assertEqual(raised, [
            received + pending for received, pending in zip(
                status['interrupts_received'], status['interrupts_pending'],
                strict=True)])

    def assert_same_end(self, one, other):
        """Both are through: everything that a twin must share."""
        left, right = self.vf_state(one), self.vf_state(other)
        self.assertEqual(left, right)
        self.assertEqual(one.host.admin.call('digest', vf=one.vf),
                         other.host.admin.call('digest', vf=other.vf))
        self.assertEqual(one.call('workload_status'),
                         other.call('workload_status'))
        self.assertEqual(one.call('ram_digest'), other.call('ram_digest'))


class TestGuest(HostsCase):

    def test_ends_without_a_trace(self):
        guest = self.guest()
        os.kill(guest.pid, signal.SIGTERM)
        self.assertEqual(0, guest.process.wait(gpu_lab.PATIENCE))
        self.assertFalse(os.path.exists(guest.path))
        # The VF is free at once.
        self.guest().call('destroy')

    def test_a_killed_guest_can_be_started_again(self):
        guest = self.guest()
        guest.process.kill()
        guest.process.wait()
        self.guest(vf=1, name=guest.uuid)

    def test_start_fails_with_the_reason(self):
        guest = self.guest()
        with self.assertRaisesRegex(process.GuestStartError, 'taken'):
            self.guest()
        with self.assertRaisesRegex(process.GuestStartError, 'runs here'):
            self.guest(vf=1, name=guest.uuid)

    def test_bad_workload(self):
        guest = self.guest()
        for args in ({'name': 'mine'}, {'name': 'render', 'frames': -1},
                     {'name': 'render', 'fill_percent': 101},
                     {'name': 'render', 'seed': 2**64}):
            with self.subTest(args), self.assertRaises(unixcall.CallError):
                guest.call('workload', **args)
        guest.call('workload', name='idle')
        self.assertEqual(0, guest.call('wait', phase='ready')[
            'frames_submitted'])

    def test_stop_is_acknowledged(self):
        guest = self.guest()
        guest.call('workload', name='mixed', frames_per_second=0)
        for _ in range(20):
            frame = guest.call('workload_status')['frames_retired']
            guest.call('wait', frame=frame + 1)
            guest.call('stop')
            self.assertEqual('paused', guest.call('state'))
            before = guest.call('workload_status')
            gpu_lab.until(
                lambda: all(
                    engine['read'] == engine['write'] for engine
                    in self.vf_state(guest)['engines'].values()),
                'the VF to do what it has')
            after = guest.call('workload_status')
            for key in ('submitted', 'interrupts_received', 'checksum',
                        'frames_submitted', 'frames_retired'):
                self.assertEqual(before[key], after[key])
            with self.assertRaisesRegex(OSError, 'paused'):
                guest.call('finish_workload')
            self.assert_conserved(guest)
            guest.call('run')
        guest.call('finish_workload')
        status = guest.call('wait', phase='ready')
        self.assertEqual(status['submitted'], status['retired'])
        self.assert_conserved(guest)

    def test_twins_that_are_stopped_differently_are_equal(self):
        one, other = self.guest(), self.guest(vf=1)
        for guest in (one, other):
            guest.call('workload', name='mixed', seed=5, fill_percent=100,
                       frames=40, frames_per_second=0)
        while one.call('workload_status')['phase'] == 'working':
            one.call('stop')
            one.call('run')
        for guest in (one, other):
            guest.call('wait', phase='ready')
        self.assert_same_end(one, other)

    def test_tdr_only_while_the_vcpus_run(self):
        guest = self.guest()
        admin = self.here.admin
        admin.call('hold', vf=guest.vf, engine=abi.Engine.GFX, work_units=3)
        self.addCleanup(admin.call, 'release', vf=guest.vf)
        guest.call('workload', name='render', frames_per_second=0)
        gpu_lab.until(lambda: admin.call('held', vf=guest.vf)['GFX'],
                      'the engine to stand')
        guest.call('stop')
        with self.assertRaises(unixcall.CallError):
            # Longer than the timer; guest time stands still.
            guest.call('wait', phase='failed', seconds=2.5)
        guest.call('run')
        status = guest.call('wait', phase='failed')
        self.assertEqual(1, status['tdr_events'])
        self.assertRegex(status['error'], 'engine GFX was not retired')


class TestMemory(HostsCase):

    def setUp(self):
        super().setUp()
        self.source = self.guest()
        self.target = self.guest(self.there, 1, incoming=True,
                                 name=self.source.uuid)
        self.at_source = self.view(self.source)
        self.at_target = self.view(self.target)

    def _begin(self):
        self.at_source.begin_memory(self.at_target.listen_memory())
        gpu_lab.until(
            lambda: self.at_source.memory_progress().sent_bytes > 0,
            'the first pages')

    def _work(self, guest=None, **args):
        (guest or self.source).call(
            'workload', name='mixed', seed=9, fill_percent=50, **args)

    def test_move_equals_twin(self):
        twin = self.guest(vf=1)
        for guest in (self.source, twin):
            self._work(guest, frames=60, frames_per_second=40)
        self.source.call('wait', frame=5)
        move = gpu_lab.Move(self.here.open(self.source.vf),
                            self.there.open(self.target.vf),
                            contract.Level.UNITS)
        self.addCleanup(move.close)
        move.begin(STATE.PRE_COPY)
        self._begin()
        self.source.call('wait', frame=15)
        self.at_source.stop()
        move.source.set_state(STATE.STOP_COPY)
        move.pump()
        move.target.set_state(STATE.STOP)
        report = self.at_source.finish_memory()
        self.assertEqual(report.digest, self.at_target.memory_digest())
        self.assertIs(port.GuestState.PAUSED, self.at_target.state())
        move.target.set_state(STATE.RUNNING)
        self.at_target.run()
        for guest in (self.target, twin):
            guest.call('wait', phase='ready')
        self.assertIsNotNone(self.at_target.first_fence_seconds())
        self.assert_conserved(self.target)
        self.assert_same_end(self.target, twin)

    def test_cancel_leaves_both_ends_usable(self):
        self._work()
        for _ in range(3):
            self._begin()
            self.at_source.cancel_memory()
            self.at_target.cancel_memory()
            self.at_source.cancel_memory()
            with self.assertRaisesRegex(port.VMMError, 'nothing has arriv'):
                self.at_target.run()
        self._begin()
        self.at_source.stop()
        self.here.admin.call('hold', vf=self.source.vf, engine=0,
                             work_units=0)
        self.addCleanup(self.here.admin.call, 'release', vf=self.source.vf)
        with self.assertRaisesRegex(port.VMMError, 'already'):
            self.at_source.begin_memory(port.MemoryEndpoint('::1', 1, ''))
        gpu_lab.until(self._quiet, 'the VF to be quiet')
        report = self.at_source.finish_memory()
        self.assertEqual(report.digest, self.at_target.memory_digest())
        # The move fails after all: it runs on here.
        self.at_source.cancel_memory()
        self.here.admin.call('release', vf=self.source.vf)
        self.at_source.run()
        frame = self.source.call('finish_workload')
        self.assertEqual(frame, self.source.call(
            'wait', phase='ready')['frames_retired'])
        self.assert_conserved(self.source)

    def _quiet(self):
        def count():
            return [engine['retired_units'] for engine
                    in self.vf_state(self.source)['engines'].values()]
        first = count()
        return all(count() == first for _ in range(20))

    def test_finish_wants_stopped_vcpus(self):
        with self.assertRaisesRegex(port.VMMError, 'no guest RAM'):
            self.at_source.finish_memory()
        self._begin()
        with self.assertRaisesRegex(port.VMMError, 'vCPUs run'):
            self.at_source.finish_memory()

    def test_strangers_are_refused(self):
        where = self.at_target.listen_memory()
        wrong = port.MemoryEndpoint(where.host, where.port, '00' * 16)
        with self.assertRaisesRegex(port.VMMError, 'token is wrong'):
            self.at_source.begin_memory(wrong)
        self.at_source.begin_memory(where)
        other = self.view(self.guest(vf=1))
        with self.assertRaisesRegex(port.VMMError, 'used already'):
            other.begin_memory(where)
        self.at_source.stop()
        self.assertEqual(self.at_source.finish_memory().digest,
                         self.at_target.memory_digest())

    def test_a_target_that_dies_is_told(self):
        self._work()
        self._begin()
        self.target.process.kill()
        self.target.process.wait()

        def failed():
            try:
                self.at_source.memory_progress()
            except port.VMMError:
                return True
            return False
        gpu_lab.until(failed, 'the source to notice')
        self.at_source.stop()
        self.assertRaises(port.VMMError, self.at_source.finish_memory)
        self.at_source.run()
        self.source.call('finish_workload')
        self.source.call('wait', phase='ready')

    def test_garbage_is_refused(self):
        frame = strategies.one_of(
            strategies.binary(max_size=64),
            strategies.builds(
                stream.FRAME.pack, strategies.integers(0, 255),
                strategies.integers(0, 2**32 - 1),
                strategies.integers(0, 2**32 - 1)))

        @settings(max_examples=25, deadline=None,
                  suppress_health_check=list(HealthCheck))
        @given(strategies.booleans(), strategies.lists(frame, max_size=4))
        def feed(welcome, frames):
            where = self.at_target.listen_memory()
            hello = stream.HELLO.pack(
                stream.MAGIC, bytes.fromhex(where.token),
                RAM_MIB << 20) if welcome else b''
            with socket.create_connection((where.host, where.port)) as sock:
                try:
                    sock.sendall(hello + b''.join(frames))
                except OSError:
                    pass
            with self.assertRaises(port.VMMError):
                self.at_target.memory_digest()
            with self.assertRaises(port.VMMError):
                self.at_target.run()
            self.at_target.cancel_memory()
        feed()
        self._begin()
        self.at_source.stop()
        self.assertEqual(self.at_source.finish_memory().digest,
                         self.at_target.memory_digest())

    def test_unknown_guest(self):
        for name in (str(uuid.uuid4()), '../' + self.source.uuid):
            self.assertRaises(port.GuestNotFound,
                              self.port(self.here).guest, name)


class TestRegistry(unittest.TestCase):

    def test_none_fits(self):
        conf = cfg.ConfigOpts()
        conf([])
        vmm_standin.register_opts(conf)
        with tempfile.TemporaryDirectory() as directory:
            conf.set_override('runtime_dir', directory + '/none',
                              vmm_standin.GROUP)
            with self.assertRaisesRegex(registry.NoVMMPort, 'runtime_dir'):
                registry.PORTS.load(conf)


class TestLayout(unittest.TestCase):

    def test_nothing_overlaps(self):
        self.assertLessEqual(layout.END, layout.MINIMUM_RAM)
        self.assertLessEqual(8 * (max(layout.Word) + 1), layout.FENCES)
        self.assertLessEqual(
            layout.Word.MARK + layout.DEPTH * layout.MARK_WORDS,
            layout.HANDLER_FIRST)
        self.assertEqual(64, struct.calcsize(abi.COMMAND.format))
