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

"""libvirt's Python bindings, found at run time.

They belong to the libvirt of the host (python3-libvirt), not to a list of
requirements: a wheel of its own would have to be compiled against it, and a
host without QEMU needs none.
"""

import dataclasses
import importlib
from typing import Any

from nova_vgpu_mig.vmm import hypervisor


@dataclasses.dataclass(frozen=True, slots=True)
class Binding:
    """The modules; whoever tests hands in others."""

    libvirt: Any
    qemu: Any | None
    """libvirt_qemu; None where it is not installed: no QEMU events."""


def find() -> Binding:
    """Import what this host has.

    :raises hypervisor.HypervisorError: there is no libvirt, and what to
        install.
    """
    try:
        libvirt = importlib.import_module('libvirt')
    except ImportError as exc:
        raise hypervisor.HypervisorError(
            f'libvirt\'s Python bindings can not be imported ({exc}): install '
            f'the distribution\'s python3-libvirt for the Python that runs '
            f'the agent; a virtual environment sees it only if it was made '
            f'with --system-site-packages') from exc
    # It prints each error to stderr otherwise; all are raised as well.
    libvirt.registerErrorHandler(lambda context, error: None, None)
    try:
        return Binding(libvirt, importlib.import_module('libvirt_qemu'))
    except ImportError:
        return Binding(libvirt, None)
