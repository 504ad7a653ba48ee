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

"""What Nova and GIM need of libvirt and QEMU. Pure."""

from nova_vgpu_mig.status import outcome

NOVA_LIBVIRT = (10, 0, 0)
NOVA_QEMU = (8, 2, 2)
"""Below these, Nova refuses VFs that are marked live-migratable."""

IOMMUFD_LIBVIRT = (12, 1, 0)


def _text(version: tuple[int, ...]) -> str:
    return '.'.join(map(str, version))


def libvirt(version: str | None, amd: bool) -> outcome.Result:
    """
    :param version: None where there is no libvirt.
    :param amd: whether the host has AMD GPUs with VFs.
    """
    if version is None:
        return outcome.success('Not checked: no libvirt was found here.')
    if outcome.older(version, NOVA_LIBVIRT):
        return outcome.failure(
            f'libvirt {version}: Nova moves VFs with '
            f'{_text(NOVA_LIBVIRT)} or later only. Upgrade it.')
    if amd and outcome.older(version, IOMMUFD_LIBVIRT):
        return outcome.warning(
            f'libvirt {version} gives host devices no iommufd, and without '
            f'that nobody sees what the GPU writes to guest RAM; '
            f'{_text(IOMMUFD_LIBVIRT)} does. Upgrade it before QEMU carries '
            f'VFs of this host.')
    return outcome.success(f'libvirt {version}.')


def qemu(version: str | None) -> outcome.Result:
    """:param version: None where there is no QEMU."""
    if version is None:
        return outcome.success('Not checked: no QEMU was found here.')
    if outcome.older(version, NOVA_QEMU):
        return outcome.failure(f'QEMU {version}: Nova moves VFs with '
                               f'{_text(NOVA_QEMU)} or later only. Upgrade '
                               f'it.')
    return outcome.success(f'QEMU {version}.')
