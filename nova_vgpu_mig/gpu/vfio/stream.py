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


"""The data fd of a kernel device, as the contract's stream."""

import errno

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import uapi


class DataFd(contract.DataStream):
    """A saving or a loading fd; which one, the kernel knows."""

    def __init__(self, kernel: calls.Kernel, address: str, fd: int,
                 explain: contract.Explain = contract.nothing_more) -> None:
        """Takes over `fd`."""
        self._explain = explain
        self._kernel = kernel
        self._address = address
        self._fd = fd

    def _open_fd(self, what: str) -> int:
        if self._fd < 0:
            # The number may be another file's by now.
            raise contract.DeviceError(errno.ENODEV, self._address,
                                       f'{what} after the stream was closed')
        return self._fd

    def read_into(self, view: memoryview) -> int:
        fd = self._open_fd('read of migration data')
        try:
            return self._kernel.read(fd, view)
        except OSError as exc:
            if exc.errno == errno.ENOMSG:
                raise contract.TemporaryEnd from None
            raise self._error(exc, f'read of up to {len(view)} bytes of '
                              'migration data') from exc

    def write(self, view: memoryview) -> int:
        fd = self._open_fd('write of migration data')
        try:
            return self._kernel.write(fd, view)
        except OSError as exc:
            raise self._error(exc, f'write of {len(view)} bytes of migration '
                              'data') from exc

    def precopy_info(self) -> contract.PrecopyInfo:
        """VFIO_MIG_GET_PRECOPY_INFO."""
        fd = self._open_fd('pre-copy info')
        asked = uapi.PrecopyInfo()
        asked.argsz = len(bytes(asked))
        try:
            told = calls.exchange(self._kernel, fd,
                                  uapi.MIG_GET_PRECOPY_INFO, asked)
        except OSError as exc:
            raise self._error(exc, 'pre-copy info') from exc
        return contract.PrecopyInfo(told.initial_bytes, told.dirty_bytes)

    def _error(self, exc: OSError, what: str) -> contract.DeviceError:
        # EBADF: a loading fd is read or a saving one written, for which the
        # contract has one word.
        code = errno.ENODEV if exc.errno == errno.EBADF else exc.errno
        return contract.DeviceError(code or errno.EIO, self._address,
                                    what + self._explain())

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._kernel.close(fd)
