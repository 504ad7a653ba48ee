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

"""What an importer makes of streams that are not what they should be."""

import dataclasses
import struct
import tracemalloc
import unittest

import hypothesis
from hypothesis import strategies
import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import export
from nova_vgpu_mig.gpu.software import memory
from nova_vgpu_mig.gpu.software import profile
from nova_vgpu_mig.gpu.software import restore
from nova_vgpu_mig.gpu.software import sections

UNIT = abi.PAGE_BYTES
UNITS = 8
WHO = profile.default(1, 4)
CONTEXT = sections.context(WHO, {'unit_bytes': UNIT})
STATIC = sections.static_data(WHO)
PACKET = abi.Command(4, abi.Opcode.RMW, va=8, length=1 << 20).pack()


def state(touched):
    engine = dynamic.EngineState(doorbell=9, retired_commands=3, done=7,
                                 preempted=PACKET, interrupts_raised=2)
    return dynamic.DynamicState(
        2, 0, 8, tuple(range(abi.SEMAPHORES)),
        (engine, *[dynamic.EngineState()] * 3), dirty.to_bytes(touched))


class Ends:
    """A source's memory and what its stream says."""

    def __init__(self, level=contract.Level.STREAM):
        self.memory = memory.SharedMemory.create('source', UNITS * UNIT)
        self.units = dirty.DirtyUnits(UNITS * UNIT, UNIT)
        for unit in (1, 4, 5):
            self.memory.octets[unit * UNIT:(unit + 1) * UNIT] = unit
            self.units.mark(unit * UNIT, UNIT)
        exporter = export.Exporter(
            level, CONTEXT, STATIC, self.memory, self.units,
            lambda: self.units.query(clear=True))
        self.packages = [bytes(exporter.read(1 << 30))]
        if level is contract.Level.STREAM:
            self.packages.append(bytes(exporter.read(1 << 30)))
        with_state = state(self.units.touched())
        exporter.stop_copy(with_state)
        self.state = with_state
        while piece := bytes(exporter.read(1 << 30)):
            self.packages.append(piece)
        self.stream = b''.join(self.packages)


def importer():
    target = memory.SharedMemory.create('target', UNITS * UNIT)
    units = dirty.DirtyUnits(UNITS * UNIT, UNIT)
    return target, restore.Importer(contract.Level.STREAM, CONTEXT, STATIC,
                                    target, units, 4096, 0)


def resummed(package):
    """The package with a checksum that fits."""
    package = bytearray(package)
    struct.pack_into('<I', package, sections.CHECKSUM_AT,
                     sections.checksum(package))
    return bytes(package)


class StreamTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.source = Ends()

    def take(self, data, step=None):
        """Import; return None, or the refusal. Nothing else may happen."""
        target, into = importer()
        view = memoryview(data)
        try:
            while len(view):
                into.write(view[:step or len(view)])
                view = view[step or len(view):]
            self.assertEqual(self.source.state, into.finish())
            self.assertTrue(numpy.array_equal(target.octets,
                                              self.source.memory.octets))
        except sections.BadStream as exc:
            if len(view):
                with self.assertRaises(sections.BadStream):
                    into.write(memoryview(b'x'))
            return str(exc)
        finally:
            target.close()
        return None

    @hypothesis.given(strategies.integers(1, 100000))
    @hypothesis.settings(max_examples=20, deadline=None)
    def test_boundaries_do_not_matter(self, step):
        self.assertIsNone(self.take(self.source.stream, step))

    def test_byte_by_byte_the_context_is_compared_when_it_has_come(self):
        _, into = importer()
        wrong = bytearray(self.source.stream)
        at = wrong.index(b'0x9c')
        wrong[at:at + 4] = b'0x9d'
        end = (sections.HEADER.size + 4 * sections.ENTRY.size
               + len(CONTEXT))
        for index in range(end - 1):
            into.write(memoryview(wrong)[index:index + 1])
        with self.assertRaisesRegex(sections.BadStream, 'firmware'):
            into.write(memoryview(wrong)[end - 1:end])

    @hypothesis.given(strategies.data())
    @hypothesis.settings(max_examples=150, deadline=None)
    def test_a_flipped_bit_is_refused(self, data):
        stream = bytearray(self.source.stream)
        # Where the structure is, mostly; the pages are one big rest.
        limit = data.draw(strategies.sampled_from(
            [64, 2000, len(self.source.packages[0]) + 400, len(stream)]))
        at = data.draw(strategies.integers(0, limit - 1))
        bit = data.draw(strategies.integers(0, 7))
        if at >= len(stream):
            return
        stream[at] ^= 1 << bit
        self.assertIsNotNone(self.take(bytes(stream)))

    @hypothesis.given(strategies.integers(0, len(STATIC)))
    @hypothesis.settings(max_examples=50, deadline=None)
    def test_a_cut_stream_is_refused(self, cut):
        self.assertIsNotNone(self.take(self.source.stream[:-1 - cut]))
        self.assertIsNotNone(self.take(self.source.stream[:cut]))

    @hypothesis.given(strategies.permutations(range(3)))
    def test_packages_in_another_order_are_refused(self, order):
        packages = [self.source.packages[index] for index in order]
        taken = self.take(b''.join(packages))
        self.assertEqual(order == [0, 1, 2], taken is None)

    def test_more_than_the_last_package_is_refused(self):
        self.assertIn('after the last', self.take(
            self.source.stream + b'\0'))
        self.assertIsNotNone(self.take(
            self.source.stream + self.source.packages[-1]))

    @hypothesis.given(strategies.binary(max_size=4096))
    def test_noise_is_refused(self, noise):
        self.assertIsNotNone(self.take(noise))

    @hypothesis.given(strategies.integers(0, 2**64 - 1),
                      strategies.integers(0, 3),
                      strategies.integers(0, 2**64 - 1))
    @hypothesis.settings(max_examples=60, deadline=None)
    def test_lengths_that_lie_take_no_memory(self, total, section, length):
        package = bytearray(self.source.packages[0])
        struct.pack_into('<Q', package, 8, total)
        struct.pack_into('<Q', package, sections.HEADER.size + 8
                         + section * sections.ENTRY.size, length)
        hypothesis.assume(bytes(package) != self.source.packages[0])
        tracemalloc.start()
        try:
            self.assertIsNotNone(self.take(resummed(package)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        self.assertLess(peak, 2 * sections.COPY_BLOCK_BYTES)

    @hypothesis.given(strategies.data())
    @hypothesis.settings(max_examples=100, deadline=None)
    def test_well_summed_lies_never_crash(self, data):
        """Whatever a peer sums up correctly is taken or refused."""
        index = data.draw(strategies.integers(0, 2))
        packages = list(self.source.packages)
        package = bytearray(packages[index])
        limit = min(len(package), 600) if index < 2 else len(package)
        for _ in range(data.draw(strategies.integers(1, 4))):
            at = data.draw(strategies.integers(0, limit - 1))
            package[at] = data.draw(strategies.integers(0, 255))
        packages[index] = resummed(package)
        target, into = importer()
        try:
            into.write(memoryview(b''.join(packages)))
            found = into.finish()
        except sections.BadStream:
            return
        finally:
            target.close()
        for engine in found.engines:
            self.assertGreaterEqual(engine.doorbell,
                                    engine.retired_commands)

    def test_contexts_that_cannot_be_read_are_refused(self):
        for context in (b'', b'[]', b'[' * 60000, b'\xff\xfe', b'{"a":'):
            with self.subTest(context=context[:4]):
                with self.assertRaises(sections.BadStream):
                    sections.compare_context(context, CONTEXT)

    def test_pages_in_a_stream_without_pages_are_refused(self):
        units = Ends(contract.Level.UNITS)
        self.assertLess(len(units.stream), UNIT)
        self.assertIn('set up otherwise', self.take(units.stream))

    def test_the_round_trip_of_a_state(self):
        some = self.source.state
        data = dynamic.pack(some)
        self.assertEqual(some, dynamic.unpack(data, 1, 4096))
        for broken in (
                {'done': 256}, {'retired_commands': 7}, {'doorbell': 2},
                {'interrupts_pending': 3}, {'fault_kind': 77}, {'done': 0}):
            with self.subTest(**broken):
                first = dataclasses.replace(some.engines[0], **broken)
                other = dataclasses.replace(
                    some, engines=(first, *some.engines[1:]))
                with self.assertRaises(ValueError):
                    dynamic.unpack(dynamic.pack(other), 1, 4096)
