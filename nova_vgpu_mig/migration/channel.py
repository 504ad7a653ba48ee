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

"""Frames between two agents, over one connection or, in turn, several.

One thread for each migration at each end: the work is copying, which is not
made faster by an event loop, and a migration's steps are one sequence
anyway. Large bodies are never held here but in the window's buffers: a
sender fills one of these, a receiver gets the header first and says where
the bytes go.

A connection that is lost is replaced beneath whoever sends and receives.
How is the business of the two ends (dialled.py, accepted.py); here each
frame that the peer lacks is held, and one that was cut off is received anew
into the same place: a frame counts as received when all of it has come over
one connection.
"""

from collections.abc import Callable
import dataclasses
import threading
import time

from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import window

ACK_BYTES = 4 << 20
"""Received since the last acknowledgement, until one is sent unasked."""

_NONE: frozenset[frames.Kind] = frozenset()
_ANY_TIME = frozenset((frames.Kind.FAIL, frames.Kind.ACK))
_FAREWELL_SECONDS = 2.0


class PeerFailed(link.ChannelError):
    """The peer said that it is over; `reason` is what it said."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f'the agent at {peer} gave up: {reason}')
        self.reason = reason


@dataclasses.dataclass(frozen=True, slots=True)
class Reconnect:
    """A connection that took the place of a lost one."""

    peer: str
    seconds: float
    """Since the loss was noticed here; 0 when it was not."""

    sequence: int
    """Of the first frame of the bulk that goes over it."""

    resent_bytes: int
    """What has to be sent again from here."""


class Channel:
    """Frames in both directions, in order, within bounds. One thread."""

    def __init__(self, line: link.Line) -> None:
        """Take over a connected line, and its patience."""
        self.patience = line.patience
        self.bounds = frames.Bounds()
        self.on_reconnect: Callable[[Reconnect], None] = lambda _: None
        self._changed = threading.Condition()
        """Held where another thread may replace the line."""
        self._line = line
        self._retired: list[link.Line] = []
        self._window = window.Window()
        self._received = 0
        self._told = 0
        self._untold_bytes = 0
        self._reading = line
        self._head = frames.Header(frames.Kind.PING, 0, 0)
        self._done = 0
        self._sealed = False
        self._closed = False

    @property
    def peer(self) -> str:
        """Host and port, as the newest connection has them."""
        return self._line.peer

    def buffer(self, size: int) -> memoryview:
        """Wait until so much may be sent, and lend a buffer for it.

        What is sent out of it is not copied. It is used again as soon as
        its frame has been acknowledged: fill a new one each time.

        :raises ChannelError: as send().
        """
        self.check()
        self._await_room(size)
        return self._window.buffer(size)

    def send(self, kind: frames.Kind, *parts: window.Buffer) -> None:
        """Send one frame; the parts are its body.

        :raises PeerFailed: the peer has said FAIL meanwhile.
        :raises ChannelError: the connection is silent, or lost for good.
        """
        length = sum(len(part) for part in parts)
        self._await_room(length)
        with self._changed:
            line = self._line
            frame = (frames.header(kind, length, self._window.next), *parts)
            self._window.hold(frame)
        try:
            line.send(frame)
        except link.Lost as exc:
            self._hear(line)
            self._recover(line, exc)

    def receive(self, allowed: frozenset[frames.Kind],
                seconds: float | None = None) -> frames.Header:
        """Wait for the next frame; its body is still to be read.

        :param seconds: until its header is there, outages and what comes
            unasked included, instead of `silence_seconds` between two bytes.
        :raises Interrupted: also when the peer never makes this end wait.
        :raises PeerFailed: a FAIL came, allowed or not.
        :raises ChannelError: lost, silent, or not what may come now.
        """
        since = time.monotonic()
        while True:
            if self.patience.interrupted():
                raise link.Interrupted
            line = self._line
            try:
                self._tell(line)
                head = self._take(line, allowed, seconds, since=since)
                if head is not None and (head.length
                                         or self._delivered(line, 0)):
                    return head
            except link.Lost as exc:
                self._recover(line, exc)

    def read(self, length: int) -> bytes:
        """Read so many bytes of the body; `length` is a checked one."""
        data = bytearray(length)
        self.read_into(memoryview(data))
        return bytes(data)

    def read_into(self, view: memoryview) -> None:
        """Fill `view` with bytes of the body."""
        while True:
            line = self._line
            try:
                if line is not self._reading:
                    self._begin_again(line)
                line.fill(view)
                if self._delivered(line, len(view)):
                    return
            except link.Lost as exc:
                self._recover(line, exc)

    def violation(self, exc: Exception) -> link.ChannelError:
        """What to raise for a frame whose body makes no sense."""
        return link.ChannelError(f'the agent at {self.peer} sent what it '
                                 f'must not: {exc}')

    def check(self) -> None:
        """See what has come unasked; waits only for a lost connection.

        :raises PeerFailed: the peer has said FAIL.
        :raises ChannelError: lost for good, or not what may come now.
        """
        line = self._line
        try:
            while line.readable():
                self._take(line, _NONE, None)
        except link.Lost as exc:
            self._recover(line, exc)

    def seal(self) -> None:
        """From here on a lost connection does not come back.

        The peer has all that was sent: it said so, or nothing of it counts
        any more.
        """
        with self._changed:
            self._sealed = True
            self._window.acknowledge(self._window.next)

    def fail(self, reason: str) -> None:
        """Tell the peer that it is over; best effort, then close."""
        self.patience.interrupted = lambda: False
        with self._changed:
            self._closed = True
            line = self._line
        farewell(line, reason)
        self.close()

    def close(self) -> None:
        """Close for good; idempotent. Wakes a thread that waits."""
        with self._changed:
            self._closed = True
            lines = [*self._retired, self._line]
            self._changed.notify_all()
        for line in lines:
            line.close()

    def _recover(self, line: link.Line, lost: link.Lost) -> None:
        """Return when there is another line instead of this lost one.

        :raises ChannelError: there will be none.
        """
        raise lost

    def _ended(self) -> bool:
        """Whether a lost connection has to stay lost."""
        return (self._sealed or self._closed
                or not self.patience.reconnect_seconds)

    def _await_room(self, length: int) -> None:
        while not self._window.has_room(length):
            line = self._line
            try:
                self._take(line, _NONE, None, 'took')
            except link.Lost as exc:
                self._recover(line, exc)

    def _tell(self, line: link.Line) -> None:
        """Acknowledge what has come, if it is much or all that there is."""
        with self._changed:
            told, tell = self._told, self._received
            if line is not self._line or self._sealed or told == tell or (
                    self._untold_bytes < ACK_BYTES and line.readable()):
                return
            self._told, self._untold_bytes = tell, 0
        try:
            line.send([frames.header(frames.Kind.ACK, 0, tell)])
        except link.Lost:
            pass  # What can still be received from it comes first.

    def _take(self, line: link.Line, allowed: frozenset[frames.Kind],
              seconds: float | None, verb: str = 'sent',
              since: float | None = None) -> frames.Header | None:
        """Take one header; None was an acknowledgement."""
        data = line.exactly(frames.HEADER.size, seconds, verb, since)
        try:
            head = frames.decode_header(data, self._received,
                                        allowed | _ANY_TIME, self.bounds)
            if head.kind is frames.Kind.ACK:
                self._acknowledged(line, head.sequence)
                return None
        except frames.FrameError as exc:
            raise self.violation(exc) from exc
        if head.kind is frames.Kind.FAIL:
            raise PeerFailed(line.peer, frames.decode_text(
                line.exactly(head.length)))
        self._reading, self._head, self._done = line, head, 0
        return head

    def _acknowledged(self, line: link.Line, expected: int) -> None:
        """Let go of what the peer has.

        :raises FrameError: it says so again, or what can't be. Who waits
            for a frame or for room must not be kept by a peer that repeats
            itself.
        """
        with self._changed:
            if line is not self._line or self._sealed:
                return
            if expected == self._window.first:
                raise frames.FrameError(f'ACK of {expected}, which was '
                                        f'acknowledged before')
            self._window.acknowledge(expected)

    def _begin_again(self, line: link.Line) -> None:
        """A frame was cut off: take it anew, up to where it was read."""
        before, done, head = self._head, self._done, None
        while head is None:
            head = self._take(line, frozenset((before.kind,)), None)
        if head != before:
            raise self.violation(frames.FrameError(
                f'{before.kind.name} of {before.length} bytes was cut off '
                f'and came again with {head.length}'))
        self._done = done
        line.skip(done)

    def _delivered(self, line: link.Line, count: int) -> bool:
        """Note bytes of the body; False if the line is not ours any more."""
        with self._changed:
            if line is not self._line:
                return False
            self._done += count
            if self._done == self._head.length:
                self._received += 1
                self._untold_bytes += self._done + frames.HEADER.size
            return True

    def _hear(self, line: link.Line) -> None:
        """Raise PeerFailed if its reason is there to be read."""
        try:
            while True:
                self._take(line, _NONE, 0.5)
        except PeerFailed:
            raise
        except link.ChannelError:
            pass


def farewell(line: link.Line, reason: str) -> None:
    """Say FAIL on a line whose peer expects frames; best effort."""
    text = frames.encode_text(reason)
    try:
        line.send([frames.header(frames.Kind.FAIL, len(text), 0), text])
    except OSError:
        return
    line.linger(min(_FAREWELL_SECONDS, line.patience.silence_seconds))
