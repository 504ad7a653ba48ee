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


"""The record of a move while it is written: by one thread, read by others."""

from collections.abc import Callable
import logging
import threading
import time
from typing import Any

from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_

LOG = logging.getLogger(__name__)

Observer = Callable[[record_.MigrationRecord], None]


class Progress:
    """Keeps a record whole for readers, and tells the observer.

    The journal gets the record only by `save()`: each one is an fsync, and
    there is none to spare while the guest stands still.
    """

    def __init__(self, record: record_.MigrationRecord,
                 journal: journal_.Journal,
                 observer: Observer | None) -> None:
        self.record = record
        self.lock = threading.Lock()
        """Held while dictionaries or lists of the record change."""
        self._journal = journal
        self._observer = observer

    def snapshot(self) -> record_.MigrationRecord:
        """A copy that no longer changes."""
        with self.lock:
            return record_.MigrationRecord.from_dict(self.record.as_dict())

    def enter(self, phase: phases.Phase) -> None:
        with self.lock:
            _enter(self.record, phase)
        self._tell_phase()

    def end(self, phase: phases.Phase, outcome: phases.Outcome,
            reason: str = '') -> None:
        """Enter the last phase, keep why, and save."""
        with self.lock:
            _end(self.record, phase, outcome, reason)
        self._tell_phase()
        self.save()

    def values_at_end(self, phase: phases.Phase, outcome: phases.Outcome,
                      reason: str = '') -> dict[str, Any]:
        """The record as end() is to leave it, for the journal to go first."""
        record = self.snapshot()
        _end(record, phase, outcome, reason)
        return record.as_dict()

    def _tell_phase(self) -> None:
        LOG.info('migration %s, %s: %s', self.record.migration_uuid,
                 self.record.role, self.record.phase)
        self.notify()

    def reconnected(self, come: channel_.Reconnect) -> None:
        """Count a connection that took the place of a lost one."""
        with self.lock:
            self.record.reconnects += 1
            self.record.resent_bytes += come.resent_bytes
        LOG.warning(
            'migration %s, %s: connected again with %s in %s, after %.3f s; '
            'it goes on at frame %d with %d bytes sent again',
            self.record.migration_uuid, self.record.role, come.peer,
            self.record.phase, come.seconds, come.sequence,
            come.resent_bytes)

    def notify(self) -> None:
        """Call the observer; what it raises does not touch the move."""
        if self._observer is None:
            return
        try:
            self._observer(self.record)
        except Exception:
            LOG.exception('migration %s: the observer failed',
                          self.record.migration_uuid)

    def values(self) -> dict[str, Any]:
        """The record as the journal keeps it, whole."""
        with self.lock:
            return self.record.as_dict()

    def store(self) -> None:
        """Write the record to the journal.

        :raises journal.JournalError: it is not there.
        """
        self._journal.save_record(self.record.migration_uuid,
                                  self.record.role, self.values())

    def save(self) -> None:
        """As store(), but a failure is only logged."""
        try:
            self.store()
        except journal_.JournalError as exc:
            LOG.error('the record of migration %s is not saved: %s',
                      self.record.migration_uuid, exc)


def _enter(record: record_.MigrationRecord, phase: phases.Phase) -> None:
    record.phase = phase
    record.phase_times[phase.value] = time.time()


def _end(record: record_.MigrationRecord, phase: phases.Phase,
         outcome: phases.Outcome, reason: str) -> None:
    record.outcome = outcome
    record.reason = reason
    if outcome is phases.Outcome.COMPLETED:
        record.remaining_bytes = 0
    _enter(record, phase)
