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


"""Finding the VMM port that fits this machine best.

Ports are entry points of `nova_vgpu_mig.vmm_ports`, chosen as GPU drivers
are: each says how well it fits, and the best one wins.
"""

from collections.abc import Iterable
import logging
from typing import Any

from oslo_config import cfg
from stevedore import extension

from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

NAMESPACE = 'nova_vgpu_mig.vmm_ports'


class NoVMMPort(Exception):
    """No port fits; the message names each one that was asked."""


def best(ports: Iterable[vmm_port.VMMPort]) -> vmm_port.VMMPort:
    """Return the port with the highest evaluate_support().

    :raises NoVMMPort: every one says 0 (or fails to answer).
    """
    marks: list[tuple[int, vmm_port.VMMPort]] = []
    tried: list[str] = []
    for port in ports:
        try:
            mark = port.evaluate_support()
        except Exception as exc:
            LOG.exception('VMM port %s failed to look at this machine',
                          port.name)
            tried.append(f'{port.name} failed: {exc}')
            continue
        tried.append(f'{port.name} does not fit')
        if mark > 0:
            marks.append((mark, port))
    if not marks:
        raise NoVMMPort(
            'No VMM port fits this machine ('
            + ('; '.join(tried) or f'none is installed under {NAMESPACE}')
            + '). For the VMM stand-in, create [vmm_standin] runtime_dir '
            'and start its guests there.')
    return max(marks, key=lambda pair: pair[0])[1]


def load(conf: cfg.ConfigOpts) -> vmm_port.VMMPort:
    """Load every installed port and return the best one.

    :raises NoVMMPort: as best().
    """
    def failed(manager: Any, entry_point: Any, exc: Exception) -> None:
        LOG.warning('VMM port %s cannot be loaded: %s', entry_point.name,
                    exc)

    found = extension.ExtensionManager(
        NAMESPACE, invoke_on_load=True, invoke_args=(conf,),
        on_load_failure_callback=failed)
    return best(item.obj for item in found)
