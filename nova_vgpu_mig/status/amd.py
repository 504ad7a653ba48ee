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

"""What GIM's migration needs of GIM, its VFIO driver and AMD SMI. Pure."""

from collections.abc import Mapping

from nova_vgpu_mig.status import outcome

VFIO_DRIVER = 'amd-vfio-pci'
_OPTION = 'enable_live_migration'
_ON = frozenset({'Y', 'y', '1'})


def host_driver(loaded: bool, option: str | None) -> outcome.Result:
    """
    :param loaded: whether the module gim is.
    :param option: the value of enable_live_migration; None for no such one.
    """
    if not loaded:
        return outcome.failure(
            'The module gim is not loaded: install AMD\'s host driver, and '
            f'load it with: modprobe gim {_OPTION}=1')
    if option is None:
        return outcome.failure(
            f'GIM has no option {_OPTION}, so that this release of it does '
            f'not migrate: install a newer one.')
    if option not in _ON:
        return outcome.failure(
            f'GIM is loaded with {_OPTION}={option}: write "options gim '
            f'{_OPTION}=1" to a file in /etc/modprobe.d, and load the module '
            f'anew when no VM uses a VF.')
    return outcome.success(f'GIM is loaded with {_OPTION}={option}.')


def vfio_driver(present: bool, vfs: Mapping[str, str]) -> outcome.Result:
    """
    :param present: whether the driver amd-vfio-pci is loaded.
    :param vfs: address of each VF of an AMD GPU -> name of its driver.
    """
    if not present:
        return outcome.failure(
            f'The driver {VFIO_DRIVER} is not loaded: with vfio-pci a VF '
            f'works and can not be migrated. Install it with GIM, and: '
            f'modprobe {VFIO_DRIVER.replace("-", "_")}')
    if not vfs:
        return outcome.warning(
            'No AMD GPU has a VF: have GIM divide them, by its module\'s '
            'option for the number of VFs.')
    others = {vf: driver for vf, driver in vfs.items()
              if driver != VFIO_DRIVER}
    if others:
        named = ', '.join(f'{vf} ({driver or "no driver"})'
                          for vf, driver in sorted(others.items())[:8])
        left = f' and {len(others) - 8} more' if len(others) > 8 else ''
        return outcome.warning(
            f'These VFs are not bound to {VFIO_DRIVER} and can not be '
            f'migrated: {named}{left}. Write {VFIO_DRIVER} to their '
            f'driver_override, unbind them, and write their addresses to '
            f'/sys/bus/pci/drivers_probe.')
    return outcome.success(f'{len(vfs)} VFs are bound to {VFIO_DRIVER}.')


def library(problem: str, gpus: int = 0) -> outcome.Result:
    """
    :param problem: why AMD SMI can't be used; '' if it can.
    :param gpus: how many GPUs it sees.
    """
    if problem:
        return outcome.failure(
            f'AMD SMI\'s host library can not be used: {problem}. It comes '
            f'with GIM; make its Python package importable for the Python '
            f'of the agent (PYTHONPATH, or a .pth file), and let the '
            f'agent\'s user open GIM\'s device.')
    if not gpus:
        return outcome.warning('AMD SMI\'s host library sees no GPU: is GIM '
                               'in charge of it?')
    return outcome.success(f'AMD SMI\'s host library sees {gpus} GPUs.')
