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


"""The tests of the contract; see the package."""

import errno
import itertools
import time

from nova_vgpu_mig.gpu import arcs
from nova_vgpu_mig.gpu import contract
from tests.conformance import providers

S = contract.DeviceState

OPENS = {(S.RUNNING, S.PRE_COPY), (S.RUNNING_P2P, S.PRE_COPY_P2P),
         (S.STOP, S.STOP_COPY), (S.STOP, S.RESUMING)}
"""The direct arcs that make a data stream."""

LARGE = 1 << 20
PATIENCE = 60.0
TINY_BYTES = 4500
"""So much of a stream is carried in tiny pieces, the rest in large ones."""


class Contract:
    """Mixed into a TestCase that has a provider."""

    provider: providers.Provider
    traits: providers.Traits

    def __init_subclass__(cls):
        """Leave out the tests of what the device is said to lack.

        Nothing else does: a skip would hide a test that never ran.
        """
        super().__init_subclass__()
        for name in cls.traits.lacks:
            if not callable(getattr(Contract, name, None)):
                raise AttributeError(f'there is no {name} to be left out')
            setattr(cls, name, None)

    def setUp(self):
        self.here, self.there = self.provider.addresses(self)
        self.source = self.open(self.here)
        self.target = self.open(self.there)

    def open(self, address):
        device = self.provider.open(address)
        self.addCleanup(device.close)
        return device

    def go(self, device, state):
        stream = device.set_state(state)
        self.assertIs(state, device.state())
        if stream is not None:
            self.addCleanup(stream.close)
        return stream

    def refused(self, codes, call, *args):
        """The call fails with one of `codes`, and says whose device it is."""
        if isinstance(codes, int):
            codes = (codes,)
        with self.assertRaises(contract.DeviceError) as caught:
            call(*args)
        self.assertIn(caught.exception.errno, codes, str(caught.exception))
        self.assertIn(caught.exception.address, (self.here, self.there))
        self.assertIn(caught.exception.address, str(caught.exception))

    def read(self, stream, size=LARGE):
        """What there is up to the end, or to the temporary one."""
        found = bytearray()
        buffer = memoryview(bytearray(max(size, LARGE)))
        while True:
            step = size if len(found) < TINY_BYTES else LARGE
            try:
                count = stream.read_into(buffer[:step])
            except contract.TemporaryEnd:
                return bytes(found)
            if not count:
                return bytes(found)
            self.assertLessEqual(count, step)
            found += buffer[:count]

    def write(self, stream, data, size=LARGE):
        view, at = memoryview(data), 0
        while at < len(view):
            step = size if at < TINY_BYTES else LARGE
            count = stream.write(view[at:at + step])
            self.assertGreater(count, 0)
            at += count

    def saved(self, device, size=LARGE):
        """A whole stream; the device is in STOP afterwards."""
        data = self.read(self.go(device, S.STOP_COPY), size)
        self.go(device, S.STOP)
        return data

    def offered(self):
        return [state for state in S
                if arcs.offered(state, self.traits.flags)]

    def take(self, state):
        """The target in `state`, with a whole stream where it resumes."""
        self.target.reset()
        stream = self.go(self.target, state)
        if state is S.RESUMING:
            self.write(stream, self.whole)

    # States and arcs

    def test_flags_are_those_declared(self):
        self.assertEqual(self.traits.flags, self.source.flags())

    def test_a_fresh_device_runs(self):
        self.assertIs(S.RUNNING, self.source.state())

    def test_every_arc(self):
        self.whole = self.saved(self.source)
        for current in self.offered():
            for wanted in S:
                with self.subTest(current=current.name, wanted=wanted.name):
                    self.take(current)
                    self.one_arc(current, wanted)

    def one_arc(self, current, wanted):
        try:
            path = (current, *arcs.path(current, wanted, self.traits.flags))
        except arcs.NoArc:
            self.refused(errno.EINVAL, self.target.set_state, wanted)
            self.assertIs(current, self.target.state())
            return
        stream = self.go(self.target, wanted)
        opens = any(arc in OPENS for arc in itertools.pairwise(path))
        self.assertEqual(opens, stream is not None)

    def test_a_second_opening_is_busy(self):
        self.refused(errno.EBUSY, self.provider.open, self.here)

    def test_closing(self):
        self.go(self.source, S.STOP)
        self.source.close()
        again = self.open(self.here)
        self.assertIs(S.STOP if self.traits.keeps_state else S.RUNNING,
                      again.state())

    def test_reset_leads_out_of_every_state(self):
        for state in self.offered():
            with self.subTest(state.name):
                stream = self.go(self.source, state)
                self.source.reset()
                self.assertIs(S.RUNNING, self.source.state())
                if stream is not None:
                    self.refused(errno.ENODEV, stream.read_into,
                                 memoryview(bytearray(10)))

    def test_a_failed_change(self):
        self.assertTrue(self.traits.failures)
        for failing, into_error in self.traits.failures:
            with self.subTest(failing.name, into_error=into_error):
                self.source.reset()
                self.one_failure(failing, into_error)

    def one_failure(self, failing, into_error):
        start = S.STOP if failing is S.RUNNING else S.RUNNING
        self.go(self.source, start)
        way = arcs.path(start, failing, self.traits.flags)
        self.provider.fail_at(self.here, failing, into_error)
        self.addCleanup(self.provider.fail_at, self.here, None, False)
        self.refused(errno.EIO, self.source.set_state, failing)
        left_in = self.source.state()
        self.provider.fail_at(self.here, None, False)
        if into_error:
            self.assertIs(S.ERROR, left_in)
            self.source.reset()
            self.assertIs(S.RUNNING, self.source.state())
        else:
            self.assertIn(left_in, (start, *way[:-1]))
        self.go(self.source, failing)

    # Saving

    def test_what_is_dirtied_is_sent_again(self):
        stream = self.go(self.source, S.PRE_COPY)
        self.read(stream)
        self.provider.dirty(self.here)
        end = time.monotonic() + PATIENCE
        while not self.source.precopy_info(stream).dirty_bytes:
            self.assertLess(time.monotonic(), end, 'nothing became dirty')
            time.sleep(0.01)
        self.assertEqual(0, self.source.precopy_info(stream).initial_bytes)
        self.assertGreater(len(self.read(stream)), 0)

    def test_precopy_info_counts_down_what_is_read(self):
        stream = self.go(self.source, S.PRE_COPY)
        buffer = memoryview(bytearray(1))
        self.assertGreater(
            self.source.precopy_info(stream).initial_bytes, 0)
        # The first one may be an estimate: a package may be made by reading.
        self.assertEqual(1, stream.read_into(buffer))
        left = self.source.precopy_info(stream).initial_bytes
        self.assertEqual(1, stream.read_into(buffer))
        self.assertEqual(left - 1,
                         self.source.precopy_info(stream).initial_bytes)
        self.read(stream)
        self.assertEqual(contract.PrecopyInfo(0, 0),
                         self.source.precopy_info(stream))

    def test_a_temporary_end(self):
        stream = self.go(self.source, S.PRE_COPY)
        self.read(stream)
        buffer = memoryview(bytearray(10))
        for _ in range(2):
            if self.traits.temporary_end:
                with self.assertRaises(contract.TemporaryEnd):
                    stream.read_into(buffer)
            else:
                self.assertEqual(0, stream.read_into(buffer))

    def test_precopy_info_outside_of_precopy(self):
        stream = self.go(self.source, S.PRE_COPY)
        self.assertIsNone(self.go(self.source, S.STOP_COPY))
        self.refused(errno.EINVAL, self.source.precopy_info, stream)
        other = self.go(self.target, S.STOP_COPY)
        self.refused(errno.EINVAL, self.target.precopy_info, other)

    def test_one_stream_from_precopy_to_stop_copy(self):
        stream = self.go(self.source, S.PRE_COPY)
        first = self.read(stream)
        self.assertIsNone(self.go(self.source, S.STOP_COPY))
        rest = self.read(stream)
        self.assertGreater(len(rest), 0)
        self.assertEqual(0, stream.read_into(memoryview(bytearray(10))))
        self.land(first + rest, LARGE)

    def test_the_end_of_a_stream_comes_again(self):
        stream = self.go(self.source, S.STOP_COPY)
        self.assertGreater(len(self.read(stream)), 0)
        for _ in range(2):
            self.assertEqual(0, stream.read_into(memoryview(bytearray(10))))

    def test_a_stream_is_over_when_its_states_are_left(self):
        for states in ((S.STOP_COPY, S.STOP), (S.PRE_COPY, S.RUNNING)):
            if states[0] not in self.offered():
                continue
            with self.subTest(states[0].name):
                stream = self.go(self.source, states[0])
                self.go(self.source, states[1])
                self.refused(errno.ENODEV, stream.read_into,
                             memoryview(bytearray(10)))

    def test_streams_go_one_way(self):
        saving = self.go(self.source, S.STOP_COPY)
        loading = self.go(self.target, S.RESUMING)
        self.refused(errno.ENODEV, saving.write, memoryview(b'12345'))
        self.refused(errno.ENODEV, loading.read_into,
                     memoryview(bytearray(5)))

    def test_closing_a_stream_keeps_the_state(self):
        stream = self.go(self.source, S.STOP_COPY)
        stream.close()
        self.assertIs(S.STOP_COPY, self.source.state())
        self.go(self.source, S.RUNNING)

    def test_saving_changes_nothing(self):
        self.assertEqual(self.saved(self.source), self.saved(self.source))

    def test_pieces_of_any_size_are_the_same_stream(self):
        self.go(self.source, S.STOP)
        whole = self.saved(self.source)
        for size in (1, 7, 4096):
            with self.subTest(size=size):
                self.assertEqual(whole, self.saved(self.source, size))

    def test_the_estimate(self):
        self.go(self.source, S.STOP)
        before = self.source.data_size()
        stream = self.go(self.source, S.STOP_COPY)
        begun = self.source.data_size()
        length = len(self.read(stream))
        self.assertIn(length - begun, range(self.traits.framing + 1))
        whole = self.traits.frame_buffer
        if whole:
            # Beside it, no more than is in the stream anyway.
            self.assertIn(before - whole, range(begun + 1))
        else:
            self.assertEqual(begun, before)

    # Loading

    def land(self, data, size):
        self.write(self.go(self.target, S.RESUMING), data, size)
        self.go(self.target, S.STOP)
        self.go(self.target, S.RUNNING)

    def test_pieces_of_any_size_are_taken(self):
        data = self.saved(self.source)
        for size in (1, 7, 4096, LARGE):
            with self.subTest(size=size):
                self.land(data, size)
                self.assertEqual(data, self.saved(self.target))

    def test_what_came_goes_back(self):
        data = self.saved(self.source)
        self.land(data, LARGE)
        self.assertEqual(data, self.saved(self.target))

    def spoil(self, data):
        """RESUMING -> STOP must not take `data`; then a reset helps."""
        self.write(self.go(self.target, S.RESUMING), data)
        self.refused(errno.EINVAL, self.target.set_state, S.STOP)
        self.assertIs(S.ERROR if self.traits.error_after_short
                      else S.RESUMING, self.target.state())
        if self.traits.error_after_short:
            for state in S:
                self.refused(errno.EINVAL, self.target.set_state, state)
            self.assertIs(S.ERROR, self.target.state())
        self.target.reset()
        self.assertIs(S.RUNNING, self.target.state())

    def test_a_short_stream(self):
        data = self.saved(self.source)
        for length in (0, 1, len(data) // 2, len(data) - 1):
            with self.subTest(length=length):
                self.spoil(data[:length])
        self.land(data, LARGE)

    def test_a_reset_clears_what_a_load_was_cut_off_in(self):
        self.target.reset()
        fresh = self.saved(self.target)
        # In a unit of the lab's GPU: its checksum would come after the cut.
        cut = len(fresh) * 9 // 16
        self.assertGreater(cut, TINY_BYTES)
        self.target.reset()
        stream = self.go(self.target, S.RESUMING)
        self.write(stream, self.saved(self.source)[:cut - TINY_BYTES])
        self.write(stream, b'\xff' * TINY_BYTES)
        self.target.reset()
        self.assertEqual(fresh, self.saved(self.target))

    def test_a_wrong_stream(self):
        data = bytearray(self.saved(self.source))
        data[0] ^= 0xff
        for size in (1, LARGE):
            with self.subTest(size=size):
                stream = self.go(self.target, S.RESUMING)
                self.refused(self.traits.wrong_errno, self.write, stream,
                             data, size)
                self.target.reset()
                self.assertIs(S.RUNNING, self.target.state())

    def test_a_stream_that_is_too_long(self):
        data = self.saved(self.source)
        stream = self.go(self.target, S.RESUMING)
        self.write(stream, data)
        with self.assertRaises(contract.DeviceError):
            self.write(stream, b'more')
            self.target.set_state(S.STOP)

    def test_a_late_write(self):
        data = self.saved(self.source)
        stream = self.go(self.target, S.RESUMING)
        self.write(stream, data)
        self.go(self.target, S.STOP)
        self.refused(errno.ENODEV, stream.write, memoryview(b'12345'))

    # Guest memory

    def test_dma_logging(self):
        span = contract.IOVARange(1 << 20, 4096 * 70)
        self.source.dma_logging_start(4096, [span])
        self.assertEqual(
            [False] * 70,
            self.source.dma_logging_report(span, 4096).tolist())
        self.source.dma_logging_stop()
