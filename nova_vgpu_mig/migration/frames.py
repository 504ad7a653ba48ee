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


"""The bytes between two agents: encoding, decoding, and their bounds.

Pure functions: nothing here touches a socket or takes memory by what a peer
says. A frame is a header (kind, length, sequence) and a body. Each kind's
length is known, or bounded, before the body is read, from what *this* side
knows: the size of its own unit, the count of its own units. The sequence
makes a lost or doubled frame visible, is where a lost connection goes on
(window.py), and what may follow what is the receiver's to demand (`STAGES`).

A layout of our own instead of JSON or msgpack: nearly all bytes are raw
frame buffer that must go from the socket to where it belongs without a copy
between. Never pickle.
"""

import dataclasses
import enum
import struct
import uuid

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.vmm import port as vmm_port

MAGIC = b'VGPUMIG\n'
VERSION = 2

HEADER = struct.Struct('!B3xIQ')
"""Kind, length of the body, sequence."""

MAX_STREAM = 1 << 20
"""Bytes of the device's data stream in one frame."""

MAX_UNIT = 64 << 20
MAX_UNITS = 1 << 24
MAX_TEXT = 2048

_HELLO = struct.Struct(f'!8sH16s{offer_.TICKET_BYTES}s')
_BEGIN = struct.Struct('!B3xIQB')
_INDEX = struct.Struct('!I4x')
_RUN = struct.Struct('!II')
_OFFSET = struct.Struct('!Q')
_VERIFY = struct.Struct('!QI16s64s')
_RAN = struct.Struct('!dd')
_SECONDS = struct.Struct('!d')

UNIT_PREFIX = _INDEX.size
STREAM_PREFIX = _OFFSET.size


class FrameError(ValueError):
    """What came is not what the protocol allows."""


class Kind(enum.IntEnum):
    HELLO = 1
    BEGIN = 2
    READY = 3
    """Destination: the device takes what BEGIN announced."""
    STREAM = 4
    UNIT = 5
    ZERO = 6
    PING = 7
    """Source: nothing to send now, but the guest's RAM goes on."""
    SWITCHOVER = 8
    """Source: the vCPUs have stopped; what comes now is the rest."""
    VERIFY = 9
    PREPARED = 10
    COMMIT = 11
    RAN = 12
    FENCE = 13
    FAIL = 14
    """Either: it is over, and why."""

    ACK = 15
    """Either: all before this sequence has come."""

    RESUME = 16
    """Source: as HELLO, for a connection that replaces a lost one; its
    sequence is what the source expects, the ACK that answers it what the
    destination expects."""


UNCOUNTED = frozenset((Kind.HELLO, Kind.FAIL, Kind.ACK, Kind.RESUME))
"""Of one connection only: never sent again, so not in the sequence."""


class Stage(enum.Enum):
    """How far a destination is; what it takes from a source then."""

    HELLO = enum.auto()
    BEGIN = enum.auto()
    PRECOPY = enum.auto()
    STOP_COPY = enum.auto()
    PREPARED = enum.auto()


STAGES: dict[Stage, frozenset[Kind]] = {
    Stage.HELLO: frozenset((Kind.HELLO, Kind.RESUME)),
    Stage.BEGIN: frozenset((Kind.BEGIN, Kind.FAIL)),
    Stage.PRECOPY: frozenset((Kind.STREAM, Kind.UNIT, Kind.ZERO, Kind.PING,
                              Kind.SWITCHOVER, Kind.FAIL)),
    Stage.STOP_COPY: frozenset((Kind.STREAM, Kind.UNIT, Kind.ZERO,
                                Kind.VERIFY, Kind.FAIL)),
    Stage.PREPARED: frozenset((Kind.COMMIT, Kind.FAIL)),
}


@dataclasses.dataclass(frozen=True, slots=True)
class Bounds:
    """What the receiver's own device allows; 0 units: stream level."""

    unit_size: int = 0
    units: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Hello:
    migration_uuid: str
    ticket: bytes


