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


"""The destination's side of a move.

Up to PREPARED every failure ends in `_discard`; from PREPARED on none does,
and landing.py goes on.
"""

import logging
import threading
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import intake as intake_
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import landing
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import server as server_
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

State = ownership.State

_DROP_SECONDS = 30.0


class DropRefused(Exception):
    """The state is verified: only the source's journal may decide."""


class DestinationMigration:
    """One move, at the destination. Every method from any thread.

    The journal has the entry already (`journal.begin(Role.DESTINATION,
    ..., deadline=...)`, state RESERVED). The VF `record.destination_vf` is
    opened and closed here. A thread of its own serves the connection, and
    after PREPARED stays until the move is decided.
    """

    def __init__(self, *, driver: contract.GPUDriver,
                 journal: journal_.Journal,
                 record: record_.MigrationRecord,
                 server: server_.DataServer,
                 limits: limits_.Limits,
                 ask_source: landing.AskSource,
                 observer: progress_.Observer | None = None) -> None:
        """Nothing is touched yet.

        :param ask_source: the state in the source's journal, None when it
            can't be had now; must not raise. Called in doubt only.
        """
        self._driver = driver
        self._journal = journal
        self._server = server
        self._limits = limits
        self._ask_source = ask_source
        self._progress = progress_.Progress(record, journal, observer)
        self._record = record
        self._uuid = record.migration_uuid
        self._mutex = threading.RLock()
        self._guest: vmm_port.Guest | None = None
        self._offer: offer_.Offer | None = None
        self._device: contract.MigrationDevice | None = None
        self._stream: contract.DataStream | None = None
        self._timer: threading.Timer | None = None
        self._serving = False
        self._landing: landing.Landing | None = None
        self._drop_reason: str | None = None
        self._closing = False
        self._ended = threading.Event()

    @property
    def record(self) -> record_.MigrationRecord:
        """A copy of the record as it is now."""
        return self._progress.snapshot()

    def prepare(self, guest: vmm_port.Guest | None) -> offer_.Offer:
        """Open the VF, take it to RESUMING and wait for the source.

        Idempotent: the same offer again; a guest that came meanwhile gets
        its memory endpoint added. The owner of `guest` closes it, after
        `wait()` has returned True.

        :raises OSError, vmm_port.VMMError: the VF can't be opened or won't
            resume, or the guest can't listen; the entry is DROPPED and the
            VF free.
        :raises journal.JournalError: the entry is not RESERVED or LOADING.
        """
        with self._mutex:
            if self._ended.is_set() or self._serving:
                raise journal_.IllegalTransition(
                    f'migration {self._uuid}: it is {self._record.phase} '
                    f'already and can not be prepared')
            try:
                if self._offer is None:
                    self._offer = self._open()
                if guest is not None and self._guest is None:
                    self._offer = offer_.Offer(
                        self._offer.host, self._offer.port,
                        self._offer.ticket, guest.listen_memory())
                    self._guest = guest
            except custody.EXPECTED as exc:
                self._discard(f'{phases.Phase.PREPARE}: '
                              f'{custody.explain(exc)}')
                raise
            return self._offer

    def _open(self) -> offer_.Offer:
        role = phases.Role.DESTINATION
        entry = self._journal.get(self._uuid, role)
        entry = self._journal.move(self._uuid, role, State.LOADING,
                                   expected=State.RESERVED,
                                   deadline=entry.deadline)
        self._progress.enter(phases.Phase.PREPARE)
        device = self._device = custody.open_free(
            self._driver, self._record.destination_vf)
        self._limits.select_level(device)
        self._stream = custody.require_stream(
            device, contract.DeviceState.RESUMING)
        ticket = self._server.expect(self._uuid, self._serve)
        if entry.deadline is not None:
            self._timer = threading.Timer(
                max(0.0, entry.deadline - time.time()), self._expire)
            self._timer.daemon = True
            self._timer.start()
        return offer_.Offer(*self._server.address, ticket)

    def _expire(self) -> None:
        with self._mutex:
            if not self._serving:
                self._discard('the source did not connect before the '
                              'reservation ended')

    def drop(self, reason: str) -> None:
        """Throw away what came; idempotent; waits until it is done.

        :raises DropRefused: PREPARED or OWNED.
        """
        with self._mutex:
            if self._landing is not None:
                raise DropRefused(
                    f'migration {self._uuid}: all is verified here, only the '
                    f'journal of {self._record.source_host} may decide; see '
                    f'nova-vgpu-mig resolve')
            if self._drop_reason is None:
                self._drop_reason = reason
            if not self._serving:
                self._discard(reason)
        self._ended.wait(_DROP_SECONDS)

    def give_up(self, reason: str) -> None:
        """An operator drops a copy in doubt; returns at once, see wait().

        :raises DropRefused: it is not in doubt.
        """
        with self._mutex:
            if self._landing is None or not self._landing.drop(reason):
                raise DropRefused(
                    f'migration {self._uuid} is not in doubt: it is '
                    f'connected with {self._record.source_host}, which '
                    f'decides')

    def look(self) -> None:
        """Ask the source, or try to run, now instead of a little later."""
        with self._mutex:
            if self._landing is not None:
                self._landing.look()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way any more; False at a timeout."""
        return self._ended.wait(timeout)

    def close(self) -> None:
        """The agent goes down: end the threads, leave PREPARED as it is."""
        self._closing = True
        with self._mutex:
            if self._landing is not None:
                self._landing.close()
            if self._offer is None:
                # Nothing was begun: the reservation outlives the agent.
                self._end()
        try:
            self.drop('the agent of the destination was stopped')
        except DropRefused:
            self._ended.wait(_DROP_SECONDS)

    # The thread of the connection

    def _interrupted(self) -> bool:
        return self._closing or (self._drop_reason is not None
                                 and self._landing is None)

    def _serve(self, channel: channel_.Channel) -> None:
        with self._mutex:
            if self._ended.is_set():
                channel.fail('the reservation has ended')
                return
            self._serving = True
            if self._timer is not None:
                self._timer.cancel()
        channel.patience.interrupted = self._interrupted
        channel.on_reconnect = self._progress.reconnected
        try:
            self._load(channel)
        except Exception as exc:
            reason = self._drop_reason or (
                f'{self._record.phase}: {custody.explain(exc)}')
            LOG.warning('migration %s is dropped: %s', self._uuid, reason,
                        exc_info=not isinstance(exc, custody.EXPECTED))
            # First the source: its guest stands still until it knows.
            channel.fail(reason)
            self._discard(reason)
            return
        try:
            lost = self._land(channel)
            if lost is not None:
                self._discard(lost)
        except Exception:
            LOG.exception('migration %s is left as it is in the journal; '
                          'recovery goes on with it', self._uuid)
        finally:
            channel.close()
            self._end()

    def _load(self, channel: channel_.Channel) -> None:
        """Take the state, verify it, and write PREPARED."""
        assert self._device is not None and self._stream is not None
        intake = intake_.Intake(channel, self._device, self._stream,
                                self._guest, self._limits, self._progress)
        try:
            intake.run()
        finally:
            intake.close()
        # One that was lost meanwhile may come back up to here.
        channel.check()
        channel.seal()
        with self._mutex:
            if self._interrupted():
                raise link.Interrupted
            self._journal.move(self._uuid, phases.Role.DESTINATION,
                               State.PREPARED, expected=State.LOADING,
                               record=self._progress.values())
            self._landing = landing.Landing(
                self._journal, self._progress, self._limits,
                self._ask_source, self._device, self._reopen, self._guest)
        self._progress.enter(phases.Phase.COMMIT)

    def _reopen(self) -> contract.MigrationDevice:
        old, self._device = self._device, None
        if old is not None:
            try:
                old.close()
            except OSError as exc:
                LOG.warning('migration %s: %s', self._uuid, exc)
        device = self._device = self._driver.open(
            self._record.destination_vf)
        return device

    def _land(self, channel: channel_.Channel) -> str | None:
        assert self._landing is not None
        return self._landing.run(channel)

    def _discard(self, reason: str) -> None:
        """Write DROPPED, then clear the VF; a failure stays unsettled."""
        with self._mutex:
            if self._ended.is_set():
                return
            try:
                self._journal.move(self._uuid, phases.Role.DESTINATION,
                                   State.DROPPED)
                self._server.forget(self._uuid)
                custody.cancel_memory(self._guest)
                if self._stream is not None:
                    self._stream.close()
                device, self._device = self._device, None
                custody.discard(self._driver, self._record.destination_vf,
                                device)
                self._journal.settle(self._uuid, phases.Role.DESTINATION)
            except (*custody.EXPECTED, journal_.JournalError) as exc:
                LOG.error('migration %s: clearing VF %s is tried again: %s',
                          self._uuid, self._record.destination_vf,
                          custody.explain(exc))
            self._progress.end(phases.Phase.RETURNED, phases.Outcome.FAILED,
                               reason)
            self._end()

    def _end(self) -> None:
        with self._mutex:
            self._server.forget(self._uuid)
            if self._timer is not None:
                self._timer.cancel()
            for thing in (self._stream, self._device):
                if thing is not None:
                    try:
                        thing.close()
                    except OSError as exc:
                        LOG.warning('migration %s: %s', self._uuid, exc)
            self._stream = self._device = None
            self._ended.set()
