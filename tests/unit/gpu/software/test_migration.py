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

"""Moves between two real GIMs, compared with a twin that stayed."""

import errno
import random
import threading
import unittest

import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from tests import gpu_lab

E, Op = abi.Engine, abi.Opcode
S = contract.DeviceState
Level = contract.Level
PAGE = abi.PAGE_BYTES
UNITS_A_COMMAND = 48
"""Of the GFX commands below, at 4 KiB a work unit."""


class MigrationTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        directory = gpu_lab.class_directory(cls)
        cls.here = gpu_lab.GIMProcess(directory)
        cls.addClassCleanup(cls.here.stop)
        cls.there = gpu_lab.GIMProcess(directory, '0000:03:00.0')
        cls.addClassCleanup(cls.there.stop)
        cls.vf, cls.twin_vf = gpu_lab.vf_addresses(cls.here)
        cls.other_vf = gpu_lab.vf_addresses(cls.there)[1]

    def setUp(self):
        self.addCleanup(self.clear)

    def clear(self):
        for gim, vf in ((self.here, self.vf), (self.there, self.other_vf)):
            admin = gim.connect()
            for name, value in (('hang_at', ''), ('refuse_preempt', False),
                                ('export_error', ''), ('import_error', 0),
                                ('fail_run_once', False),
                                ('vanish', False),
                                ('restart_command', False),
                                ('skip_work', False), ('lose_dirty', False),
                                ('lose_doorbell', False),
                                ('lose_interrupt', False)):
                admin.call('knob', vf=vf, name=name, value=value)
            admin.call('release', vf=vf)
            admin.call('scrub', vf=vf)
            admin.close()

    def guest(self, gim, vf, **options):
        guest = gpu_lab.Guest(gim, vf, **options)
        self.addCleanup(guest.close)
        if not guest.incoming:
            guest.load_driver()
        return guest

    def go(self, device, state):
        """Take a device to a state; its stream ends with the test."""
        stream = device.set_state(state)
        if stream is not None:
            self.addCleanup(stream.close)
        return stream

    def knob(self, gim, vf, name, value):
        admin = gim.connect()
        admin.call('knob', vf=vf, name=name, value=value)
        admin.close()

    def work(self, guest):
        """Commands whose order and number show in memory.

        SDMA copies what GFX has written, and GFX goes on when it has.
        """
        interrupt, signal, wait = (
            abi.Flag.INTERRUPT, abi.Flag.SIGNAL, abi.Flag.WAIT)
        guest.turn += 1
        turn = guest.turn
        guest.submit(E.GFX, Op.RMW, va=PAGE, length=3 * PAGE, arg0=5,
                     arg1=3, flags=interrupt | wait, wait_semaphore=2,
                     wait_value=turn - 1)
        guest.submit(E.GFX, Op.SPARSE, va=PAGE, length=UNITS_A_COMMAND,
                     arg0=PAGE, arg1=3, flags=signal, signal_semaphore=1,
                     signal_value=turn)
        guest.submit(E.GFX, Op.MIX, va=4 * PAGE, length=3 * PAGE, arg0=7,
                     arg1=1, flags=interrupt)
        guest.submit(E.SDMA, Op.COPY, va=PAGE, length=2 * PAGE,
                     arg0=guest.ram_va(8 * PAGE), flags=wait | signal,
                     wait_semaphore=1, wait_value=turn, signal_semaphore=2,
                     signal_value=turn)
        guest.submit(E.COMPUTE, Op.RMW, va=55 * PAGE, length=4 * PAGE,
                     arg0=3, arg1=9, flags=interrupt)

    def pair(self, held_at):
        """A guest preempted after `held_at` GFX units, and its done twin."""
        guest = self.guest(self.here, self.vf)
        twin = self.guest(self.here, self.twin_vf)
        guest.call('hold', engine=int(E.GFX), work_units=held_at)
        for each in (guest, twin):
            self.work(each)
        for engine in (E.GFX, E.SDMA, E.COMPUTE):
            twin.wait(engine)
        guest.wait_held(E.GFX)
        guest.wait(E.COMPUTE)
        return guest, twin

    def open_move(self, level):
        """The two devices, with the guest that waits at the destination."""
        move = gpu_lab.Move(self.here.open(self.vf),
                            self.there.open(self.other_vf), level)
        self.addCleanup(move.close)
        return move

    def carry(self, move, guest, *, pre_copy=True):
        """The whole move; the guest at the destination is returned."""
        arrived = self.guest(self.there, self.other_vf, incoming=True)
        move.begin(S.PRE_COPY if pre_copy else S.STOP_COPY)
        move.pump()
        if pre_copy:
            move.source.set_state(S.STOP_COPY)
            move.pump()
        arrived.ram[:] = guest.ram
        arrived.submitted = dict(guest.submitted)
        move.target.set_state(S.STOP)
        move.target.set_state(S.RUNNING)
        return arrived

    def differences(self, moved, twin, *, wait=True):
        """The aspects in which a VF differs from its twin."""
        if wait:
            for engine in (E.GFX, E.SDMA, E.COMPUTE):
                moved.wait(engine)
        found = [name for name, value in moved.state().items()
                 if value != twin.state()[name]]
        if moved.call('digest') != twin.call('digest'):
            found.append('frame_buffer')
        if not numpy.array_equal(moved.ram, twin.ram):
            found.append('ram')
        return found

    def test_a_preempted_command_goes_on_at_the_next_unit(self):
        seed = random.randrange(2**32)
        held = random.Random(seed).sample(range(1, 3 * UNITS_A_COMMAND), 3)
        for level in Level:
            for units in held:
                for pre_copy in (True, False):
                    with self.subTest(level=level, units=units, seed=seed,
                                      pre_copy=pre_copy):
                        guest, twin = self.pair(units)
                        before = guest.state()['engines']['GFX']
                        self.assertEqual(units, before['retired_units'])
                        move = self.open_move(level)
                        arrived = self.carry(move, guest, pre_copy=pre_copy)
                        self.assertEqual([], self.differences(arrived, twin))
                        self.assertEqual(2, arrived.interrupts(E.GFX))
                        move.close()
                        self.clear_guests(guest, twin, arrived)

    def clear_guests(self, *guests):
        for guest in guests:
            guest.call('detach')
        self.clear()

    def test_a_busy_vf_converges_and_equals_its_twin(self):
        for level in Level:
            with self.subTest(level=level):
                guest, twin = (self.guest(self.here, self.vf),
                               self.guest(self.here, self.twin_vf))
                move = self.open_move(level)
                for round_ in range(3):
                    for each in (guest, twin):
                        for _ in range(20):
                            self.work(each)
                    if round_ == 0:
                        move.begin(S.PRE_COPY)
                    move.pump()
                arrived = self.guest(self.there, self.other_vf,
                                     incoming=True)
                move.source.set_state(S.STOP_COPY)
                move.pump()
                arrived.ram[:] = guest.ram
                arrived.submitted = dict(guest.submitted)
                move.target.set_state(S.RUNNING)
                for engine in (E.GFX, E.SDMA, E.COMPUTE):
                    twin.wait(engine)
                self.assertEqual([], self.differences(arrived, twin))
                move.close()
                self.clear_guests(guest, twin, arrived)

    def test_back_at_the_source_nothing_has_happened(self):
        for level in Level:
            for way in ([S.PRE_COPY, S.RUNNING],
                        [S.PRE_COPY, S.STOP_COPY, S.STOP, S.RUNNING],
                        [S.STOP_COPY, S.RUNNING],
                        [S.STOP, S.RUNNING, S.PRE_COPY, S.STOP]):
                with self.subTest(level=level, way=way):
                    guest, twin = self.pair(UNITS_A_COMMAND + 5)
                    device = self.here.open(self.vf)
                    device.select_level(level)
                    for state in way:
                        stream = self.go(device, state)
                        if stream is not None:
                            stream.read_into(memoryview(bytearray(100000)))
                        self.assertIs(state, device.state())
                    self.go(device, S.RUNNING)
                    guest.call('release')
                    self.assertEqual([], self.differences(guest, twin))
                    self.assertEqual(2, guest.interrupts(E.GFX))
                    device.close()
                    self.clear_guests(guest, twin)

    def test_every_broken_variant_is_caught(self):
        for knob, aspects in (
                ('restart_command', {'engines', 'frame_buffer'}),
                ('skip_work', {'frame_buffer'}),
                ('lose_dirty', {'frame_buffer', 'page_table'}),
                ('lose_interrupt', {'engines'})):
            for level in Level:
                with self.subTest(knob=knob, level=level):
                    guest, twin = self.pair(2 * UNITS_A_COMMAND + 7)
                    self.knob(self.here, self.vf, knob, True)
                    move = self.open_move(level)
                    arrived = self.carry(move, guest)
                    found = set(self.differences(
                        # The page table is lost: its work never ends.
                        arrived, twin, wait=knob != 'lose_dirty'))
                    self.assertLessEqual(aspects, found)
                    move.close()
                    self.clear_guests(guest, twin, arrived)

    def test_a_lost_doorbell_is_caught(self):
        guest, twin = self.pair(UNITS_A_COMMAND + 7)
        self.knob(self.here, self.vf, 'lose_doorbell', True)
        arrived = self.carry(self.open_move(Level.STREAM), guest)
        gpu_lab.until(lambda: arrived.fence(E.GFX) == 2, 'the second fence')
        self.assertIn('engines', self.differences(arrived, twin, wait=False))
        self.assertEqual(2, arrived.fence(E.GFX))

    def test_a_doorbell_written_while_stopped_is_latched(self):
        guest = self.guest(self.here, self.vf)
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        self.go(device, S.STOP)
        guest.submit(E.GFX, Op.NOP)
        self.assertEqual(0, guest.fence(E.GFX))
        self.go(device, S.RUNNING)
        guest.wait(E.GFX)

    def test_unread_interrupts_move_with_the_vf(self):
        guest = self.guest(self.here, self.vf)
        for _ in range(5):
            guest.submit(E.VCN, Op.NOP, flags=abi.Flag.INTERRUPT)
        guest.wait(E.VCN)
        gpu_lab.until(lambda: guest.state()['engines']['VCN'][
            'interrupts_raised'] == 5, 'five interrupts')
        arrived = self.carry(self.open_move(Level.STREAM), guest)
        self.assertEqual(5, arrived.interrupts(E.VCN))
        with self.assertRaises(BlockingIOError):
            guest.read_now(E.VCN)

    def test_a_vf_without_a_guest_moves_nothing_and_is_legal(self):
        move = self.open_move(Level.STREAM)
        move.begin(S.PRE_COPY)
        move.pump()
        move.source.set_state(S.STOP_COPY)
        move.pump()
        move.target.set_state(S.RUNNING)
        self.assertLess(move.bytes, PAGE)

    def test_fullaccess_fails_the_migration(self):
        guest = self.guest(self.here, self.vf)
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        guest.mmio(abi.Register.DRIVER_STATE, 1)
        for state in (S.PRE_COPY, S.STOP, S.STOP_COPY):
            self.refused(errno.EBUSY, device.set_state, state)
            self.assertIs(S.RUNNING, device.state())
        guest.mmio(abi.Register.DRIVER_STATE, 2)
        stream = self.go(device, S.PRE_COPY)
        guest.mmio(abi.Register.DRIVER_STATE, 1)
        guest.mmio(abi.Register.DRIVER_STATE, 2)
        self.refused(errno.EIO, stream.read_into,
                     memoryview(bytearray(10)))
        self.refused(errno.EBUSY, device.set_state, S.STOP_COPY)
        self.go(device, S.RUNNING)
        self.go(device, S.STOP_COPY)

    def refused(self, code, call, *args):
        with self.assertRaises(contract.DeviceError) as caught:
            call(*args)
        self.assertEqual(errno.errorcode[code],
                         gpu_lab.code(caught.exception), caught.exception)
        return str(caught.exception)

    def test_arcs_that_do_not_exist(self):
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        for state in (S.RUNNING_P2P, S.PRE_COPY_P2P, S.ERROR):
            self.refused(errno.EINVAL, device.set_state, state)
        self.go(device, S.STOP_COPY)
        self.refused(errno.EINVAL, device.set_state, S.PRE_COPY)
        self.assertIs(S.STOP_COPY, device.state())
        self.refused(errno.EBUSY, device.select_level, Level.UNITS)

    def test_a_stream_answers_as_the_kernels_does(self):
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        view = memoryview(bytearray(1 << 20))
        stream = self.go(device, S.PRE_COPY)
        self.assertGreater(device.precopy_info(stream).initial_bytes, 0)
        while device.precopy_info(stream).initial_bytes:
            stream.read_into(view[:1000])
        with self.assertRaises(contract.TemporaryEnd):
            stream.read_into(view)
        self.refused(errno.ENODEV, stream.write, view[:5])
        self.assertIsNone(self.go(device, S.STOP_COPY))
        self.refused(errno.EINVAL, device.precopy_info, stream)
        while stream.read_into(view):
            pass
        self.assertEqual(0, stream.read_into(view))
        self.go(device, S.STOP)
        self.refused(errno.ENODEV, stream.read_into, view)

    def test_an_incomplete_stream_is_an_error_until_reset(self):
        device = self.there.open(self.other_vf)
        self.addCleanup(device.close)
        self.go(device, S.RESUMING)
        self.assertIn('too early', self.refused(
            errno.EINVAL, device.set_state, S.STOP))
        self.assertIs(S.ERROR, device.state())
        self.refused(errno.EINVAL, device.set_state, S.RUNNING)
        device.reset()
        self.assertIs(S.RUNNING, device.state())

    def test_levels_must_be_the_same_at_both_ends(self):
        move = self.open_move(Level.STREAM)
        move.target.select_level(Level.UNITS)
        move.begin(S.PRE_COPY)
        self.refused(errno.EINVAL, move.pump)

    def test_a_killed_agent_finds_the_state_again(self):
        for way in ([S.PRE_COPY], [S.STOP_COPY], [S.STOP],
                    [S.PRE_COPY, S.STOP_COPY]):
            with self.subTest(way=way):
                guest, twin = self.pair(UNITS_A_COMMAND + 5)
                device = self.here.open(self.vf)
                for state in way:
                    self.go(device, state)
                self.refused(errno.EBUSY, self.here.open, self.vf)
                device.close()
                again = self.here.open(self.vf)
                self.assertIs(way[-1], again.state())
                self.go(again, S.RUNNING)
                guest.call('release')
                self.assertEqual([], self.differences(guest, twin))
                again.close()
                self.clear_guests(guest, twin)

    def test_the_level_is_stream_again_after_a_move(self):
        for state, level in ((S.RUNNING, Level.STREAM),
                             (S.PRE_COPY, Level.UNITS)):
            device = self.here.open(self.vf)
            device.select_level(Level.UNITS)
            self.go(device, state)
            device.close()
            again = self.here.open(self.vf)
            self.assertIs(level, again.level)
            self.go(again, S.RUNNING)
            again.close()

    def test_an_agent_killed_after_the_load_can_still_run_the_vf(self):
        guest, twin = self.pair(UNITS_A_COMMAND + 5)
        move = self.open_move(Level.UNITS)
        arrived = self.guest(self.there, self.other_vf, incoming=True)
        move.begin(S.STOP_COPY)
        move.pump()
        arrived.ram[:] = guest.ram
        arrived.submitted = dict(guest.submitted)
        move.target.set_state(S.STOP)
        move.target.close()
        again = self.there.open(self.other_vf)
        self.addCleanup(again.close)
        self.assertIs(S.STOP, again.state())
        self.assertEqual(0, arrived.state()['engines']['GFX']['fault'] or 0)
        self.go(again, S.RUNNING)
        self.assertEqual([], self.differences(arrived, twin))

    # Knobs

    def test_hang_until_released(self):
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        self.knob(self.here, self.vf, 'hang_at', 'STOP_COPY')
        done = threading.Thread(target=self.go,
                                args=(device, S.STOP_COPY))
        done.start()
        admin = self.here.connect()
        self.addCleanup(admin.close)
        gpu_lab.until(lambda: admin.call('get_state', vf=self.vf) == S.STOP,
                      'STOP')
        self.assertTrue(done.is_alive())
        self.knob(self.here, self.vf, 'hang_at', '')
        done.join(gpu_lab.PATIENCE)
        self.assertIs(S.STOP_COPY, device.state())

    def test_a_reset_in_mid_move(self):
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        stream = self.go(device, S.PRE_COPY)
        admin = self.here.connect()
        self.addCleanup(admin.close)
        admin.call('reset', vf=self.vf)
        self.refused(errno.ENODEV, stream.read_into,
                     memoryview(bytearray(10)))
        self.assertIs(S.RUNNING, device.state())

    def test_refusing_preemption_leaves_the_vf_where_it_is(self):
        guest, twin = self.pair(UNITS_A_COMMAND + 5)
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        self.go(device, S.PRE_COPY)
        self.knob(self.here, self.vf, 'refuse_preempt', True)
        self.refused(errno.EBUSY, device.set_state, S.STOP_COPY)
        self.assertIs(S.PRE_COPY, device.state())
        guest.call('release')
        self.go(device, S.RUNNING)
        self.assertEqual([], self.differences(guest, twin))

    def test_export_errors(self):
        view = memoryview(bytearray(1000))
        for where, states in (('pre-copy', [S.PRE_COPY]),
                              ('stop-copy', [S.PRE_COPY, S.STOP_COPY])):
            with self.subTest(where=where):
                device = self.here.open(self.vf)
                self.knob(self.here, self.vf, 'export_error', where)
                stream = self.go(device, states[0])
                if len(states) == 2:
                    stream.read_into(view)
                    self.go(device, states[1])
                self.refused(errno.EIO, stream.read_into, view)
                self.go(device, S.RUNNING)
                device.close()

    def test_import_errors_are_in_the_error_ring(self):
        for phase in (1, 2, 3):
            with self.subTest(phase=phase):
                self.knob(self.there, self.other_vf, 'import_error', phase)
                move = self.open_move(Level.STREAM)
                move.begin(S.STOP_COPY)
                self.refused(errno.EINVAL, move.pump)
                self.refused(errno.EINVAL, move.target.set_state, S.STOP)
                admin = self.there.connect()
                ring = admin.call('errors')
                admin.close()
                self.assertEqual((self.other_vf, 'EINVAL'),
                                 (ring[-1]['vf'], ring[-1]['code']))
                self.assertIn('import failed in phase', ring[-2]['what'])
                move.close()
                self.clear()

    def test_a_run_that_fails_once(self):
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        self.knob(self.here, self.vf, 'fail_run_once', True)
        self.go(device, S.STOP)
        self.refused(errno.EIO, device.set_state, S.RUNNING)
        self.assertIs(S.STOP, device.state())
        self.go(device, S.RUNNING)

    def test_a_vf_that_vanishes(self):
        guest = self.guest(self.here, self.vf)
        device = self.here.open(self.vf)
        self.addCleanup(device.close)
        stream = self.go(device, S.PRE_COPY)
        self.knob(self.here, self.vf, 'vanish', True)
        self.refused(errno.ENODEV, device.state)
        self.refused(errno.ENODEV, device.set_state, S.STOP_COPY)
        self.refused(errno.ENODEV, stream.read_into,
                     memoryview(bytearray(10)))
        guest.submit(E.GFX, Op.NOP)
        guest.wait(E.GFX)


