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


"""Pre-copy: rounds while the guest runs, until the rest is small enough.

A round sends what was dirty at its beginning. Guest RAM goes on its own way
in the background, so a round also lasts until as much of it has gone as was
dirty at the beginning: otherwise many quick rounds of an idle GPU would look
like a guest that can't converge.

Bandwidth is measured while bytes go, for each of the two ways. The first
round mostly looks at zeros, which takes long and sends nothing: its bytes by
its seconds would say that no limit can be kept.
"""

from collections.abc import Callable
import dataclasses
import time

import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import dialled
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import outbound
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.vmm import port as vmm_port

ASSUMED_BANDWIDTH = 100e6
"""Bytes a second, until enough was sent to measure: 1 Gbit/s."""

ENOUGH_BYTES = 8 << 20

_POLL_SECONDS = 0.005
_PING_SECONDS = 1.0
_MEMORY_SECONDS = 0.5
"""Without any progress of guest RAM a round is over."""


class NotConverging(custody.MoveFailed):
    """The rest does not become small enough; says what would be needed."""


@dataclasses.dataclass(frozen=True, slots=True)
class Load:
    """What has to be moved, and the ways it goes."""

    channel: dialled.Dialled
    device: contract.MigrationDevice
    stream: contract.DataStream
    stream_out: outbound.StreamOut
    units_out: outbound.UnitsOut | None
    """None at level STREAM."""

    guest: vmm_port.Guest | None

    def send_units(self, step: Callable[[int], None]) -> tuple[int, int]:
        """Query, clear, then copy; bytes sent, and bytes of zeros."""
        if self.units_out is None:
            return 0, 0
        return self.units_out.send(self._dirty(clear=True), step)

    @property
    def zero_seconds(self) -> float:
        """As UnitsOut.zero_seconds."""
        return 0.0 if self.units_out is None else self.units_out.zero_seconds

    def dirty_bytes(self) -> int:
        """What would have to be sent if everything stopped now."""
        return self.device_dirty_bytes() + self.memory().dirty_bytes

    def device_dirty_bytes(self) -> int:
        """Of these, stream and frame buffer."""
        info = self.device.precopy_info(self.stream)
        dirty = info.initial_bytes + info.dirty_bytes
        if self.units_out is not None:
            dirty += (int(numpy.count_nonzero(self._dirty(clear=False)))
                      * self.units_out.unit_size)
        return dirty

    def memory(self) -> vmm_port.MemoryProgress:
        if self.guest is None:
            return vmm_port.MemoryProgress(0, 0)
        return self.guest.memory_progress()

    def _dirty(self, *, clear: bool) -> outbound.Flags:
        assert isinstance(self.device, contract.UnitDevice)
        return self.device.dirty_units(clear=clear)


class Meter:
    """Bytes a second on one way, of the newest that say something."""

    def __init__(self) -> None:
        self._seen: list[tuple[int, float]] = []

    def add(self, count: int, seconds: float) -> None:
        """Note bytes that went, and the seconds in which they did."""
        self._seen.append((count, seconds))

    @property
    def rate(self) -> float | None:
        """None until enough went to tell more than a socket's buffer."""
        sent, seconds = 0, 0.0
        for count, took in reversed(self._seen):
            sent += count
            seconds += took
            if sent >= ENOUGH_BYTES and seconds > 0:
                return sent / seconds
        return None


def bandwidth(device_bytes: int, device_rate: float | None,
              memory_bytes: int, memory_rate: float | None) -> float:
    """Bytes a second for this mixture of dirty bytes. Pure.

    One after the other, which is on the safe side: a way whose rate nobody
    knows is taken to be like the other one.
    """
    device = device_rate or memory_rate or ASSUMED_BANDWIDTH
    seconds = (device_bytes / device
               + memory_bytes / (memory_rate or device))
    return (device_bytes + memory_bytes) / seconds if seconds else device


