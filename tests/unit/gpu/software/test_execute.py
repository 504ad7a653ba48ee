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

"""Each opcode on a real GIM against a model in plain numpy."""

import unittest

import numpy

from nova_vgpu_mig.gpu.software import abi
from tests import gpu_lab

E, Op = abi.Engine, abi.Opcode
PAGE = abi.PAGE_BYTES


class OpcodeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gim = gpu_lab.GIMProcess(gpu_lab.class_directory(cls), vfs=1)
        cls.addClassCleanup(cls.gim.stop)
        cls.vf = gpu_lab.vf_addresses(cls.gim)[0]

    def setUp(self):
        self.guest = gpu_lab.Guest(self.gim, self.vf)
        self.addCleanup(self.guest.close)
        self.device = self.gim.open(self.vf)
        self.addCleanup(self.device.close)
        self.guest.load_driver()
        self.memory = numpy.frombuffer(self.device.frame_buffer,
                                       numpy.uint64)
        self.addCleanup(setattr, self, 'memory', None)
        random = numpy.random.default_rng(5)
        self.memory[PAGE // 8:] = random.integers(
            0, 2**64, len(self.memory) - PAGE // 8, numpy.uint64)
        self.guest.ram[5 * PAGE // 8:] = random.integers(
            0, 2**64, len(self.guest.ram) - 5 * PAGE // 8, numpy.uint64)
        self.model = self.memory.copy()

    def run_one(self, opcode, **fields):
        self.guest.submit(E.COMPUTE, opcode, **fields)
        self.guest.wait(E.COMPUTE)
        self.assertEqual([], self.guest.state()['faults'])

    def check(self):
        numpy.testing.assert_array_equal(self.model, self.memory)

    def at(self, va, length):
        return self.model[va // 8:(va + length) // 8]

    def test_nop(self):
        self.run_one(Op.NOP)
        self.check()
        self.assertEqual(1, self.guest.state()['engines']['COMPUTE'][
            'retired_units'])

    def test_rmw(self):
        # Begins and ends inside pages and work units.
        va, length = PAGE + 4088, 3 * PAGE + 16
        self.run_one(Op.RMW, va=va, length=length, arg0=2**64 - 59,
                     arg1=2**63 + 1)
        words = self.at(va, length)
        words[:] = words * numpy.uint64(2**64 - 59) + numpy.uint64(
            2**63 + 1)
        self.check()

    def test_mix(self):
        va, length = PAGE + 8, 5 * PAGE
        self.run_one(Op.MIX, va=va, length=length, arg0=3, arg1=11)
        words = self.at(va, length)
        words ^= words >> numpy.uint64(7)
        words[:] = words * numpy.uint64(3) + numpy.uint64(11)
        self.check()

    def test_sparse(self):
        va, stride, count = PAGE + 64, PAGE + 128, 40
        self.run_one(Op.SPARSE, va=va, length=count, arg0=stride, arg1=7)
        for site in range(count):
            words = self.at(va + site * stride, 64)
            words[:] = words * numpy.uint64(7) + numpy.uint64(site)
        self.check()

    def test_copy_with_odd_bounds(self):
        octets = self.model.view(numpy.uint8)
        source, target, length = PAGE + 3, 9 * PAGE + 4090, 2 * PAGE + 5
        self.run_one(Op.COPY, va=source, length=length, arg0=target)
        octets[target:target + length] = octets[source:source + length]
        self.check()

    def test_copy_from_and_to_guest_ram(self):
        ram = self.guest.ram.view(numpy.uint8)
        self.run_one(Op.COPY, va=self.guest.ram_va(5 * PAGE + 1),
                     length=PAGE, arg0=2 * PAGE)
        self.model.view(numpy.uint8)[2 * PAGE:3 * PAGE] = ram[
            5 * PAGE + 1:6 * PAGE + 1]
        self.check()
        self.run_one(Op.COPY, va=4 * PAGE, length=PAGE + 9,
                     arg0=self.guest.ram_va(8 * PAGE))
        numpy.testing.assert_array_equal(
            self.model.view(numpy.uint8)[4 * PAGE:5 * PAGE + 9],
            ram[8 * PAGE:9 * PAGE + 9])
        self.check()

    def test_write_pte(self):
        first, count = 20, 7
        self.run_one(Op.WRITE_PTE, va=first, length=count,
                     arg0=abi.PTE_VALID | 3 * PAGE, arg1=2 * PAGE)
        self.model[first:first + count] = [
            abi.PTE_VALID | (3 + 2 * index) * PAGE for index in range(count)]
        self.check()

    def test_scattered_pages(self):
        """VA pages 10.. are every other page from 3 on: no run of two."""
        self.run_one(Op.WRITE_PTE, va=10, length=6,
                     arg0=abi.PTE_VALID | 3 * PAGE, arg1=2 * PAGE)
        self.model[10:16] = [abi.PTE_VALID | (3 + 2 * index) * PAGE
                             for index in range(6)]
        self.run_one(Op.RMW, va=10 * PAGE + 8, length=5 * PAGE, arg0=5,
                     arg1=1)
        pages = self.model.reshape(-1, PAGE // 8)
        virtual = pages[[3, 5, 7, 9, 11, 13]].reshape(-1)
        part = virtual[1:1 + 5 * PAGE // 8]
        part[:] = part * numpy.uint64(5) + numpy.uint64(1)
        pages[[3, 5, 7, 9, 11, 13]] = virtual.reshape(6, -1)
        self.check()

    def test_decode(self):
        for bitstream in (24, 4096, 3 * PAGE):
            with self.subTest(bitstream=bitstream):
                va, length = PAGE + 16, 2 * PAGE + 8
                self.run_one(Op.DECODE, va=va, length=length,
                             arg0=self.guest.ram_va(5 * PAGE + 8),
                             arg1=bitstream)
                start = (5 * PAGE + 8) // 8
                stream = self.guest.ram[start:start + bitstream // 8]
                words = self.at(va, length)
                words[:] = words * numpy.uint64(3) + numpy.resize(
                    stream, len(words))
                self.check()

    def test_dirty_units_are_exactly_those_written(self):
        self.device.dirty_units(clear=True)
        self.run_one(Op.RMW, va=3 * PAGE - 8, length=16, arg0=3, arg1=1)
        self.run_one(Op.SPARSE, va=10 * PAGE, length=3, arg0=4 * PAGE,
                     arg1=3)
        dirty = self.device.dirty_units(clear=True)
        self.assertEqual([2, 3, 10, 14, 18],
                         numpy.flatnonzero(dirty).tolist())
        self.assertFalse(self.device.dirty_units(clear=False).any())

    def test_dma_is_logged(self):
        call = self.guest.call
        call('dma_logging_start', page_size=4096,
             ranges=[[0, self.guest.ram.nbytes]])
        self.run_one(Op.COPY, va=0, length=4097,
                     arg0=self.guest.ram_va(6 * PAGE + 4095))
        bitmap = bytes.fromhex(call(
            'dma_logging_report', iova=0, length=self.guest.ram.nbytes,
            page_size=4096))
        pages = numpy.flatnonzero(numpy.unpackbits(
            numpy.frombuffer(bitmap, numpy.uint8), bitorder='little'))
        fence = self.guest.FENCES // 4096
        first = 6 * PAGE // 4096
        self.assertEqual([fence, first, first + 1], pages.tolist())
        again = call('dma_logging_report', iova=0, page_size=4096,
                     length=self.guest.ram.nbytes)
        self.assertEqual(0, int(again, 16))
        call('dma_logging_stop')
