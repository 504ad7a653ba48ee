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


"""What a destination does with one connection, up to a verified VF.

It knows frames and the device, and nothing of the journal: when `run()` has
returned, the device is in STOP with what the source has sent, every hash
compared; when it raises, the device has to be discarded.
"""

from collections.abc import Callable

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import inbound
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.vmm import port as vmm_port

Stage = frames.Stage


class Refused(custody.MoveFailed):
    """The source announces what can't be taken here."""


class Intake:
    """One VF's state on its way into a device that is RESUMING."""

    def __init__(self, channel: channel_.Channel,
                 device: contract.MigrationDevice,
                 stream: contract.DataStream,
                 guest: vmm_port.Guest | None, limits: limits_.Limits,
                 progress: progress_.Progress) -> None:
        """`stream` is the device's; it is closed by `close()`."""
        self._channel = channel
        self._device = device
        self._stream = stream
        self._guest = guest
        self._limits = limits
        self._progress = progress
        self._units: inbound.UnitsIn | None = None

    def run(self) -> None:
        """Take everything, compare, and take the device to STOP.

        :raises Exception: of the channel, the frames, the device, the VMM,
            or inbound.VerifyError; the message says what and where.
        """
        try:
            self._begin()
            stream_in = inbound.StreamIn(self._channel, self._stream)
            verify = self._take(stream_in)
            self._progress.enter(phases.Phase.LOAD)
            stream_in.verify(verify)
            if self._units is not None:
                self._units.verify(verify)
            self._verify_memory(verify)
        except frames.FrameError as exc:
            raise self._channel.violation(exc) from exc
        # From RUNNING, where a reset ends, STOP is reached just as well.
        if self._device.state() is not contract.DeviceState.RESUMING:
            raise Refused(f'VF {self._device.address} was reset after its '
                          f'state had come')
        self._device.set_state(contract.DeviceState.STOP)

    def _begin(self) -> None:
        channel, device = self._channel, self._device
        head = channel.receive(frames.STAGES[Stage.BEGIN])
        begin = frames.decode_begin(channel.read(head.length))
        if bool(begin.guest) != (self._guest is not None):
            raise Refused('the source sends guest RAM, but no guest waits '
                          'for it here' if begin.guest else
                          'a guest waits for its RAM here, but the source '
                          'sends none')
        if begin.level is not device.level:
            self._change_level(begin.level)
        if begin.level is contract.Level.UNITS:
            assert isinstance(device, contract.UnitDevice)
            units = self._units = inbound.UnitsIn(channel, device)
            if (begin.unit_size, begin.units) != (units.unit_size,
                                                  units.count):
                raise Refused(
                    f'VF {device.address} has {units.count} units of '
                    f'{units.unit_size} bytes, the source has {begin.units} '
                    f'of {begin.unit_size}')
            channel.bounds = frames.Bounds(units.unit_size, units.count)
        with self._progress.lock:
            self._progress.record.level = str(begin.level)
            self._progress.record.guest = begin.guest
        channel.send(frames.Kind.READY)
        self._progress.enter(phases.Phase.PRECOPY)

    def _change_level(self, level: contract.Level) -> None:
        """Follow the source: RESUMING again, at its level."""
        device = self._device
        if self._limits.level is not None or not isinstance(
                device, contract.UnitDevice):
            raise Refused(f'the source sends at level {level}, VF '
                          f'{device.address} takes {device.level}; set the '
                          f'same level at both ends')
        self._stream.close()
        device.reset()
        device.set_state(contract.DeviceState.STOP)
        device.select_level(level)
        self._stream = custody.require_stream(
            device, contract.DeviceState.RESUMING)

    def _take(self, stream_in: inbound.StreamIn) -> frames.Verify:
        channel, units = self._channel, self._units
        stage = Stage.PRECOPY
        while True:
            # The rest of the guest's RAM goes in one call at the source,
            # which can't say a word here meanwhile.
            head = channel.receive(
                frames.STAGES[stage], self._limits.load_seconds
                if stage is Stage.STOP_COPY else None)
            if head.kind is frames.Kind.STREAM:
                stream_in.take(head.length)
            elif head.kind is frames.Kind.SWITCHOVER:
                stage = Stage.STOP_COPY
                if units is not None:
                    units.begin_rest()
                self._progress.enter(phases.Phase.SWITCHOVER)
            elif head.kind is frames.Kind.VERIFY:
                return frames.decode_verify(channel.read(head.length),
                                            channel.bounds)
            elif units is not None and head.kind is frames.Kind.UNIT:
                units.take_unit()
            elif units is not None and head.kind is frames.Kind.ZERO:
                units.take_zero(head.length)
            self._progress.record.transferred_bytes = (
                stream_in.received_bytes
                + (units.received_bytes if units else 0))

    def _verify_memory(self, verify: frames.Verify) -> None:
        if self._guest is None:
            return
        digest = self._guest.memory_digest()
        if digest != verify.memory_digest:
            raise inbound.VerifyError(
                f'guest RAM of instance {self._guest.instance_uuid} differs: '
                f'{digest} here, {verify.memory_digest} at the source')

    def close(self) -> None:
        """Let go of the mapping and the stream; the device stays open."""
        closers: list[Callable[[], None]] = [self._stream.close]
        if self._units is not None:
            closers.append(self._units.close)
        for close in closers:
            try:
                close()
            except OSError:
                pass
