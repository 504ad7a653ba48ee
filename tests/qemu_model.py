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

It copies in passes as QEMU does: it asks the device what is dirty, switches
over if that can be sent within the downtime limit, else sends it and asks
again. Time is simulated, so that a test runs many moves in no time.
"""

import dataclasses

from nova_vgpu_mig.planning import steering


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

    at: float = 0.0
    passes: int = 1
    sent: int = 0
    device: int = 0
    limit_ms: int = 300
    stopped: int | None = None
    """Bytes of the device that the stop-copy has to send."""

    def run(self, seconds: float) -> None:
        """Go on for at least so long, or until it switches over."""
        end = self.at + seconds
        if not self.sent:
            self._send(self.used, self.memory)
            self.dirty = self._dirtied(self.at)
            self.passes = 2
        while self.at < end and self.stopped is None:
            if self.dirty <= self.bandwidth * self.limit_ms / 1000:
                self.stopped = self.dirty
                return
            began = self.at
            self._send(self.dirty, 0)
            self.at += self.look_seconds
            self.dirty = self._dirtied(self.at - began)
            self.passes += 1

    def _dirtied(self, seconds: float) -> int:
        return int(min(self.working_set, self.dirty_rate * seconds))

    def _send(self, device: int, memory: int) -> None:
        self.at += (device + memory) / self.bandwidth
        self.sent += device + memory
        self.device += device

    def sample(self) -> steering.Sample:
        return steering.Sample(self.at, self.passes, self.sent, self.device)
