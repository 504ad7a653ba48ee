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


"""Guest time and the guest's timers, which the VMM keeps.

Guest time stands still while the vCPUs are stopped, as a paravirtual clock
does across a live migration. Timer registers move as vCPU state, not in
guest RAM: a digest of RAM has no clock in it.
"""

import dataclasses
import struct
import threading
import time

from nova_vgpu_mig.gpu.software import abi

_ENGINES = len(abi.Engine)
STATE = struct.Struct(f'<QQ{3 * _ENGINES}Q')
"""Guest time, next frame due, then for each engine: fence last seen, guest
time at which it was seen first, pending interrupts."""

STATE_BYTES = STATE.size


class GuestClock:
    """Nanoseconds that the guest has run."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._run_ns = 0
        self._started: int | None = None

    def now(self) -> int:
        with self._lock:
            return self._now()

    def start(self) -> None:
        with self._lock:
            if self._started is None:
                self._started = time.monotonic_ns()

    def stop(self) -> None:
        with self._lock:
            self._run_ns = self._now()
            self._started = None

    def load(self, nanoseconds: int) -> None:
        """Take over the time of a guest that ran elsewhere."""
        with self._lock:
            self._run_ns = nanoseconds

    def _now(self) -> int:
        if self._started is None:
            return self._run_ns
        return self._run_ns + time.monotonic_ns() - self._started


@dataclasses.dataclass(slots=True)
class Timers:
    """Timer registers; written by the vCPUs, moved when they are parked."""

    due_ns: int = 0
    """Guest time at which the next frame may be submitted."""

    seen: list[int] = dataclasses.field(
        default_factory=lambda: [0] * _ENGINES)
    since_ns: list[int] = dataclasses.field(
        default_factory=lambda: [0] * _ENGINES)

    def pack(self, now_ns: int, pending: list[int]) -> bytes:
        return STATE.pack(now_ns, self.due_ns, *self.seen, *self.since_ns,
                          *pending)

    def unpack(self, data: bytes) -> tuple[int, list[int]]:
        """Load what pack() gave; return guest time and interrupts.

        :raises ValueError: not a state.
        """
        if len(data) != STATE_BYTES:
            raise ValueError(f'vCPU state has {len(data)} bytes instead of '
                             f'{STATE_BYTES}')
        now_ns, self.due_ns, *rest = STATE.unpack(data)
        self.seen = list(rest[:_ENGINES])
        self.since_ns = list(rest[_ENGINES:2 * _ENGINES])
        return now_ns, list(rest[2 * _ENGINES:])
