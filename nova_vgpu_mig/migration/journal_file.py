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


"""The journal's file: one process at a time, one schema, durable commits."""

import fcntl
import os
import sqlite3

_SCHEMA = """
CREATE TABLE IF NOT EXISTS moves (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    migration_uuid TEXT NOT NULL,
    role TEXT NOT NULL,
    state TEXT NOT NULL,
    instance_uuid TEXT NOT NULL,
    vf_address TEXT NOT NULL,
    peer_host TEXT NOT NULL,
    deadline REAL,
    settled INTEGER NOT NULL DEFAULT 0,
    changed_at REAL NOT NULL,
    record TEXT NOT NULL,
    UNIQUE (migration_uuid, role)
);
CREATE UNIQUE INDEX IF NOT EXISTS one_move_per_vf
    ON moves (vf_address) WHERE settled = 0;
CREATE UNIQUE INDEX IF NOT EXISTS one_move_per_instance
    ON moves (instance_uuid, role) WHERE settled = 0;
CREATE INDEX IF NOT EXISTS moves_of_instance
    ON moves (instance_uuid, settled, number);
"""
# `number` tells which of two moves is the newer one: a clock may go back.

_VERSION = 2
"""1 had no `number`; it was in no release."""


class Unusable(Exception):
    """The file can't be the journal; the message says why."""


class JournalFile:
    """A journal that is open, and locked for this process."""

    def __init__(self, path: str) -> None:
        """Open the file, and make it if there is none.

        :raises Unusable: in use, damaged, or of another version.
        :raises OSError: the file can't be made.
        """
        self._path = path
        # Two agents with one journal would each recover the other's moves.
        self._lock_fd = os.open(f'{path}.lock',
                                os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC,
                             0o600))
            self.db = self._connect()
        except BlockingIOError:
            self._unlock()
            raise Unusable(
                f'journal {path} is in use by another process; stop that '
                f'agent first, or give this one a journal of its own'
            ) from None
        except sqlite3.DatabaseError as exc:
            self._unlock()
            raise Unusable(f'journal {path}: {exc}') from exc
        except BaseException:
            self._unlock()
            raise

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, timeout=10, isolation_level=None,
                             check_same_thread=False)
        # A byte that is no UTF-8 spoils its row, not each read of all rows.
        db.text_factory = lambda text: text.decode(errors='replace')
        try:
            db.execute('PRAGMA journal_mode=WAL')
            db.execute('PRAGMA synchronous=FULL')
            (version,) = db.execute('PRAGMA user_version').fetchone()
            if version > _VERSION:
                raise Unusable(
                    f'journal {self._path} has version {version}, this '
                    f'release knows {_VERSION}: upgrade the agent')
            if 0 < version < _VERSION:
                raise Unusable(
                    f'journal {self._path} has version {version}, of an '
                    f'agent before the first release, which this one does '
                    f'not read: let that agent end its moves, then move the '
                    f'file away')
            db.executescript(_SCHEMA)
            db.execute(f'PRAGMA user_version={_VERSION:d}')
        except BaseException:
            db.close()
            raise
        return db

    def close(self) -> None:
        """Close and unlock; idempotent."""
        self.db.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1
