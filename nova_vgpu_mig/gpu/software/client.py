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

"""A migration's side of the software GIM's socket.

Turns the calls of abi.py and the data socket of stream.py into the device
contract, errors included.
"""

from collections.abc import Sequence
import errno
import mmap
import os
import socket
import threading
from typing import Any

import numpy
import numpy.typing

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import stream
from nova_vgpu_mig import unixcall


class SoftwareStream(contract.DataStream):
    """The data socket; one request at a time."""

    def __init__(self, address: str, sock: socket.socket) -> None:
        self._address = address
        self._sock = sock
        self._lock = threading.Lock()

    def read_into(self, view: memoryview) -> int:
        view = view[:stream.MOST_BYTES]
        with self._lock:
            count = self._request(stream.READ, view)
            if count > len(view):
                raise self._broken('more was read than asked for')
            try:
                stream.receive(self._sock, view[:count])
            except (EOFError, OSError) as exc:
                raise self._broken(str(exc)) from exc
            return count

    def write(self, view: memoryview) -> int:
        view = view[:stream.MOST_BYTES]
        with self._lock:
            return self._request(stream.WRITE, view)

    def _request(self, operation: int, view: memoryview) -> int:
        """Return the reply's count."""
        try:
            self._sock.sendall(stream.REQUEST.pack(operation, len(view)))
            if operation == stream.WRITE:
                self._sock.sendall(view)
            head = memoryview(bytearray(stream.REPLY.size))
            stream.receive(self._sock, head)
            code, count, length = stream.REPLY.unpack(head)
            text = memoryview(bytearray(min(length, 4096)))
            stream.receive(self._sock, text)
        except (EOFError, OSError) as exc:
            raise self._broken(str(exc) or 'closed') from exc
        if code == errno.ENOMSG:
            raise contract.TemporaryEnd
        if code:
            raise contract.DeviceError(code, self._address,
                                       bytes(text).decode(errors='replace'))
        return int(count)

    def _broken(self, what: str) -> contract.DeviceError:
        return contract.DeviceError(
            errno.ENODEV, self._address, f'the data socket broke: {what}')

    def close(self) -> None:
        self._sock.close()


class SoftwareDevice(contract.UnitDevice):
    """A VF of a software GIM, open for migration."""

    def __init__(self, client: unixcall.Client, address: str) -> None:
        """Takes over `client`; closes it when the VF cannot be opened.

        :raises DeviceError: ENODEV no such VF, EBUSY it is open already.
        """
        self.address = address
        self._client = client
        self._map: mmap.mmap | None = None
        try:
            shape, fds = self._call_fds('migration_open')
        except contract.DeviceError:
            client.close()
            raise
        self._flags = contract.MigrationFlag(shape['flags'])
        self.unit_size = int(shape['unit_size'])
        self.level = contract.Level(shape['level'])
        with os.fdopen(fds[0], 'rb') as buffer:
            self._map = mmap.mmap(buffer.fileno(),
                                  int(shape['frame_buffer_bytes']))
        self.frame_buffer = memoryview(self._map)

    def _call_fds(self, method: str, *, fds: Sequence[int] = (),
                  **args: Any) -> tuple[Any, list[int]]:
        try:
            return self._client.call_fds(method, fds=fds, vf=self.address,
                                         **args)
        except unixcall.CallError as exc:
            raise contract.DeviceError(
                exc.errno or errno.EIO, self.address,
                f'{method}: {exc.strerror}') from exc

    def _call(self, method: str, **args: Any) -> Any:
        return self._call_fds(method, **args)[0]

    def flags(self) -> contract.MigrationFlag:
        return self._flags

    def state(self) -> contract.DeviceState:
        return contract.DeviceState(self._call('get_state'))

    def set_state(self, state: contract.DeviceState) -> (
            contract.DataStream | None):
        _, fds = self._call_fds('set_state', state=int(state))
        if not fds:
            return None
        return SoftwareStream(self.address, socket.socket(fileno=fds[0]))

    def precopy_info(self,
                     stream: contract.DataStream) -> contract.PrecopyInfo:
        return contract.PrecopyInfo(**self._call('precopy_info'))

    def data_size(self) -> int:
        return int(self._call('data_size'))

    def reset(self) -> None:
        self._call('reset')

    def close(self) -> None:
        """Close the VF. Its state stays in the GIM (abi.py)."""
        try:
            self._call('migration_close')
        except contract.DeviceError:
            # The GIM or the connection is gone, and so is the opening.
            pass
        self._client.close()
        self.frame_buffer.release()
        if self._map is not None:
            try:
                self._map.close()
            except BufferError:
                # Somebody still has a view; the mapping goes with it.
                pass

    def dma_logging_start(self, page_size: int,
                          ranges: Sequence[contract.IOVARange]) -> None:
        self._call('dma_logging_start', page_size=page_size, ranges=[
            [span.iova, span.length] for span in ranges])

    def dma_logging_report(self, span: contract.IOVARange,
                           page_size: int) -> numpy.typing.NDArray[
                               numpy.bool_]:
        parts = []
        step = abi.REPORT_PAGES * page_size
        for start in range(0, span.length, step):
            length = min(step, span.length - start)
            bitmap = self._call('dma_logging_report', length=length,
                                iova=span.iova + start, page_size=page_size)
            parts.append(dirty.from_hex(bitmap, -(-length // page_size)))
        return numpy.concatenate(parts)

    def dma_logging_stop(self) -> None:
        self._call('dma_logging_stop')

    def select_level(self, level: contract.Level) -> None:
        self._call('select_level', level=level.value)
        self.level = level

    def dirty_units(self, *, clear: bool) -> numpy.typing.NDArray[
            numpy.bool_]:
        return dirty.from_hex(self._call('dirty_units', clear=clear),
                              len(self.frame_buffer) // self.unit_size)

    def zero_units(self, first: int, count: int) -> None:
        """Punch a hole: no memory is taken for what is zero."""
        if self._map is not None:
            self._map.madvise(mmap.MADV_REMOVE, first * self.unit_size,
                              count * self.unit_size)
