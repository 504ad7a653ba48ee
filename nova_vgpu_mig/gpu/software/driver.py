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

"""The GPU driver for software GIMs: every socket in one directory is a PF."""

import errno
import logging
import pathlib
from typing import Any

from oslo_config import cfg

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import client
from nova_vgpu_mig.gpu.software import scheduling
from nova_vgpu_mig import unixcall

LOG = logging.getLogger(__name__)

_STATES = {
    scheduling.SchedulerState.FULLACCESS: contract.VFState.LOADING,
    scheduling.SchedulerState.ACTIVE: contract.VFState.ACTIVE,
    scheduling.SchedulerState.SUSPEND: contract.VFState.ACTIVE,
}
"""None is EMPTY: without a guest driver the software GIM still carries what
the frame buffer holds."""

FAULTLESS = health.Health(bad_pages=0, uncorrectable_errors=0)
"""Its memory is the host's."""

SUPPORT = 10
"""Below any driver for real hardware."""


class SoftwareGPUDriver(contract.GPUDriver):
    """VFs of the software GIMs under [software_gim] runtime_dir."""

    name = 'software'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        software_gim.register_opts(conf)
        self._directory = pathlib.Path(conf.software_gim.runtime_dir)

    def _describe_all(self) -> list[tuple[str, dict[str, Any]]]:
        """(socket path, description) of each GIM that answers."""
        found = []
        for path in sorted(self._directory.glob('*.sock')):
            try:
                gim = unixcall.Client(str(path), timeout=10)
                try:
                    found.append((str(path), gim.call('describe')))
                finally:
                    gim.close()
            except unixcall.CallError as exc:
                LOG.warning('The software GIM at %s does not answer: %s',
                            path, exc)
        return found

    def evaluate_support(self) -> int:
        return SUPPORT if self._describe_all() else 0

    def pools(self) -> tuple[contract.Pool, ...]:
        return tuple(
            contract.Pool(
                found['pf'], identity.VFIdentity(**found['identity']),
                tuple(contract.VF(
                    vf['address'], vf['index'], vf['free'], vf['used_bytes'],
                    _STATES.get(scheduling.SchedulerState(vf['state'])))
                    for vf in found['vfs']), FAULTLESS)
            for _, found in self._describe_all())

    def _connect(self, address: str) -> unixcall.Client:
        for path, found in self._describe_all():
            if any(vf['address'] == address for vf in found['vfs']):
                try:
                    return unixcall.Client(path)
                except unixcall.CallError as exc:
                    raise contract.DeviceError(
                        errno.ENODEV, address, str(exc)) from exc
        raise contract.DeviceError(
            errno.ENODEV, address, 'no software GIM under '
            f'{self._directory} has this VF')

    def open(self, address: str) -> client.SoftwareDevice:
        return client.SoftwareDevice(self._connect(address), address)

    def _call(self, address: str, method: str, **args: Any) -> Any:
        gim = self._connect(address)
        try:
            return gim.call(method, vf=address, **args)
        except unixcall.CallError as exc:
            raise contract.DeviceError(exc.errno or errno.EIO, address,
                                       f'{method}: {exc.strerror}') from exc
        finally:
            gim.close()

    def dirty_rate(self, address: str, seconds: float) -> float | None:
        return float(self._call(address, 'dirtied', seconds=seconds)
                     / seconds)

    def scrub(self, address: str) -> None:
        self._call(address, 'scrub')
