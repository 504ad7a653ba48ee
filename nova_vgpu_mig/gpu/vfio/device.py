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


"""A kernel device, open for migration.

The kernel walks from state to state by itself (gpu.arcs says how), so a
state change is one call. What a failed one leaves is read back and said in
the error: the caller decides whether to go back or to reset.
"""

from collections.abc import Sequence
import ctypes
import errno

import numpy
import numpy.typing

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import opening
from nova_vgpu_mig.gpu.vfio import stream as stream_
from nova_vgpu_mig.gpu.vfio import uapi

_S = contract.DeviceState


class VFIODevice(contract.MigrationDevice):
    """A PCI VF or a mediated device, by VFIO_DEVICE_FEATURE."""

    def __init__(self, address: str, opened: opening.Opened,
                 explain: contract.Explain = contract.nothing_more) -> None:
        """Takes over `opened`; closes it when the device can't migrate.

        :param explain: asked when the kernel fails a change of state, or
            a read or write of the stream.
        :raises DeviceError: ENOTSUP the device's driver migrates nothing.
        """
        self.address = address
        self._explain = explain
        self._opened = opened
        self._kernel = opened.kernel
        try:
            self._flags = self._ask_flags()
        except contract.DeviceError:
            opened.close()
            raise

    def _ask_flags(self) -> contract.MigrationFlag:
        try:
            told = calls.get_feature(
                self._kernel, self._fd, uapi.FEATURE_MIGRATION,
                uapi.Migration())
        except OSError as exc:
            if exc.errno in (errno.ENOTTY, errno.EINVAL):
                raise contract.DeviceError(
                    errno.ENOTSUP, self.address, 'its driver offers no '
                    'migration (VFIO_DEVICE_FEATURE_MIGRATION)') from exc
            raise self._error(exc, 'migration flags') from exc
        return contract.MigrationFlag(told.flags)

    @property
    def _fd(self) -> int:
        """:raises OSError: ENODEV the device was closed, as a stream's."""
        fd = self._opened.fd
        if fd < 0:
            raise OSError(errno.ENODEV, 'the device was closed')
        return fd

    def _error(self, exc: OSError, what: str) -> contract.DeviceError:
        if self._opened.fd < 0:
            what = f'{what}, after the device was closed'
        return contract.DeviceError(exc.errno or errno.EIO, self.address,
                                    what)

    def has(self, feature: int, ways: int) -> bool:
        """Whether the device has another feature of the uAPI."""
        try:
            return calls.has_feature(self._kernel, self._fd, feature, ways)
        except OSError as exc:
            raise self._error(exc, f'probe of feature {feature}') from exc

    def flags(self) -> contract.MigrationFlag:
        return self._flags

    def state(self) -> contract.DeviceState:
        try:
            told = calls.get_feature(
                self._kernel, self._fd, uapi.FEATURE_MIG_DEVICE_STATE,
                uapi.MigState(0, -1))
        except OSError as exc:
            raise self._error(exc, 'migration state') from exc
        try:
            return _S(told.device_state)
        except ValueError:
            raise contract.DeviceError(
                errno.EPROTO, self.address, 'the kernel says that it is in '
                f'state {told.device_state}, which VFIO does not '
                'have') from None

    def set_state(self, state: contract.DeviceState) -> (
            contract.DataStream | None):
        before = self.state()
        what = f'{before.name} -> {state.name}'
        if before is _S.ERROR:
            # The kernel refuses it too, but logs a warning of its own bug.
            raise contract.DeviceError(errno.EINVAL, self.address,
                                       f'{what}: only a reset leaves ERROR')
        try:
            answer = calls.set_feature(
                self._kernel, self._fd, uapi.FEATURE_MIG_DEVICE_STATE,
                uapi.MigState(int(state), -1))
        except OSError as exc:
            raise self._error(
                exc, f'{what}; {self._left_in()}{self._explain()}') from exc
        fd = uapi.MigState.from_buffer_copy(answer).data_fd
        if fd < 0:
            return None
        return stream_.DataFd(self._kernel, self.address, fd, self._explain)

    def _left_in(self) -> str:
        try:
            now = self.state()
        except contract.DeviceError as exc:
            return f'what state that left is not known: {exc}'
        if now is _S.ERROR:
            return 'it is in ERROR now, which only a reset leaves'
        return f'it is in {now.name} now'

    def precopy_info(self,
                     stream: contract.DataStream) -> contract.PrecopyInfo:
        if not isinstance(stream, stream_.DataFd):
            raise contract.DeviceError(errno.EINVAL, self.address,
                                       'pre-copy info of a foreign stream')
        return stream.precopy_info()

    def data_size(self) -> int:
        try:
            told = calls.get_feature(
                self._kernel, self._fd, uapi.FEATURE_MIG_DATA_SIZE,
                uapi.DataSize())
        except OSError as exc:
            raise self._error(exc, 'size of the stop-copy data') from exc
        return int(told.stop_copy_length)

    def reset(self) -> None:
        try:
            self._kernel.ioctl(self._fd, uapi.DEVICE_RESET)
        except OSError as exc:
            raise self._error(exc, 'reset') from exc
        now = self.state()
        if now is not _S.RUNNING:
            raise contract.DeviceError(
                errno.EIO, self.address,
                f'reset: it is in {now.name} now instead of RUNNING')

    def close(self) -> None:
        self._opened.close()

    def dma_logging_start(self, page_size: int,
                          ranges: Sequence[contract.IOVARange]) -> None:
        spans = (uapi.LoggingRange * len(ranges))(
            *(uapi.LoggingRange(span.iova, span.length) for span in ranges))
        try:
            calls.set_feature(
                self._kernel, self._fd,
                uapi.FEATURE_DMA_LOGGING_START, uapi.LoggingControl(
                    page_size, len(ranges), 0, ctypes.addressof(spans)))
        except OSError as exc:
            raise self._error(exc, f'log its DMA in {len(ranges)} ranges by '
                              f'{page_size} bytes') from exc

    def dma_logging_report(self, span: contract.IOVARange,
                           page_size: int) -> numpy.typing.NDArray[
                               numpy.bool_]:
        pages = -(-span.length // page_size)
        # The kernel's bitmap is of 64-bit words.
        bitmap = numpy.zeros(-(-pages // 64) * 8, numpy.uint8)
        try:
            calls.get_feature(
                self._kernel, self._fd,
                uapi.FEATURE_DMA_LOGGING_REPORT, uapi.LoggingReport(
                    span.iova, span.length, page_size, bitmap.ctypes.data))
        except OSError as exc:
            raise self._error(
                exc, f'report of its DMA from {span.iova:#x}, {span.length} '
                f'bytes by {page_size}') from exc
        return numpy.unpackbits(bitmap, count=pages,
                                bitorder='little').astype(numpy.bool_)

    def dma_logging_stop(self) -> None:
        try:
            calls.set_feature(self._kernel, self._fd,
                              uapi.FEATURE_DMA_LOGGING_STOP)
        except OSError as exc:
            if exc.errno != errno.ENOTTY:
                raise self._error(exc, 'end the log of its DMA') from exc
