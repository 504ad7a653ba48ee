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


"""What a device under test is, and where two fresh ones come from."""

import abc
from collections.abc import Mapping
import dataclasses
import errno
import os
import pathlib
from typing import Any
import unittest
import uuid

from nova_vgpu_mig.gpu import contract


@dataclasses.dataclass(frozen=True)
class Traits:
    """In what devices that keep the contract may differ."""

    flags: contract.MigrationFlag

    temporary_end: bool = True
    """In PRE_COPY read() gives ENOMSG at an end; if not, it gives 0."""

    error_after_short: bool = True
    """A short stream leaves ERROR at RESUMING -> STOP; if not, RESUMING."""

    wrong_errno: int = errno.EINVAL
    """What a write gets for a stream that begins wrong."""

    keeps_state: bool = False
    """A device that is opened again is in the state that it was left in."""

    framing: int = 0
    """Bytes of a stream, at most, that the estimate leaves out."""

    frame_buffer: int = 0
    """Bytes that the estimate in STOP takes for the frame buffer, all of
    it; 0: it is the one in STOP_COPY."""

    failures: tuple[tuple[contract.DeviceState, bool], ...] = ()
    """(state, into ERROR): what fail_at() can bring about."""

    lacks: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Test -> why the device can't have it; these are left out."""


class Provider(abc.ABC):
    """Makes devices of one kind."""

    @abc.abstractmethod
    def addresses(self, case: unittest.TestCase) -> tuple[str, str]:
        """Two fresh devices that take each other's state; for one test."""

    @abc.abstractmethod
    def open(self, address: str) -> contract.MigrationDevice:
        """Open one; EBUSY while it is open."""

    def fail_at(self, address: str, state: contract.DeviceState | None,
                into_error: bool) -> None:
        """Have changes into `state` fail with EIO; None: none any more."""
        raise NotImplementedError

    def dirty(self, address: str) -> None:
        """Have a device in PRE_COPY write something to send again."""
        raise NotImplementedError


_S = contract.DeviceState
_ALL = (contract.MigrationFlag.STOP_COPY | contract.MigrationFlag.P2P
        | contract.MigrationFlag.PRE_COPY)

MTTY = Traits(_ALL, temporary_end=False, error_after_short=False,
              wrong_errno=errno.EFAULT, keeps_state=True,
              lacks={
                  'test_a_failed_change': 'nothing makes a change fail',
                  'test_what_is_dirtied_is_sent_again':
                  'nothing makes it work',
                  'test_a_reset_clears_what_a_load_was_cut_off_in':
                  'it has no frame buffer'})
LAB = Traits(_ALL, failures=tuple(
    (state, into_error)
    for state in (_S.RUNNING, _S.STOP_COPY, _S.PRE_COPY, _S.RESUMING)
    for into_error in (False, True)))

_BY_GROUP = 'anon_inode:[vfio-device]'
"""What the kernel calls a device's fd that a group gave."""


class MediatedDevices(Provider):
    """Mediated devices of one type, made and removed through sysfs."""

    def __init__(self, kind: str, flags: int | None = None,
                 iommufd: str | None = None) -> None:
        """
        :param flags: to be offered; the lab's GPU can be told so.
        :param iommufd: path of the one to open the devices by their cdev
            with; None: they are opened by their group.
        """
        # Here, since a node has the driver's needs and a tester may not.
        from nova_vgpu_mig.gpu.vfio import calls
        from nova_vgpu_mig.gpu.vfio import device
        from nova_vgpu_mig.gpu.vfio import opening
        from nova_vgpu_mig.gpu.vfio import rights
        from nova_vgpu_mig.gpu.vfio import sysfs
        self._type = kind
        self._flags = flags
        self._device = device
        self._by_cdev = iommufd is not None

        class Files(sysfs.Files):
            @property
            def iommufd(self) -> str:
                return iommufd or '/no-iommufd'

        self._files = Files()
        self._doors = opening.Doors(self._files, rights.open_directly,
                                    calls.Kernel())

    def addresses(self, case: unittest.TestCase) -> tuple[str, str]:
        return self._make(case), self._make(case)

    def _make(self, case: unittest.TestCase) -> str:
        types = list(self._files.sys.glob(
            f'class/mdev_bus/*/mdev_supported_types/{self._type}'))
        if len(types) != 1:
            raise LookupError(f'{len(types)} parents have the mediated device '
                              f'type {self._type}; is its module loaded?')
        address = str(uuid.uuid4())
        (types[0] / 'create').write_text(address)
        made = self._files.sys / f'bus/mdev/devices/{address}'
        case.addCleanup(pathlib.Path.write_text, made / 'remove', '1')
        if self._flags is not None:
            # Not once it is open.
            (made / 'migration/flags').write_text(f'{self._flags:#x}')
        return address

    def _node(self, address: str) -> Any:
        node = self._files.find(address)
        assert node is not None, f'sysfs has no {address}'
        return node

    def open(self, address: str) -> contract.MigrationDevice:
        node = self._node(address)
        opened = self._doors.open(node)
        found = os.readlink(f'/proc/self/fd/{opened.fd}')
        wanted = self._files.cdev(node) if self._by_cdev else _BY_GROUP
        if found != wanted:
            opened.close()
            raise AssertionError(f'opened as {found}, not as {wanted}')
        return self._device.VFIODevice(address, opened)

    def fail_at(self, address: str, state: contract.DeviceState | None,
                into_error: bool) -> None:
        knobs = self._node(address).path / 'knobs'
        (knobs / 'fail_into_error').write_text(str(int(into_error)))
        (knobs / 'fail_at').write_text(
            'none' if state is None else state.name.lower())

    def dirty(self, address: str) -> None:
        (self._node(address).path / 'workload/doorbell').write_text('100')
