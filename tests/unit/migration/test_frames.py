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


import uuid

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import frames

KINDS = strategies.sampled_from(frames.Kind)
BOUNDS = strategies.builds(
    frames.Bounds, strategies.integers(1, frames.MAX_UNIT),
    strategies.integers(1, frames.MAX_UNITS))
ALL = frozenset(frames.Kind)


class HeaderTest(base.BaseTestCase):

    @hypothesis.given(strategies.binary(min_size=frames.HEADER.size,
                                        max_size=frames.HEADER.size),
                      strategies.integers(0, 2 ** 64 - 1), BOUNDS)
    def test_garbage_is_refused_or_bounded(self, data, sequence, bounds):
        try:
            head = frames.decode_header(data, sequence, ALL, bounds)
        except frames.FrameError:
            return
        self.assertIn(head.length, frames.lengths(head.kind, bounds))

    @hypothesis.given(KINDS, strategies.integers(0, 2 ** 32 - 1), BOUNDS)
    def test_no_length_beyond_what_is_known_here(self, kind, length, bounds):
        data = frames.header(kind, length, 0)
        if length in frames.lengths(kind, bounds):
            self.assertEqual(
                frames.Header(kind, length, 0),
                frames.decode_header(data, 0, ALL, bounds))
        else:
            error = self.assertRaises(frames.FrameError,
                                      frames.decode_header, data, 0, ALL,
                                      bounds)
            self.assertIn(str(length), str(error))

    def test_bounds_are_small(self):
        bounds = frames.Bounds(2 << 20, 512)
        for kind in frames.Kind:
            self.assertLessEqual(frames.lengths(kind, bounds).stop - 1,
                                 (2 << 20) + 8)

    @hypothesis.given(KINDS, strategies.integers(0, 2 ** 64 - 1),
                      strategies.integers(0, 2 ** 64 - 1))
    def test_order(self, kind, sent, expected):
        hypothesis.assume(sent != expected
                          and kind not in frames.UNCOUNTED)
        data = frames.header(kind, 0, sent)
        error = self.assertRaises(frames.FrameError, frames.decode_header,
                                  data, expected, ALL, frames.Bounds(1, 1))
        self.assertIn(f'{sent} instead of {expected}', str(error))

    @hypothesis.given(strategies.sampled_from(frames.Stage), KINDS)
    def test_a_stage_takes_its_own_kinds_only(self, stage, kind):
        hypothesis.assume(kind not in frames.STAGES[stage])
        bounds = frames.Bounds(1, 1)
        data = frames.header(kind, frames.lengths(kind, bounds).start, 0)
        self.assertRaises(frames.FrameError, frames.decode_header, data, 0,
                          frames.STAGES[stage], bounds)

    def test_no_units_at_stream_level(self):
        data = frames.header(frames.Kind.UNIT, 8, 0)
        self.assertRaises(frames.FrameError, frames.decode_header, data, 0,
                          frames.STAGES[frames.Stage.PRECOPY],
                          frames.Bounds())


