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

"""The GPU drivers, and what to do when none fits this machine."""

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig import plugins


class NoGPUDriver(Exception):
    """No driver fits; the message names each one that was asked."""


DRIVERS: plugins.Family[contract.GPUDriver] = plugins.Family(
    'GPU driver', 'nova_vgpu_mig.gpu_drivers', NoGPUDriver,
    'Each needs something else. gim: AMD SMI\'s host library, importable for '
    'the agent\'s Python, and a GPU in GIM\'s charge. vfio: the directory '
    '/dev/vfio, and in sysfs a VF that is bound to the VFIO driver of its '
    'vendor (vfio-pci migrates none), or a parent of mediated devices. '
    'software: a software GIM that runs, with its socket in [software_gim] '
    'runtime_dir. "nova-vgpu-mig-status upgrade check" looks further at the '
    'first two.')
