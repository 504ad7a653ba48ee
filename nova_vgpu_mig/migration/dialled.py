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

"""The end of a channel that connects: it finds its peer again.

After a loss the source shows the same ticket once more, both ends say which
sequence they expect, and each sends what the other lacks. Refused by the
peer, or nobody at its port: that is an answer, and the move ends at once.
Only what may be the network's fault is tried again, and not for ever: a
connection that comes back and is lost again without a frame having got
through is the same outage.
"""

import logging
import time
from typing import Self

from nova_vgpu_mig.migration import channel
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link

LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 0.1


class _Unfit(link.ChannelError):
    """The peer expects what can't be sent to it any more."""


class Dialled(channel.Channel):
    """The source's channel."""

    def __init__(self, line: link.Line, host: str, port: int,
                 hello: frames.Hello, connect_seconds: float) -> None:
        super().__init__(line)
        self._host = host
        self._port = port
        self._hello = frames.encode_hello(hello)
        self._connect_seconds = connect_seconds
        self._left = self.patience.reconnect_seconds
        self._hurried = False
        self._stuck_at = -1
        self.outage_seconds = 0.0
        """How long there was no connection, in all."""

    @classmethod
    def connect(cls, host: str, port: int, hello: frames.Hello, *,
                connect_seconds: float, patience: link.Patience) -> Self:
        """Connect to a destination and show the ticket.

        :raises ChannelError: nobody answers there.
        """
        try:
            line = link.Line.dial(host, port, connect_seconds, patience)
        except OSError as exc:
            raise link.ChannelError(
                f'no connection to the data port of the agent at '
                f'{host}:{port}: {exc}; check its data_host and data_port '
                f'and the firewall between the hosts') from exc
        made = cls(line, host, port, hello, connect_seconds)
        made._greet(line, frames.Kind.HELLO, 0)
        return made

    def hurry(self, seconds: float) -> None:
        """The guest stands still: from here on all outages together may
        take no longer than this.
        """
        self._left = min(self.patience.reconnect_seconds, seconds)
        self._hurried = True

    def _greet(self, line: link.Line, kind: frames.Kind,
               sequence: int) -> None:
        try:
            line.send([frames.header(kind, len(self._hello), sequence),
                       self._hello])
        except link.Lost:
            # What the peer has said to it is still to be read.
            if kind is not frames.Kind.HELLO:
                raise

    def _recover(self, line: link.Line, lost: link.Lost) -> None:
        while True:
            line.close()
            if self._ended():
                raise link.ChannelError(str(lost)) from lost
            line = self._redial(lost)
            try:
                for frame in self._window.lacking():
                    line.send(frame)
            except link.Lost as exc:
                lost = exc
            else:
                return

    def _redial(self, lost: link.Lost) -> link.Line:
        """Try until there is a connection, or no time left."""
        LOG.warning('%s; connecting again', lost)
        progress, began = self._window.first + self._received, time.monotonic()
        stuck, self._stuck_at = progress == self._stuck_at, progress
        if not stuck and not self._hurried:
            self._left = self.patience.reconnect_seconds
        until = began + self._left
        try:
            if stuck:
                self._pause(until)
            line = self._try(lost, until)
        finally:
            seconds = time.monotonic() - began
            self._left = max(0.0, self._left - seconds)
            self.outage_seconds += seconds
        self.on_reconnect(channel.Reconnect(
            line.peer, seconds, self._window.first, self._window.weight))
        return line

    def _try(self, lost: link.Lost, until: float) -> link.Line:
        began = time.monotonic()
        why: OSError = lost
        while (left := until - time.monotonic()) > 0:
            try:
                return self._resume(left)
            except (channel.PeerFailed, _Unfit):
                raise
            except ConnectionRefusedError as exc:
                raise link.ChannelError(
                    f'{lost}; nobody listens at {self._host}:{self._port} '
                    f'any more: the agent there has ended') from exc
            except OSError as exc:
                why = exc
            self._pause(until)
        raise link.ChannelError(
            f'{lost}; no connection again within '
            f'{time.monotonic() - began:.1f} s'
            + (f': {why}' if why is not lost else '')) from why

    def _pause(self, until: float) -> None:
        if self.patience.interrupted():
            raise link.Interrupted
        time.sleep(max(0.0, min(_AGAIN_SECONDS, until - time.monotonic())))

    def _resume(self, left: float) -> link.Line:
        """Connect once; it is the channel's line when this returns."""
        line = link.Line.dial(self._host, self._port,
                              min(left, self._connect_seconds),
                              self.patience)
        try:
            self._greet(line, frames.Kind.RESUME, self._received)
            head = frames.decode_header(
                line.exactly(frames.HEADER.size, left), 0,
                frozenset((frames.Kind.ACK, frames.Kind.FAIL)), self.bounds)
            if head.kind is frames.Kind.FAIL:
                raise channel.PeerFailed(line.peer, frames.decode_text(
                    line.exactly(head.length, left)))
            self._window.acknowledge(head.sequence)
        except frames.FrameError as exc:
            line.close()
            raise _Unfit(f'the connection to the agent at {line.peer} can '
                         f'not go on: {exc}') from exc
        except BaseException:
            line.close()
            raise
        self._line = line
        self._told, self._untold_bytes = self._received, 0
        return line
