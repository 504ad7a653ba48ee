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


"""What a source does with the device and one connection, up to PREPARED.

The counterpart of intake.py: it knows frames, the device and the guest, and
nothing of the journal. Whoever holds an `Export` decides what happens after
it, and takes the device back when it raises.
"""

from collections.abc import Callable
import logging
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import dialled
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import outbound
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import precopy
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)


class Export:
    """One VF's state on its way out."""

    def __init__(self, driver: contract.GPUDriver,
                 guest: vmm_port.Guest | None, offer: offer_.Offer,
                 limits: limits_.Limits, progress: progress_.Progress,
                 step: Callable[[int], None],
                 interrupted: Callable[[], bool]) -> None:
        """Nothing is touched yet.

        :param step: called with the bytes of each piece sent; raises to
            end the move.
        :param interrupted: asked while the channel waits.
        """
        self._driver = driver
        self._guest = guest
        self._offer = offer
        self._limits = limits
        self._progress = progress
        self._step = step
        self._interrupted = interrupted
        self._load: precopy.Load | None = None
        self._stream: contract.DataStream | None = None
        self.device: contract.MigrationDevice | None = None
        self.channel: dialled.Dialled | None = None
        self.stopped_at = 0.0
        """Monotonic time at which the guest was told to stop."""
        self.lap_began = 0.0
        """When the part of the downtime that runs now began."""

    @property
    def left_running(self) -> bool:
        """Whether `device` was taken out of RUNNING."""
        return self.device is not None and self._stream is not None

    def open(self) -> tuple[dialled.Dialled, precopy.Load]:
        """Open the device, connect, agree, and begin pre-copy."""
        record, offer = self._progress.record, self._offer
        self._note_guest()
        device = self.device = self._driver.open(record.source_vf)
        level = self._limits.select_level(device)
        self._check(device)
        channel = self.channel = dialled.Dialled.connect(
            offer.host, offer.port,
            frames.Hello(record.migration_uuid, bytes.fromhex(offer.ticket)),
            connect_seconds=self._limits.connect_seconds,
            patience=link.Patience(self._limits.silence_seconds,
                                   self._limits.reconnect_seconds,
                                   self._interrupted))
        channel.on_reconnect = self._progress.reconnected
        units = None
        if level is contract.Level.UNITS:
            assert isinstance(device, contract.UnitDevice)
            units = outbound.UnitsOut(channel, device)
        channel.send(frames.Kind.BEGIN, frames.encode_begin(frames.Begin(
            level, units.unit_size if units else 0,
            units.count if units else 0, record.guest)))
        channel.receive(frozenset((frames.Kind.READY,)),
                        self._limits.load_seconds)
        stream = self._stream = custody.require_stream(
            device, contract.DeviceState.PRE_COPY)
        load = self._load = precopy.Load(
            channel, device, stream, outbound.StreamOut(channel, stream),
            units, self._guest)
        if self._guest is not None and offer.memory is not None:
            self._guest.begin_memory(offer.memory)
        with self._progress.lock:
            record.level = str(level)
            record.remaining_bytes = load.dirty_bytes()
            record.total_bytes = record.total_bytes or record.remaining_bytes
        return channel, load

    def _note_guest(self) -> None:
        """Keep what the guest is now, before anything touches it.

        :raises journal.JournalError: nobody could tell after a crash.
        """
        if self._guest is None:
            return
        state = str(self._guest.state())
        with self._progress.lock:
            self._progress.record.guest = state
        self._progress.store()

    def _check_guest(self) -> None:
        """:raises custody.MoveFailed: the other end was told otherwise."""
        if self._guest is None:
            return
        record, state = self._progress.record, str(self._guest.state())
        before = record.guest
        with self._progress.lock:
            record.guest = state
        if state != before:
            raise custody.MoveFailed(
                f'instance {record.instance_uuid} was {before} when the move '
                f'began and is {state} now: somebody has changed it, move it '
                f'again')

    def _check(self, device: contract.MigrationDevice) -> None:
        record = self._progress.record
        if not device.flags() & contract.MigrationFlag.PRE_COPY:
            raise precopy.NotConverging(
                f'VF {device.address} has no pre-copy: the downtime would be '
                f'as long as the whole move')
        if self._guest is not None and self._offer.memory is None:
            raise offer_.OfferError(
                f'{record.destination_host} offers no endpoint for the RAM '
                f'of instance {record.instance_uuid}: its guest is not there')

    def switch_over(self, channel: dialled.Dialled,
                    load: precopy.Load) -> None:
        """Stop the guest, send the rest, and have it verified."""
        record = self._progress.record
        rest = record_.Round(number=len(record.rounds) + 1,
                             stop_copy=True)
        before = load.memory().sent_bytes
        self._check_guest()
        channel.hurry(self._limits.downtime_seconds)
        self.stopped_at = self.lap_began = began = time.monotonic()
        if self._guest is not None:
            self._guest.stop()
        self._lap('vcpus')
        channel.send(frames.Kind.SWITCHOVER)
        fresh = load.device.set_state(contract.DeviceState.STOP_COPY)
        if fresh is not None:
            # From PRE_COPY the stream stays the same; from RUNNING it is new.
            fresh.close()
            raise custody.MoveFailed(
                f'VF {load.device.address} was reset during the move: its '
                f'GPU state is lost')
        self._lap('drain')
        rest.frame_buffer_bytes, rest.zero_bytes = load.send_units(self._step)
        self._lap('dirty_units')
        rest.stream_bytes = load.stream_out.send(None, self._step)
        digest = ''
        if self._guest is not None:
            report = self._guest.finish_memory()
            digest = report.digest
            rest.memory_bytes = max(0, report.sent_bytes - before)
            record.transferred_bytes += rest.memory_bytes
        self._lap('state')
        rest.seconds = time.monotonic() - began
        with self._progress.lock:
            record.rounds.append(rest)
        self._step(0)
        self._progress.enter(phases.Phase.LOAD)
        table = load.units_out.table() if load.units_out else b''
        channel.send(frames.Kind.VERIFY, frames.encode_verify(frames.Verify(
            load.stream_out.sent_bytes, load.stream_out.digest, digest,
            table)), table)
        channel.receive(frozenset((frames.Kind.PREPARED,)),
                        self._limits.load_seconds)
        channel.seal()
        self._lap('verify')

    def _lap(self, part: str) -> None:
        now, record = time.monotonic(), self._progress.record
        if record.guest != vmm_port.GuestState.PAUSED:
            with self._progress.lock:
                record.downtime_parts[part] = now - self.lap_began
        self.lap_began = now

    def close(self) -> None:
        """Let go of everything; a second call finds nothing."""
        closers: list[Callable[[], None]] = []
        if self.channel is not None:
            closers.append(self.channel.close)
        if self._load is not None and self._load.units_out is not None:
            closers.append(self._load.units_out.close)
        if self._stream is not None:
            closers.append(self._stream.close)
        if self.device is not None:
            closers.append(self.device.close)
        self.channel = self._load = self._stream = self.device = None
        for close in closers:
            try:
                close()
            except OSError as exc:
                LOG.warning('migration %s: %s',
                            self._progress.record.migration_uuid, exc)
