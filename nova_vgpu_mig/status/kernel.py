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

"""What a migration needs of the kernel and of the IOMMU. Pure.

There is no log of what a GPU writes to guest RAM but the IOMMU's own dirty
bits, read through iommufd: without these, memory that the GPU wrote after it
had been copied would be lost.
"""

from collections.abc import Mapping
from collections.abc import Sequence

from nova_vgpu_mig.status import machine
from nova_vgpu_mig.status import outcome

KERNEL = (6, 8)

_AMD_DIRTY = 1 << 52
"""HDSup of the extended feature register (AMD I/O virtualization 48882)."""

_INTEL_DIRTY = 1 << 45
"""SSADS of the extended capability register (VT-d)."""

_INTEL_SCALABLE = 1 << 43
"""SMTS: only in scalable mode does it count."""


def release(version: str) -> outcome.Result:
    """:param version: of the kernel that runs."""
    if outcome.older(version, KERNEL):
        return outcome.failure(
            f'Kernel {version} runs, and GIM migrates with 6.8 or later '
            f'only: boot a newer kernel.')
    return outcome.success(f'Kernel {version}.')


def iommufd(present: bool) -> outcome.Result:
    """:param present: whether there is /dev/iommu."""
    if not present:
        return outcome.failure(
            'There is no /dev/iommu: load the module iommufd (modprobe '
            'iommufd; a file in /etc/modules-load.d keeps it), of a kernel '
            'built with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV.')
    return outcome.success('/dev/iommu is there.')


def vfio_rights(files: Mapping[str, bool], command: str, problem: str,
                expected: bool) -> outcome.Result:
    """
    :param files: of VFIO's devices -> whether this user may open it.
    :param command: [vfio] helper_command.
    :param problem: why that opens none either; '' if it does.
    :param expected: whether VFs of this host are to be moved by the kernel.
    """
    if not files:
        if not expected:
            return outcome.success('Not checked: no device is below '
                                   '/dev/vfio, and none is expected.')
        return outcome.warning('Not checked: no device is below /dev/vfio. '
                               'Bind a VF to its VFIO driver first.')
    closed = sorted(path for path, may in files.items() if not may)
    if not closed:
        return outcome.success(
            f'This user may open {", ".join(sorted(files)[:4])}'
            f'{" and all others" if len(files) > 4 else ""}.')
    if command and not problem:
        return outcome.success(f'Opened by [vfio] helper_command = '
                               f'{command}, for this user.')
    why = (f'helper_command = {command} does not open it either: {problem}'
           if command else 'helper_command is empty')
    return outcome.failure(
        f'This user may not open {closed[0]}, and [vfio] {why}. Allow the '
        f'agent\'s user the helper in sudoers, or give its group the devices '
        f'with a udev rule (SUBSYSTEM=="vfio|vfio-dev", GROUP="...", '
        f'MODE="0660"; KERNEL=="iommu" likewise), and check again as that '
        f'user.')


def _tracks(iommu: machine.IOMMU) -> bool | None:
    """Whether it keeps dirty bits; None: it does not tell."""
    try:
        value = int(iommu.register.split(':')[0], 16)
    except ValueError:
        return None
    if iommu.kind == 'amd-iommu':
        return bool(value & _AMD_DIRTY)
    if iommu.kind == 'intel-iommu':
        wanted = _INTEL_DIRTY | _INTEL_SCALABLE
        return value & wanted == wanted
    return None


def dirty_tracking(iommus: Sequence[machine.IOMMU]) -> outcome.Result:
    """All of them must keep dirty bits: a GPU is behind any one."""
    if not iommus:
        return outcome.failure(
            'The kernel uses no IOMMU: enable it in the firmware (AMD-Vi, '
            'VT-d), and on the kernel\'s command line where it is off '
            '(intel_iommu=on,sm_on).')
    without = [iommu.name for iommu in iommus if _tracks(iommu) is False]
    silent = [iommu.name for iommu in iommus if _tracks(iommu) is None]
    if without:
        return outcome.failure(
            f'No hardware dirty tracking in {", ".join(without)}: guest RAM '
            f'that the GPU writes could not be followed. It needs another '
            f'processor (EPYC since Genoa; Xeon since Sapphire Rapids), or '
            f'on Intel scalable mode.')
    if silent:
        return outcome.warning(
            f'Whether {", ".join(silent)} has hardware dirty tracking can '
            f'not be told from sysfs: look into the processor\'s manual.')
    return outcome.success(
        f'Hardware dirty tracking in {", ".join(i.name for i in iommus)}; on '
        f'Intel it counts with intel_iommu=sm_on only, which sysfs does not '
        f'tell.')
