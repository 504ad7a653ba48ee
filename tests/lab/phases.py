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

"""Phases of a move that stand still for as long as a test wants.

The knob `hold` of the lab's GPU keeps a transition waiting, with QEMU in the
call. So nothing is left to luck: a fault comes in the phase that it is meant
for, or the test fails.
"""

import dataclasses
import enum

from lab import errors
from lab import wait
from tests.lab import gpu as gpu_
from tests.lab import moves

SECONDS = 300


class Side(enum.Enum):
    SOURCE = 'source'
    DESTINATION = 'destination'


@dataclasses.dataclass(frozen=True)
class Phase:
    """The transition into `state` at this side waits."""

    side: Side
    state: str
    after: str | None = None
    """A state that comes before. On its way to RESUMING a device passes
    other states, so a hold at those begins when RESUMING is reached."""

    in_finish: bool = False
    """Whether libvirt has told the destination to run the guest, and the
    source has not heard of it."""

    def __str__(self) -> str:
        return f'{self.side.value} {self.state}'


PRE_COPY = Phase(Side.DESTINATION, 'resuming')
"""The source copies, with QEMU's monitor at hand; nothing of it is read."""

PHASES = (
    # QEMU sets the migration up.
    Phase(Side.SOURCE, 'pre_copy'),
    PRE_COPY,
    # The vCPUs are being stopped; the guest is stopped.
    Phase(Side.SOURCE, 'pre_copy_p2p'),
    Phase(Side.SOURCE, 'stop_copy'),
    # All has been sent.
    Phase(Side.SOURCE, 'stop'),
    Phase(Side.DESTINATION, 'running_p2p', after='resuming', in_finish=True),
    Phase(Side.DESTINATION, 'running', in_finish=True),
)

# On the node, and woken by the kernel: polling seven phases by ssh would be
# most of what the nodes have to do.
_AWAIT = b"""
import select, sys
with open(sys.argv[1], 'rb', buffering=0) as held:
    poll = select.poll()
    poll.register(held, select.POLLPRI | select.POLLERR)
    while held.read().strip().decode() != sys.argv[2]:
        poll.poll()
        held.seek(0)
"""


class Held:
    """A device whose transition into a phase waits, or will."""

    def __init__(self, phase: Phase, gpu: gpu_.GPU) -> None:
        """Before the move begins."""
        self.phase = phase
        self._gpu = gpu
        gpu.set('knobs/hold', phase.after or phase.state)

    def reached(self, move: moves.Move) -> None:
        """Return when the phase is reached.

        :raises LabError: it is not, or the move has ended before.
        """
        if self.phase.after:
            self._await(self.phase.after, move)
            self._gpu.set('knobs/hold', self.phase.state)
        self._await(self.phase.state, move)

    def _await(self, state: str, move: moves.Move) -> None:
        held = f'{gpu_.DEVICES}/{self._gpu.mdev}/knobs/held'
        with self._gpu.node.begin(f'python3 - {held} {state}',
                                  _AWAIT) as waiter:
            try:
                wait.until(f'{self.phase}: {state} is reached',
                           lambda: waiter.poll() is not None
                           or not move.running(), SECONDS,
                           self._gpu.node.console)
            finally:
                waiter.kill()
        if waiter.returncode:
            raise errors.LabError(
                f'{self.phase}: the move has ended: {move.result()}')

    def still(self) -> bool:
        """Whether the transition waits yet."""
        return self._gpu.get('knobs/held') == self.phase.state

    def release(self) -> None:
        """Let the move go on, and hold nothing more."""
        self._gpu.set('knobs/hold', 'none')
