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


"""The GPU driver for any VFIO device whose kernel driver can migrate.

A variant driver may offer its migration only once a device is open, and to
open one only in order to ask would power it on, reset it, and be in the way
of a VM that starts. So nothing is opened here until there is a move, and
whether a device migrates is unknown until then. One that does not is left
out until a driver is bound to it anew: a host driver that is loaded again,
with other options, makes its VFs anew or has its driver bound again.
"""

from collections.abc import Callable
import errno
import logging
import threading

from oslo_config import cfg

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.conf import vfio
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import describe
from nova_vgpu_mig.gpu.vfio import device
from nova_vgpu_mig.gpu.vfio import opening
from nova_vgpu_mig.gpu.vfio import rights
from nova_vgpu_mig.gpu.vfio import sysfs

LOG = logging.getLogger(__name__)

SUPPORT = 50
"""Above the software GIM, below a driver that knows its vendor."""


class _Tracked(device.VFIODevice):
    """A device that the driver knows to be open, for its size.

    pools() asks for that in other threads than the one that has the device.
    """

    closed = False

    def __init__(self, address: str, opened: opening.Opened,
                 explain: contract.Explain) -> None:
        self._closing = threading.Lock()
        super().__init__(address, opened, explain)

    def data_size(self) -> int:
        # Else the number may be another file's by the time of the call.
        with self._closing:
            return super().data_size()

    def close(self) -> None:
        with self._closing:
            try:
                super().close()
            finally:
                self.closed = True


class VFIODriver(contract.GPUDriver):
    """PCI VFs and mediated devices of this machine."""

    name = 'vfio'

    def __init__(self, conf: cfg.ConfigOpts,
                 files: sysfs.Files | None = None,
                 kernel: calls.Kernel | None = None,
                 explain: Callable[[str], contract.Explain] | None = None
                 ) -> None:
        """
        :param files, kernel: other than this machine's, for tests.
        :param explain: called with the address of a VF that was opened;
            returns what its failures are explained by.
        """
        self._explain = explain or self.explanation
        vfio.register_opts(conf)
        self._files = files or sysfs.Files()
        self._doors = opening.Doors(
            self._files, rights.Rights(conf.vfio.helper_command),
            kernel or calls.Kernel())
        self._unable: dict[str, int] = {}
        self._open: dict[str, _Tracked] = {}

    def unable(self) -> frozenset[str]:
        """Addresses of devices whose driver was seen to migrate nothing."""
        return frozenset(node.address for node in self._files.nodes()
                         if self._is_unable(node))

    def _is_unable(self, node: sysfs.Node) -> bool:
        return self._unable.get(node.address) == node.binding

    def _nodes(self) -> list[sysfs.Node]:
        return [node for node in self._files.nodes()
                if not self._is_unable(node)]

    def evaluate_support(self) -> int:
        # Mediated devices come and go with their guests.
        there = bool(self._nodes()) or self._files.has_mdev_parents()
        return SUPPORT if self._files.has_vfio() and there else 0

    def pools(self) -> tuple[contract.Pool, ...]:
        # By the identity too: it is that of all VFs of a pool, and firmware
        # need not be the same in all of a parent's devices.
        pools: dict[tuple[str, ...], tuple[identity.VFIdentity,
                                           list[sysfs.Node]]] = {}
        for node in sorted(self._nodes(), key=lambda node: (
                node.parent, node.type or '', node.index)):
            who = describe.of(node)
            key = str(node.parent), node.type or '', who.digest()
            pools.setdefault(key, (who, []))[1].append(node)
        return tuple(
            contract.Pool(members[0].parent.name, who,
                          tuple(self._vf(node) for node in members))
            for who, members in pools.values())

    def _vf(self, node: sysfs.Node) -> contract.VF:
        held, used = self._held(node.address)
        return contract.VF(node.address, node.index,
                           not held and self._is_free(node), used)

    def _is_free(self, node: sysfs.Node) -> bool:
        try:
            return self._doors.is_free(node)
        except contract.DeviceError as exc:
            LOG.warning('Whether it is free can not be told, so that it is '
                        'taken for held: %s', exc)
            return False

    def _held(self, address: str) -> tuple[bool, int | None]:
        """Whether a device is open here, and its MIG_DATA_SIZE if it is."""
        opened = self._open.get(address)
        if opened is None or opened.closed:
            return False, None
        try:
            return True, opened.data_size()
        except contract.DeviceError:
            return not opened.closed, None

    def _node(self, address: str) -> sysfs.Node:
        node = self._files.find(address)
        if node is None:
            raise contract.DeviceError(
                errno.ENODEV, address, 'no VF or mediated device of a VFIO '
                'driver has this address')
        return node

    def open(self, address: str) -> contract.MigrationDevice:
        node = self._node(address)
        opened = self._doors.open(node)
        try:
            # From here on: a device is reset as it is opened.
            explain = self._explain(address)
        except contract.DeviceError:
            opened.close()
            raise
        try:
            found = _Tracked(address, opened, explain)
        except contract.DeviceError as exc:
            if exc.errno == errno.ENOTSUP:
                self._unable[address] = node.binding
            raise
        self._unable.pop(address, None)
        self._open[address] = found
        return found

    def dirty_rate(self, address: str, seconds: float) -> float | None:
        """None: the uAPI tells what is dirty only in PRE_COPY."""
        self._node(address)
        return None

    def scrub(self, address: str) -> None:
        """Reset the device, which is all that the uAPI has for it."""
        opened = self._doors.open(self._node(address))
        scrubbed = device.VFIODevice(address, opened)
        try:
            scrubbed.reset()
        finally:
            scrubbed.close()
