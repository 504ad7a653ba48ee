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


"""One TCP connection between two agents, frame by frame.

Blocking sockets with a time-out, one thread for each migration at each end:
the work is copying, which is not made faster by an event loop, and a
migration's steps are one sequence anyway. Every wait is cut into short ones
so that an abort reaches a sender whose peer takes nothing.

Large bodies are never held here: a sender gives its buffers to sendmsg, a
receiver gets the header first and says where the bytes go. A socket from
`ssl.SSLContext.wrap_socket` offers what is used except for sendmsg, which is
in one place (`_send_all`).
"""

from collections.abc import Callable
import selectors
import socket
import time
from typing import Self

from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import frames

Buffer = bytes | memoryview

_SLICE_SECONDS = 0.2
_SMALL = 64 << 10


class ChannelError(ConnectionError):
    """The connection failed; the message names the peer and what."""


class PeerFailed(ChannelError):
    """The peer said that it is over; `reason` is what it said."""

    def __init__(self, peer: str, reason: str) -> None:
        super().__init__(f'the agent at {peer} gave up: {reason}')
        self.reason = reason


class Interrupted(custody.MoveFailed):
    """`interrupted()` said so while the channel waited."""


def _never() -> bool:
    return False


class Channel:
    """Frames in both directions, in order, within bounds.

    One thread sends and one receives at a time; they may be two.
    """

    def __init__(self, sock: socket.socket, silence_seconds: float,
                 interrupted: Callable[[], bool] = _never) -> None:
        """Take over a connected socket.

        :param silence_seconds: how long the peer may neither take nor send
            a byte while it should.
        :param interrupted: asked before each frame that is received and
            every 0.2 s of waiting; True raises Interrupted.
        """
        self._sock = sock
        self.peer = _name(sock)
        self.silence_seconds = silence_seconds
        self.interrupted = interrupted
        self.bounds = frames.Bounds()
        self.sent_bytes = 0
        self._sent = 0
        self._received = 0
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Buffers are left to the kernel: a size set here is cut to
        # net.core.wmem_max (208 KiB by default) and ends auto-tuning.
        sock.settimeout(_SLICE_SECONDS)
        # Not select(): an agent may have more than 1024 descriptors.
        self._readable = selectors.DefaultSelector()
        self._readable.register(sock, selectors.EVENT_READ)

    @classmethod
    def connect(cls, host: str, port: int, hello: frames.Hello, *,
                connect_seconds: float, silence_seconds: float,
                interrupted: Callable[[], bool] = _never) -> Self:
        """Connect to a destination and show the ticket.

        :raises ChannelError: nobody answers there.
        """
        try:
            sock = socket.create_connection((host, port), connect_seconds)
        except OSError as exc:
            raise ChannelError(
                f'no connection to the data port of the agent at '
                f'{host}:{port}: {exc}; check its data_host and data_port '
                f'and the firewall between the hosts') from exc
        channel = cls(sock, silence_seconds, interrupted)
        channel.send(frames.Kind.HELLO, frames.encode_hello(hello))
        return channel

    def send(self, kind: frames.Kind, *parts: Buffer) -> None:
        """Send one frame; the parts are its body.

        :raises PeerFailed: the peer has said FAIL meanwhile.
        :raises ChannelError: the connection is lost or silent.
        """
        length = sum(len(part) for part in parts)
        head = frames.header(kind, length, self._sent)
        self._sent += 1
        try:
            self._send_all([memoryview(part) for part in (head, *parts)])
        except OSError as exc:
            if isinstance(exc, ChannelError):
                raise
            try:
                self._raise_failure()
            except PeerFailed:
                raise
            except ChannelError:
                pass
            raise ChannelError(f'the connection to the agent at {self.peer} '
                               f'was lost while sending {kind.name}: '
                               f'{exc}') from exc
        self.sent_bytes += length

    def _send_all(self, views: list[memoryview]) -> None:
        began = time.monotonic()
        while views:
            try:
                done = self._sock.sendmsg(views)
            except TimeoutError:
                self._waited(began, 'took')
                continue
            began = time.monotonic()
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]

    def receive(self, allowed: frozenset[frames.Kind],
                seconds: float | None = None) -> frames.Header:
        """Wait for the next frame; its body is still to be read.

        :param seconds: for the whole header, instead of `silence_seconds`
            between two bytes.
        :raises Interrupted: also when the peer never makes this end wait.
        :raises PeerFailed: a FAIL came, allowed or not.
        :raises ChannelError: lost, silent, or not what may come now.
        """
        if self.interrupted():
            raise Interrupted
        data = self._exactly(frames.HEADER.size, seconds)
        try:
            head = frames.decode_header(
                data, self._received, allowed | {frames.Kind.FAIL},
                self.bounds)
        except frames.FrameError as exc:
            raise self.violation(exc) from exc
        self._received += 1
        if head.kind is frames.Kind.FAIL:
            raise PeerFailed(self.peer, frames.decode_text(
                self._exactly(head.length)))
        return head

    def read(self, length: int, seconds: float | None = None) -> bytes:
        """Read so many bytes of the body; `length` is a checked one."""
        return self._exactly(length, seconds)

    def read_into(self, view: memoryview) -> None:
        """Fill `view` with bytes of the body."""
        self._fill(view, None)

    def violation(self, exc: Exception) -> ChannelError:
        """What to raise for a frame whose body makes no sense."""
        return ChannelError(f'the agent at {self.peer} sent what it must '
                            f'not: {exc}')

    def check(self) -> None:
        """Raise PeerFailed if the peer has said so; never waits."""
        try:
            readable = bool(self._readable.select(0))
        except (OSError, ValueError):
            readable = True  # Closed meanwhile: reading says so.
        if readable:
            self._raise_failure()

    def fail(self, reason: str) -> None:
        """Tell the peer that it is over; best effort, then close.

        The other direction is read until the peer has taken notice, so
        that what it still sends does not reset the connection before it
        has read the reason.
        """
        try:
            self.interrupted = _never
            self.send(frames.Kind.FAIL, frames.encode_text(reason))
            self._sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + min(2.0, self.silence_seconds)
            while time.monotonic() < until and self._sock.recv(_SMALL):
                pass
        except OSError:
            pass
        self.close()

    def close(self) -> None:
        """Close the connection; idempotent. Wakes a thread that waits."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._readable.close()
        self._sock.close()

    def _raise_failure(self) -> None:
        """Raise PeerFailed if its reason is there to be read.

        :raises ChannelError: the peer has closed, or said something else.
        """
        self.receive(frozenset(), 0.5)

    def _exactly(self, length: int, seconds: float | None = None) -> bytes:
        data = bytearray(length)
        self._fill(memoryview(data), seconds)
        return bytes(data)

    def _fill(self, view: memoryview, seconds: float | None) -> None:
        began = time.monotonic()
        while view:
            try:
                got = self._sock.recv_into(view)
            except TimeoutError:
                self._waited(began, 'sent', seconds)
                continue
            except OSError as exc:
                raise ChannelError(f'the connection to the agent at '
                                   f'{self.peer} was lost: {exc}') from exc
            if not got:
                raise ChannelError(f'the agent at {self.peer} closed the '
                                   f'connection')
            view = view[got:]
            if seconds is None:
                began = time.monotonic()
            elif time.monotonic() - began >= seconds:
                self._waited(began, 'sent', seconds)

    def _waited(self, began: float, verb: str,
                seconds: float | None = None) -> None:
        if self.interrupted():
            raise Interrupted
        limit = self.silence_seconds if seconds is None else seconds
        if time.monotonic() - began >= limit:
            raise ChannelError(f'the agent at {self.peer} {verb} nothing, or '
                               f'not all, for {limit:g} s')


def _name(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return 'an address that is gone'
    return f'{host}:{port}'
