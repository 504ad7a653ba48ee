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

"""Rings, semaphores, faults and the world switch of a real GIM."""

import os
import subprocess
import sys
import unittest

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig import unixcall
from tests import gpu_lab

E, Op = abi.Engine, abi.Opcode
PAGE = abi.PAGE_BYTES


class EngineTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gim = gpu_lab.GIMProcess(gpu_lab.class_directory(cls))
        cls.addClassCleanup(cls.gim.stop)
        cls.vfs = gpu_lab.vf_addresses(cls.gim)

    def guest(self, index=0):
        guest = gpu_lab.Guest(self.gim, self.vfs[index])
        self.addCleanup(guest.close)
        guest.load_driver()
        return guest

    def engine(self, guest, engine):
        return guest.state()['engines'][engine.name]

    def test_a_semaphore_orders_two_engines(self):
        guest = self.guest()
        guest.submit(E.GFX, Op.RMW, va=PAGE, length=PAGE, arg0=3, arg1=5,
                     flags=abi.Flag.WAIT, wait_semaphore=9, wait_value=2)
        guest.submit(E.COMPUTE, Op.NOP, flags=abi.Flag.SIGNAL,
                     signal_semaphore=9, signal_value=1)
        guest.wait(E.COMPUTE)
        self.assertEqual(0, guest.fence(E.GFX))
        guest.submit(E.COMPUTE, Op.NOP, flags=abi.Flag.SIGNAL,
                     signal_semaphore=9, signal_value=2)
        guest.wait(E.GFX)
        self.assertEqual(2, guest.state()['semaphores'][9])

    def test_interrupts_come_after_the_fence_and_are_counted(self):
        guest = self.guest()
        for _ in range(3):
            guest.submit(E.VCN, Op.NOP, flags=abi.Flag.INTERRUPT)
            self.assertEqual(1, guest.interrupts(E.VCN))
            self.assertEqual(guest.submitted[E.VCN], guest.fence(E.VCN))
        self.assertEqual(3, self.engine(guest, E.VCN)['interrupts_raised'])

    def test_the_ring_wraps(self):
        guest = self.guest()
        for _ in range(3):
            for _ in range(200):
                guest.submit(E.GFX, Op.NOP)
            guest.wait(E.GFX)
        self.assertEqual(600, self.engine(guest, E.GFX)['retired_commands'])

    def test_faults_name_their_kind_and_stop_one_engine(self):
        last = 16 * 4 * PAGE
        for kind, opcode, fields in (
                ('NUMBER', Op.NOP, {'number': 7}),
                ('PAGE', Op.RMW, {'va': 2**40, 'length': 8, 'arg0': 1}),
                ('PAGE', Op.RMW, {'va': last + 15 * PAGE, 'arg0': 1,
                                 'length': 2 * PAGE}),
                ('COMMAND', Op.RMW, {'va': 4, 'length': 8, 'arg0': 1}),
                ('COMMAND', Op.RMW, {'va': 0, 'length': 0, 'arg0': 1}),
                ('COMMAND', Op.SPARSE, {'va': 0, 'length': 2, 'arg0': 0}),
                ('COMMAND', Op.WRITE_PTE, {'va': 2**63, 'length': 2}),
                ('COMMAND', Op.DECODE, {'va': 0, 'length': 8, 'arg0': 0,
                                       'arg1': 2**40})):
            with self.subTest(kind=kind, opcode=opcode.name, **fields):
                guest = self.guest()
                try:
                    guest.submit(E.GFX, opcode, **fields)
                    faults = guest.wait_fault()
                    self.assertEqual(
                        [('GFX', kind, 1)],
                        [(fault['engine'], fault['kind'], fault['number'])
                         for fault in faults])
                    guest.submit(E.COMPUTE, Op.NOP)
                    guest.wait(E.COMPUTE)
                    self.assertEqual(0, guest.fence(E.GFX))
                finally:
                    guest.call('detach')

    def wait_free(self, address):
        admin = self.gim.connect()
        self.addCleanup(admin.close)
        gpu_lab.until(lambda: next(
            vf['free'] for vf in admin.call('describe')['vfs']
            if vf['address'] == address), f'{address} to be free')

    def test_an_unknown_opcode_and_a_bad_ring_fault(self):
        guest = self.guest()
        packet = bytearray(abi.Command(1, Op.NOP).pack())
        packet[8] = 200
        guest.submitted[E.GFX] = 1
        guest.put(E.GFX, bytes(packet))
        self.assertEqual('COMMAND', guest.wait_fault()[0]['kind'])
        guest.mmio(abi.Register.RING_BASE + abi.Register.RING_STRIDE,
                   2**50)
        guest.submit(E.COMPUTE, Op.NOP)
        gpu_lab.until(lambda: len(guest.state()['faults']) == 2, 'a fault')
        self.assertEqual('RING', guest.state()['faults'][1]['kind'])

    def test_an_entry_that_points_outside_of_memory_faults(self):
        guest = self.guest()
        guest.submit(E.SDMA, Op.WRITE_PTE, va=3, length=1,
                     arg0=abi.PTE_VALID | 2**45)
        guest.wait(E.SDMA)
        guest.submit(E.GFX, Op.RMW, va=PAGE, length=3 * PAGE, arg0=3)
        fault = guest.wait_fault()[0]
        self.assertEqual(('PAGE', 3 * PAGE),
                         (fault['kind'], fault['address']))

    def test_hold_stops_at_the_unit_and_release_goes_on(self):
        guest = self.guest()
        guest.call('hold', engine=int(E.GFX), work_units=5)
        guest.submit(E.GFX, Op.RMW, va=PAGE, length=PAGE, arg0=3, arg1=1)
        guest.wait_held(E.GFX)
        self.assertEqual({'number': 1, 'done': 5, 'total': 16},
                         self.engine(guest, E.GFX)['in_flight'])
        guest.call('release')
        guest.wait(E.GFX)
        self.assertIsNone(self.engine(guest, E.GFX)['in_flight'])

    def test_engines_run_only_with_a_loaded_driver(self):
        guest = self.guest()
        guest.mmio(abi.Register.DRIVER_STATE, 1)
        guest.submitted[E.GFX] = 0
        guest.submit(E.GFX, Op.NOP)
        self.assertEqual(0, guest.fence(E.GFX))
        guest.mmio(abi.Register.DRIVER_STATE, 2)
        guest.wait(E.GFX)

    def test_two_vfs_share_an_engine(self):
        guests = [self.guest(0), self.guest(1)]
        before = guests[0].client.call('slices')
        for guest in guests:
            for _ in range(40):
                guest.submit(E.COMPUTE, Op.MIX, va=PAGE, length=3 << 20,
                             arg0=3, arg1=1)
        for guest in guests:
            guest.wait(E.COMPUTE)
        after = guests[0].client.call('slices')
        for guest in guests:
            self.assertLess(before[guest.vf]['COMPUTE'] + 1,
                            after[guest.vf]['COMPUTE'])
        self.assertEqual(*(guest.call('digest') for guest in guests))

    def test_a_killed_guest_frees_its_vf(self):
        script = ('import os, sys\n'
                  'from tests import gpu_lab\n'
                  'from nova_vgpu_mig.gpu.software import abi\n'
                  'gim = gpu_lab.GIMProcess.__new__(gpu_lab.GIMProcess)\n'
                  'gim.path = sys.argv[1]\n'
                  'guest = gpu_lab.Guest(gim, sys.argv[2])\n'
                  'guest.load_driver()\n'
                  'for _ in range(50):\n'
                  '    guest.submit(abi.Engine.GFX, abi.Opcode.RMW,\n'
                  '                 va=65536, length=1 << 20, arg0=3)\n'
                  'os.kill(os.getpid(), 9)\n')
        subprocess.run([sys.executable, '-c', script, self.gim.path,
                        self.vfs[0]], timeout=gpu_lab.PATIENCE, check=False)
        self.wait_free(self.vfs[0])
        guest = self.guest(0)
        self.assertEqual(0, guest.fence(E.GFX))
        guest.submit(E.GFX, Op.NOP)
        guest.wait(E.GFX)

    def test_a_taken_vf_and_bad_calls_are_refused(self):
        guest = self.guest()
        admin = self.gim.connect()
        self.addCleanup(admin.close)
        for code, method, args in (
                ('EBUSY', 'attach', {'vf': guest.vf, 'ram_bytes': 4096}),
                ('EINVAL', 'attach', {'vf': self.vfs[1],
                                      'ram_bytes': 2**40}),
                ('EINVAL', 'attach', {'vf': self.vfs[1],
                                      'ram_bytes': -8}),
                ('ENODEV', 'attach', {'vf': '0000:00:00.0',
                                      'ram_bytes': 4096}),
                ('EINVAL', 'mmio_write', {'vf': guest.vf, 'register': 99,
                                          'value': 1}),
                ('EINVAL', 'mmio_write', {'vf': guest.vf, 'register': 1,
                                          'value': -1}),
                ('EINVAL', 'hold', {'vf': guest.vf, 'engine': 9,
                                    'work_units': 1}),
                ('EINVAL', 'knob', {'vf': guest.vf, 'name': 'nonsense',
                                    'value': 1}),
                ('EINVAL', 'knob', {'vf': guest.vf, 'name': 'hang_at',
                                    'value': 'NOWHERE'}),
                ('EBADF', 'set_state', {'vf': guest.vf, 'state': 1}),
                ('EBUSY', 'scrub', {'vf': guest.vf}),
                ('ENOTTY', 'nonsense', {})):
            with self.subTest(method=method, code=code):
                fd = os.memfd_create('ram')
                os.ftruncate(fd, 4096)
                self.addCleanup(os.close, fd)
                with self.assertRaises(unixcall.CallError) as caught:
                    admin.call(method, fds=[fd] if method == 'attach'
                               else [], **args)
                self.assertEqual(gpu_lab.code(caught.exception), code,
                                 caught.exception)