class Precopy:
    """The rounds of one move."""

    def __init__(self, load: Load, limits: limits_.Limits,
                 progress: progress_.Progress,
                 step: Callable[[int], None]) -> None:
        """
        :param step: called with the bytes of each piece sent, 0 while
            waiting; raises to end the move.
        """
        self._load = load
        self._limits = limits
        self._progress = progress
        self._end_or_go_on = step
        self._ping_seconds = min(_PING_SECONDS, limits.silence_seconds / 4)
        self._ping_at = time.monotonic() + self._ping_seconds
        self._seen: list[convergence.Observation] = []
        self._device_rate = Meter()
        self._memory_rate = Meter()
        self._bandwidth = ASSUMED_BANDWIDTH

    def run(self) -> convergence.Decision:
        """Go through rounds until it is time to switch over.

        :raises NotConverging: it never will be.
        """
        while True:
            done = self._round()
            decision = convergence.decide(
                self._seen, limit_seconds=self._limits.downtime_seconds,
                bandwidth=self._bandwidth, costs=self._limits.costs,
                max_rounds=self._limits.max_rounds)
            done.predicted_downtime_seconds = \
                decision.predicted_downtime_seconds
            with self._progress.lock:
                record = self._progress.record
                record.rounds.append(done)
                record.predicted_downtime_seconds = \
                    decision.predicted_downtime_seconds
                record.remaining_bytes = self._seen[-1].dirty_bytes
            self._progress.notify()
            if decision.action is convergence.Action.SWITCHOVER:
                return decision
            if decision.action is convergence.Action.ABORT:
                raise NotConverging(decision.reason)

    def _round(self) -> record_.Round:
        load, began = self._load, time.monotonic()
        done = record_.Round(number=len(self._seen) + 1)
        memory, zeros = load.memory(), load.zero_seconds
        outage = load.channel.outage_seconds
        done.frame_buffer_bytes, done.zero_bytes = load.send_units(self._step)
        done.stream_bytes, idle = self._send_stream()
        done.sending_seconds = max(0.0, time.monotonic() - began - idle
                                   - (load.zero_seconds - zeros)
                                   - (load.channel.outage_seconds - outage))
        self._await_memory(memory)
        done.memory_bytes = load.memory().sent_bytes - memory.sent_bytes
        self._progress.record.transferred_bytes += done.memory_bytes
        done.seconds = time.monotonic() - began
        self._observe(done)
        return done

    def _observe(self, done: record_.Round) -> None:
        """Note what the round has measured, and what is dirty after it."""
        on_channel = done.frame_buffer_bytes + done.stream_bytes
        self._device_rate.add(on_channel, done.sending_seconds)
        device = self._load.device_dirty_bytes()
        memory = self._load.memory().dirty_bytes
        self._bandwidth = bandwidth(device, self._device_rate.rate,
                                    memory, self._memory_rate.rate)
        done.dirty_bytes_per_second = (device + memory) / done.seconds
        self._seen.append(convergence.Observation(
            bytes_sent=on_channel + done.memory_bytes, seconds=done.seconds,
            dirty_bytes=device + memory))

    def _send_stream(self) -> tuple[int, float]:
        """Send what was ready, and all that has to go before the stop.

        :returns: bytes sent, and seconds in which there were none to send.
        """
        load, sent, idle = self._load, 0, 0.0
        idle_since = time.monotonic()
        info = load.device.precopy_info(load.stream)
        goal = info.initial_bytes + info.dirty_bytes
        while goal > 0 or info.initial_bytes:
            got = load.stream_out.send(max(goal, 1), self._step)
            sent += got
            goal -= got
            info = load.device.precopy_info(load.stream)
            if got:
                idle_since = time.monotonic()
            elif not info.initial_bytes:
                break
            elif (time.monotonic() - idle_since
                  > self._limits.silence_seconds):
                raise NotConverging(
                    f'VF {load.device.address}: {info.initial_bytes} initial '
                    f'bytes of the stream do not come')
            else:
                idle -= time.monotonic()
                self._pause()
                idle += time.monotonic()
        return sent, idle

    def _await_memory(self, start: vmm_port.MemoryProgress) -> None:
        goal = start.sent_bytes + start.dirty_bytes
        began = since = time.monotonic()
        first = last = self._load.memory().sent_bytes
        while True:
            now = self._load.memory()
            if now.sent_bytes != last:
                last, since = now.sent_bytes, time.monotonic()
            if now.sent_bytes >= goal or not now.dirty_bytes:
                break
            if time.monotonic() - since > _MEMORY_SECONDS:
                break
            self._pause()
        self._memory_rate.add(last - first, since - began)

    def _step(self, count: int) -> None:
        """As `step`; the peer hears of us though there is nothing to send.

        Guest RAM goes on its own way, and units that are zero are only
        looked at: without a word for longer than its `silence_timeout` the
        destination would give up a move that goes well.
        """
        self._end_or_go_on(count)
        if time.monotonic() >= self._ping_at:
            self._load.channel.check()
            self._load.channel.send(frames.Kind.PING)
            self._ping_at = time.monotonic() + self._ping_seconds

    def _pause(self) -> None:
        self._step(0)
        time.sleep(_POLL_SECONDS)
