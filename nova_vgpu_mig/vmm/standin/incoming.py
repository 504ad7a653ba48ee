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


"""The receiving side of the guest RAM stream.

A listener for one stream: the first peer with the token has it, everybody
else is told why not. Every number a peer sends is checked against the guest
before anything is taken; what arrives is believed when the carrier has
compared the digests, not before.
"""

import os
import socket
import threading

from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm.standin import clock
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import machine
from nova_vgpu_mig.vmm.standin import stream

_HELLO_TIMEOUT = 5.0
_STRANGERS = 8
"""Peers that may be in their hello at once."""


class Receiver:
    """Receives guest RAM and vCPU state of one guest, once."""

    def __init__(self, guest: machine.Machine, host: str) -> None:
        """Listen; OSError when the host's address cannot be had."""
        self._guest = guest
        self._token = os.urandom(16)
        self._lock = threading.Lock()
        self._strangers = threading.BoundedSemaphore(_STRANGERS)
        self._stream: socket.socket | None = None
        self._thread: threading.Thread | None = None
        self._closed = False
        self.digest: bytes | None = None
        self.error: str | None = None
        self._sock = socket.create_server((host, 0))
        self.endpoint = port.MemoryEndpoint(
            host, self._sock.getsockname()[1], self._token.hex())
        threading.Thread(target=self._accept, name='memory-accept',
                         daemon=True).start()

    def close(self) -> None:
        """Stop listening and receiving; nothing is written after this."""
        with self._lock:
            self._closed = True
            receiving = self._stream
            thread = self._thread
        for sock in (self._sock, receiving):
            if sock is not None:
                try:
                    sock.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass
        self._sock.close()
        if thread is not None:
            thread.join()

    def _accept(self) -> None:
        while not self._closed:
            try:
                sock, _ = self._sock.accept()
            except OSError:
                return
            if not self._strangers.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._greet, args=(sock,),
                             name='memory-hello', daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        with sock:
            try:
                sock.settimeout(_HELLO_TIMEOUT)
                refusal = self._hello(sock)
                text = refusal.encode()
                sock.sendall(stream.ANSWER.pack(len(text)) + text)
            except (OSError, EOFError):
                refusal = 'no hello'
            finally:
                self._strangers.release()
            if not refusal:
                self._receive(sock)
            elif self._stream is sock:
                self.error = 'the peer left before its first page'

    def _hello(self, sock: socket.socket) -> str:
        """Return why the peer is refused, or nothing."""
        magic, token, size = stream.HELLO.unpack(
            stream.receive_bytes(sock, stream.HELLO.size))
        if magic != stream.MAGIC:
            return 'this is not a guest RAM stream of version 1'
        if not stream.same_token(token, self._token):
            return 'the token is wrong'
        if size != self._guest.ram.size:
            return (f'the guest here has {self._guest.ram.size} bytes of RAM, '
                    f'the source {size}')
        with self._lock:
            if self._closed:
                return 'the guest listens no more'
            if self._stream is not None:
                return 'the token has been used already'
            self._stream = sock
            self._thread = threading.current_thread()
        return ''

    def _receive(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(None)
            # What an earlier stream left would not be sent again as zeros.
            self._guest.ram.clear()
            while not self._frame(sock):
                pass
        except (OSError, EOFError, ValueError) as exc:
            self.error = str(exc)

    def _frame(self, sock: socket.socket) -> bool:
        """Take one frame; return whether it was the end.

        :raises ValueError: a frame that cannot be.
        """
        kind, first, count = stream.FRAME.unpack(
            stream.receive_bytes(sock, stream.FRAME.size))
        ram = self._guest.ram
        if kind == stream.PAGES:
            if not 0 < count <= stream.RUN_PAGES or first + count > ram.pages:
                raise ValueError(
                    f'guest RAM stream: {count} pages from {first} on, of '
                    f'{ram.pages}, at most {stream.RUN_PAGES} at once')
            start = first * layout.PAGE
            stream.receive(sock, ram.view[start:start + count * layout.PAGE])
            return False
        if kind != stream.END or first or count != clock.STATE_BYTES:
            raise ValueError(f'guest RAM stream: a frame of kind {kind} with '
                             f'{first}, {count}')
        state = stream.receive_bytes(sock, count)
        self._guest.load(state)
        self.digest = stream.digest(ram, state)
        sock.sendall(self.digest)
        return True
