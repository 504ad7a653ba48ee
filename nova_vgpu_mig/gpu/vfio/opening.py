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


"""Opening a kernel device: through its group, or through its cdev.

A device is opened for its migration alone, so no guest memory is mapped: the
group gets a container without mappings, the cdev an iommufd without any
address space. What is opened beside the device has to stay open as long as
it does, and the kernel frees the migration state with the device's fd.

noiommu is not supported: such a device has no IOMMU to keep its DMA away
from the host, and none of the migratable ones needs it.
"""

from collections.abc import Callable
import contextlib
import dataclasses
import errno
import threading

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import calls
from nova_vgpu_mig.gpu.vfio import sysfs
from nova_vgpu_mig.gpu.vfio import uapi

OpenFile = Callable[[str], int]
"""Opens a device file by its path for reading and writing."""


@dataclasses.dataclass(slots=True)
class Opened:
    """A device's fd, and what must stay open as long as it."""

    kernel: calls.Kernel
    fd: int
    others: list[int]

    def close(self) -> None:
        """Close the device first: the rest is what it stands on."""
        fds, self.others = [self.fd, *self.others], []
        self.fd = -1
        for fd in fds:
            if fd >= 0:
                self.kernel.close(fd)


class Doors:
    """The ways to the devices of one machine.

    One thread at a time goes through: a device that is open for a moment,
    in order to see whether it is free, would be busy for all others.
    """

    def __init__(self, files: sysfs.Files, open_file: OpenFile,
                 kernel: calls.Kernel) -> None:
        self._files = files
        self._open_file = open_file
        self._kernel = kernel
        self._lock = threading.Lock()

    def open(self, node: sysfs.Node) -> Opened:
        """Open a device for migration.

        :raises DeviceError: EBUSY it is open already; EACCES the agent may
            not; what the kernel says otherwise.
        """
        with self._lock:
            return self._open(node)

    def _open(self, node: sysfs.Node) -> Opened:
        with contextlib.ExitStack() as stack:
            opened = (self._by_cdev(node, stack) if self._has_cdev(node)
                      else self._by_group(node, stack))
            stack.pop_all()
            return opened

    def is_free(self, node: sysfs.Node) -> bool:
        """Whether nobody has the device open.

        The kernel tells by EBUSY only. A group is exclusive, and opening it
        does nothing to its device; a cdev must be bound, which powers the
        device on. So the group is asked where there is one.

        A QEMU that opens the device in the same moment gets EBUSY. The
        moment is two system calls long, but the helper's round trip where
        the agent needs that for its rights. Rejected: to read it somewhere
        instead. sysfs does not have it, and /proc/PID/fd of all processes is
        for a root with capabilities only, which the helper does not keep.

        :raises DeviceError: it can't be told.
        """
        try:
            with self._lock:
                if self._files.has_group(node):
                    with contextlib.ExitStack() as stack:
                        self._enter(stack, self._files.group(node), node)
                else:
                    self._open(node).close()
        except contract.DeviceError as exc:
            if exc.errno == errno.EBUSY:
                return False
            raise
        return True

    def _has_cdev(self, node: sysfs.Node) -> bool:
        # A kernel may have an iommufd and no cdevs: they are two options.
        return self._files.has_iommufd() and self._files.has_cdev(node)

    def _enter(self, stack: contextlib.ExitStack, path: str,
               node: sysfs.Node) -> int:
        """Open a file; it is closed with the stack."""
        try:
            fd = self._open_file(path)
        except OSError as exc:
            hint = {
                errno.EBUSY: '; a VM or another program has it open',
                errno.EACCES: '; see [vfio] helper_command for the rights',
                errno.EPERM: '; see [vfio] helper_command for the rights',
            }.get(exc.errno or 0, '')
            raise contract.DeviceError(exc.errno or errno.EIO, node.address,
                                       f'open {path}{hint}') from exc
        stack.callback(self._kernel.close, fd)
        return fd

    def _try(self, node: sysfs.Node, what: str, fd: int, request: int,
             argument: bytearray | int = 0) -> int:
        try:
            return self._kernel.ioctl(fd, request, argument)
        except OSError as exc:
            raise contract.DeviceError(exc.errno or errno.EIO, node.address,
                                       what) from exc

    def _by_cdev(self, node: sysfs.Node,
                 stack: contextlib.ExitStack) -> Opened:
        iommufd = self._enter(stack, self._files.iommufd, node)
        fd = self._enter(stack, self._files.cdev(node), node)
        bind = uapi.BindIommufd(iommufd=iommufd)
        bind.argsz = len(bytes(bind))
        try:
            self._kernel.ioctl(fd, uapi.DEVICE_BIND_IOMMUFD, bytearray(bind))
        except OSError as exc:
            # EINVAL is the kernel's word for a cdev that is bound already.
            code = errno.EBUSY if exc.errno == errno.EINVAL else exc.errno
            raise contract.DeviceError(
                code or errno.EIO, node.address,
                'bind the device to an iommufd; EBUSY: a VM or another '
                'program has it open') from exc
        return Opened(self._kernel, fd, [iommufd])

    def _by_group(self, node: sysfs.Node,
                  stack: contextlib.ExitStack) -> Opened:
        container = self._enter(stack, self._files.container, node)
        version = self._try(node, 'VFIO API version', container,
                            uapi.GET_API_VERSION)
        if version != uapi.API_VERSION or not self._try(
                node, 'type1v2 of the container', container,
                uapi.CHECK_EXTENSION, uapi.TYPE1V2_IOMMU):
            raise contract.DeviceError(
                errno.ENOTSUP, node.address, 'the kernel has no type1v2 '
                'container; load the module vfio_iommu_type1')
        group = self._enter(stack, self._files.group(node), node)
        status = uapi.GroupStatus()
        status.argsz = len(bytes(status))
        buffer = bytearray(status)
        self._try(node, 'status of the IOMMU group', group,
                  uapi.GROUP_GET_STATUS, buffer)
        if not uapi.GroupStatus.from_buffer(
                buffer).flags & uapi.GROUP_VIABLE:
            raise contract.DeviceError(
                errno.EPERM, node.address, f'IOMMU group {node.group} is not '
                'viable: another device in it is bound to a host driver')
        self._try(node, 'give the group a container', group,
                  uapi.GROUP_SET_CONTAINER,
                  bytearray(container.to_bytes(4, 'little')))
        self._try(node, 'type1v2 for the container', container,
                  uapi.SET_IOMMU, uapi.TYPE1V2_IOMMU)
        name = bytearray(node.address.encode() + b'\0')
        fd = self._try(node, 'open the device through its group', group,
                       uapi.GROUP_GET_DEVICE_FD, name)
        return Opened(self._kernel, fd, [group, container])
