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


import itertools
import socket
import threading
import uuid

import fixtures
import hypothesis
from hypothesis import strategies
import numpy
from oslotest import base

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import dialled
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import outbound
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import precopy
from nova_vgpu_mig.migration import progress
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.planning import convergence

MIB = 1 << 20
UNIT = 64 << 10
LINE = 500e6
BYTES = strategies.integers(0, 1 << 40)
RATES = strategies.none() | strategies.floats(1e6, 1e11)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds


class Line(dialled.Dialled):
    """A real connection that takes LINE bytes a second of a clock."""

    clock: Clock

    def send(self, kind, *parts):
        super().send(kind, *parts)
        self.clock.now += sum(len(part) for part in parts) / LINE


class Device:
    """`data` bytes among zeros; a guest writes `rewritten` of them anew."""

    unit_size = UNIT

    def __init__(self, size, data, rewritten):
        self.frame_buffer = memoryview(bytearray(size))
        self.frame_buffer[:data] = b'\x01' * data
        self._rewritten = rewritten // UNIT
        self._all = True

    def dirty_units(self, *, clear):
        flags = numpy.full(len(self.frame_buffer) // UNIT, self._all)
        flags[:self._rewritten] = True
        self._all = self._all and not clear
        return flags

    def precopy_info(self, stream):
        return contract.PrecopyInfo(0, 0)


contract.UnitDevice.register(Device)


def drain(sock):
    with sock:
        while sock.recv(MIB):
            pass


class RoundsTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        self.clock = Clock()
        for module in (precopy, outbound):
            self.useFixture(fixtures.MonkeyPatch(
                f'{module.__name__}.time', self.clock))
        with socket.create_server(('127.0.0.1', 0)) as listener:
            left = socket.create_connection(listener.getsockname())
            right, _ = listener.accept()
        reader = threading.Thread(target=drain, args=(right,))
        reader.start()
        self.addCleanup(reader.join)
        self.channel = Line(
            link.Line(left, link.Patience(30.0)), 'nowhere', 1,
            frames.Hello(str(uuid.uuid4()), bytes(32)), 1.0)
        self.channel.clock = self.clock
        self.addCleanup(self.channel.close)

    def rounds(self, device, step):
        units = outbound.UnitsOut(self.channel, device)
        self.addCleanup(units.close)
        values = record.MigrationRecord(
            'm', 'i', phases.Role.SOURCE, 'a', 'b', 'x', 'y')
        decision = precopy.Precopy(
            precopy.Load(self.channel, device, None, None, units, None),
            limits.Limits(), progress.Progress(values, None, None),
            step).run()
        return decision, values.rounds

    def test_looking_at_zeros_is_not_a_slow_line(self):
        data, rewritten, looks = 10 * MIB, 2 * MIB, itertools.count()

        def step(count):
            # In the first round, the units behind the data are zero.
            if data // UNIT <= next(looks) < 1024:
                self.clock.now += 4.0 / 1024

        decision, rounds = self.rounds(
            Device(1024 * UNIT, data, rewritten), step)
        self.assertIs(convergence.Action.SWITCHOVER, decision.action)
        self.assertEqual(1, len(rounds))
        self.assertAlmostEqual(data / LINE, rounds[0].sending_seconds,
                               places=3)
        self.assertLess(3.0, rounds[0].seconds)


class BandwidthTest(base.BaseTestCase):

    def test_nothing_is_known(self):
        self.assertEqual(precopy.ASSUMED_BANDWIDTH,
                         precopy.bandwidth(1, None, 1, None))

    def test_each_way_has_its_own(self):
        self.assertEqual(
            30.0, precopy.bandwidth(50, 50.0, 100, 25.0))

    def test_what_is_not_dirty_does_not_count(self):
        self.assertEqual(50.0, precopy.bandwidth(100, 50.0, 0, 1.0))

    @hypothesis.given(BYTES, RATES, BYTES, RATES)
    def test_lies_between_the_two(self, device, one, memory, other):
        known = [rate for rate in (one, other) if rate is not None]
        found = precopy.bandwidth(device, one, memory, other)
        for rate in known or [precopy.ASSUMED_BANDWIDTH]:
            if len(known) < 2:
                self.assertAlmostEqual(1.0, found / rate)
        if known:
            self.assertLessEqual(min(known) * 0.999, found)
            self.assertGreaterEqual(max(known) * 1.001, found)

    def test_a_meter_waits_for_enough(self):
        meter = precopy.Meter()
        meter.add(precopy.ENOUGH_BYTES - 1, 1.0)
        self.assertIsNone(meter.rate)
        meter.add(1, 1.0)
        self.assertEqual(precopy.ENOUGH_BYTES / 2, meter.rate)
        meter.add(2 * precopy.ENOUGH_BYTES, 1.0)
        self.assertEqual(2 * precopy.ENOUGH_BYTES, meter.rate)
