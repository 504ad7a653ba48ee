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

"""The migration stream's format: packages of sections. Pure.

The stream is a repetition of packages, as GIM's is: a header (version, total
length, sequence, section table, 32-bit additive checksum), then the
sections. Every length is known or bounded before memory is taken for it.

A package is at most COPY_BLOCK_BYTES of pages long, so both ends need a
buffer of that size and no more, whatever the frame buffer's size.
"""

from collections.abc import Mapping, Sequence
import enum
import json
import struct
from typing import Any, NamedTuple

import numpy

from nova_vgpu_mig.compatibility import identity

MAGIC = 0x504d4947
VERSION = 1
HEADER = struct.Struct('<IHHQIIII')
"""Magic, version, sections, total length, sequence, flags, checksum, 0."""
ENTRY = struct.Struct('<IIQ')
"""Section table: kind, 0, length. Sections follow each other."""
CHECKSUM_AT = 24

COPY_BLOCK_BYTES = 16 * 1024 * 1024
MAX_CONTEXT_BYTES = 64 * 1024
MAX_STATIC_BYTES = 1024 * 1024
FIRMWARE_IMAGE_BYTES = 4096
_FIRMWARE = struct.Struct('<32sI')

IGNORED_FIRMWARE = frozenset({'TA_RAS', 'RLCV_LX7', 'RLC_P'})
"""Firmware that AMD's comparison leaves out."""

COMPARED = ('vendor_id', 'device_id', 'frame_buffer_mib',
            'migration_version', 'driver_version', 'vbios_version',
            'partition', 'engines', 'subsystem', 'revision',
            'psp_migration_version')
"""Fields of the identity that the destination's CTX must equal. The VF's
index, the number of VFs and the GPU's place are those of GIM's v2 and are not
among them."""


class Kind(enum.IntEnum):
    CTX = 1
    STATIC = 2
    BITMAP = 3
    PAGES = 4
    DYNAMIC = 5


class PackageFlag(enum.IntFlag):
    UNITS = 1
    """Pages travel outside of the stream (Level.UNITS)."""


SHAPES = frozenset({
    (Kind.CTX, Kind.STATIC, Kind.BITMAP, Kind.PAGES),
    (Kind.BITMAP, Kind.PAGES),
    (Kind.BITMAP, Kind.PAGES, Kind.DYNAMIC),
})
"""First package, later ones, last one."""


class BadStream(Exception):
    """What the stream says cannot be; in words."""


class Header(NamedTuple):
    total: int
    sequence: int
    flags: PackageFlag
    checksum: int
    sections: int


class Section(NamedTuple):
    kind: Kind
    start: int
    length: int


def checksum(data: bytearray | memoryview) -> int:
    """32-bit sum of the little-endian 32-bit words, checksum field as 0."""
    view = memoryview(data)
    whole = len(view) // 4 * 4
    # In 32 bits the sum wraps around as it is meant to, and is fastest.
    total = int(numpy.frombuffer(view[:whole], '<u4').sum(
        dtype=numpy.uint32))
    total += int.from_bytes(view[whole:], 'little')
    (own,) = struct.unpack_from('<I', view, CHECKSUM_AT)
    return (total - int(own)) & 0xffffffff


def layout(lengths: Sequence[tuple[Kind, int]]) -> tuple[
        int, list[Section]]:
    """Return the total length of a package and where its sections are."""
    position = HEADER.size + ENTRY.size * len(lengths)
    found = []
    for kind, length in lengths:
        found.append(Section(kind, position, length))
        position += length
    return position, found


def write_front(package: memoryview, sequence: int, flags: PackageFlag,
                found: Sequence[Section]) -> None:
    """Write header and table over a package whose sections are in place."""
    HEADER.pack_into(package, 0, MAGIC, VERSION, len(found), len(package),
                     sequence, flags, 0, 0)
    for index, section in enumerate(found):
        ENTRY.pack_into(package, HEADER.size + index * ENTRY.size,
                        section.kind, 0, section.length)
    struct.pack_into('<I', package, CHECKSUM_AT, checksum(package))


