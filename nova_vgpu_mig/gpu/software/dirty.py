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

"""What the engines have written: frame-buffer units and guest pages.

The order is the whole point. A writer writes, then marks. A query reads and
clears under the writer's lock, then its caller copies. So a write that the
copy missed is always marked after the clear, and comes in the next round.
"""

from collections.abc import Sequence
import errno
import threading

import numpy
import numpy.typing

Flags = numpy.typing.NDArray[numpy.bool_]
Indices = numpy.typing.NDArray[numpy.uint64]


def to_bytes(flags: Flags) -> bytes:
    """Bitmap; the first flag is the lowest bit of the first byte."""
    return numpy.packbits(flags, bitorder='little').tobytes()


def to_hex(flags: Flags) -> str:
    return to_bytes(flags).hex()


def from_hex(text: str, count: int) -> Flags:
    """Read to_hex() back."""
    return from_bytes(bytes.fromhex(text), count)


def from_bytes(data: bytes | memoryview, count: int) -> Flags:
    packed = numpy.frombuffer(data, numpy.uint8)
    return numpy.unpackbits(packed, count=count,
                            bitorder='little').astype(numpy.bool_)


class DirtyUnits:
    """Frame-buffer units: written since the last clear, and ever written."""

    def __init__(self, frame_buffer_bytes: int, unit_bytes: int) -> None:
        self.unit_bytes = unit_bytes
        self.count = frame_buffer_bytes // unit_bytes
        self._lock = threading.Lock()
        self._dirty: Flags = numpy.zeros(self.count, numpy.bool_)
        self._touched: Flags = numpy.zeros(self.count, numpy.bool_)
        self._sample: Flags | None = None

    def mark(self, offset: int, length: int) -> None:
        """Say that [offset, offset + length) has been written."""
        first = offset // self.unit_bytes
        end = (offset + length - 1) // self.unit_bytes + 1
        with self._lock:
            self._dirty[first:end] = True
            self._touched[first:end] = True
            if self._sample is not None:
                self._sample[first:end] = True

    def mark_units(self, indices: Indices) -> None:
        with self._lock:
            self._dirty[indices] = True
            self._touched[indices] = True
            if self._sample is not None:
                self._sample[indices] = True

    def begin(self) -> None:
        """Start tracking: all that ever held data is dirty."""
        with self._lock:
            self._dirty[:] = self._touched

    def query(self, *, clear: bool) -> Flags:
        """Return the dirty flags, and clear them in the same instant."""
        with self._lock:
            found = self._dirty.copy()
            if clear:
                self._dirty[:] = False
        return found

    def begin_sample(self) -> None:
        """Count what is written from now on; no query notices it.

        :raises OSError: EBUSY somebody else counts.
        """
        with self._lock:
            if self._sample is not None:
                raise OSError(errno.EBUSY, 'dirty units are counted already')
            self._sample = numpy.zeros(self.count, numpy.bool_)

    def end_sample(self) -> int:
        """Return how many units were written since begin_sample()."""
        with self._lock:
            assert self._sample is not None
            found = int(numpy.count_nonzero(self._sample))
            self._sample = None
        return found

    def dirty_count(self) -> int:
        return int(numpy.count_nonzero(self._dirty))

    def touched(self) -> Flags:
        with self._lock:
            return self._touched.copy()

    def set_touched(self, touched: Flags) -> None:
        with self._lock:
            self._touched[:] = touched

    def forget(self) -> None:
        """The frame buffer has been cleared: nothing holds data."""
        with self._lock:
            self._dirty[:] = False
            self._touched[:] = False


class DMALog:
    """Pages of guest RAM that the engines have written while it is on."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._page_size = 0
        self._ranges: list[tuple[int, int]] = []
        self._dirty: Flags = numpy.zeros(0, numpy.bool_)

    def start(self, page_size: int, ranges: Sequence[tuple[int, int]],
              ram_bytes: int) -> None:
        """Begin with nothing dirty.

        :raises OSError: EINVAL page size or ranges make no sense, EBUSY
            logging is on.
        """
        if page_size < 4096 or page_size & (page_size - 1):
            raise OSError(errno.EINVAL, f'page size {page_size} is not a '
                          'power of two from 4096 on')
        for iova, length in ranges:
            if iova < 0 or length <= 0 or iova + length > ram_bytes:
                raise OSError(errno.EINVAL, f'range {iova:#x}+{length:#x} is '
                              f'outside of guest RAM of {ram_bytes:#x} bytes')
        with self._lock:
            if self._page_size:
                raise OSError(errno.EBUSY, 'DMA logging is on already')
            self._ranges = [(iova, iova + length) for iova, length in ranges]
            self._dirty = numpy.zeros(-(-ram_bytes // page_size), numpy.bool_)
            self._page_size = page_size

    def mark(self, iova: int, length: int) -> None:
        """Say that [iova, iova + length) has been written."""
        if not self._page_size:
            return
        with self._lock:
            for start, end in self._ranges:
                low, high = max(start, iova), min(end, iova + length)
                if low < high:
                    self._dirty[low // self._page_size:
                                (high - 1) // self._page_size + 1] = True

    def report(self, iova: int, length: int, page_size: int) -> Flags:
        """Read and clear: one flag for each page of the span.

        :raises OSError: EINVAL logging is off, or the span or the page size
            is not what was started.
        """
        with self._lock:
            if not self._page_size or page_size != self._page_size:
                raise OSError(errno.EINVAL, f'DMA logging runs with a page '
                              f'size of {self._page_size} (0: it is off), '
                              f'not {page_size}')
            first = iova // page_size
            end = -(-(iova + length) // page_size)
            if iova < 0 or length <= 0 or end > len(self._dirty):
                raise OSError(errno.EINVAL, f'span {iova:#x}+{length:#x} is '
                              'outside of guest RAM')
            found = self._dirty[first:end].copy()
            self._dirty[first:end] = False
        return found

    def stop(self) -> None:
        with self._lock:
            self._page_size = 0
            self._dirty = numpy.zeros(0, numpy.bool_)
