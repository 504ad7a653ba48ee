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

"""Acknowledged calls between two processes of one host.

The software GIM and the guest process each stand for something that a
caller reaches with a system call: an ioctl on a VFIO device, a command to a
VMM. What callers rely on is that the call has *happened* when it returns,
that an error comes back with an errno, and that file descriptors can be
handed over. A Unix SOCK_SEQPACKET socket gives just that: one packet is one
message, and SCM_RIGHTS carries descriptors beside it.

Rejected: multiprocessing.connection (it unpickles what the peer sends), an
RPC library (none of the well-kept ones passes descriptors), D-Bus (needs a
daemon).
"""

import array
from collections.abc import Callable, Sequence
import errno
import json
import os
import socket
import threading
from typing import Any

MAX_MESSAGE = 160 * 1024
"""Bytes. Below the kernel's default send buffer for a single packet."""

MAX_FDS = 16

Fds = Sequence[int]
Method = Callable[..., Any]


class CallError(OSError):
    """The peer refused or failed a call; errno and text are the peer's."""


class WithFds:
    """A method's result together with descriptors to hand to the caller."""

    def __init__(self, result: Any, fds: Fds, *,
                 transfer: bool = False) -> None:
        """:param transfer: close our descriptors once they are sent."""
        self.result = result
        self.fds = list(fds)
        self.transfer = transfer


def _send(sock: socket.socket, message: dict[str, Any], fds: Fds) -> None:
    data = json.dumps(message, separators=(',', ':')).encode()
    if len(data) > MAX_MESSAGE:
        raise CallError(errno.EMSGSIZE, f'a message of {len(data)} bytes is '
                        f'over the limit of {MAX_MESSAGE}')
    ancillary = []
    if fds:
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS,
                          array.array('i', fds)))
    sock.sendmsg([data], ancillary)


def _receive(sock: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Return the next message and its descriptors; EOFError at the end."""
    data, ancillary, flags, _ = sock.recvmsg(
        MAX_MESSAGE + 1, socket.CMSG_SPACE(MAX_FDS * 4),
        socket.MSG_CMSG_CLOEXEC)
    fds: list[int] = []
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            whole = len(payload) - len(payload) % 4
            fds.extend(array.array('i', payload[:whole]))
    if not data:
        raise EOFError('the peer closed the connection')
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        _close(fds)
        raise CallError(errno.EMSGSIZE, 'the message was cut by its size')
    message = json.loads(data)
    if not isinstance(message, dict):
        _close(fds)
        raise CallError(errno.EBADMSG, 'the message is not an object')
    return message, fds


def _close(fds: Fds) -> None:
    for fd in fds:
        os.close(fd)


class Client:
    """Calls to one peer, one at a time; safe to share between threads."""

    def __init__(self, path: str, timeout: float = 30.0) -> None:
        """Connect to the socket at `path`.

        :param timeout: seconds to wait for each answer.
        :raises OSError: nobody listens at `path`.
        """
        self.path = path
        self._lock = threading.Lock()
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.settimeout(timeout)
        try:
            self._sock.connect(path)
        except OSError as exc:
            self._sock.close()
            raise CallError(exc.errno or errno.ENOENT,
                            f'{path}: {exc.strerror}') from exc

    def call(self, method: str, *, fds: Fds = (), **args: Any) -> Any:
        """Call and return the result; descriptors that come are closed."""
        result, received = self.call_fds(method, fds=fds, **args)
        _close(received)
        return result

    def call_fds(self, method: str, *, fds: Fds = (),
                 **args: Any) -> tuple[Any, list[int]]:
        """Call and return the result with the descriptors that came.

        :raises CallError: the peer answered with an error (its errno), went
            away (ECONNRESET) or did not answer in time (ETIMEDOUT). After
            the last two the connection is closed: an answer that comes late
            must not be taken for the next one.
        """
        with self._lock:
            try:
                _send(self._sock, {'call': method, 'args': args}, fds)
                message, received = _receive(self._sock)
            except (EOFError, TimeoutError, OSError) as exc:
                if isinstance(exc, CallError):
                    raise
                self._sock.close()
                code = (errno.ETIMEDOUT if isinstance(exc, TimeoutError)
                        else errno.ECONNRESET)
                raise CallError(code, f'{self.path}: {method}: '
                                f'{exc or "no answer"}') from exc
        if 'error' in message:
            _close(received)
            raise CallError(int(message.get('errno', errno.EIO)),
                            str(message['error']))
        return message.get('result'), received

    @property
    def closed(self) -> bool:
        """Whether no call can be made any more."""
        return self._sock.fileno() < 0

    def close(self) -> None:
        self._sock.close()


class Connection:
    """What a method of the server may ask of its caller's connection."""

    def __init__(self) -> None:
        self.on_close: list[Callable[[], None]] = []


class Server:
    """Serves a table of methods; each connection has a thread of its own.

    A method is called as `method(connection, fds, **args)`; it owns the
    descriptors. What it raises goes back as an error: an OSError with its
    errno, a TypeError or ValueError as EINVAL, anything else as EIO.
    """

    def __init__(self, path: str, methods: dict[str, Method]) -> None:
        self.path = path
        self._methods = methods
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._sock.bind(path)
        self._sock.listen(16)
        self._closed = False

    def serve_forever(self) -> None:
        """Accept until close(); returns then."""
        while not self._closed:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                break
            threading.Thread(target=self._serve, args=(sock,),
                             name='unixcall', daemon=True).start()

    def start(self) -> None:
        threading.Thread(target=self.serve_forever, name='unixcall-accept',
                         daemon=True).start()

    def close(self) -> None:
        """Stop accepting and remove the socket's file."""
        self._closed = True
        # A close() alone leaves a thread that waits in accept() there.
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._sock.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def _serve(self, sock: socket.socket) -> None:
        connection = Connection()
        try:
            with sock:
                while True:
                    message, fds = _receive(sock)
                    self._answer(sock, connection, message, fds)
        except (EOFError, OSError, ValueError):
            pass
        finally:
            for callback in connection.on_close:
                callback()

    def _answer(self, sock: socket.socket, connection: Connection,
                message: dict[str, Any], fds: list[int]) -> None:
        out_fds: Fds = ()
        transfer = False
        try:
            method = self._methods.get(str(message.get('call')))
            if method is None:
                _close(fds)
                raise CallError(errno.ENOTTY,
                                f'no such call: {message.get("call")!r}')
            result = method(connection, fds, **message.get('args', {}))
            if isinstance(result, WithFds):
                transfer = result.transfer
                out_fds, result = result.fds, result.result
            answer = {'result': result}
        except OSError as exc:
            answer = {'error': exc.strerror or str(exc),
                      'errno': exc.errno or errno.EIO}
        except (TypeError, ValueError) as exc:
            answer = {'error': str(exc), 'errno': errno.EINVAL}
        except Exception as exc:
            answer = {'error': f'{type(exc).__name__}: {exc}',
                      'errno': errno.EIO}
        try:
            _send(sock, answer, out_fds)
        finally:
            if transfer:
                _close(out_fds)
