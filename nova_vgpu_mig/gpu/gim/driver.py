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

"""The GPU driver for AMD GPUs under GIM.

Two halves: AMD SMI's host library says what a VF is, how it is and how full
it is, which the kernel's uAPI has no words for; the VF's state goes through
the VFIO driver, as that of any kernel device. A VF is served when both know
it: GIM has configured it, and amd-vfio-pci has it bound.
"""

import errno
import logging
import threading
from typing import Any

from oslo_config import cfg

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.gim import describe
from nova_vgpu_mig.gpu.gim import events as events_
from nova_vgpu_mig.gpu.gim import inventory
from nova_vgpu_mig.gpu.gim import library as library_
from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import driver as vfio_driver
from nova_vgpu_mig.gpu.vfio import sysfs

LOG = logging.getLogger(__name__)

SUPPORT = 80
"""Above the driver for any kernel device: it knows its vendor."""

_UNBOUND = (
    'These VFs can not be moved, as no VFIO driver that migrates has them: '
    '%s; bind them to amd-vfio-pci. See: nova-vgpu-mig-status upgrade check')
_UNABLE = (
    'These VFs can not be moved, as the driver that they are bound to offers '
    'no migration: %s; load GIM with enable_live_migration=1. See: '
    'nova-vgpu-mig-status upgrade check')

_ERRNOS = {library_.BUSY: errno.EBUSY, library_.NOT_FOUND: errno.ENODEV}


class GIMDriver(contract.GPUDriver):
    """VFs of AMD GPUs that GIM has divided."""

    name = 'gim'

    def __init__(self, conf: cfg.ConfigOpts,
                 files: sysfs.Files | None = None,
                 kernel: calls.Kernel | None = None) -> None:
        """:param files, kernel: other than this machine's, for tests."""
        self._vfio = vfio_driver.VFIODriver(conf, files, kernel,
                                            self.explanation)
        self._events = events_.Events(self._connected)
        self._lock = threading.Lock()
        self._library: library_.Library | None = None
        self._told: dict[str, frozenset[str]] = {}

    def _connected(self) -> library_.Library:
        """:raises library.NotThere: no library, or no GIM behind it."""
        with self._lock:
            if self._library is None:
                self._library = library_.find()
            return self._library

    def evaluate_support(self) -> int:
        try:
            found = self._connected().ask('get_processor_handles')
        except library_.NotThere as exc:
            LOG.debug('No GPUs under GIM: %s', exc)
            return 0
        if not found:
            self.close()
        return SUPPORT if found else 0

    def pools(self) -> tuple[contract.Pool, ...]:
        bound = {vf.address: vf for pool in self._vfio.pools()
                 for vf in pool.vfs}
        found = self._inventory()
        self._events.begin()
        missing = frozenset(
            vf.address for gpu in found for vf in gpu.vfs) - bound.keys()
        unable = missing & self._vfio.unable()
        self._tell(_UNBOUND, missing - unable)
        self._tell(_UNABLE, unable)
        return tuple(contract.Pool(
            gpu.address, gpu.identity, tuple(
                self._merged(vf, bound[vf.address]) for vf in gpu.vfs
                if vf.address in bound), gpu.health) for gpu in found)

    def _inventory(self) -> list[inventory.GPU]:
        """:raises OSError: GIM does not answer; who asks next connects anew,
            as GIM may have been loaded again since.
        """
        try:
            return inventory.gpus(self._connected())
        except (library_.NotThere, library_.LibraryError,
                inventory.NothingAnswers) as exc:
            self._disconnect()
            raise OSError(errno.EIO,
                          f'GPU driver {self.name}: {exc}') from exc

    @staticmethod
    def _merged(vf: inventory.VF, seen: contract.VF) -> contract.VF:
        return contract.VF(
            vf.address, vf.index,
            free=(seen.free and vf.usable
                  and vf.state is contract.VFState.EMPTY),
            used_bytes=(seen.used_bytes if vf.used_bytes is None
                        else vf.used_bytes),
            state=vf.state, guest_driver=vf.guest_driver)

    def _tell(self, warning: str, addresses: frozenset[str]) -> None:
        """Once for each set: pools() is called all the time."""
        if addresses and addresses != self._told.get(warning):
            LOG.warning(warning, ', '.join(sorted(addresses)))
        self._told[warning] = addresses

    def _call(self, address: str, name: str, *args: Any) -> Any:
        """:raises DeviceError: the library failed in a matter of a VF."""
        try:
            return self._connected().call(name, *args)
        except library_.NotThere as exc:
            raise contract.DeviceError(errno.EIO, address, str(exc)) from exc
        except library_.LibraryError as exc:
            raise contract.DeviceError(_ERRNOS.get(exc.status, errno.EIO),
                                       address, str(exc)) from exc

    def _data(self, address: str) -> tuple[Any, dict[str, Any]]:
        """Return the library's handle of a VF, and how it is now."""
        handle = self._call(address, 'get_vf_handle_from_bdf', address)
        return handle, self._call(address, 'get_vf_data', handle)

    def open(self, address: str) -> contract.MigrationDevice:
        _, data = self._data(address)
        if describe.state_of(data) is contract.VFState.LOADING:
            raise contract.DeviceError(
                errno.EAGAIN, address, 'its guest driver is loading, or the '
                'VF is being reset (FULLACCESS), and GIM would fail its '
                'migration; wait until the guest has loaded its driver')
        return self._vfio.open(address)

    def explanation(self, address: str,
                    resets: bool = True) -> contract.Explain:
        number = self._events.begin()
        before = describe.resets_of(self._data(address)[1])

        def explain() -> str:
            said = self._events.since(number, address)
            try:
                after = describe.resets_of(self._data(address)[1])
            except contract.DeviceError:
                after = before
            if resets and before != after:
                said.append(f'the VF was reset meanwhile (FLR count '
                            f'{before} -> {after})')
            return f'; GIM: {"; ".join(said)}' if said else ''
        return explain

    def dirty_rate(self, address: str, seconds: float) -> float | None:
        return self._vfio.dirty_rate(address, seconds)

    def scrub(self, address: str) -> None:
        """Reset the VF, which ends a migration, then clear its memory."""
        handle, data = self._data(address)
        state = describe.state_of(data)
        if state is not contract.VFState.EMPTY:
            raise contract.DeviceError(
                errno.EBUSY, address, f'a guest driver has it ({state}): '
                f'its frame buffer is not cleared')
        self._vfio.scrub(address)
        self._call(address, 'clear_vf_fb', handle)

    def close(self) -> None:
        self._events.close()
        self._disconnect()

    def _disconnect(self) -> None:
        with self._lock:
            library, self._library = self._library, None
        if library is not None:
            library.close()
