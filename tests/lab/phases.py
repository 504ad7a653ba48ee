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

from lab import node as node_
from tests.lab import gpu as gpu_

SECONDS = 120


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

    what: str = ''

    def __str__(self) -> str:
        return f'{self.side.value} {self.state}'


PHASES = (
    Phase(Side.SOURCE, 'pre_copy', what='QEMU sets the migration up'),
    Phase(Side.DESTINATION, 'resuming',
          what='pre-copy, of which nothing arrives'),
    Phase(Side.SOURCE, 'pre_copy_p2p', what='the vCPUs are being stopped'),
    Phase(Side.SOURCE, 'stop_copy', what='the guest is stopped'),
    Phase(Side.SOURCE, 'stop', what='all has been sent'),
    Phase(Side.DESTINATION, 'running_p2p', 'resuming',
          what='libvirt\'s finish'),
    Phase(Side.DESTINATION, 'running', what='libvirt\'s finish'),
)

# On the node, and woken by the kernel: polling seven phases by ssh would be
# most of what the nodes have to do.
_AWAIT = """
import select, sys
with open(sys.argv[1], 'rb', buffering=0) as held:
    poll = select.poll()
    poll.register(held, select.POLLPRI | select.POLLERR)
    while held.read().strip().decode() != sys.argv[2]:
        poll.poll()
        held.seek(0)
"""


class Held:
    """One device whose transition into a phase waits, or will."""

    def __init__(self, phase: Phase, node: node_.Node, mdev: str) -> None:
        """Before the move begins."""
        self.phase = phase
        self.gpu = gpu_.GPU(node, mdev)
        self.gpu.set('knobs/hold', phase.after or phase.state)

    def reached(self) -> None:
        """Return when the phase is reached.

        :raises LabError: it is not.
        """
        if self.phase.after:
            self._await(self.phase.after)
            self.gpu.set('knobs/hold', self.phase.state)
        self._await(self.phase.state)

    def _await(self, state: str) -> None:
        held = f'{gpu_.DEVICES}/{self.gpu.mdev}/knobs/held'
        self.gpu.node.run(f'python3 - {held} {state}', _AWAIT.encode(),
                          seconds=SECONDS)

    def release(self) -> None:
        """Let the move go on, and hold nothing more."""
        self.gpu.set('knobs/hold', 'none')


def hold(phase: Phase, move_source: node_.Node, source_mdev: str,
         destination: node_.Node, destination_mdev: str) -> Held:
    """Arrange for a phase of the move that is going to start."""
    if phase.side is Side.SOURCE:
        return Held(phase, move_source, source_mdev)
    return Held(phase, destination, destination_mdev)
