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

"""What was sent and is not acknowledged: held, to be sent again if need be.

A lost connection goes on by the sequence of frames, so each one is held
until the peer has said that it has it. The large ones are not copied for
that: the buffers that a device is read into are lent from here, and are used
again only when the frame in them was acknowledged. The newest free one is
lent first, because it is still in the processor's cache.

Rejected: a window of bytes in one ring, because a unit would not lie in one
piece at its end; and to read again from the device what is lacking, because
a stream can be read once only, and the GPU may have written to a unit since.
"""

import collections
from collections.abc import Sequence
import dataclasses

from nova_vgpu_mig.migration import frames

Buffer = bytes | memoryview

LIMIT_BYTES = 16 << 20
"""What may be held: above what the sockets of both ends take by default."""

FEW = 4
"""So many frames may always be held, however long they are."""

LEAST_WEIGHT = 512
"""What a small frame counts: about the memory that it takes."""


@dataclasses.dataclass(frozen=True, slots=True)
class _Held:
    parts: tuple[Buffer, ...]
    weight: int
    lent: tuple[bytearray, ...]


class Window:
    """The frames of one direction. Pure: knows no socket and no thread."""

    def __init__(self, limit: int = LIMIT_BYTES) -> None:
        self._limit = limit
        self._held: collections.deque[_Held] = collections.deque()
        self._lent: dict[int, bytearray] = {}
        self._free: dict[int, list[bytearray]] = {}
        self.first = 0
        """Sequence of the oldest frame that is held."""
        self.weight = 0
        """Bytes that are held."""

    @property
    def next(self) -> int:
        """Sequence of the frame that hold() gets next."""
        return self.first + len(self._held)

    def has_room(self, length: int) -> bool:
        """Whether a frame of so many bytes may be held now."""
        return (len(self._held) < FEW
                or self.weight + max(length, LEAST_WEIGHT) <= self._limit)

    def buffer(self, size: int) -> memoryview:
        """Lend a buffer to fill; it comes back once its frame is let go."""
        free = self._free.setdefault(size, [])
        made = free.pop() if free else bytearray(size)
        self._lent[id(made)] = made
        return memoryview(made)

    def hold(self, parts: Sequence[Buffer]) -> None:
        """Keep a frame. What lies in no lent buffer, and may change, is
        copied.
        """
        lent, kept = [], []
        for part in parts:
            if isinstance(part, memoryview):
                buffer = self._lent.pop(id(part.obj), None)
                if buffer is None:
                    part = bytes(part)
                else:
                    lent.append(buffer)
            kept.append(part)
        weight = max(sum(len(part) for part in kept), LEAST_WEIGHT)
        self._held.append(_Held(tuple(kept), weight, tuple(lent)))
        self.weight += weight

    def acknowledge(self, expected: int) -> None:
        """The peer has everything before this sequence: let go of it.

        :raises FrameError: it lacks what is not held any more, or expects
            what was never sent.
        """
        if expected < self.first:
            raise frames.FrameError(
                f'the peer expects sequence {expected}, and nothing before '
                f'{self.first} is held any more')
        if expected > self.next:
            raise frames.FrameError(
                f'the peer expects sequence {expected}, and {self.next} was '
                f'not sent yet')
        while self.first < expected:
            gone = self._held.popleft()
            self.first += 1
            self.weight -= gone.weight
            for buffer in gone.lent:
                self._free[len(buffer)].append(buffer)

    def lacking(self) -> list[tuple[Buffer, ...]]:
        """The frames that the peer has not acknowledged, oldest first."""
        return [held.parts for held in self._held]
