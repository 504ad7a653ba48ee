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


"""The guest RAM stream: how its bytes look, and the sending side.

TCP, the destination listens. A hello with a one-time token is answered; then
come runs of pages, in rounds that the receiver need not know about, and an
end with the vCPU state, which is answered with the receiver's digest. Pages
go straight out of guest RAM: one that is written meanwhile is in the dirty
log again, and only the last round, which nobody writes behind, has to be
right. The digest is over what lies in RAM at both ends then.
"""

from collections.abc import Iterator
import dataclasses
import errno
import hmac
import socket
import struct
import threading

import numpy
import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import machine
from nova_vgpu_mig.vmm.standin import memory

HELLO = struct.Struct('<8s16sQ')
"""Magic, token, bytes of guest RAM."""
MAGIC = b'NVMRAM01'
ANSWER = struct.Struct('<H')
"""Length of a refusal's text; 0 is welcome."""
FRAME = struct.Struct('<BII')
"""Kind, first page, pages (PAGES) or bytes of state (END)."""
PAGES = 1
END = 2
DIGEST_BYTES = 16
RUN_PAGES = 256
"""Pages of one frame at most: 1 MiB."""

TIMEOUT = 20.0
"""Seconds in which the peer must take or give something."""

_PAUSE = 0.05
"""Seconds between two looks at the dirty logs."""


def receive(sock: socket.socket, view: memoryview) -> None:
    """Fill `view`; EOFError when the peer ends before."""
    while view:
        count = sock.recv_into(view)
        if not count:
            raise EOFError('the peer ended the guest RAM stream')
        view = view[count:]


def receive_bytes(sock: socket.socket, count: int) -> bytes:
    data = bytearray(count)
    receive(sock, memoryview(data))
    return bytes(data)


def digest(ram: memory.GuestMemory, state: bytes) -> bytes:
    """xxh3-128 over guest RAM and vCPU state."""
    running = xxhash.xxh3_128(ram.view)
    running.update(state)
    return running.digest()


def runs(pages: memory.Pages) -> Iterator[tuple[int, int]]:
    """Yield (first page, count), count at most RUN_PAGES."""
    edges = numpy.flatnonzero(numpy.diff(
        pages.astype(numpy.int8), prepend=0, append=0))
    for start, end in edges.reshape(-1, 2).tolist():
        for first in range(start, end, RUN_PAGES):
            yield first, min(RUN_PAGES, end - first)


def same_token(left: bytes, right: bytes) -> bool:
    return hmac.compare_digest(left, right)


@dataclasses.dataclass(slots=True)
class Sent:
    """The end of a stream, as the sender knows it."""

    sent_bytes: int
    digest: bytes


class Sender:
    """Sends guest RAM in rounds until finish() or cancel()."""

    def __init__(self, guest: machine.Machine,
                 endpoint: port.MemoryEndpoint) -> None:
        """Connect, be welcome, and begin.

        :raises OSError: nobody listens, or it refuses; nothing is left.
        """
        self._guest = guest
        self._ram = guest.ram
        self.sent_bytes = 0
        self.dirty_bytes = 0
        self.error: str | None = None
        self._asked = threading.Event()
        self._finishing = False
        self._sock = _connect(endpoint, self._ram.size)
        try:
            self._start_logging()
        except OSError:
            self._sock.close()
            raise
        self._thread = threading.Thread(target=self._rounds, name='memory',
                                        daemon=True)
        self._thread.start()

    def finish(self) -> Sent:
        """Send what is left; vCPUs and VF are quiet.

        :raises OSError: the stream has failed.
        """
        self._finishing = True
        self._asked.set()
        self._thread.join()
        try:
            if self.error is not None:
                raise OSError(errno.EIO, self.error)
            self._send(self._dirty())
            state = self._guest.save()
            self._sock.sendall(FRAME.pack(END, 0, len(state)) + state)
            self.sent_bytes += len(state)
            mine = digest(self._ram, state)
            receive_bytes(self._sock, DIGEST_BYTES)
            self.dirty_bytes = 0
            return Sent(self.sent_bytes, mine)
        except EOFError as exc:
            raise OSError(errno.EIO, str(exc)) from exc
        finally:
            self._sock.close()
            self._stop_logging()

    def cancel(self) -> None:
        """End the stream, wherever it is."""
        self._asked.set()
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._thread.join()
        self._sock.close()
        self._stop_logging()

    def _rounds(self) -> None:
        try:
            pages = self._ram.used_pages()
            while True:
                self.dirty_bytes = int(pages.sum()) * layout.PAGE
                self._send(pages)
                if self._asked.wait(_PAUSE):
                    return
                pages = self._dirty()
        except (OSError, EOFError) as exc:
            if not self._asked.is_set() or self._finishing:
                self.error = f'guest RAM could not be sent: {exc}'
                self._stop_logging()

    def _send(self, pages: memory.Pages) -> None:
        for first, count in runs(pages):
            start = first * layout.PAGE
            length = count * layout.PAGE
            self._sock.sendall(FRAME.pack(PAGES, first, count))
            self._sock.sendall(self._ram.view[start:start + length])
            self.sent_bytes += FRAME.size + length
            self.dirty_bytes -= length

    def _dirty(self) -> memory.Pages:
        """Read and clear both logs: the vCPUs' and the VF's."""
        pages = self._ram.read_log()
        vf = self._guest.vf
        step = abi.REPORT_PAGES
        for first in range(0, self._ram.pages, step):
            count = min(step, self._ram.pages - first)
            bitmap = bytes.fromhex(vf.client.call(
                'dma_logging_report', vf=vf.address,
                iova=first * layout.PAGE, length=count * layout.PAGE,
                page_size=layout.PAGE))
            bits = numpy.unpackbits(numpy.frombuffer(bitmap, numpy.uint8),
                                    bitorder='little')[:count]
            pages[first:first + count] |= bits.astype(bool)
        return pages

    def _start_logging(self) -> None:
        vf = self._guest.vf
        self._ram.start_log()
        try:
            vf.client.call('dma_logging_start', vf=vf.address,
                           page_size=layout.PAGE,
                           ranges=[[0, self._ram.size]])
        except OSError:
            self._ram.stop_log()
            raise

    def _stop_logging(self) -> None:
        vf = self._guest.vf
        self._ram.stop_log()
        try:
            vf.client.call('dma_logging_stop', vf=vf.address)
        except OSError:
            pass  # A VF that has gone logs no more.


def _connect(endpoint: port.MemoryEndpoint, size: int) -> socket.socket:
    try:
        token = bytes.fromhex(endpoint.token)
    except ValueError:
        token = b''
    if len(token) != 16:
        raise OSError(errno.EINVAL, 'the token of a guest RAM stream is 32 '
                      'hexadecimal digits')
    where = f'{endpoint.host}:{endpoint.port}'
    try:
        sock = socket.create_connection((endpoint.host, endpoint.port),
                                        timeout=TIMEOUT)
    except OSError as exc:
        raise OSError(exc.errno or errno.EIO, 'no guest RAM listener at '
                      f'{where}: {exc}') from exc
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(HELLO.pack(MAGIC, token, size))
        length, = ANSWER.unpack(receive_bytes(sock, ANSWER.size))
        if length:
            text = receive_bytes(sock, min(length, 512))
            raise OSError(errno.EACCES, f'{where} refuses guest RAM: '
                          + text.decode(errors='replace'))
    except (OSError, EOFError) as exc:
        sock.close()
        if isinstance(exc, EOFError):
            raise OSError(errno.ECONNRESET, f'{where}: {exc}') from exc
        raise
    return sock
