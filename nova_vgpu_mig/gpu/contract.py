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

"""The device contract: VFIO migration v2, as the engine sees it.

Every kind of GPU is a `MigrationDevice` with the kernel's states, one data
stream, pre-copy info and a size estimate. A device that also maps its frame
buffer and answers for its dirty units is a `UnitDevice`. The engine knows
nothing else about GPUs, so no vendor word appears above this package.

The numbers are those of include/uapi/linux/vfio.h (Linux 6.12), so a state
read from the kernel is a member of `DeviceState` without a table between.

Rejected: a contract of our own with `export()` and `import()` calls. It
would have been smaller, but a kernel device could not have kept it, and the
software GPU would have become the easy case that the real one is not.
"""

import abc
from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import enum
import errno
import os

import numpy
import numpy.typing

from nova_vgpu_mig.compatibility import health as health_
from nova_vgpu_mig.compatibility import identity


class DeviceState(enum.IntEnum):
    """enum vfio_device_mig_state."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    RUNNING_P2P = 5
    PRE_COPY = 6
    PRE_COPY_P2P = 7


class MigrationFlag(enum.IntFlag):
    """Flags of VFIO_DEVICE_FEATURE_MIGRATION."""

    STOP_COPY = 1
    P2P = 2
    PRE_COPY = 4


class Level(enum.StrEnum):
    """How the frame buffer leaves a device.

    STREAM: inside the data stream, opaque. UNITS: by the engine out of the
    mapped frame buffer; the data stream then has everything but its pages.
    """

    STREAM = 'stream'
    UNITS = 'units'


class VFState(enum.StrEnum):
    """What the host driver's scheduler has in a VF."""

    EMPTY = 'empty'
    """No guest driver is loaded: nothing to carry."""

    LOADING = 'loading'
    """A guest driver loads, or the VF is reset: it can't move now."""

    ACTIVE = 'active'


class DeviceError(OSError):
    """A device refused or failed; `errno` as the kernel would give it."""

    def __init__(self, code: int, address: str, what: str) -> None:
        super().__init__(code, f'VF {address}: {what} '
                         f'({errno.errorcode.get(code, code)}: '
                         f'{os.strerror(code)})')
        self.address = address


class TemporaryEnd(Exception):
    """ENOMSG: nothing more to read in PRE_COPY for now."""


@dataclasses.dataclass(frozen=True, slots=True)
class PrecopyInfo:
    """struct vfio_precopy_info: bytes the stream has ready in PRE_COPY."""

    initial_bytes: int
    dirty_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class IOVARange:
    """A range of guest memory, in bytes, for DMA logging."""

    iova: int
    length: int


class DataStream(abc.ABC):
    """The data fd of a migration: opaque bytes in one order."""

    @abc.abstractmethod
    def read_into(self, view: memoryview) -> int:
        """Read up to len(view) bytes; return how many, 0 at the end.

        :raises TemporaryEnd: in PRE_COPY, nothing is ready now.
        :raises DeviceError: the device failed or has left the states in
            which this stream may be read (ENODEV).
        """

    @abc.abstractmethod
    def write(self, view: memoryview) -> int:
        """Write up to len(view) bytes; return how many were taken.

        :raises DeviceError: EINVAL and a reason when the device refuses
            what the stream says, ENODEV when it is not RESUMING.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Close the data fd. The device keeps its state."""


class MigrationDevice(abc.ABC):
    """One VF, opened for migration."""

    address: str
    """PCI address, `dddd:bb:dd.f`."""

    level: Level = Level.STREAM

    @abc.abstractmethod
    def flags(self) -> MigrationFlag:
        """What the device offers (VFIO_DEVICE_FEATURE_MIGRATION)."""

    @abc.abstractmethod
    def state(self) -> DeviceState:
        """Read the state back from the device."""

    @abc.abstractmethod
    def set_state(self, state: DeviceState) -> DataStream | None:
        """Take the device to `state`, walking arcs as the kernel does.

        :returns: a new stream for RUNNING -> PRE_COPY, STOP -> STOP_COPY
            and STOP -> RESUMING; None otherwise. From PRE_COPY to STOP_COPY
            the stream stays the same.
        :raises DeviceError: EINVAL for an arc that does not exist; what the
            device failed with otherwise. The state after a failure may be
            any on the way: read it back.
        """

    @abc.abstractmethod
    def precopy_info(self, stream: DataStream) -> PrecopyInfo:
        """VFIO_MIG_GET_PRECOPY_INFO; EINVAL outside of PRE_COPY."""

    @abc.abstractmethod
    def data_size(self) -> int:
        """Estimate of the stop-copy stream, bytes (MIG_DATA_SIZE)."""

    @abc.abstractmethod
    def reset(self) -> None:
        """VFIO_DEVICE_RESET: the only way out of ERROR."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close the device; its migration state is freed as the fd is."""

    @abc.abstractmethod
    def dma_logging_start(self, page_size: int,
                          ranges: Sequence[IOVARange]) -> None:
        """Begin to log the device's writes to guest memory."""

    @abc.abstractmethod
    def dma_logging_report(self, span: IOVARange,
                           page_size: int) -> numpy.typing.NDArray[
                               numpy.bool_]:
        """Read and clear: one flag for each page of `span`."""

    @abc.abstractmethod
    def dma_logging_stop(self) -> None:
        """End logging; a device that does not log ignores it."""


