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


"""A checkpoint: the whole state of one stopped VF, in a file.

Layout: magic and version (12 bytes), length of the header (4) and its
xxh3-64 (8), the header as JSON (identity and flags), the sections, and an
end with the number of bytes and the xxh3-128 of all sections. A section is
its length (4) and its xxh3-64 (8) before its bytes; zero in both is the end.
Sections let a damaged file be refused at the place of the damage, and
nothing longer than a section is ever held in memory.

The stream's length is not known before it has been read, so that it is at
the end; a file that was cut lacks it. A checkpoint appears under its name
only when it is whole and on the disk.

Rejected: the length in the header, filled in afterwards. A file that is
written once, in order, can be checked while it is written, and piped.
"""

from collections.abc import Iterator
import dataclasses
import json
import os
import pathlib
import struct
import tempfile
from typing import Any
from typing import BinaryIO

import xxhash

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract

_S = contract.DeviceState

MAGIC = b'vGPU-ckpt\0'
VERSION = 1
_START = struct.Struct('<10sHIQ')
_SECTION = struct.Struct('<IQ')
_END = struct.Struct('<Q16s')
SECTION_BYTES = 4 << 20
_MAX_HEADER = 64 * 1024


class CheckpointError(Exception):
    """The file can't be used, or could not be made; says why."""


@dataclasses.dataclass(frozen=True, slots=True)
class Summary:
    """What a checkpoint has in it."""

    identity: identity.VFIdentity
    bytes: int
    digest: str
    """xxh3-128 of the stream, hexadecimal."""


def save(device: contract.MigrationDevice, who: identity.VFIdentity,
         path: str | os.PathLike[str], *,
         then: contract.DeviceState = _S.RUNNING) -> Summary:
    """Write the state of `device` to a file, which is replaced if there.

    :param then: the state to leave the device in, also after a failure.
    :raises DeviceError: the device failed; there is no new file.
    :raises OSError: the file could not be written; there is no new file.
        Or the directory could not be synced: the new file is there, whole,
        but a power cut may bring back what was there before.
    """
    final = pathlib.Path(path)
    # A name of this call's own: another save to the same name may be under
    # way, or may have been killed. For the owner only (mkstemp() sees to
    # it), as a guest's memory is in it.
    fd, name = tempfile.mkstemp(prefix=f'.{final.name}.', dir=final.parent)
    unfinished = pathlib.Path(name)
    try:
        with open(fd, 'wb') as file:
            try:
                summary = _save(device, who, file)
            finally:
                _leave(device, then)
            file.flush()
            os.fsync(file.fileno())
        os.replace(unfinished, final)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    _sync_directory(final.parent)
    return summary