class IdentityTest(unittest.TestCase):
    def test_another_firmware_is_refused_on_the_first_write(self):
        directory = gpu_lab.directory(self)
        here = gpu_lab.GIMProcess(directory)
        self.addCleanup(here.stop)
        there = gpu_lab.GIMProcess(
            directory, '0000:03:00.0',
            options=('--firmware', 'MEC=0x9d', '--firmware', 'TA_RAS=0x1'))
        self.addCleanup(there.stop)
        move = gpu_lab.Move(here.open(gpu_lab.vf_addresses(here)[0]),
                            there.open(gpu_lab.vf_addresses(there)[0]),
                            Level.STREAM)
        self.addCleanup(move.close)
        move.begin(S.PRE_COPY)
        with self.assertRaises(contract.DeviceError) as caught:
            move.pump()
        self.assertEqual(errno.EINVAL, caught.exception.errno)
        self.assertIn('firmware', str(caught.exception))

    def test_firmware_that_amd_ignores_may_differ(self):
        directory = gpu_lab.directory(self)
        here = gpu_lab.GIMProcess(directory)
        self.addCleanup(here.stop)
        there = gpu_lab.GIMProcess(
            directory, '0000:03:00.0', vfs=3,
            options=('--firmware', 'TA_RAS=0x1'))
        self.addCleanup(there.stop)
        move = gpu_lab.Move(here.open(gpu_lab.vf_addresses(here)[0]),
                            there.open(gpu_lab.vf_addresses(there)[2]),
                            Level.STREAM)
        self.addCleanup(move.close)
        move.begin(S.STOP_COPY)
        move.pump()
        move.target.set_state(S.RUNNING)
