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

"""Finding the GPU driver that fits this machine best.

Drivers are entry points of `nova_vgpu_mig.gpu_drivers`. Each says how well
it fits; the best one wins. Rejected: the driver's name in the configuration.
It would be one more thing to get wrong on each host, and the machine knows.
"""

from collections.abc import Iterable
import logging
from typing import Any

from oslo_config import cfg
from stevedore import extension

from nova_vgpu_mig.gpu import contract

LOG = logging.getLogger(__name__)

NAMESPACE = 'nova_vgpu_mig.gpu_drivers'


class NoGPUDriver(Exception):
    """No driver fits; the message names each one that was asked."""


def best(drivers: Iterable[contract.GPUDriver]) -> contract.GPUDriver:
    """Return the driver with the highest evaluate_support().

    :raises NoGPUDriver: every one says 0 (or fails to answer).
    """
    marks: list[tuple[int, contract.GPUDriver]] = []
    tried: list[str] = []
    for driver in drivers:
        try:
            mark = driver.evaluate_support()
        except Exception as exc:
            LOG.exception('GPU driver %s failed to look at this machine',
                          driver.name)
            tried.append(f'{driver.name} failed: {exc}')
            continue
        tried.append(f'{driver.name} does not fit')
        if mark > 0:
            marks.append((mark, driver))
    if not marks:
        raise NoGPUDriver(
            'No GPU driver fits this machine ('
            + ('; '.join(tried) or f'none is installed under {NAMESPACE}')
            + '). Check that the SR-IOV host driver is loaded and its VFs '
            'are enabled, and, for the software GIM, that it runs under '
            '[software_gim] runtime_dir.')
    return max(marks, key=lambda pair: pair[0])[1]


def load(conf: cfg.ConfigOpts) -> contract.GPUDriver:
    """Load every installed driver and return the best one.

    :raises NoGPUDriver: as best().
    """
    def failed(manager: Any, entry_point: Any, exc: Exception) -> None:
        LOG.warning('GPU driver %s cannot be loaded: %s',
                    entry_point.name, exc)

    found = extension.ExtensionManager(
        NAMESPACE, invoke_on_load=True, invoke_args=(conf,),
        on_load_failure_callback=failed)
    return best(item.obj for item in found)
