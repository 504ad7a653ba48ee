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
    'Check that the SR-IOV host driver is loaded and its VFs are enabled, '
    'and, for the software GIM, that it runs under [software_gim] '
    'runtime_dir.')
