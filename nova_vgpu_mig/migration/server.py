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


"""The agent's data port: one listener, connections told apart by ticket.

One port for all migrations, so that a firewall needs one rule. Who connects
has to show the migration's UUID and its ticket within a few seconds, and
learns no more than that they were refused. A ticket is good for one
connection, and for those that take the place of one that was lost.

Rejected: a listener for each migration (ports to allow, and to leak), and
trusting the network alone.
"""

from collections.abc import Callable
import dataclasses
import hmac
import logging
import secrets
import socket
import threading

from nova_vgpu_mig.migration import accepted
from nova_vgpu_mig.migration import channel as channel_
from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import link
from nova_vgpu_mig.migration import offer

LOG = logging.getLogger(__name__)

Handler = Callable[[channel_.Channel], None]

HELLO_SECONDS = 5.0
MAX_STRANGERS = 32
"""Connections that have not shown a ticket yet."""

PAUSE_SECONDS = 1.0
"""After a connection that could not be taken: no descriptor is free."""


@dataclasses.dataclass(slots=True)
class _Session:
    """A migration that is expected, or connected."""

    ticket: bytes
    handler: Handler
    channel: accepted.Accepted | None = None


class DataServer:
    """Listens, checks tickets, hands connections to their migration."""

    def __init__(self, host: str, port: int,
                 silence_seconds: float = 30.0,
                 reconnect_seconds: float = 10.0) -> None:
        """Bind and listen; port 0 takes any free one.

        :param silence_seconds: for the channels that are handed over.
        :param reconnect_seconds: so long they wait for a source that was
            lost; 0: not at all.
        :raises OSError: the address can't be bound; says which.
        """
        self._silence_seconds = silence_seconds
        self._reconnect_seconds = reconnect_seconds
        self._mutex = threading.Lock()
        self._sessions: dict[str, _Session] = {}
        self._strangers = threading.BoundedSemaphore(MAX_STRANGERS)
        self._closed = threading.Event()
        try:
            family = socket.getaddrinfo(host, port,
                                        type=socket.SOCK_STREAM)[0][0]
            self._sock = socket.create_server((host, port), family=family,
                                              backlog=16)
        except OSError as exc:
            raise OSError(exc.errno, f'data port {host}:{port}: '
                          f'{exc.strerror or exc}') from exc
        name = self._sock.getsockname()
        self.address: tuple[str, int] = (host, name[1])

    def start(self) -> None:
        """Accept in a thread of its own until close()."""
        threading.Thread(target=self._accept, name='data-port',
                         daemon=True).start()

    def expect(self, migration_uuid: str, handler: Handler) -> str:
        """Return a new ticket; one channel with it goes to `handler`.

        `handler` runs in a thread of its own and owns the channel; further
        connections with the ticket go to that channel, until forget(). A
        second call for the same migration makes the first ticket void.
        """
        ticket = secrets.token_bytes(offer.TICKET_BYTES)
        with self._mutex:
            self._sessions[migration_uuid] = _Session(ticket, handler)
        return ticket.hex()

    def forget(self, migration_uuid: str) -> None:
        """Make the migration's ticket void; idempotent."""
        with self._mutex:
            self._sessions.pop(migration_uuid, None)

    def close(self) -> None:
        """Stop listening; connections that were handed over go on."""
        self._closed.set()
        # A close() alone leaves a thread that waits in accept() there.
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                sock, _ = self._sock.accept()
            except OSError as exc:
                if not self._closed.is_set():
                    LOG.error('data port %s:%s: accept: %s; it goes on when '
                              'that is over', *self.address, exc)
                    # Who waits is still there: it would fail again at once.
                    self._closed.wait(PAUSE_SECONDS)
                continue
            if not self._strangers.acquire(blocking=False):
                LOG.warning('data port %s:%s: %d connections without a '
                            'ticket; another one was closed', *self.address,
                            MAX_STRANGERS)
                sock.close()
                continue
            threading.Thread(target=self._greet, args=(sock,),
                             name='data-connection', daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        try:
            line = link.Line(sock, link.Patience(HELLO_SECONDS))
            begun = self._identify(line)
        except OSError as exc:
            # A ChannelError, or a connection that has gone already.
            LOG.warning('data port %s:%s: %s', *self.address, exc)
            sock.close()
            return
        except frames.FrameError as exc:
            LOG.warning('data port %s:%s: %s refused: %s', *self.address,
                        line.peer, exc)
            channel_.farewell(line, f'refused: {exc}')
            line.close()
            return
        finally:
            self._strangers.release()
        if begun is not None and begun.channel is not None:
            begun.handler(begun.channel)

    def _identify(self, line: link.Line) -> _Session | None:
        """Give a line to its channel; a channel that is new is begun.

        :raises FrameError: it is refused, and why.
        """
        try:
            head = frames.decode_header(
                line.exactly(frames.HEADER.size, HELLO_SECONDS), 0,
                frames.STAGES[frames.Stage.HELLO], frames.Bounds())
        except frames.FrameError as exc:
            raise link.ChannelError(f'{line.peer}: {exc}') from exc
        hello = frames.decode_hello(line.exactly(head.length, HELLO_SECONDS))
        session = self._session(hello)
        with self._mutex:
            channel, new = session.channel, session.channel is None
            if channel is None:
                line.patience = link.Patience(self._silence_seconds,
                                              self._reconnect_seconds)
                channel = session.channel = accepted.Accepted(line)
        if head.kind is frames.Kind.RESUME:
            # Of a new one too: its HELLO may have been lost.
            try:
                channel.resume(line, head.sequence)
            except frames.FrameError:
                if new:
                    # Nobody serves it: the next one is the first.
                    session.channel = None
                raise
        elif not new:
            raise frames.FrameError(
                f'migration {hello.migration_uuid} is connected already')
        return session if new else None

    def _session(self, hello: frames.Hello) -> _Session:
        """:raises FrameError: the ticket is not right."""
        with self._mutex:
            session = self._sessions.get(hello.migration_uuid)
        # Compared also when nothing is expected, so that the time does not
        # tell which migrations there are.
        right = hmac.compare_digest(
            session.ticket if session else bytes(offer.TICKET_BYTES),
            hello.ticket)
        if session is None or not right:
            raise frames.FrameError(
                f'migration {hello.migration_uuid}: wrong ticket, or the '
                f'move is not expected here, or no longer: the log of this '
                f'agent says why it ended')
        return session
