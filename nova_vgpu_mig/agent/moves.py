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

"""The moves that this agent has in its hands right now.

A move is *live* while a SourceMigration or DestinationMigration serves it;
whatever is only in the journal belongs to recovery. The table of live moves
is what keeps the two apart, and a lock for each migration keeps two triggers
of the same step apart.
"""

import collections
from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import logging
import threading
from typing import Protocol

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration.hypervisor import watch as watch_
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

Key = tuple[str, phases.Role]

_FORBIDDEN = 1000
"""Moves that are remembered as given up before they were known."""


class Live(Protocol):
    """What both sides of a live move have in common."""

    @property
    def record(self) -> record_.MigrationRecord:
        """A copy, as far as it is now."""

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; False at a timeout."""

    def stop(self) -> None:
        """The agent goes down: end what can be ended, and wait for it."""


class SourceRun:
    """A source's move in a thread of its own: fetch the offer, then run."""

    def __init__(self, record: record_.MigrationRecord,
                 journal: journal_.Journal,
                 fetch: Callable[[], offer_.Offer],
                 build: Callable[[offer_.Offer], source.SourceMigration],
                 ended: Callable[['SourceRun'], None]) -> None:
        """Nothing is begun yet.

        :param fetch: asks the destination; may raise AgentError.
        :param ended: called in the thread, when nothing is live any more.
        """
        self._record = record
        self._journal = journal
        self._fetch = fetch
        self._build = build
        self._ended = ended
        self._mutex = threading.Lock()
        self._aborted: str | None = None
        self._migration: source.SourceMigration | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f'move-{record.migration_uuid}')

    @property
    def record(self) -> record_.MigrationRecord:
        migration = self._migration
        return self._record if migration is None else migration.record

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        try:
            self._move()
        except Exception:
            LOG.exception('migration %s, source: the move broke off; '
                          'recovery will look after it',
                          self.record.migration_uuid)
        finally:
            self._ended(self)
            self._over.set()

    def _move(self) -> None:
        try:
            offer = self._fetch()
            with self._mutex:
                if self._aborted is None:
                    self._migration = self._build(offer)
        except errors.AgentError as exc:
            self._return(phases.Outcome.FAILED,
                         f'the destination could not prepare: {exc.message}')
            return
        except Exception as exc:
            # Whatever it is: nothing has begun, and Nova waits for the end.
            LOG.warning('migration %s can not begin',
                        self._record.migration_uuid, exc_info=True)
            self._return(phases.Outcome.FAILED,
                         f'it could not begin: {custody.explain(exc)}')
            return
        if self._migration is None:
            self._return(phases.Outcome.ABORTED, self._aborted or '')
            return
        self._migration.run()

    def _return(self, outcome: phases.Outcome, reason: str) -> None:
        """End a move in which neither VF nor guest was touched."""
        record = self._record
        record.outcome = outcome
        record.reason = reason
        record.phase = phases.Phase.RETURNED
        uuid = record.migration_uuid
        try:
            self._journal.move(uuid, phases.Role.SOURCE,
                               ownership.State.RETURNED,
                               record=record.as_dict())
        except journal_.IllegalTransition:
            if (self._journal.get(uuid, phases.Role.SOURCE).state
                    is not ownership.State.RETURNED):
                raise
        self._journal.settle(uuid, phases.Role.SOURCE)

    def abort(self, reason: str) -> None:
        """Go back to the source; returns at once.

        :raises source.AbortRefused: too late.
        """
        with self._mutex:
            if self._migration is None:
                self._aborted = reason
                return
        self._migration.abort(reason)

    def wait(self, timeout: float | None = None) -> bool:
        return self._over.wait(timeout)

    def stop(self) -> None:
        """Go back if it isn't too late, and wait for the end."""
        with contextlib.suppress(source.AbortRefused):
            self.abort('the agent of the source is going down')
        self.wait()


class DestinationRun:
    """A destination's move, and the guest that it has been given."""

    def __init__(self, migration: destination.DestinationMigration,
                 find_guest: Callable[[], vmm_port.Guest | None],
                 ended: Callable[['DestinationRun'], None]) -> None:
        """
        :param find_guest: the VM's guest, None while there is none.
        :param ended: called in a thread, when nothing is live any more.
        """
        self.migration = migration
        self._find_guest = find_guest
        self._ended = ended
        self._guest: vmm_port.Guest | None = None
        self._watch: threading.Thread | None = None

    @property
    def record(self) -> record_.MigrationRecord:
        return self.migration.record

    def prepare(self) -> offer_.Offer:
        """As DestinationMigration.prepare(), with the guest if it is there.
        """
        if self._guest is None:
            self._guest = self._find_guest()
        try:
            offer = self.migration.prepare(self._guest)
        except BaseException:
            if self._watch is None:
                self._finish()
            raise
        if self._watch is None:
            self._watch = threading.Thread(
                target=self._wait_and_finish,
                name=f'watch-{self.record.migration_uuid}')
            self._watch.start()
        return offer

    def _wait_and_finish(self) -> None:
        self.migration.wait()
        self._finish()

    def _finish(self) -> None:
        if self._guest is not None:
            self._guest.close()
        self._ended(self)

    def wait(self, timeout: float | None = None) -> bool:
        return self.migration.wait(timeout)

    def stop(self) -> None:
        self.migration.close()
        if self._watch is not None:
            self._watch.join()


