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


"""The source's side of a move.

One thread goes through the phases in order; whatever raises before the
commit ends in `_return`, the only way back. The decision between an abort
and the commit is one critical section around one write to the journal:
before it everything can be undone here, after it nothing may be.
"""

import logging
import threading
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import export as export_
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import precopy
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)


class AbortRefused(Exception):
    """The VF has been given up: the move can only be completed."""


class _Aborted(Exception):
    pass


class SourceMigration:
    """One move, at the source. `run()` in one thread, the rest in any.

    The journal has the entry already (`journal.begin(Role.SOURCE, ...)`,
    state ACTIVE). The VF `record.source_vf` is opened and closed here.
    """

    def __init__(self, *, driver: contract.GPUDriver,
                 guest: vmm_port.Guest | None, journal: journal_.Journal,
                 record: record_.MigrationRecord, offer: offer_.Offer,
                 limits: limits_.Limits,
                 observer: progress_.Observer | None = None) -> None:
        """Nothing is touched yet.

        :param guest: None moves the VF alone; its owner closes it.
        :param observer: called with the record at each change of phase and
            after each round, in the thread of `run()`; must be quick.
        """
        self._guest = guest
        self._journal = journal
        self._limits = limits
        self._progress = progress_.Progress(record, journal, observer)
        self._record = record
        self._record.limit_seconds = limits.downtime_seconds
        self._deciding = threading.Lock()
        self._abort_reason: str | None = None
        self._committing = False
        self._export = export_.Export(
            driver, guest, offer, limits, self._progress, self._step,
            self._interrupted)

    @property
    def record(self) -> record_.MigrationRecord:
        """A copy of the record as it is now."""
        return self._progress.snapshot()

    def run(self) -> record_.MigrationRecord:
        """Move the VF; never raises for a move that fails.

        :returns: the record; `outcome` COMPLETED (journal: GIVEN_UP; the
            destination runs it, `Recovery.finish` releases the VF), FAILED
            or ABORTED with `reason` (journal: RETURNED, settled if VF and
            guest run again here). `outcome` is None when the connection was
            lost after the commit: the destination will run it, recovery
            pushes it.
        """
        try:
            self._enter(phases.Phase.PREPARE)
            channel, load = self._export.open()
            self._enter(phases.Phase.PRECOPY)
            precopy.Precopy(load, self._limits, self._progress,
                            self._step).run()
            self._enter(phases.Phase.SWITCHOVER)
            self._export.switch_over(channel, load)
            self._decide()
        except Exception as exc:
            self._return(exc)
        else:
            self._complete(channel)
        finally:
            self._export.close()
        return self.record

    def abort(self, reason: str) -> None:
        """Go back to the source; idempotent, returns at once.

        :raises AbortRefused: too late.
        """
        with self._deciding:
            if self._committing and self._record.outcome in (
                    None, phases.Outcome.COMPLETED):
                raise AbortRefused(
                    f'migration {self._record.migration_uuid}: the source '
                    f'has given the VF up, {self._record.destination_host} '
                    f'runs it; move it back with another migration')
            if self._abort_reason is None:
                self._abort_reason = reason

    def _interrupted(self) -> bool:
        return self._abort_reason is not None and not self._committing

    def _step(self, count: int) -> None:
        if self._interrupted():
            raise _Aborted
        self._record.transferred_bytes += count
        self._record.remaining_bytes = max(
            0, self._record.remaining_bytes - count)

    def _enter(self, phase: phases.Phase) -> None:
        self._step(0)
        self._progress.enter(phase)

    def _decide(self) -> None:
        """Give the VF up, durably, unless somebody aborted before."""
        self._enter(phases.Phase.COMMIT)
        with self._deciding:
            self._step(0)
            self._committing = True
            try:
                self._journal.move(
                    self._record.migration_uuid, phases.Role.SOURCE,
                    ownership.State.GIVEN_UP,
                    expected=ownership.State.ACTIVE,
                    record=self._progress.values())
            except (journal_.IllegalTransition, journal_.NotInJournal):
                # Nothing was written; any other error leaves that open.
                self._committing = False
                raise

    def _complete(self, channel: channel_.Channel) -> None:
        """Forward only: nothing here leads back to the source."""
        record = self._record
        try:
            self._progress.enter(phases.Phase.RUN)
            channel.send(frames.Kind.COMMIT)
            head = channel.receive(frozenset((frames.Kind.RAN,)),
                                   self._limits.load_seconds)
            ran_at = time.monotonic()
            _, run_seconds, lost = frames.decode_ran(
                channel.read(head.length))
        except Exception as exc:
            with self._progress.lock:
                record.reason = (
                    f'the VF was given up, but {record.destination_host} has '
                    f'not said that it runs: {exc}; it is asked again')
            LOG.error('migration %s: %s', record.migration_uuid,
                      record.reason)
            self._progress.save()
            return
        if record.guest != vmm_port.GuestState.PAUSED:
            self._measure(ran_at, run_seconds)
        if lost:
            lost = f'{record.destination_host}: {lost}'
            LOG.error('migration %s: %s', record.migration_uuid, lost)
        self._progress.end(phases.Phase.COMPLETED, phases.Outcome.COMPLETED,
                           lost)
        self._await_fence(channel)

    def _measure(self, ran_at: float, run_seconds: float) -> None:
        record = self._record
        with self._progress.lock:
            commit = ran_at - self._export.lap_began
            run_seconds = min(run_seconds, commit)
            record.downtime_parts['commit'] = commit - run_seconds
            record.downtime_parts['run'] = run_seconds
            record.downtime_seconds = ran_at - self._export.stopped_at

    def _await_fence(self, channel: channel_.Channel) -> None:
        try:
            head = channel.receive(frozenset((frames.Kind.FENCE,)),
                                   self._limits.fence_seconds + 1)
            seconds = frames.decode_fence(channel.read(head.length))
        except (link.ChannelError, frames.FrameError) as exc:
            LOG.info('migration %s: no word of a first fence: %s',
                     self._record.migration_uuid, exc)
            return
        if seconds is not None and self._record.downtime_seconds is not None:
            self._record.first_fence_seconds = (
                self._record.downtime_seconds + seconds)
            self._progress.save()

    def _take_back(self) -> tuple[ownership.State | None, str]:
        """Write RETURNED; what the journal says then, and what went wrong.

        RETURNED may be there already: a recovery, or an operator, may have
        decided that before. None: the journal can't be read.
        """
        uuid, role = self._record.migration_uuid, phases.Role.SOURCE
        try:
            self._journal.move(uuid, role, ownership.State.RETURNED,
                               expected=ownership.State.ACTIVE)
        except journal_.JournalError as error:
            try:
                state = self._journal.get(uuid, role).state
            except journal_.JournalError:
                return None, str(error)
            return state, ('' if state is ownership.State.RETURNED
                           else str(error))
        return ownership.State.RETURNED, ''

    def _return(self, exc: Exception) -> None:
        """Write RETURNED, then let VF and guest go on here."""
        record = self._record
        aborted = isinstance(exc, _Aborted | link.Interrupted)
        reason = (self._abort_reason or '' if aborted
                  else f'{record.phase}: {custody.explain(exc)}')
        if not aborted:
            LOG.warning('migration %s goes back to the source: %s',
                        record.migration_uuid, reason,
                        exc_info=not isinstance(exc, custody.EXPECTED))
        state, why = self._take_back()
        reason += f'; {why}' if why else ''
        if state in ownership.GONE or (
                self._committing and state is not ownership.State.RETURNED):
            # GIVEN_UP is, or may be, on disk: nothing may run here.
            with self._progress.lock:
                record.reason = f'{reason}; see nova-vgpu-mig resolve'
            LOG.error('migration %s: %s', record.migration_uuid, reason)
            return
        settled = state is ownership.State.RETURNED
        try:
            custody.cancel_memory(self._guest)
            lost = custody.return_to_source(
                self._export.device, self._guest,
                run=record.guest == vmm_port.GuestState.RUNNING,
                left_running=self._export.left_running)
        except custody.EXPECTED as error:
            lost, settled = (f'going back failed, tried again: '
                             f'{custody.explain(error)}'), False
        reason += f'; {lost}' if lost else ''
        if self._export.channel is not None:
            self._export.channel.fail(reason)
        self._export.close()
        if settled:
            self._journal.settle(record.migration_uuid, phases.Role.SOURCE)
        self._progress.end(
            phases.Phase.RETURNED, phases.Outcome.ABORTED if aborted
            else phases.Outcome.FAILED, reason)