def read_header(data: bytes | memoryview, largest: int,
                sequence: int) -> Header:
    """Read HEADER.size bytes.

    :param largest: bytes that a package may have.
    :param sequence: the number that this one must have.
    :raises BadStream: a field is impossible.
    """
    magic, version, count, total, number, flags, check, _ = (
        HEADER.unpack_from(data))
    if magic != MAGIC:
        raise BadStream(f'not a package (it begins with {magic:#x})')
    if version != VERSION:
        raise BadStream(f'package version {version}, this GIM knows '
                        f'{VERSION}')
    if number != sequence:
        raise BadStream(f'package {number} where {sequence} is due')
    if not any(count == len(shape) for shape in SHAPES):
        raise BadStream(f'a package of {count} sections')
    if not HEADER.size + ENTRY.size * count <= total <= largest:
        raise BadStream(f'a package of {total} bytes, at most {largest} are '
                        'possible')
    if flags & ~PackageFlag.UNITS:
        raise BadStream(f'package flags {flags:#x}')
    return Header(total, number, PackageFlag(flags), check, count)


def read_table(data: bytes | memoryview,
               header: Header) -> list[Section]:
    """Read the section table that follows a header.

    :raises BadStream: kinds, order or lengths are impossible.
    """
    lengths = []
    for index in range(header.sections):
        kind, _, length = ENTRY.unpack_from(
            data, HEADER.size + index * ENTRY.size)
        if kind not in Kind.__members__.values():
            raise BadStream(f'section kind {kind}')
        lengths.append((Kind(kind), length))
    kinds = tuple(kind for kind, _ in lengths)
    if kinds not in SHAPES:
        raise BadStream('sections ' + ', '.join(k.name for k in kinds))
    if (kinds[0] is Kind.CTX) != (header.sequence == 0):
        raise BadStream(f'package {header.sequence} begins with '
                        f'{kinds[0].name}')
    total, found = layout(lengths)
    if total != header.total:
        raise BadStream(f'sections of {total} bytes in a package of '
                        f'{header.total}')
    for section in found:
        limit = {Kind.CTX: MAX_CONTEXT_BYTES,
                 Kind.STATIC: MAX_STATIC_BYTES}.get(section.kind)
        if limit is not None and section.length > limit:
            raise BadStream(f'{section.kind.name} of {section.length} '
                            f'bytes, at most {limit} are possible')
    return found


def context(who: identity.VFIdentity,
            geometry: Mapping[str, int]) -> bytes:
    """CTX: what the destination compares, as JSON with sorted keys.

    :param geometry: sizes that must be equal (names are free).
    """
    fields: dict[str, Any] = {
        name: getattr(who, name) for name in COMPARED}
    fields['engines'] = dict(who.engines)
    fields['firmware'] = {
        name: version for name, version in who.firmware.items()
        if name not in IGNORED_FIRMWARE}
    fields['geometry'] = dict(geometry)
    return json.dumps(fields, sort_keys=True,
                      separators=(',', ':')).encode()


def compare_context(theirs: bytes, ours: bytes) -> None:
    """:raises BadStream: they differ; names the first fields that do."""
    if theirs == ours:
        return
    try:
        there = json.loads(theirs)
        here = json.loads(ours)
        names = [name for name in sorted({*there, *here})
                 if there.get(name) != here.get(name)]
        what = '; '.join(
            f'{name}: source {there.get(name)!r:.120}, here '
            f'{here.get(name)!r:.120}' for name in names[:4])
    except (ValueError, RecursionError, AttributeError, TypeError):
        what = 'it cannot be read'
    raise BadStream('context differs: ' + (what or 'encoding'))


def static_data(who: identity.VFIdentity) -> bytes:
    """STATIC: firmware images, sorted by name.

    An image is a pattern that depends on name and version only.
    """
    parts = []
    for name, version in sorted(who.firmware.items()):
        seed = f'{name} {version} '.encode()
        image = seed * (FIRMWARE_IMAGE_BYTES // len(seed) + 1)
        parts.append(_FIRMWARE.pack(name.encode()[:32],
                                    FIRMWARE_IMAGE_BYTES)
                     + image[:FIRMWARE_IMAGE_BYTES])
    return b''.join(parts)


def read_static(data: bytes | memoryview) -> dict[str, bytes]:
    """Return firmware name -> image.

    :raises BadStream: it is cut, or names a firmware twice.
    """
    images: dict[str, bytes] = {}
    position = 0
    while position < len(data):
        if position + _FIRMWARE.size > len(data):
            raise BadStream('static data is cut')
        raw, length = _FIRMWARE.unpack_from(data, position)
        position += _FIRMWARE.size
        name = raw.rstrip(b'\0').decode(errors='replace')
        if position + length > len(data) or name in images:
            raise BadStream(f'static data: firmware {name!r} is cut or '
                            'comes twice')
        images[name] = bytes(data[position:position + length])
        position += length
    return images
