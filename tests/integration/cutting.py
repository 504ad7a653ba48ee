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

"""A network between two agents that breaks where a test says so.

A proxy on loopback that reads the frames it passes on, and cuts the
connection inside, or behind, one of them. It counts by itself what goes over
it a second time, whatever the agents say about that.
"""

from collections.abc import Callable
import dataclasses
import selectors
import socket
import struct
import threading
from typing import Any

from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import offer as offer_

Kind = frames.Kind
_RESET = struct.pack('ii', 1, 0)
_PIECE = 64 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Cut:
    """Where the next connection is cut."""

    kind: Kind
    number: int = 1
    """The so-many-th frame of the kind from the cut before on."""

    share: float = 1.0
    """Of the frame, let through; at 1 it is whole."""

    reset: bool = False
    """Both ends see a reset, not an end."""


class Reader:
    """The frames in one direction of one connection."""

    def __init__(self, proxy: 'Proxy') -> None:
        self._proxy = proxy
        self._pending = b''
        self._left = 0
        self._until: int | None = None

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """What of it goes on, and whether the connection is cut then."""
        data, self._pending = self._pending + data, b''
        at = 0
        while at < len(data):
            if not self._left:
                if len(data) - at < frames.HEADER.size:
                    self._pending = data[at:]
                    break
                self._begin(data[at:at + frames.HEADER.size])
            step = min(self._left, len(data) - at)
            if self._until is not None:
                if self._until <= step:
                    return data[:at + self._until], True
                self._until -= step
            self._left -= step
            at += step
        return data[:at], False

    def _begin(self, head: bytes) -> None:
        number, length, sequence = frames.HEADER.unpack(head)
        self._left = frames.HEADER.size + length
        share = self._proxy.seen(Kind(number), self._left, sequence)
        self._until = (None if share is None
                       else max(1, round(self._left * share)))


class Proxy:
    """Goes with the test case."""

    def __init__(self, case: Any, *cuts: Cut) -> None:
        self.cuts = list(cuts)
        self.refuse_after_a_cut = 0
        """So many further connections are ended at once."""
        self.for_good = False
        """After a cut nothing gets through any more."""
        self.half = False
        """A cut ends the source's side only: the destination's looks alive.
        """
        self.before_the_next: Callable[[], object] = lambda: None
        """Called after a cut, before anybody can connect again."""
        self.gone = False
        """After a cut nobody listens any more."""
        self.done = 0
        self.connections = 0
        self.doubled = 0
        """Bytes of frames that had gone before."""
        self.cut = threading.Event()
        self._counts: dict[Kind, int] = {}
        self._next = 0
        self._listener = socket.create_server(('127.0.0.1', 0))
        self._ending = False
        self._alive: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        case.addCleanup(self.close)

    def between(self, made: offer_.Offer) -> offer_.Offer:
        """The offer, as the source gets it."""
        self._target = made.host, made.port
        self._thread.start()
        host, port = self._listener.getsockname()
        return dataclasses.replace(made, host=host, port=port)

    def close(self) -> None:
        self._ending = True
        while self._alive:
            self._alive.pop().close()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._listener.close()

    def seen(self, kind: Kind, length: int, sequence: int) -> float | None:
        """Note a frame; what share of it goes through before the cut."""
        if kind in (Kind.UNIT, Kind.STREAM):
            if sequence < self._next:
                self.doubled += length
            self._next = max(self._next, sequence + 1)
        self._counts[kind] = self._counts.get(kind, 0) + 1
        if self.cuts and self.cuts[0].kind is kind and (
                self.cuts[0].number == self._counts[kind]):
            return self.cuts[0].share
        return None

    def _serve(self) -> None:
        while not self._ending:
            try:
                source, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            if self.done and (self.for_good or self.refuse_after_a_cut):
                self.refuse_after_a_cut -= bool(self.refuse_after_a_cut)
                source.close()
                continue
            self._pass(source)

    def _pass(self, source: socket.socket) -> None:
        with (source, socket.create_connection(self._target) as target,
              selectors.DefaultSelector() as selector):
            for sock, other in ((source, target), (target, source)):
                selector.register(sock, selectors.EVENT_READ,
                                  (other, Reader(self)))
            try:
                while not (cut := self._forward(selector)):
                    pass
            except (ConnectionError, EOFError):
                return
            if cut:
                self._break(source, target)

    def _forward(self, selector: selectors.BaseSelector) -> bool:
        """Pass on what is there; True when it is time to cut.

        :raises EOFError: an end has closed the connection.
        """
        for key, _ in selector.select():
            other, reader = key.data
            data = key.fileobj.recv(_PIECE)
            if not data:
                raise EOFError
            passes, cut = reader.feed(data)
            other.sendall(passes)
            if cut:
                return True
        return False

    def _break(self, source: socket.socket, target: socket.socket) -> None:
        cut = self.cuts.pop(0)
        self._counts.clear()
        if self.gone:
            self.close()
        sides = [source] if self.half else [source, target]
        if self.half:
            self._alive.append(target.dup())
        for sock in sides:
            if cut.reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            sock.close()
        self.done += 1
        self.cut.set()
        self.before_the_next()