class BodyTest(base.BaseTestCase):

    @hypothesis.given(strategies.uuids(), strategies.binary(
        min_size=32, max_size=32))
    def test_hello(self, migration, ticket):
        hello = frames.Hello(str(migration), ticket)
        self.assertEqual(hello,
                         frames.decode_hello(frames.encode_hello(hello)))

    def test_another_version_says_both(self):
        body = bytearray(frames.encode_hello(
            frames.Hello(str(uuid.uuid4()), bytes(32))))
        body[9] += 1
        error = self.assertRaises(frames.FrameError, frames.decode_hello,
                                  bytes(body))
        self.assertIn('version 3', str(error))

    @hypothesis.given(strategies.sampled_from(frames.Kind),
                      strategies.data(), BOUNDS)
    def test_garbage_bodies_never_crash(self, kind, data, bounds):
        length = frames.lengths(kind, frames.Bounds(8, 8)).start
        body = data.draw(strategies.binary(min_size=length,
                                           max_size=length))
        decoders = {
            frames.Kind.HELLO: frames.decode_hello,
            frames.Kind.RESUME: frames.decode_hello,
            frames.Kind.BEGIN: frames.decode_begin,
            frames.Kind.UNIT: lambda b: frames.decode_unit(b[:8], bounds),
            frames.Kind.ZERO: lambda b: frames.decode_zero(b, bounds),
            frames.Kind.STREAM: lambda b: frames.decode_offset(b[:8], 5),
            frames.Kind.VERIFY: lambda b: frames.decode_verify(b, bounds),
            frames.Kind.RAN: frames.decode_ran,
            frames.Kind.FENCE: frames.decode_fence,
            frames.Kind.FAIL: frames.decode_text}
        try:
            decoders.get(kind, len)(body)
        except frames.FrameError:
            pass

    @hypothesis.given(strategies.integers(0, 2 ** 32 - 1),
                      strategies.integers(0, 2 ** 32 - 1), BOUNDS)
    def test_no_unit_outside(self, first, count, bounds):
        inside = count > 0 and first + count <= bounds.units
        body = frames.encode_zero(first, count)
        if inside:
            self.assertEqual((first, count),
                             frames.decode_zero(body, bounds))
        else:
            self.assertRaises(frames.FrameError, frames.decode_zero, body,
                              bounds)
        prefix = frames.encode_unit(first)
        if first < bounds.units:
            self.assertEqual(first, frames.decode_unit(prefix, bounds))
        else:
            self.assertRaises(frames.FrameError, frames.decode_unit, prefix,
                              bounds)

    def test_begin(self):
        for begin in (
                frames.Begin(contract.Level.STREAM, 0, 0, 'running'),
                frames.Begin(contract.Level.STREAM, 0, 0, 'paused'),
                frames.Begin(contract.Level.UNITS, 65536, 64, '')):
            self.assertEqual(begin, frames.decode_begin(
                frames.encode_begin(begin)))
        for begin in (
                frames.Begin(contract.Level.STREAM, 65536, 64, 'running'),
                frames.Begin(contract.Level.UNITS, 0, 64, 'running'),
                frames.Begin(contract.Level.UNITS, frames.MAX_UNIT + 1, 1,
                             'running')):
            self.assertRaises(frames.FrameError, frames.decode_begin,
                              frames.encode_begin(begin))

    @hypothesis.given(strategies.integers(0, 2 ** 64 - 1),
                      strategies.integers(0, 64))
    def test_verify(self, size, units):
        verify = frames.Verify(size, bytes(range(16)), 'ab' * 16,
                               bytes(8 * units))
        body = frames.encode_verify(verify) + verify.table
        bounds = frames.Bounds(4096, units)
        self.assertIn(len(body), frames.lengths(frames.Kind.VERIFY, bounds))
        self.assertEqual(verify, frames.decode_verify(body, bounds))

    def test_durations_are_durations(self):
        self.assertEqual((0.5, 2.0, ''),
                         frames.decode_ran(frames.encode_ran(0.5, 2.0)))
        for value in (float('nan'), float('inf'), -0.5, 1e9):
            self.assertRaises(frames.FrameError, frames.decode_ran,
                              frames.encode_ran(value, 0.0))
        self.assertIsNone(frames.decode_fence(frames.encode_fence(None)))

    def test_what_was_lost_comes_behind(self):
        body = frames.encode_ran(0.5, 2.0, 'all of it')
        self.assertEqual((0.5, 2.0, 'all of it'), frames.decode_ran(body))
        # An agent that knows of no such thing takes it when it is empty.
        self.assertEqual(16, len(frames.encode_ran(0.5, 2.0)))
        valid = frames.lengths(frames.Kind.RAN, frames.Bounds())
        longest = frames.encode_ran(0.0, 0.0, 'x' * 2 * frames.MAX_TEXT)
        self.assertEqual((16, len(longest)), (valid.start, valid.stop - 1))

    @hypothesis.given(strategies.text())
    def test_a_reason_can_be_shown(self, text):
        body = frames.encode_text(text)
        self.assertLessEqual(len(body), frames.MAX_TEXT)
        shown = frames.decode_text(body)
        self.assertTrue(shown.isprintable())
