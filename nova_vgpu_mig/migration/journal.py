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


"""Who may run the VF: one durable row for each side of a move.

A phase may be lost with a process, the right to run may not. So the few
facts that decide which host runs a VF are here, each written and fsynced
before what it allows is done: PREPARED before the destination says so,
GIVEN_UP before the source says COMMIT, RETURNED before the source's VF runs
again. Which state may follow which is the table in ownership.py; a change is
a compare-and-set, so that two threads, or a thread and the operator, can't
both take a decision.

A row is *settled* when nothing is left to do for it. RETURNED and DROPPED
are decisions whose consequences (the VF runs again; the VF is reset) come
after them and may be cut off by a crash, so they stay unsettled, and keep
the VF to themselves, until `settle()`.

sqlite3 with WAL and synchronous=FULL: a commit is an fsync, a kill -9 loses
nothing that was committed, and an operator can read it with a tool that is
on every host. Rejected: a file for each move (no uniqueness over VFs), oslo.db
(a service's database layer for one table in one process).
"""

from collections.abc import Iterator
import contextlib
import dataclasses
import json
import logging
import sqlite3
import threading
import time
from typing import Any

from nova_vgpu_mig.migration import journal_file
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases

LOG = logging.getLogger(__name__)

State = ownership.State

KEPT = 500
"""How many settled entries stay when a move begins, to be looked at: some
megabytes. Those that are not settled always stay."""


class JournalError(Exception):
    """The journal refuses; the message names the move and says why."""


class NotInJournal(JournalError, LookupError):
    """No such side of no such move here."""


class Unreadable(JournalError):
    """A row makes no sense: a damaged disk, or somebody's edit."""


class IllegalTransition(JournalError):
    """The entry is not in a state from which that may follow."""


class AlreadyMoving(JournalError):
    """The VF or the instance is held by another move."""


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """One side of one move, as it was when it was read."""

    migration_uuid: str
    role: phases.Role
    state: State
    instance_uuid: str
    vf_address: str
    peer_host: str
    deadline: float | None
    """Epoch seconds; None where the state has none."""

    settled: bool
    changed_at: float
    """Epoch seconds of the last change of state."""

    record: dict[str, Any]
    """MigrationRecord.as_dict(), as last saved."""

    @property
    def carrier(self) -> phases.Carrier:
        """An entry that is older than the second carrier has none."""
        return phases.Carrier(self.record.get('carrier',
                                              phases.Carrier.AGENT))

    def overdue(self, now: float) -> bool:
        return (self.state in ownership.DEADLINED and self.deadline is not None
                and now >= self.deadline)


_COLUMNS = ', '.join(f.name for f in dataclasses.fields(Entry))


