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

"""A QEMU of numbers: what its migration does with a device that dirties.

It goes round as QEMU's migration thread does: it looks at what is left by its
own count, asks the device where that is below the threshold, switches over if
that is true, else sends a bit more. So it looks in the middle of a pass, too.
The threshold is the downtime limit times the bandwidth that QEMU has measured,
both taken anew ten times a second. Time is simulated, so that a test runs many
moves in no time.
"""

import dataclasses
import random

from nova_vgpu_mig.planning import steering

COUNTED_SECONDS = 0.1
"""Between two looks at bandwidth and limit: QEMU's BUFFER_DELAY."""


@dataclasses.dataclass
class Qemu:
    """A guest of `memory` bytes and a device of `used`, in mid-move."""

    used: int
    working_set: int
    dirty_rate: float
    """Bytes a second, within the working set."""

    bandwidth: float
    memory: int = 64 << 20
    look_seconds: float = 0.01
    """What a look at the device takes."""

    unit: int = 1 << 20
    """Bytes at most that are sent between two looks at what is left."""

    uneven: float = 0.0
    """The share by which the way carries more or less for a moment."""

    seed: int = 0
    at: float = 0.0
    passes: int = 1
    sent: int = 0
    device: int = 0
    limit_ms: int = 300
    stopped: int | None = None
    """Bytes of the device that the stop-copy has to send."""

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._taken_at = 0.0
        """When the device began the pass that it is in."""

        self._left = 0
        """Of that pass."""

        self._estimate = 0
        """What QEMU believes to be left: as asked, less what it has sent."""

        self._counted = (0.0, 0)
        """When it has last looked at its bandwidth, and sent until then."""

        self._carries = self.bandwidth
        self._threshold = 0

    def run(self, seconds: float) -> None:
        """Go on for at least so long, or until it switches over."""
        end = self.at + seconds
        if not self.sent:
            # All at once: the limit is held as long as nothing is known.
            self._send(self.used, self.memory)
        while self.at < end and self.stopped is None:
            self._go_round()

    def _go_round(self) -> None:
        self._count()
        if self._estimate <= self._threshold or self.passes == 1:
            self.at += self.look_seconds
            self.passes += 1
            self._estimate = self._left + self._dirty()
        if self._estimate <= self._threshold:
            self.stopped = self._left + self._dirty()
            return
        if not self._left:
            self._left, self._taken_at = self._dirty(), self.at
        sending = min(self.unit, self._left)
        self._left -= sending
        self._estimate = max(0, self._estimate - sending)
        self._send(sending, 0)

    def _count(self) -> None:
        began, sent = self._counted
        if self.at - began < COUNTED_SECONDS:
            return
        measured = (self.sent - sent) / (self.at - began)
        self._threshold = int(measured * self.limit_ms / 1000)
        self._counted = self.at, self.sent
        self._carries = self.bandwidth * (
            1 + self.uneven * self._random.uniform(-1, 1))

    def _dirty(self) -> int:
        """Bytes dirtied since the device began its pass."""
        return int(min(self.working_set,
                       self.dirty_rate * (self.at - self._taken_at)))

    def _send(self, device: int, memory: int) -> None:
        self.at += (device + memory) / self._carries
        self.sent += device + memory
        self.device += device

    def sample(self) -> steering.Sample:
        return steering.Sample(self.at, self.passes, self.sent, self.device)
