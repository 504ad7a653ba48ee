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

"""The destination's side of the stream: GIM's three phases of an import.

Nothing the stream says is believed. A package's header is checked before
memory is taken for the package, the identity is compared as soon as it has
come, pages reach the frame buffer when the package's checksum is right, and
the dynamic state is kept aside until RESUMING -> STOP.
"""

import enum
import mmap

import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import memory
from nova_vgpu_mig.gpu.software import sections


class Phase(enum.IntEnum):
    """What is due next."""

    CONTEXT = 1
    STATIC = 2
    DYNAMIC = 3
    """Pages, any number of packages, then the dynamic state."""
    COMPLETE = 4


class Importer:
    """One stream into one VF. The caller serialises the calls."""

    def __init__(self, level: contract.Level, context: bytes, static: bytes,
                 frame_buffer: memory.SharedMemory, units: dirty.DirtyUnits,
                 work_unit_bytes: int, fail_phase: int) -> None:
        """:param fail_phase: refuse in this phase (a knob); 0 is never."""
        self.phase = Phase.CONTEXT
        self._level = level
        self._context = context
        self._static = sections.read_static(static)
        self._frame_buffer = frame_buffer
        self._units = units
        self._work_unit_bytes = work_unit_bytes
        self._fail_phase = fail_phase
        self._bitmap_bytes = -(-units.count // 8)
        self._largest = (
            max(sections.COPY_BLOCK_BYTES, units.unit_bytes)
            + sections.MAX_CONTEXT_BYTES + sections.MAX_STATIC_BYTES
            + dynamic.size(self._bitmap_bytes) + self._bitmap_bytes + 1024)
        self._sequence = 0
        self._have = 0
        self._buffer = memory.buffer(sections.MAX_CONTEXT_BYTES)
        self._package = self._room(sections.HEADER.size)
        self._header: sections.Header | None = None
        self._sections: list[sections.Section] = []
        self._refusal: str | None = None
        self._state: dynamic.DynamicState | None = None

    def write(self, data: memoryview) -> None:
        """Take more of the stream.

        :raises BadStream: it says something impossible or different; every
            later call raises the same.
        """
        if self._refusal is not None:
            raise sections.BadStream(self._refusal)
        try:
            while len(data):
                data = data[self._take(data):]
        except sections.BadStream as exc:
            self._refusal = str(exc)
            self._package = memoryview(b'')
            self._buffer = memory.buffer(mmap.PAGESIZE)
            raise

    def finish(self) -> dynamic.DynamicState:
        """The stream's end: return the state to load.

        :raises BadStream: it was refused, or it is not complete.
        """
        if self._refusal is not None:
            raise sections.BadStream(self._refusal)
        if self._state is None or self._have:
            raise sections.BadStream(
                f'the stream ends too early, in package {self._sequence} '
                f'(phase {self.phase.name})')
        return self._state

    def _room(self, length: int) -> memoryview:
        """The buffer, as long as asked for, with what it holds."""
        if length > len(self._buffer):
            grown = memory.buffer(length)
            grown[:self._have] = self._buffer[:self._have]
            self._buffer = grown
        return memoryview(self._buffer)[:length]

    def _take(self, data: memoryview) -> int:
        if self.phase is Phase.COMPLETE:
            raise sections.BadStream('bytes after the last package')
        room = len(self._package) - self._have
        count = min(room, len(data))
        self._package[self._have:self._have + count] = data[:count]
        self._have += count
        if self._have == sections.HEADER.size and self._header is None:
            self._begin()
        header = self._header
        if header is not None:
            self._progress(header)
        return count

    def _begin(self) -> None:
        self._header = sections.read_header(self._package, self._largest,
                                            self._sequence)
        ours = self._level is contract.Level.UNITS
        theirs = bool(self._header.flags & sections.PackageFlag.UNITS)
        if ours != theirs:
            raise sections.BadStream(
                'the source sends pages ' + ('outside of' if theirs else 'in')
                + ' the stream, this VF is set up otherwise')
        self._package = self._room(self._header.total)

    def _progress(self, header: sections.Header) -> None:
        table_end = (sections.HEADER.size
                     + sections.ENTRY.size * header.sections)
        if not self._sections and self._have >= table_end:
            self._sections = sections.read_table(self._package, header)
            self._check_lengths()
        if (self._sections and self.phase is Phase.CONTEXT
                and self._have >= (self._sections[0].start
                                   + self._sections[0].length)):
            self._fail_if(Phase.CONTEXT)
            sections.compare_context(
                bytes(self._part(self._sections[0])), self._context)
            self.phase = Phase.STATIC
        if self._have == header.total:
            self._complete(header)

    def _check_lengths(self) -> None:
        unit = self._units.unit_bytes
        for section in self._sections:
            expected = {
                sections.Kind.BITMAP: self._bitmap_bytes,
                sections.Kind.DYNAMIC: dynamic.size(self._bitmap_bytes),
            }.get(section.kind, section.length)
            if (section.length != expected
                    or (section.kind is sections.Kind.PAGES
                        and section.length % unit)):
                raise sections.BadStream(
                    f'{section.kind.name} of {section.length} bytes')

    def _part(self, section: sections.Section) -> memoryview:
        return self._package[section.start:section.start + section.length]

    def _fail_if(self, phase: Phase) -> None:
        if self._fail_phase == phase:
            raise sections.BadStream(
                f'import failed in phase {phase.name} (knob import_error)')

    def _complete(self, header: sections.Header) -> None:
        if sections.checksum(self._package) != header.checksum:
            raise sections.BadStream(
                f'package {header.sequence}: wrong checksum')
        parts = {section.kind: self._part(section)
                 for section in self._sections}
        if sections.Kind.STATIC in parts:
            self._fail_if(Phase.STATIC)
            self._import_static(parts[sections.Kind.STATIC])
        self._import_pages(parts[sections.Kind.BITMAP],
                           parts[sections.Kind.PAGES])
        if sections.Kind.DYNAMIC in parts:
            self._fail_if(Phase.DYNAMIC)
            try:
                self._state = dynamic.unpack(
                    parts[sections.Kind.DYNAMIC], self._bitmap_bytes,
                    self._work_unit_bytes)
            except ValueError as exc:
                raise sections.BadStream(str(exc)) from exc
            self.phase = Phase.COMPLETE
        self._sequence += 1
        self._package = self._room(sections.HEADER.size)
        self._have = 0
        self._header = None
        self._sections = []

    def _import_static(self, data: memoryview) -> None:
        images = sections.read_static(data)
        ignored = sections.IGNORED_FIRMWARE
        for name in {*images, *self._static} - ignored:
            if images.get(name) != self._static.get(name):
                raise sections.BadStream(f'firmware image {name!r} differs')
        self.phase = Phase.DYNAMIC

    def _import_pages(self, bitmap: memoryview, pages: memoryview) -> None:
        unit = self._units.unit_bytes
        chosen = numpy.flatnonzero(
            dirty.from_bytes(bitmap, self._units.count)).tolist()
        if len(chosen) * unit != len(pages):
            raise sections.BadStream(
                f'{len(chosen)} units in the bitmap, {len(pages)} bytes of '
                'pages')
        if chosen and self._level is contract.Level.UNITS:
            raise sections.BadStream('pages in a stream without pages')
        for number, index in enumerate(chosen):
            self._frame_buffer.octets[index * unit:(index + 1) * unit] = (
                numpy.frombuffer(pages[number * unit:(number + 1) * unit],
                                 numpy.uint8))
            self._units.mark(index * unit, unit)
