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

"""The yardstick: the same bytes from one process to another over loopback.

`hashed` does what any careful copy has to: each piece is copied once out of
memory that somebody else writes, hashed, sent, received in place and hashed
again. `bare` only sends and receives. Both map that memory first, as whoever
copies a VF's frame buffer must; a carrier opens the VF for each move.
Neither tells anything about rounds, dirty units or a way back: it is the
ceiling that the carrier is held against.
"""

import dataclasses
import mmap
import multiprocessing
import os
import resource
import socket
import time
from typing import Self

import xxhash

PIECE = 2 * 1024 * 1024


@dataclasses.dataclass(frozen=True, slots=True)
class Copy:
    """How one copy went."""

    seconds: float
    cpu_seconds: float
    """Of both processes."""


def _cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _receive(listener: socket.socket, size: int, hashed: bool,
             answers: 'multiprocessing.Queue[float]') -> None:
    memory = mmap.mmap(-1, size)
    view = memoryview(memory)
    # Neither side pays for first touches: a VF's frame buffer is there.
    for offset in range(0, size, mmap.PAGESIZE):
        view[offset] = 1
    answers.put(0.0)
    sock, _ = listener.accept()
    began = _cpu()
    with sock:
        for offset in range(0, size, PIECE):
            piece = view[offset:offset + PIECE]
            if hashed:
                told = bytearray(8)
                _fill(sock, memoryview(told))
            _fill(sock, piece)
            if hashed and xxhash.xxh3_64_digest(piece) != told:
                raise SystemExit('the plain copy arrived changed')
        sock.sendall(b'k')
    answers.put(_cpu() - began)


def _fill(sock: socket.socket, view: memoryview) -> None:
    while view:
        view = view[sock.recv_into(view):]


class Memory:
    """Shared memory full of data that does not compress to zero."""

    def __init__(self, size: int) -> None:
        """:param size: bytes, a multiple of PIECE."""
        self.size = size
        self.fd = os.memfd_create('bench')
        os.ftruncate(self.fd, size)
        block = os.urandom(PIECE)
        for offset in range(0, size, PIECE):
            os.pwrite(self.fd, block, offset)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        os.close(self.fd)


def copy(source: Memory, *, hashed: bool) -> Copy:
    """Copy `source` into another process; from the mapping to the end."""
    context = multiprocessing.get_context('fork')
    answers: multiprocessing.Queue[float] = context.Queue()
    listener = socket.create_server(('127.0.0.1', 0))
    receiver = context.Process(
        target=_receive, args=(listener, source.size, hashed, answers))
    receiver.start()
    try:
        answers.get(timeout=60)
        sock = socket.create_connection(listener.getsockname())
        with sock:
            began, cpu = time.monotonic(), _cpu()
            with (mmap.mmap(source.fd, source.size) as mapped,
                  memoryview(mapped) as view):
                _send(sock, view, hashed)
                sock.recv(1)
                seconds, cpu = time.monotonic() - began, _cpu() - cpu
        return Copy(seconds, cpu + answers.get(timeout=60))
    finally:
        listener.close()
        receiver.join(60)
        if receiver.is_alive():
            receiver.kill()
            receiver.join()


def _send(sock: socket.socket, source: memoryview, hashed: bool) -> None:
    buffer = bytearray(PIECE)
    window = memoryview(buffer)
    for offset in range(0, len(source), PIECE):
        with source[offset:offset + PIECE] as piece:
            if hashed:
                window[:] = piece
                sock.sendall(xxhash.xxh3_64_digest(window))
            sock.sendall(window if hashed else piece)
