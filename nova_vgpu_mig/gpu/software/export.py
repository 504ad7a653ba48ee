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

"""The source's side of the stream: packages made as they are read.

One package exists at a time, in a buffer that is used again: fresh memory
for each would cost as much as the copy. Its pages are copied out of the
frame buffer first and its checksum is made of that copy, so that what is
sent is what was summed, however busy the VF is meanwhile.

In PRE_COPY the reader comes to a temporary end after each query of the dirty
bitmap: first all that ever held data, then each time what was written since.
"""

from collections.abc import Callable
import mmap

import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import memory
from nova_vgpu_mig.gpu.software import sections


class Exporter:
    """One stream out of one VF. The caller serialises the calls."""

    def __init__(self, level: contract.Level, context: bytes, static: bytes,
                 frame_buffer: memory.SharedMemory, units: dirty.DirtyUnits,
                 query: Callable[[], dirty.Flags]) -> None:
        """:param query: read and clear the dirty flags."""
        self._level = level
        self._context = context
        self._static = static
        self._frame_buffer = frame_buffer
        self._units = units
        self._query = query
        self._per_package = max(
            1, sections.COPY_BLOCK_BYTES // units.unit_bytes)
        self._pending: list[int] = []
        self._round = 0
        self._sequence = 0
        self._buffer = memory.buffer(mmap.PAGESIZE)
        self._package = memoryview(b'')
        self._final: dynamic.DynamicState | None = None
        self._ended = False
        self._pause = False

    def stop_copy(self, state: dynamic.DynamicState) -> None:
        """The VF is quiet: what is read from now on ends with `state`."""
        self._final = state
        self._pause = False

    def read(self, most: int) -> memoryview:
        """Return the next bytes, up to `most`; empty at the end.

        They are valid until the next call.

        :raises TemporaryEnd: nothing is ready now (before stop_copy()).
        """
        if not self._package:
            self._package = self._next_package()
        piece = self._package[:most]
        self._package = self._package[most:]
        return piece

    def _next_package(self) -> memoryview:
        if self._sequence == 0:
            return self._build([
                (sections.Kind.CTX, self._context),
                (sections.Kind.STATIC, self._static)], [], b'')
        if not self._pending and not self._pause and not self._ended:
            self._begin_round()
        if self._pending:
            chosen = self._pending[:self._per_package]
            del self._pending[:self._per_package]
            self._pause = not self._pending and self._final is None
            return self._build([], chosen, b'')
        if self._final is None:
            self._pause = False
            raise contract.TemporaryEnd
        if self._ended:
            return memoryview(b'')
        self._ended = True
        return self._build([], [], dynamic.pack(self._final))

    def _begin_round(self) -> None:
        if self._level is contract.Level.STREAM:
            self._pending = numpy.flatnonzero(self._query()).tolist()
            self._round += 1

    def _build(self, front: list[tuple[sections.Kind, bytes]],
               chosen: list[int], final: bytes) -> memoryview:
        """Make a package of fixed sections, units, and the final state."""
        flags = numpy.zeros(self._units.count, numpy.bool_)
        flags[chosen] = True
        bitmap = dirty.to_bytes(flags)
        unit = self._units.unit_bytes
        fixed = [*front, (sections.Kind.BITMAP, bitmap)]
        lengths = [(kind, len(data)) for kind, data in fixed]
        lengths.append((sections.Kind.PAGES, len(chosen) * unit))
        if final:
            lengths.append((sections.Kind.DYNAMIC, len(final)))
        total, found = sections.layout(lengths)
        if total > len(self._buffer):
            self._buffer = memory.buffer(total)
        package = memoryview(self._buffer)[:total]
        by_kind = {section.kind: section for section in found}
        for kind, data in fixed:
            package[by_kind[kind].start:][:len(data)] = data
        position = by_kind[sections.Kind.PAGES].start
        for index in chosen:
            package[position:position + unit] = self._frame_buffer.octets[
                index * unit:(index + 1) * unit].data
            position += unit
        if final:
            package[position:] = final
        sections.write_front(
            package, self._sequence,
            sections.PackageFlag.UNITS if self._level
            is contract.Level.UNITS else sections.PackageFlag(0), found)
        self._sequence += 1
        return package

    def info(self) -> contract.PrecopyInfo:
        """Bytes ready in PRE_COPY: of the first round, and after it."""
        unit = self._units.unit_bytes
        waiting = len(self._package) + len(self._pending) * unit
        written = (self._units.dirty_count() * unit
                   if self._level is contract.Level.STREAM else 0)
        if self._sequence == 0:
            return contract.PrecopyInfo(
                len(self._context) + len(self._static) + written, 0)
        if self._level is contract.Level.STREAM and self._round == 0:
            return contract.PrecopyInfo(waiting + written, 0)
        if self._round <= 1:
            return contract.PrecopyInfo(waiting, written)
        return contract.PrecopyInfo(0, waiting + written)

    def left(self) -> int:
        """Estimate of the bytes still to come, with the final state."""
        info = self.info()
        return (info.initial_bytes + info.dirty_bytes
                + dynamic.size(-(-self._units.count // 8)))
