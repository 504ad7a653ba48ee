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

"""The end of a channel that was connected to: it waits to be found again.

The data port's thread that has checked the ticket of a new connection puts
it in the place of the old one, in one step: the old one may look alive here
long after it was lost at the other end. Rejected: to let the thread that
receives do it, because that one may be busy with the device while the source
counts the milliseconds.
"""

import time

from nova_vgpu_mig.migration import channel
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link


class Accepted(channel.Channel):
    """The destination's channel. resume() in any thread."""

    def __init__(self, line: link.Line) -> None:
        super().__init__(line)
        self._lost_at: float | None = None

    def resume(self, line: link.Line, expected: int) -> None:
        """Go on with another connection, whose ticket was right.

        :param expected: the sequence that the source expects.
        :raises FrameError: it can't go on, and why.
        """
        with self._changed:
            self._check_resume()
            self._window.acknowledge(expected)
            old, self._line = self._line, line
            line.patience = self.patience
            came = channel.Reconnect(
                line.peer, time.monotonic() - self._lost_at
                if self._lost_at else 0.0, self._received,
                self._window.weight)
            self._lost_at = None
            if old is not line:
                self._retired.append(old)
            self._told, self._untold_bytes = self._received, 0
            try:
                # Small, into a socket that is empty: nothing waits for it.
                line.send([frames.header(frames.Kind.ACK, 0,
                                         self._received)])
                for frame in self._window.lacking():
                    line.send(frame)
            except link.Lost:
                pass  # Whoever receives finds out.
            self._changed.notify_all()
        if old is not line:
            old.hang_up()
            self.on_reconnect(came)

    def _check_resume(self) -> None:
        if self._sealed:
            raise frames.FrameError(
                'everything is verified here: the journals decide, no '
                'connection is taken up again')
        if self._ended():
            raise frames.FrameError(
                'the move has ended here' if self._closed else
                'connections are not taken up again here: reconnect_timeout '
                'is 0')

    def _recover(self, line: link.Line, lost: link.Lost) -> None:
        line.close()
        seconds = self.patience.reconnect_seconds
        with self._changed:
            began = time.monotonic()
            while line is self._line:
                if self.patience.interrupted():
                    raise link.Interrupted
                if self._ended():
                    raise link.ChannelError(str(lost)) from lost
                if time.monotonic() - began >= seconds:
                    raise link.ChannelError(
                        f'{lost}; the source did not connect again within '
                        f'{seconds:g} s') from lost
                self._lost_at = self._lost_at or began
                self._changed.wait(link.SLICE_SECONDS)
