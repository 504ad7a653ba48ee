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

"""The data socket: a stream with a kernel's answers on a Unix socket.

A VFIO data fd answers read() and write() with an errno. A socket cannot:
so each read and each write is a request with a reply. Request: operation,
length; a write's bytes follow. Reply: errno (0: none), count, length of a
text; then what was read, or the text.
"""

import errno
import socket
import struct
from typing import Protocol

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import memory

REQUEST = struct.Struct('<II')
REPLY = struct.Struct('<III')
READ, WRITE = 1, 2
MOST_BYTES = 1024 * 1024
"""Of one request."""


class Source(Protocol):
    """What serves a data socket; errors are OSError or TemporaryEnd."""

    def read(self, most: int) -> memoryview: ...

    def write(self, data: memoryview) -> None: ...


def receive(sock: socket.socket, view: memoryview) -> None:
    """Fill `view`.

    :raises EOFError: the peer closed.
    """
    while len(view):
        count = sock.recv_into(view)
        if not count:
            raise EOFError
        view = view[count:]


def serve(sock: socket.socket, source: Source) -> None:
    """Answer until the peer closes or breaks the protocol."""
    head = bytearray(REQUEST.size)
    buffer = memoryview(memory.buffer(MOST_BYTES))
    try:
        with sock:
            while True:
                receive(sock, memoryview(head))
                operation, length = REQUEST.unpack(head)
                if operation not in (READ, WRITE) or length > MOST_BYTES:
                    return
                if operation == WRITE:
                    receive(sock, buffer[:length])
                _answer(sock, source, operation, buffer[:length])
    except (EOFError, OSError):
        pass


def _answer(sock: socket.socket, source: Source, operation: int,
            view: memoryview) -> None:
    piece = memoryview(b'')
    try:
        if operation == READ:
            piece = source.read(len(view))
            count = len(piece)
        else:
            source.write(view)
            count = len(view)
    except contract.TemporaryEnd:
        sock.sendall(REPLY.pack(errno.ENOMSG, 0, 0))
        return
    except OSError as exc:
        text = str(exc.strerror or exc).encode()[:4096]
        sock.sendall(REPLY.pack(exc.errno or errno.EIO, 0, len(text)) + text)
        return
    sock.sendall(REPLY.pack(0, count, 0))
    if count and operation == READ:
        sock.sendall(piece)