def _sync_directory(path: pathlib.Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _leave(device: contract.MigrationDevice,
           then: contract.DeviceState) -> None:
    """To `then`, through a reset where no other way is left."""
    if device.state() is _S.ERROR:
        device.reset()
    device.set_state(then)


def _save(device: contract.MigrationDevice, who: identity.VFIdentity,
          file: BinaryIO) -> Summary:
    header = json.dumps({'identity': who.as_dict(),
                         'flags': int(device.flags())}).encode()
    file.write(_START.pack(MAGIC, VERSION, len(header),
                           xxhash.xxh3_64_intdigest(header)) + header)
    stream = device.set_state(_S.STOP_COPY)
    if stream is None:
        raise CheckpointError(f'VF {device.address} was in a migration; '
                              'a checkpoint begins with a device at rest')
    try:
        total, digest = 0, xxhash.xxh3_128()
        buffer = memoryview(bytearray(SECTION_BYTES))
        while count := _fill(stream, buffer):
            section = buffer[:count]
            file.write(_SECTION.pack(count, xxhash.xxh3_64_intdigest(section)))
            file.write(section)
            digest.update(section)
            total += count
    finally:
        stream.close()
    file.write(_SECTION.pack(0, 0) + _END.pack(total, digest.digest()))
    return Summary(who, total, digest.hexdigest())


def _fill(stream: contract.DataStream, buffer: memoryview) -> int:
    """Read until `buffer` is full or the stream has ended."""
    filled = 0
    while filled < len(buffer):
        count = stream.read_into(buffer[filled:])
        if not count:
            break
        filled += count
    return filled


def verify(path: str | os.PathLike[str]) -> Summary:
    """Read a whole file and check each section.

    :raises CheckpointError: what is wrong with it, and where.
    """
    with open(path, 'rb') as file:
        return _verify(file, str(path))


def _verify(file: BinaryIO, name: str) -> Summary:
    reader = _Reader(file, name)
    for _ in reader.sections():
        pass
    return reader.summary()


def load(device: contract.MigrationDevice, who: identity.VFIdentity,
         path: str | os.PathLike[str], *,
         then: contract.DeviceState = _S.RUNNING) -> Summary:
    """Bring a device to the state in a file.

    The file is read twice: the device is not touched until all of it has
    been checked. It is opened once, because save() may put another one under
    its name in between. A load that fails leaves the device reset.

    :param who: the identity of `device`; it has to be the file's.
    :raises CheckpointError: the file is damaged, or of another device, or
        was written to meanwhile.
    :raises DeviceError: the device refused the state.
    """
    with open(path, 'rb') as file:
        found = _verify(file, str(path))
        if found.identity != who:
            raise CheckpointError(f'{path} is of another kind of VF: '
                                  f'{_difference(found.identity, who)}')
        file.seek(0)
        try:
            _load(device, _Reader(file, str(path)), found)
            device.set_state(_S.STOP)
            device.set_state(then)
        except BaseException:
            device.reset()
            raise
    return found


def _load(device: contract.MigrationDevice, reader: '_Reader',
          verified: Summary) -> None:
    stream = device.set_state(_S.RESUMING)
    if stream is None:
        raise CheckpointError(f'VF {device.address} was resuming already')
    try:
        for section in reader.sections():
            sent = 0
            while sent < len(section):
                count = stream.write(section[sent:])
                if not count:
                    raise CheckpointError(
                        f'VF {device.address} took no more of {reader.name}')
                sent += count
    finally:
        stream.close()
    # A file that was written to in place can be whole again, but is not the
    # one verified. The device is RESUMING yet: it has run none of it.
    if reader.summary() != verified:
        raise CheckpointError(f'{reader.name} has changed while it was read')


def _difference(saved: identity.VFIdentity, here: identity.VFIdentity) -> str:
    ours, theirs = here.as_dict(), saved.as_dict()
    return '; '.join(
        f'{name} {theirs.get(name)} in the file, {ours.get(name)} here'
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name))


class _Reader:
    """One pass over a file, which is believed nothing."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self.name = name
        self._file = file
        self._digest = xxhash.xxh3_128()
        self._total = 0
        self._identity = self._read_header()

    def _bad(self, what: str) -> CheckpointError:
        return CheckpointError(f'{self.name} at byte {self._file.tell()}: '
                               f'{what}')

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise self._bad('the file ends too early')
        return data

    def _read_header(self) -> identity.VFIdentity:
        magic, version, length, expected = _START.unpack(
            self._take(_START.size))
        if magic != MAGIC:
            raise self._bad('this is no checkpoint')
        if version != VERSION:
            raise self._bad(f'version {version}, and {VERSION} is known')
        if length > _MAX_HEADER:
            raise self._bad(f'a header of {length} bytes')
        data = self._take(length)
        if xxhash.xxh3_64_intdigest(data) != expected:
            raise self._bad('the digest of the header is wrong')
        try:
            header: Any = json.loads(data)
            return identity.VFIdentity.from_dict(header['identity'])
        except (ValueError, KeyError, TypeError) as exc:
            raise self._bad(f'the header is no identity: {exc}') from exc

    def sections(self) -> Iterator[memoryview]:
        """Each section once it has been checked; then the end is, too."""
        while True:
            length, expected = _SECTION.unpack(self._take(_SECTION.size))
            if not length and not expected:
                break
            if length > SECTION_BYTES:
                raise self._bad(f'a section of {length} bytes')
            data = self._take(length)
            if xxhash.xxh3_64_intdigest(data) != expected:
                raise self._bad('the digest of the section before is wrong')
            self._digest.update(data)
            self._total += length
            yield memoryview(data)
        total, digest = _END.unpack(self._take(_END.size))
        if (total, digest) != (self._total, self._digest.digest()):
            raise self._bad('the length or the digest at the end is wrong')
        if self._file.read(1):
            raise self._bad('there is more after the end')

    def summary(self) -> Summary:
        return Summary(self._identity, self._total, self._digest.hexdigest())