class Moves:
    """The live moves, by migration and role."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._sources: dict[str, SourceRun] = {}
        self._destinations: dict[str, DestinationRun] = {}
        self._watches: dict[Key, watch_.Watch] = {}
        self._locks: dict[str, tuple[threading.Lock, int]] = {}
        self._forbidden: collections.deque[str] = collections.deque(
            maxlen=_FORBIDDEN)
        self._closed = False

    def __contains__(self, key: object) -> bool:
        with self._mutex:
            return key in self._watches or any(
                (uuid, role) == key for role, table in self._tables()
                for uuid in table)

    def _tables(self) -> tuple[
            tuple[phases.Role, dict[str, SourceRun]],
            tuple[phases.Role, dict[str, DestinationRun]]]:
        return ((phases.Role.SOURCE, self._sources),
                (phases.Role.DESTINATION, self._destinations))

    @contextlib.contextmanager
    def _entered(self, migration_uuid: str, *, wait: bool) -> Iterator[bool]:
        with self._mutex:
            lock, users = self._locks.get(migration_uuid,
                                          (threading.Lock(), 0))
            self._locks[migration_uuid] = lock, users + 1
        ours = False
        try:
            ours = lock.acquire(blocking=wait)
            yield ours
        finally:
            if ours:
                lock.release()
            with self._mutex:
                lock, users = self._locks.pop(migration_uuid)
                if users > 1:
                    self._locks[migration_uuid] = lock, users - 1

    @contextlib.contextmanager
    def step(self, migration_uuid: str) -> Iterator[None]:
        """One step of a migration at a time."""
        with self._entered(migration_uuid, wait=True):
            yield

    def turn(self, migration_uuid: str
             ) -> contextlib.AbstractContextManager[bool]:
        """As step() if none is under way; else False, and nothing is held.
        """
        return self._entered(migration_uuid, wait=False)

    def forbid(self, migration_uuid: str) -> None:
        """Nova has given a move up that this source does not know yet.

        What asks for it may be on its way still: late by seconds, so that
        this need not outlive the agent.
        """
        with self._mutex:
            self._forbidden.append(migration_uuid)

    def refuse_forbidden(self, migration_uuid: str) -> None:
        """:raises errors.Refused: Nova has given the move up already."""
        with self._mutex:
            if migration_uuid in self._forbidden:
                raise errors.Refused(
                    f'migration {migration_uuid}: Nova has rolled it back '
                    f'already; a new one needs a new uuid')

    def source(self, migration_uuid: str) -> SourceRun | None:
        with self._mutex:
            return self._sources.get(migration_uuid)

    def destination(self, migration_uuid: str) -> DestinationRun | None:
        with self._mutex:
            return self._destinations.get(migration_uuid)

    def get(self, migration_uuid: str, role: phases.Role) -> Live | None:
        return self.watch(migration_uuid, role) or (
            self.source(migration_uuid) if role is phases.Role.SOURCE
            else self.destination(migration_uuid))

    def watch(self, migration_uuid: str,
              role: phases.Role) -> watch_.Watch | None:
        """Return what watches a move that the hypervisor carries."""
        with self._mutex:
            return self._watches.get((migration_uuid, role))

    def _refuse_if_closed(self, migration_uuid: str) -> None:
        if self._closed:
            raise errors.Refused(
                f'migration {migration_uuid}: the agent is going down')

    def add_source(self, run: SourceRun) -> None:
        uuid = run.record.migration_uuid
        with self._mutex:
            self._refuse_if_closed(uuid)
            self._sources[uuid] = run

    def add_destination(self, run: DestinationRun) -> None:
        uuid = run.record.migration_uuid
        with self._mutex:
            self._refuse_if_closed(uuid)
            self._destinations[uuid] = run

    def remove_source(self, run: SourceRun) -> None:
        with self._mutex:
            self._sources.pop(run.record.migration_uuid, None)

    def remove_destination(self, run: DestinationRun) -> None:
        with self._mutex:
            self._destinations.pop(run.record.migration_uuid, None)

    def add_watch(self, watch: watch_.Watch) -> None:
        uuid = watch.record.migration_uuid
        with self._mutex:
            self._refuse_if_closed(uuid)
            self._watches[uuid, watch.role] = watch

    def remove_watch(self, watch: watch_.Watch) -> None:
        with self._mutex:
            self._watches.pop((watch.record.migration_uuid, watch.role),
                              None)

    def stop(self) -> None:
        """Take no new move, and end every one; sources first.

        A source that goes back tells its destination so over the channel.
        """
        with self._mutex:
            self._closed = True
            runs: list[Live] = [*self._sources.values(),
                                *self._destinations.values(),
                                *self._watches.values()]
        for run in runs:
            run.stop()
