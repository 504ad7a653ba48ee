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

"""One `tools/lab` at a time for a cache directory.

The lock's file is removed by `clean`, so whoever got the lock looks whether
it is still that of the path.
"""

from collections.abc import Iterator
import contextlib
import fcntl
import os

from lab import errors
from lab import places


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Hold the lock, or say who does."""
    path = places.lock()
    while True:
        places.claim()
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            _take(fd)
            if not _current(fd):
                continue
            os.ftruncate(fd, 0)
            os.pwrite(fd, f'{os.getpid()}\n'.encode(), 0)
            yield
            return
        finally:
            os.close(fd)


def _take(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.pread(fd, 20, 0).decode().strip() or '?'
        raise errors.LabError(
            f'another tools/lab is at work (process {pid}); wait for it or '
            'end it') from None


def _current(fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(places.lock()), os.fstat(fd))
    except FileNotFoundError:
        return False
