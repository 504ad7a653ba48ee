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


"""The destination's data: from the channel to where it belongs.

A unit goes from the socket straight into the frame buffer and is hashed
there. Those of the stop-copy are hashed once more before the commit, as they
lie then; those of pre-copy are not: while the guest stands still, to read a
whole frame buffer again costs 50 ms for each GiB. The device is RESUMING,
nothing else should write to it.
"""

import numpy
import xxhash

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import frames


class VerifyError(custody.MoveFailed):
    """What lies here is not what the source sent; says what differs."""


class StreamIn:
    """The device's data stream, with a running digest by offset."""

    def __init__(self, channel: channel_.Channel,
                 stream: contract.DataStream) -> None:
        self.received_bytes = 0
        self._channel = channel
        self._stream = stream
        self._digest = xxhash.xxh3_128()
        self._buffer = memoryview(bytearray(frames.MAX_STREAM))

    def take(self, length: int) -> None:
        """Take the body of a STREAM frame of `length` bytes.

        :raises contract.DeviceError: the device refuses what it says.
        """
        prefix = self._channel.read(frames.STREAM_PREFIX)
        frames.decode_offset(prefix, self.received_bytes)
        piece = self._buffer[:length - frames.STREAM_PREFIX]
        self._channel.read_into(piece)
        self._digest.update(piece)
        self.received_bytes += len(piece)
        while piece:
            taken = self._stream.write(piece)
            if not taken:
                raise VerifyError('the device takes no more of its stream')
            piece = piece[taken:]

    def verify(self, verify: frames.Verify) -> None:
        """:raises VerifyError: a byte is missing or differs."""
        if (verify.stream_bytes, verify.stream_digest) != (
                self.received_bytes, self._digest.digest()):
            raise VerifyError(
                f'the data stream differs: {self.received_bytes} bytes came '
                f'of {verify.stream_bytes}, or their digest is another')


class UnitsIn:
    """The frame buffer, unit by unit, with the table of hashes."""

    def __init__(self, channel: channel_.Channel,
                 device: contract.UnitDevice) -> None:
        """The frame buffer is made zero: untouched units never come."""
        self._channel = channel
        self._device = device
        self.unit_size = device.unit_size
        self._target = device.frame_buffer
        self.count = count = len(self._target) // self.unit_size
        self.received_bytes = 0
        self._zero_hash = xxhash.xxh3_64_intdigest(bytes(self.unit_size))
        self._table = numpy.full(count, self._zero_hash, '<u8')
        self._rest: set[int] | None = None
        device.zero_units(0, count)

    def begin_rest(self) -> None:
        """From here on it is the stop-copy: verify() looks again."""
        self._rest = set()

    def take_unit(self) -> None:
        """Take the body of a UNIT frame.

        :raises frames.FrameError: there is no such unit.
        """
        index = frames.decode_unit(self._channel.read(frames.UNIT_PREFIX),
                                   self._channel.bounds)
        start = index * self.unit_size
        place = self._target[start:start + self.unit_size]
        self._channel.read_into(place)
        self._table[index] = xxhash.xxh3_64_intdigest(place)
        if self._rest is not None:
            self._rest.add(index)
        self.received_bytes += self.unit_size

    def take_zero(self, length: int) -> None:
        """Take the body of a ZERO frame; only what isn't zero is written.

        :raises frames.FrameError: there are no such units.
        """
        first, count = frames.decode_zero(self._channel.read(length),
                                          self._channel.bounds)
        run = self._table[first:first + count]
        for index in (first + numpy.flatnonzero(
                run != self._zero_hash)).tolist():
            self._device.zero_units(index, 1)
            self._table[index] = self._zero_hash

    def verify(self, verify: frames.Verify) -> None:
        """:raises VerifyError: a unit differs; says which."""
        for index in self._rest or ():
            start = index * self.unit_size
            self._table[index] = xxhash.xxh3_64_intdigest(
                self._target[start:start + self.unit_size])
        wanted = numpy.frombuffer(verify.table, '<u8')
        wrong = numpy.flatnonzero(wanted != self._table)
        if len(wrong):
            raise VerifyError(f'{len(wrong)} of {len(wanted)} units of the '
                              f'frame buffer differ, the first is '
                              f'{wrong[0]}')

    def close(self) -> None:
        """Let go of the mapping, so that the device can be closed."""
        self._target = memoryview(b'')
