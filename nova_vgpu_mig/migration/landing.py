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


"""The end of a move at its destination, from PREPARED on.

Nothing fails here any more. Only the source's journal may say what happens:
by COMMIT on the connection, or, when that is lost, by the answer of the
source's agent, which is asked until it has one. A time-out never decides.
Once the VF is ours it is run, and tried again until it does.
"""

from collections.abc import Callable
import logging
import threading
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

State = ownership.State
AskSource = Callable[[], State | None]

_RETRY_SECONDS = 0.5


class Landing:
    """A verified VF in STOP, and the journal's entry in PREPARED."""

    def __init__(self, journal: journal_.Journal,
                 progress: progress_.Progress, limits: limits_.Limits,
                 ask_source: AskSource, device: contract.MigrationDevice,
                 reopen: Callable[[], contract.MigrationDevice],
                 guest: vmm_port.Guest | None) -> None:
        """
        :param reopen: closes `device` and opens the VF anew; its owner
            closes what it returned.
        """
        self._journal = journal
        self._progress = progress
        self._limits = limits
        self._ask_source = ask_source
        self._device: contract.MigrationDevice | None = device
        self._reopen = reopen
        self._guest = guest
        self._record = progress.record
        self._uuid = progress.record.migration_uuid
        self._lost = ''
        self._doubts = False
        self._told_to_drop: str | None = None
        self._wake = threading.Event()
        self._closing = False

    def look(self) -> None:
        """Ask the source now if there is a doubt, or try again now."""
        self._wake.set()

    def close(self) -> None:
        """The agent goes down: end `run()`, decide nothing."""
        self._closing = True
        self._wake.set()

    def drop(self, reason: str) -> bool:
        """An operator gives a copy in doubt up; False when in none.

        It is done by `run()`, and only if the source can't be read then.
        """
        with self._progress.lock:
            if self._doubts:
                self._told_to_drop = reason
        self._wake.set()
        return self._doubts

    def _operator(self) -> str | None:
        """What an operator has said since the last time."""
        with self._progress.lock:
            said, self._told_to_drop = self._told_to_drop, None
        return said

    def run(self, channel: channel_.Channel) -> str | None:
        """Say PREPARED, and do what the source's journal says.

        :returns: why the state has to be discarded, or None.
        """
        try:
            channel.send(frames.Kind.PREPARED)
            channel.receive(frozenset((frames.Kind.COMMIT,)),
                            self._limits.load_seconds)
        except (link.ChannelError, link.Interrupted) as exc:
            return self._in_doubt(custody.explain(exc))
        self._own(channel)
        return None

    def _in_doubt(self, why: str) -> str | None:
        """Wait, paused, for what the source's journal says."""
        source = self._record.source_host
        self._doubts = True
        while not self._closing:
            state = self._ask_source()
            if state in ownership.GONE:
                self._own(None)
                return None
            if state is State.RETURNED:
                return f'{source} went on with the VF: {why}'
            dropped = self._operator()
            if dropped is not None and state is None:
                return dropped
            with self._progress.lock:
                self._record.reason = (
                    f'in doubt: {why}; waiting, paused, for the journal of '
                    f'{source} (now: {state or "no answer"}); see '
                    f'nova-vgpu-mig resolve')
            LOG.warning('migration %s: %s', self._uuid, self._record.reason)
            self._wake.wait(self._limits.ask_seconds)
            self._wake.clear()
        return None

    def _own(self, channel: channel_.Channel | None) -> None:
        """The VF is ours: run it, whatever it takes."""
        self._progress.enter(phases.Phase.RUN)
        began = time.monotonic()
        if not self._retried(self._own_durably):
            return
        owned = time.monotonic()
        if not self._retried(self._run_here):
            return
        ran = time.monotonic()
        if channel is not None:
            self._tell(channel, frames.Kind.RAN,
                       frames.encode_ran(owned - began, ran - owned,
                                         self._lost))
        self._progress.end(phases.Phase.COMPLETED,
                           phases.Outcome.COMPLETED, self._lost)
        seconds = self._first_fence()
        if channel is not None:
            self._tell(channel, frames.Kind.FENCE,
                       frames.encode_fence(seconds))

    def _own_durably(self) -> None:
        # That a run was tried is written with the right to it, not after
        # the look at the VF: that would be another fsync while it stands
        # still, for the moment between the two.
        values = self._progress.values() | {'run_tried': True, 'reason': ''}
        role = phases.Role.DESTINATION
        try:
            self._journal.move(self._uuid, role, State.OWNED,
                               expected=State.PREPARED, record=values)
        except journal_.IllegalTransition:
            # An earlier try may have been written, and failed after that.
            if self._journal.get(self._uuid, role).state is not State.OWNED:
                raise

    def _run_here(self) -> None:
        # A handle is used once: one that failed may be dead for ever.
        device, self._device = self._device, None
        device = device or self._reopen()
        if not self._record.run_tried:
            self._lost = custody.reset_before_run(device)
            with self._progress.lock:
                self._record.run_tried = True
                self._record.reason = self._lost
            if self._lost:
                # Recovery, if it has to go on here, can't see it any more.
                self._progress.save()
        custody.run_at_destination(device, self._guest, run=self._runs())

    def _runs(self) -> bool:
        """Whether the guest is to run: not one that was paused before."""
        return self._record.guest == vmm_port.GuestState.RUNNING

    def _retried(self, action: Callable[[], object]) -> bool:
        """Try until it works; False when the agent goes down before."""
        while not self._closing:
            try:
                action()
            except (*custody.EXPECTED, journal_.JournalError) as exc:
                with self._progress.lock:
                    self._record.reason = (
                        f'tried again: {custody.explain(exc)}')
                LOG.error('migration %s: the VF is ours and must run; %s',
                          self._uuid, self._record.reason)
                self._wake.wait(_RETRY_SECONDS)
                self._wake.clear()
            else:
                return True
        return False

    def _tell(self, channel: channel_.Channel, kind: frames.Kind,
              body: bytes) -> None:
        try:
            channel.send(kind, body)
        except (link.ChannelError, link.Interrupted) as exc:
            LOG.info('migration %s: %s', self._uuid, exc)

    def _first_fence(self) -> float | None:
        """Wait a little for the GPU's first sign of life."""
        until = time.monotonic() + self._limits.fence_seconds
        while (self._guest is not None and self._runs()
               and not self._closing):
            try:
                seconds = self._guest.first_fence_seconds()
            except custody.EXPECTED:
                return None
            if seconds is not None:
                return seconds
            if time.monotonic() >= until:
                return None
            time.sleep(0.005)
        return None
