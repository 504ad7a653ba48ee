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

"""Write, then mark; clear, then copy: in every interleaving."""

import itertools
import unittest

import hypothesis
from hypothesis import strategies

from nova_vgpu_mig.gpu.software import dirty

UNIT = 65536
UNITS = 4


class FrameBuffer:
    """The dirty units, as the carrier queries them."""

    def __init__(self):
        self._units = dirty.DirtyUnits(UNITS * UNIT, UNIT)
        self.mark = self._units.mark

    def look(self):
        return self._units.query(clear=False)

    def clear(self):
        return self._units.query(clear=True)


class GuestRAM:
    """The DMA log, as the VMM reads it: a report always clears."""

    def __init__(self):
        self._log = dirty.DMALog()
        self._log.start(UNIT, [(0, UNITS * UNIT)], UNITS * UNIT)
        self.mark = self._log.mark

    def look(self):
        found = self.clear()
        for unit in range(UNITS):
            if found[unit]:
                self.mark(unit * UNIT, 1)
        return found

    def clear(self):
        return self._log.report(0, UNITS * UNIT, UNIT)


class Race:
    """A writer and a carrier, each one step at a time."""

    def __init__(self, memory, writes, *, mark_first=False,
                 copy_first=False):
        self.source = [0] * UNITS
        self.target = [0] * UNITS
        self.units = memory()
        self._write = self._writer(writes, mark_first)
        self._copy_first = copy_first
        self._carry = iter(())

    def _writer(self, writes, mark_first):
        for value, unit in enumerate(writes, 1):
            if mark_first:
                self.units.mark(unit * UNIT + 5, 1)
                yield
            self.source[unit] = value
            yield
            if not mark_first:
                self.units.mark(unit * UNIT + 5, 1)
                yield

    def _round(self):
        query = self.units.look if self._copy_first else self.units.clear
        found = query()
        yield
        for unit in range(UNITS):
            if found[unit]:
                self.target[unit] = self.source[unit]
                yield
        if self._copy_first:
            self.units.clear()

    def step(self, writer):
        if writer:
            next(self._write, None)
        elif next(self._carry, self) is self:
            self._carry = self._round()
            next(self._carry)

    def finish(self):
        """The writer gets quiet, then the last query."""
        for actor in (self._write, self._carry, self._round()):
            for _ in actor:
                pass
        return self.source == self.target


memories = strategies.sampled_from((FrameBuffer, GuestRAM))
steps = strategies.lists(strategies.booleans(), max_size=60)
writes = strategies.lists(strategies.integers(0, UNITS - 1), max_size=12)


class DirtyOrderTest(unittest.TestCase):
    @hypothesis.given(memories, writes, steps)
    def test_nothing_is_missed(self, memory, written, order):
        race = Race(memory, written)
        for writer in order:
            race.step(writer)
        self.assertTrue(race.finish())

    def test_stopped_at_each_point_in_between(self):
        """One write, one round; the other side acts at each point of it."""
        for memory in (FrameBuffer, GuestRAM):
            for order in itertools.product((True, False), repeat=5):
                with self.subTest(memory=memory.__name__, order=order):
                    race = Race(memory, [1])
                    for writer in order:
                        race.step(writer)
                    self.assertTrue(race.finish())

    def test_the_other_orders_miss_something(self):
        for memory, broken in itertools.product(
                (FrameBuffer, GuestRAM),
                ({'mark_first': True}, {'copy_first': True})):
            with self.subTest(memory=memory.__name__, **broken):
                def missed(case, memory=memory, broken=broken):
                    race = Race(memory, case[0], **broken)
                    for writer in case[1]:
                        race.step(writer)
                    return not race.finish()

                hypothesis.find(
                    strategies.tuples(writes, steps), missed,
                    settings=hypothesis.settings(max_examples=20000,
                                                 database=None))


class DirtyUnitsTest(unittest.TestCase):
    @hypothesis.given(strategies.integers(0, UNITS * UNIT - 1),
                      strategies.integers(1, UNITS * UNIT))
    def test_a_mark_covers_what_it_touches(self, offset, length):
        length = min(length, UNITS * UNIT - offset)
        units = dirty.DirtyUnits(UNITS * UNIT, UNIT)
        units.mark(offset, length)
        expected = [unit * UNIT < offset + length
                    and offset < (unit + 1) * UNIT for unit in range(UNITS)]
        self.assertEqual(expected, units.query(clear=True).tolist())
        self.assertFalse(units.query(clear=False).any())
        units.begin()
        self.assertEqual(expected, units.query(clear=False).tolist())

    @hypothesis.given(strategies.lists(strategies.booleans(), min_size=1))
    def test_a_bitmap_on_the_wire(self, flags):
        units = dirty.DirtyUnits(len(flags) * UNIT, UNIT)
        for index, flag in enumerate(flags):
            if flag:
                units.mark(index * UNIT, 1)
        text = dirty.to_hex(units.query(clear=False))
        self.assertEqual(flags, dirty.from_hex(text, len(flags)).tolist())
        self.assertEqual(flags, [bool(bytes.fromhex(text)[i // 8]
                                      >> i % 8 & 1)
                                 for i in range(len(flags))])


class DMALogTest(unittest.TestCase):
    def test_only_the_ranges_are_logged(self):
        log = dirty.DMALog()
        log.start(4096, [(4096, 8192)], 1 << 16)
        log.mark(0, 1 << 16)
        self.assertEqual([False, True, True, False],
                         log.report(0, 16384, 4096).tolist())
        log.stop()
        log.mark(0, 1 << 16)
        self.assertRaises(OSError, log.report, 0, 4096, 4096)

    def test_bad_requests(self):
        log = dirty.DMALog()
        for page, ranges in ((1000, []), (2048, []), (4096, [(0, 0)]),
                             (4096, [(-1, 5)]), (4096, [(60000, 10000)])):
            self.assertRaises(OSError, log.start, page, ranges, 1 << 16)
        log.start(4096, [(0, 1 << 16)], 1 << 16)
        self.assertRaises(OSError, log.start, 4096, [], 1 << 16)
        for span in ((0, 0, 4096), (0, 1 << 17, 4096), (0, 4096, 8192)):
            self.assertRaises(OSError, log.report, *span)
