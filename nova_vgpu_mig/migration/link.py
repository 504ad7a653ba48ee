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

"""The bytes of one TCP connection, with waits that end.

Blocking sockets with a time-out: every wait is cut into short ones so that
an abort reaches a sender whose peer takes nothing. A connection that is lost
is told apart from a peer that is silent: the first may come back on another
connection (channel.py), the second may not.

A socket from `ssl.SSLContext.wrap_socket` offers what is used except for
sendmsg, which is in one place (`Line.send`).
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import errno
import os
import selectors
import socket
import time
from typing import Any, Self

from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import window

SLICE_SECONDS = 0.2
_SCRATCH = 64 << 10


class ChannelError(ConnectionError):
    """The connection failed; the message names the peer and what."""


class Lost(ChannelError):
    """The connection is gone; whoever was at its other end may not be."""


class Interrupted(custody.MoveFailed):
    """`interrupted()` said so while the channel waited."""


def _never() -> bool:
    return False


@dataclasses.dataclass(slots=True)
class Patience:
    """How long to wait, for all the connections of one move."""

    silence_seconds: float
    """How long the peer may neither take nor send a byte while it should."""

    reconnect_seconds: float = 0.0
    """How long a lost connection may take to come back; 0: it must not."""

    interrupted: Callable[[], bool] = _never
    """Asked before each frame that is received and every 0.2 s of waiting;
    True ends the wait with Interrupted."""


class Line:
    """One connected socket. One thread sends and one receives at a time."""

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        self._sock = sock
        self.peer = _name(sock)
        self.patience = patience
        self._rest: list[memoryview] = []
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        # Buffers are left to the kernel: a size set here is cut to
        # net.core.wmem_max (208 KiB by default) and ends auto-tuning.
        sock.settimeout(SLICE_SECONDS)
        # Not select(): an agent may have more than 1024 descriptors.
        self._selector = selectors.DefaultSelector()
        self._selector.register(sock, selectors.EVENT_READ)

    @classmethod
    def dial(cls, host: str, port: int, seconds: float,
             patience: Patience) -> Self:
        """Connect.

        :raises ConnectionRefusedError: nobody listens there.
        :raises OSError: no connection, or none in time.
        """
        until = time.monotonic() + seconds
        failed = OSError(errno.EADDRNOTAVAIL, 'no address')
        for family, kind, number, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM):
            sock = socket.socket(family, kind, number)
            try:
                _connect(sock, address, until, patience)
                return cls(sock, patience)
            except OSError as exc:
                sock.close()
                failed = exc
            except BaseException:
                sock.close()
                raise
        raise failed

    def send(self, parts: Sequence[window.Buffer]) -> None:
        """Send all of it; after what an interrupted call has left unsent.

        :raises Lost: the connection is gone.
        :raises ChannelError: the peer takes nothing.
        """
        views = self._rest + [memoryview(part) for part in parts]
        self._rest = views
        began = time.monotonic()
        while views:
            try:
                done = self._sock.sendmsg(views)
            except TimeoutError:
                self._waited(began, 'took', None)
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            began = time.monotonic()
            while views and done >= len(views[0]):
                done -= len(views.pop(0))
            if done:
                views[0] = views[0][done:]

    def exactly(self, length: int, seconds: float | None = None,
                verb: str = 'sent', since: float | None = None) -> bytes:
        """As fill(), into new memory; `length` is a checked one."""
        data = bytearray(length)
        self.fill(memoryview(data), seconds, verb, since)
        return bytes(data)

    def fill(self, view: memoryview, seconds: float | None = None,
             verb: str = 'sent', since: float | None = None) -> None:
        """Receive so many bytes.

        :param seconds: for all of them, instead of `silence_seconds`
            between two.
        :param verb: what the peer has not done when it is silent.
        :param since: monotonic time from which `seconds` count, if not from
            now.
        :raises Lost: the connection is gone.
        :raises ChannelError: the peer is silent.
        """
        began = time.monotonic()
        if seconds is not None and since is not None:
            began = since
        while view:
            if seconds is not None and time.monotonic() - began >= seconds:
                self._waited(began, verb, seconds)
            try:
                got = self._sock.recv_into(view)
            except TimeoutError:
                self._waited(began, verb, seconds)
                continue
            except OSError as exc:
                raise self._lost(exc) from exc
            if not got:
                raise Lost(f'the agent at {self.peer} closed the connection')
            view = view[got:]
            if seconds is None:
                began = time.monotonic()

    def skip(self, length: int) -> None:
        """Receive so many bytes, and forget them."""
        scratch = memoryview(bytearray(min(length, _SCRATCH)))
        while length:
            piece = scratch[:length]
            self.fill(piece)
            length -= len(piece)

    def readable(self) -> bool:
        """Whether there is something to receive, or the connection ended."""
        try:
            return bool(self._selector.select(0))
        except (OSError, ValueError):
            return True  # Closed meanwhile: receiving says so.

    def linger(self, seconds: float) -> None:
        """Send no more, and read on until the peer has closed as well.

        So that what it still sends does not reset the connection before it
        has read what was sent last.
        """
        try:
            self._sock.shutdown(socket.SHUT_WR)
            until = time.monotonic() + seconds
            while time.monotonic() < until and self._sock.recv(_SCRATCH):
                pass
        except OSError:
            pass

    def hang_up(self) -> None:
        """End the connection; wakes a thread that waits for it."""
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def close(self) -> None:
        """hang_up(), and give the descriptors back; idempotent."""
        self.hang_up()
        self._selector.close()
        self._sock.close()

    def _lost(self, exc: OSError) -> Lost:
        return Lost(f'the connection to the agent at {self.peer} was lost: '
                    f'{exc}')

    def _waited(self, began: float, verb: str,
                seconds: float | None) -> None:
        if self.patience.interrupted():
            raise Interrupted
        limit = (self.patience.silence_seconds if seconds is None
                 else seconds)
        if time.monotonic() - began >= limit:
            raise ChannelError(f'the agent at {self.peer} {verb} nothing, or '
                               f'not all, for {limit:g} s')


def _connect(sock: socket.socket, address: Any, until: float,
             patience: Patience) -> None:
    sock.setblocking(False)
    code = sock.connect_ex(address)
    with selectors.DefaultSelector() as selector:
        selector.register(sock, selectors.EVENT_WRITE)
        while code == errno.EINPROGRESS:
            if patience.interrupted():
                raise Interrupted
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError(errno.ETIMEDOUT, 'no answer in time')
            if selector.select(min(left, SLICE_SECONDS)):
                code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                break
    if code:
        raise OSError(code, os.strerror(code))


def _name(sock: socket.socket) -> str:
    try:
        host, port = sock.getpeername()[:2]
    except OSError:
        return 'an address that is gone'
    return f'{host}:{port}'