class UnitDevice(MigrationDevice):
    """A device whose frame buffer can be taken unit by unit."""

    unit_size: int
    """Bytes of a dirty unit."""

    frame_buffer: memoryview
    """The mapped frame buffer: bytes, a multiple of `unit_size` long."""

    @abc.abstractmethod
    def select_level(self, level: Level) -> None:
        """Choose how the frame buffer leaves or enters the device.

        :raises DeviceError: EBUSY while a migration is under way.
        """

    @abc.abstractmethod
    def dirty_units(self, *, clear: bool) -> numpy.typing.NDArray[
            numpy.bool_]:
        """One flag for each unit written since it was last cleared.

        The writer writes, then marks; this clears, then the caller copies.
        At RUNNING -> PRE_COPY every unit that ever held data is marked.
        """

    def zero_units(self, first: int, count: int) -> None:
        """Make `count` units zero; the device is RESUMING.

        A driver with a quicker way than writing overrides it.
        """
        zeros = bytes(self.unit_size)
        for start in range(first * self.unit_size,
                           (first + count) * self.unit_size,
                           self.unit_size):
            self.frame_buffer[start:start + self.unit_size] = zeros


@dataclasses.dataclass(frozen=True, slots=True)
class VF:
    """A VF as its host driver sees it."""

    address: str
    index: int
    free: bool
    """No guest driver is loaded and nobody has opened it."""

    used_bytes: int | None = None
    """Frame buffer in use, bytes; None where the driver can't tell."""

    state: VFState | None = None
    """None where the driver can't tell."""

    guest_driver: str | None = None
    """Version of the driver in the guest; None as above."""


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """VFs of one PF, or mediated devices of one parent and type.

    All of them share one identity; a PF or parent with several has a pool
    for each.
    """

    pf_address: str
    """Of a parent that is not on PCI its name."""

    identity: identity.VFIdentity
    vfs: tuple[VF, ...]
    health: health_.Health = health_.UNKNOWN


Explain = Callable[[], str]
"""What is known of a failure beside the kernel's number; '' for nothing.

A variant driver's host driver often has a reason where the kernel passes on
a bare EINVAL; who knows that host driver adds it.
"""


def nothing_more() -> str:
    return ''


class GPUDriver(abc.ABC):
    """A plugin for one kind of GPU (`nova_vgpu_mig.gpu_drivers`).

    Built as `driver(conf)` with the agent's ConfigOpts. It must not touch
    the machine before the first call.
    """

    name: str

    @abc.abstractmethod
    def evaluate_support(self) -> int:
        """How well the driver fits this machine; 0 is not at all."""

    @abc.abstractmethod
    def pools(self) -> tuple[Pool, ...]:
        """Every PF that this driver serves, with fresh identities.

        :raises OSError: the host driver does not answer.
        """

    @abc.abstractmethod
    def open(self, address: str) -> MigrationDevice:
        """Open the VF at a PCI address.

        :raises DeviceError: ENODEV no such VF, EBUSY it is open already,
            EAGAIN it is LOADING.
        """

    @abc.abstractmethod
    def dirty_rate(self, address: str, seconds: float) -> float | None:
        """Watch a VF for so many seconds, before any move.

        :returns: bytes of frame buffer dirtied a second; None where the
            device can't tell outside of a migration.
        :raises DeviceError: ENODEV no such VF, EBUSY it is watched already.
        """

    @abc.abstractmethod
    def scrub(self, address: str) -> None:
        """Clear the frame buffer and state of a VF that nobody owns.

        :raises DeviceError: EBUSY while a guest or a migration holds it.
        """

    def explanation(self, address: str, resets: bool = True) -> Explain:
        """Begin to note what explains a failure of a VF from now on.

        For a VF that is open here, and for one that QEMU has.

        :param resets: False if it is to be opened yet, and so to be reset.
        :returns: what to call once something has failed.
        :raises DeviceError: the VF can't be looked at.
        """
        return nothing_more

    def close(self) -> None:
        """End what the driver keeps going; it is not used after that."""
        return