@dataclasses.dataclass(frozen=True, slots=True)
class Begin:
    level: contract.Level
    unit_size: int
    units: int
    guest: str
    """A GuestState: guest RAM comes too, on its own way, and the guest has
    to be that in the end. '' for a VF alone."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verify:
    """What the destination must find before it may say PREPARED."""

    stream_bytes: int
    stream_digest: bytes
    memory_digest: str
    """MemoryReport.digest; empty without a guest."""

    table: bytes
    """xxh3-64 of each unit as last sent, little-endian u64."""


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    kind: Kind
    length: int
    sequence: int


def header(kind: Kind, length: int, sequence: int) -> bytes:
    return HEADER.pack(kind, length, sequence)


def lengths(kind: Kind, bounds: Bounds) -> range:
    """Lengths that a body of this kind may have."""
    exact = {
        Kind.HELLO: _HELLO.size,
        Kind.RESUME: _HELLO.size,
        Kind.BEGIN: _BEGIN.size,
        Kind.UNIT: UNIT_PREFIX + bounds.unit_size,
        Kind.ZERO: _RUN.size,
        Kind.VERIFY: _VERIFY.size + 8 * bounds.units,
        Kind.FENCE: _SECONDS.size,
    }
    if kind is Kind.STREAM:
        return range(STREAM_PREFIX + 1, STREAM_PREFIX + MAX_STREAM + 1)
    if kind is Kind.RAN:
        return range(_RAN.size, _RAN.size + MAX_TEXT + 1)
    if kind is Kind.FAIL:
        return range(0, MAX_TEXT + 1)
    length = exact.get(kind, 0)
    return range(length, length + 1)


def decode_header(data: bytes | memoryview, sequence: int,
                  allowed: frozenset[Kind], bounds: Bounds) -> Header:
    """Check a header against what may come now.

    :raises FrameError: unknown kind, out of order, out of bounds.
    """
    number, length, got = HEADER.unpack(data)
    try:
        kind = Kind(number)
    except ValueError:
        raise FrameError(f'a frame of unknown kind {number}: not an agent '
                         f'of this protocol version') from None
    if got != sequence and kind not in UNCOUNTED:
        raise FrameError(f'{kind.name} has sequence {got} instead of '
                         f'{sequence}: a frame is missing, doubled or out '
                         f'of order')
    if kind not in allowed or (
            kind in (Kind.UNIT, Kind.ZERO) and not bounds.units):
        names = ', '.join(sorted(k.name for k in allowed))
        raise FrameError(f'{kind.name} is out of order; expected: {names}')
    valid = lengths(kind, bounds)
    if length not in valid:
        raise FrameError(f'{kind.name} with a body of {length} bytes; '
                         f'{valid.start} to {valid.stop - 1} is allowed')
    return Header(kind, length, got)


def encode_hello(hello: Hello) -> bytes:
    return _HELLO.pack(MAGIC, VERSION, uuid.UUID(hello.migration_uuid).bytes,
                       hello.ticket)


def decode_hello(body: bytes) -> Hello:
    """:raises FrameError: another protocol, or another version of it."""
    magic, version, number, ticket = _HELLO.unpack(body)
    if magic != MAGIC:
        raise FrameError('not an agent: the magic number is wrong')
    if version != VERSION:
        raise FrameError(f'the peer speaks version {version} of the data '
                         f'protocol, this agent version {VERSION}: run the '
                         f'same release at both ends')
    return Hello(str(uuid.UUID(bytes=number)), ticket)


_LEVELS = (contract.Level.STREAM, contract.Level.UNITS)
_GUESTS = ('', vmm_port.GuestState.RUNNING, vmm_port.GuestState.PAUSED)
"""The last one came later. An agent that does not know it refuses BEGIN, and
the guest stays where it is: better than one that is run against its owner's
will, and no reason for another VERSION, which would refuse the rest too."""


def encode_begin(begin: Begin) -> bytes:
    return _BEGIN.pack(_LEVELS.index(begin.level), begin.unit_size,
                       begin.units, _GUESTS.index(begin.guest))


def decode_begin(body: bytes) -> Begin:
    """:raises FrameError: values that make no sense."""
    level, unit_size, units, guest = _BEGIN.unpack(body)
    if level >= len(_LEVELS) or guest >= len(_GUESTS):
        raise FrameError(f'BEGIN with level {level}, guest {guest}')
    begin = Begin(_LEVELS[level], unit_size, units, str(_GUESTS[guest]))
    if begin.level is contract.Level.STREAM:
        sane = not unit_size and not units
    else:
        sane = 0 < unit_size <= MAX_UNIT and 0 < units <= MAX_UNITS
    if not sane:
        raise FrameError(f'BEGIN with {units} units of {unit_size} bytes at '
                         f'level {begin.level}')
    return begin


def encode_unit(index: int) -> bytes:
    return _INDEX.pack(index)


def decode_unit(prefix: bytes, bounds: Bounds) -> int:
    """:raises FrameError: there is no such unit."""
    index: int = _INDEX.unpack(prefix)[0]
    if index >= bounds.units:
        raise FrameError(f'UNIT {index} of {bounds.units}')
    return index


def encode_zero(first: int, count: int) -> bytes:
    return _RUN.pack(first, count)


def decode_zero(body: bytes, bounds: Bounds) -> tuple[int, int]:
    """:raises FrameError: the run is empty or reaches over the end."""
    first, count = _RUN.unpack(body)
    if not count or first + count > bounds.units:
        raise FrameError(f'ZERO from {first}, {count} of {bounds.units}')
    return first, count


def encode_offset(offset: int) -> bytes:
    return _OFFSET.pack(offset)


def decode_offset(prefix: bytes, expected: int) -> None:
    """:raises FrameError: the stream does not go on where it ended."""
    offset: int = _OFFSET.unpack(prefix)[0]
    if offset != expected:
        raise FrameError(f'STREAM at offset {offset} instead of {expected}')


def encode_verify(verify: Verify) -> bytes:
    """The body without the table, which follows it."""
    return _VERIFY.pack(verify.stream_bytes, len(verify.table) // 8,
                        verify.stream_digest, verify.memory_digest.encode())


def decode_verify(body: bytes, bounds: Bounds) -> Verify:
    """:raises FrameError: not what was announced, or no text."""
    size, units, digest, memory = _VERIFY.unpack(body[:_VERIFY.size])
    if units != bounds.units:
        raise FrameError(f'VERIFY over {units} units of {bounds.units}')
    try:
        text = memory.rstrip(b'\0').decode('ascii')
    except UnicodeDecodeError:
        raise FrameError('VERIFY with a digest that is no text') from None
    return Verify(size, digest, text, body[_VERIFY.size:])


def encode_ran(commit_seconds: float, run_seconds: float,
               lost: str = '') -> bytes:
    """:param lost: what the guest has lost; as without it when nothing."""
    return _RAN.pack(commit_seconds, run_seconds) + encode_text(lost)


def decode_ran(body: bytes) -> tuple[float, float, str]:
    """Seconds for the durable OWNED, and from then until the guest ran;
    and what it has lost, '' when nothing.
    """
    commit, run = _RAN.unpack(body[:_RAN.size])
    return _seconds(commit), _seconds(run), decode_text(body[_RAN.size:])


def encode_fence(seconds: float | None) -> bytes:
    return _SECONDS.pack(-1.0 if seconds is None else seconds)


def decode_fence(body: bytes) -> float | None:
    """Seconds from run to the first fence; None when none was seen."""
    value: float = _SECONDS.unpack(body)[0]
    return None if value == -1.0 else _seconds(value)


def _seconds(value: float) -> float:
    if not 0 <= value < 86400:
        raise FrameError(f'{value} is no duration')
    return value


def encode_text(text: str) -> bytes:
    return text.encode(errors='replace')[:MAX_TEXT]


def decode_text(body: bytes) -> str:
    """What a peer says; only ever shown, so control characters go."""
    text = body.decode(errors='replace')
    return ''.join(c if c.isprintable() else ' ' for c in text)