class Journal:
    """The moves of one agent. Safe to use from every thread."""

    def __init__(self, path: str) -> None:
        """Open the journal at `path`, and make it if there is none.

        :raises JournalError: another process has it open, it is damaged, or
            another version wrote it.
        :raises OSError: the file can't be made.
        """
        self.path = path
        self._mutex = threading.Lock()
        self._told: set[tuple[Any, ...]] = set()
        try:
            self._file = journal_file.JournalFile(path)
        except journal_file.Unusable as exc:
            raise JournalError(str(exc)) from exc
        self._db = self._file.db

    def close(self) -> None:
        """Close the file; a call after it raises JournalError."""
        with self._mutex:
            self._file.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._mutex:
            try:
                self._db.execute('BEGIN IMMEDIATE')
                try:
                    yield self._db
                    self._db.execute('COMMIT')
                except BaseException:
                    # Some errors have ended it already, a COMMIT's may not.
                    if self._db.in_transaction:
                        self._db.execute('ROLLBACK')
                    raise
            except sqlite3.Error as exc:
                raise JournalError(f'journal {self.path}: {exc}') from exc

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        """Read, without the write lock that a transaction takes."""
        with self._mutex:
            try:
                return self._db.execute(query, values).fetchall()
            except sqlite3.Error as exc:
                raise JournalError(f'journal {self.path}: {exc}') from exc

    def begin(self, role: phases.Role, record: dict[str, Any], *,
              deadline: float | None = None) -> Entry:
        """Enter a side of a move: ACTIVE or RESERVED.

        The same call again returns the entry as it is, whatever became of
        it, so that a repeated request can't start a second move.

        :param record: MigrationRecord.as_dict() of this side; its uuids,
            VF and hosts are the entry's.
        :param deadline: epoch seconds; when it ends unless a transfer has
            begun. None: it does not end by itself.
        :raises AlreadyMoving: another move has the VF or the instance.
        """
        source = role is phases.Role.SOURCE
        vf = record['source_vf' if source else 'destination_vf']
        peer = record['destination_host' if source else 'source_host']
        uuid, instance = record['migration_uuid'], record['instance_uuid']
        with self._transaction() as db:
            there = self._find(db, uuid, role)
            if there is not None:
                if (there.vf_address, there.instance_uuid) != (vf, instance):
                    raise AlreadyMoving(
                        f'migration {uuid} is in the journal already, as '
                        f'{role} of instance {there.instance_uuid} with VF '
                        f'{there.vf_address}')
                return there
            self._refuse_second(
                db, role, uuid, instance, vf,
                record['source_host' if source else 'destination_host'])
            # Here nothing stands still yet.
            db.execute(
                'DELETE FROM moves WHERE settled = 1 AND number <= ('
                'SELECT number FROM moves WHERE settled = 1 '
                'ORDER BY number DESC LIMIT 1 OFFSET ?)', (KEPT,))
            db.execute(
                f'INSERT INTO moves ({_COLUMNS}) '
                'VALUES (?, ?, ?, ?, ?, ?, ?, 0, ?, ?)',
                (uuid, role, ownership.FIRST[role], instance, vf, peer,
                 deadline, time.time(), json.dumps(record)))
        return self.get(uuid, role)

    def _refuse_second(self, db: sqlite3.Connection, role: phases.Role,
                       uuid: str, instance: str, vf: str,
                       own_host: str) -> None:
        for what, where, values in (
                (f'VF {vf}', 'vf_address = ?', (vf,)),
                (f'instance {instance}', 'instance_uuid = ? AND role = ?',
                 (instance, role))):
            row = db.execute(
                'SELECT migration_uuid, role, state FROM moves '
                f'WHERE settled = 0 AND {where}', values).fetchone()
            if row is not None:
                raise AlreadyMoving(
                    f'migration {uuid}: {what} is held by migration '
                    f'{row[0]} ({row[1]}, {row[2]}); wait for it, or see '
                    f'"nova-vgpu-mig --host {own_host} show {row[0]}"')

    def move(self, migration_uuid: str, role: phases.Role, to: State, *,
             expected: State | None = None, deadline: float | None = None,
             record: dict[str, Any] | None = None,
             settle: bool = False) -> Entry:
        """Go to another state, durably, and return the entry.

        :param expected: refuse unless the entry is in this state.
        :param settle: nothing is left to do once it is written, if no
            state follows; otherwise that is for settle().
        :raises IllegalTransition: `to` may not follow, nothing is changed.
        :raises NotInJournal: no such entry.
        """
        with self._transaction() as db:
            entry = self._require(db, migration_uuid, role)
            if (not ownership.may_follow(role, entry.state, to,
                                         entry.carrier)
                    or expected not in (None, entry.state)):
                raise IllegalTransition(
                    f'migration {migration_uuid}, {role}: {to} may not '
                    f'follow {entry.state}')
            db.execute(
                'UPDATE moves SET state = ?, deadline = ?, changed_at = ?, '
                'settled = ?, record = ? '
                'WHERE migration_uuid = ? AND role = ? AND state = ?',
                (to, deadline, time.time(),
                 int(to is State.FINISHED
                     or (settle and ownership.is_last(role, to))),
                 json.dumps(record if record is not None else entry.record),
                 migration_uuid, role, entry.state))
        return self.get(migration_uuid, role)

    def settle(self, migration_uuid: str, role: phases.Role) -> None:
        """Note that nothing is left to do; idempotent.

        :raises IllegalTransition: the state is not a last one.
        """
        with self._transaction() as db:
            entry = self._require(db, migration_uuid, role)
            if not ownership.is_last(role, entry.state):
                raise IllegalTransition(
                    f'migration {migration_uuid}, {role}: {entry.state} '
                    f'can not be settled')
            db.execute('UPDATE moves SET settled = 1 '
                       'WHERE migration_uuid = ? AND role = ?',
                       (migration_uuid, role))

    def save_record(self, migration_uuid: str, role: phases.Role,
                    record: dict[str, Any]) -> None:
        """Store the record beside the state.

        :raises NotInJournal: no such entry.
        """
        with self._transaction() as db:
            self._require(db, migration_uuid, role)
            db.execute('UPDATE moves SET record = ? '
                       'WHERE migration_uuid = ? AND role = ?',
                       (json.dumps(record), migration_uuid, role))

    def get(self, migration_uuid: str, role: phases.Role) -> Entry:
        """:raises NotInJournal: no such entry."""
        entry = self.newest(migration_uuid=migration_uuid, role=role)
        if entry is None:
            raise self._unknown(migration_uuid, role)
        return entry

    def newest(self, *, migration_uuid: str | None = None,
               instance_uuid: str | None = None,
               role: phases.Role | None = None) -> Entry | None:
        """Return the entry that fits what is given, None if none does.

        Of several the one that is not settled, else the one begun last;
        never by the clock, which may have been set back.
        """
        wanted = {'migration_uuid': migration_uuid,
                  'instance_uuid': instance_uuid, 'role': role}
        given = {name: value for name, value in wanted.items()
                 if value is not None}
        where = ' AND '.join(f'{name} = ?' for name in given) or '1'
        rows = self._rows(
            f'SELECT {_COLUMNS} FROM moves WHERE {where} '
            'ORDER BY settled, number DESC LIMIT 1', *given.values())
        return self._entry(rows[0]) if rows else None

    def entries(self, *, unsettled: bool = False,
                role: phases.Role | None = None,
                limit: int | None = None) -> list[Entry]:
        """Return the entries, that which was begun last first.

        What can't be read is logged and left out.

        :param unsettled: only those that are not settled.
        :param role: only those of this side.
        :param limit: at most so many; each is read and parsed.
        """
        # Spelt out where it is wanted: there is an index of these only.
        settled = 'settled = 0 AND ' if unsettled else ''
        rows = self._rows(
            f'SELECT {_COLUMNS} FROM moves '
            f'WHERE {settled}role = coalesce(?, role) '
            'ORDER BY number DESC LIMIT ?',
            role, -1 if limit is None else limit)
        found = []
        for row in rows:
            try:
                found.append(self._entry(row))
            except Unreadable as exc:
                # One move's row must not stop all the others.
                if row[:2] not in self._told:
                    self._told.add(row[:2])
                    LOG.error('%s', exc)
        return found

    def reserved(self) -> frozenset[str]:
        """Return the VFs that moves hold, also by rows without sense."""
        return frozenset(vf for (vf,) in self._rows(
            'SELECT vf_address FROM moves WHERE settled = 0'))

    def _find(self, db: sqlite3.Connection, migration_uuid: str,
              role: phases.Role) -> Entry | None:
        row = db.execute(
            f'SELECT {_COLUMNS} FROM moves '
            'WHERE migration_uuid = ? AND role = ?',
            (migration_uuid, role)).fetchone()
        return None if row is None else self._entry(row)

    def _require(self, db: sqlite3.Connection, migration_uuid: str,
                 role: phases.Role) -> Entry:
        entry = self._find(db, migration_uuid, role)
        if entry is None:
            raise self._unknown(migration_uuid, role)
        return entry

    def _unknown(self, migration_uuid: str,
                 role: phases.Role) -> NotInJournal:
        return NotInJournal(f'migration {migration_uuid}: no entry as {role} '
                            f'in {self.path}')

    def _entry(self, row: tuple[Any, ...]) -> Entry:
        """:raises Unreadable: the row was not written by a Journal."""
        uuid, role, state, instance, vf, peer, deadline, settled, changed, \
            text = row
        try:
            record = json.loads(text)
            if not isinstance(record, dict):
                raise ValueError(f'the record is {text}')
            found = Entry(uuid, phases.Role(role), State(state), instance,
                          vf, peer, deadline, bool(settled), changed, record)
            # Asked for at each look at an entry; better to fail here.
            phases.Carrier(found.carrier)
            return found
        except (TypeError, ValueError) as exc:
            raise Unreadable(
                f'journal {self.path}: the row of migration {uuid} as {role} '
                f'with VF {vf} can not be read: {exc}; unless it is settled '
                f'it keeps the VF: stop the agent and correct the row with '
                f'sqlite3') from exc
