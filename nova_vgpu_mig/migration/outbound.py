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


"""The source's data: out of the device, through a buffer, to the channel.

Each unit is copied once into a buffer of the channel's window, and that copy
is hashed, sent, and held there until the other end has it. To
send the mapped pages themselves would save the copy, but a socket may read
them long after the hash was taken, and the GPU writes meanwhile: the table
of hashes would be of bytes that were never sent.

Memory: the window, and eight bytes for each unit; nothing grows with the
frame buffer's bytes.
"""

from collections.abc import Callable
import time

import numpy
import numpy.typing
import xxhash

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import frames

Flags = numpy.typing.NDArray[numpy.bool_]


class StreamOut:
    """The device's data stream, with a running digest by offset."""

    def __init__(self, channel: channel_.Channel,
                 stream: contract.DataStream) -> None:
        self.sent_bytes = 0
        self._channel = channel
        self._stream = stream
        self._digest = xxhash.xxh3_128()
        self._buffer: memoryview | None = None

    @property
    def digest(self) -> bytes:
        value: bytes = self._digest.digest()
        return value

    def send(self, at_most: int | None, step: Callable[[int], None]) -> int:
        """Send what the device has now; return how many bytes.

        :param at_most: stop at about so many; None reads to the end.
        :param step: called with the bytes of each piece sent; may raise.
        """
        sent = 0
        while at_most is None or sent < at_most:
            buffer = self._buffer = (
                self._buffer or self._channel.buffer(frames.MAX_STREAM))
            try:
                got = self._stream.read_into(buffer)
            except contract.TemporaryEnd:
                break
            if not got:
                break
            piece, self._buffer = buffer[:got], None
            self._digest.update(piece)
            self._channel.send(frames.Kind.STREAM,
                               frames.encode_offset(self.sent_bytes), piece)
            self.sent_bytes += got
            sent += got
            step(got)
        return sent


class UnitsOut:
    """The frame buffer, unit by unit, with the table of last hashes."""

    def __init__(self, channel: channel_.Channel,
                 device: contract.UnitDevice) -> None:
        self.zero_seconds = 0.0
        """Spent up to now on units that were zero: looked at, not sent."""
        self._channel = channel
        self.unit_size = device.unit_size
        self._source = numpy.frombuffer(device.frame_buffer, numpy.uint8)
        self.count = len(self._source) // self.unit_size
        self._buffer: memoryview | None = None
        self._zero_hash = xxhash.xxh3_64_intdigest(bytes(self.unit_size))
        self._table = numpy.full(self.count, self._zero_hash, '<u8')

    def table(self) -> bytes:
        """xxh3-64 of each unit as last sent; of zeros where none was."""
        return self._table.tobytes()

    def send(self, dirty: Flags,
             step: Callable[[int], None]) -> tuple[int, int]:
        """Send the marked units; return bytes sent, and bytes of zeros.

        :param step: called with the bytes of each unit done; may raise.
        """
        size = self.unit_size
        sent = zero = 0
        first, run = 0, 0
        for index in numpy.flatnonzero(dirty).tolist():
            start = index * size
            buffer = self._next_buffer()
            began = time.monotonic()
            copy = numpy.frombuffer(buffer, numpy.uint8)
            numpy.copyto(copy, self._source[start:start + size])
            value = xxhash.xxh3_64_intdigest(buffer)
            self._table[index] = value
            # The hash is asked first because it is there already; but a
            # unit is zero only if it is.
            nothing = (value == self._zero_hash
                       and not copy.any())
            if nothing:
                if run and index != first + run:
                    self._send_zero(first, run)
                    run = 0
                first = first if run else index
                run += 1
                zero += size
            else:
                self._buffer = None
                self._channel.send(frames.Kind.UNIT,
                                   frames.encode_unit(index), buffer)
                sent += size
            step(size)
            if nothing:
                self.zero_seconds += time.monotonic() - began
        if run:
            self._send_zero(first, run)
        return sent, zero

    def _next_buffer(self) -> memoryview:
        """The one that was not sent, or a new one; and hear of a FAIL."""
        if self._buffer is None:
            self._buffer = self._channel.buffer(self.unit_size)
        else:
            self._channel.check()
        return self._buffer

    def _send_zero(self, first: int, count: int) -> None:
        self._channel.send(frames.Kind.ZERO,
                           frames.encode_zero(first, count))

    def close(self) -> None:
        """Let go of the mapping, so that the device can be closed."""
        self._source = numpy.empty(0, numpy.uint8)
