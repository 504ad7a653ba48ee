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

_NOT_EXPECTED = ('[vgpu_mig_libvirt] uri is empty, so that no VM in QEMU is '
                 'moved with a GPU VF')


def _text(version: tuple[int, ...]) -> str:
    return '.'.join(map(str, version))


def _none(program: str, expected: bool) -> outcome.Result:
    if not expected:
        return outcome.success(f'Not checked: {_NOT_EXPECTED}.')
    return outcome.warning(
        f'Not checked: no {program} was found in the PATH of this user. '
        f'Install it, or set [vgpu_mig_libvirt] uri to nothing if no VM in '
        f'QEMU is to be moved with a GPU VF.')


def libvirt(version: str | None, amd: bool, expected: bool
            ) -> outcome.Result:
    """
    :param version: None where there is no libvirt.
    :param amd: whether the host has AMD GPUs with VFs.
    :param expected: whether the agent is to use one.
    """
    if version is None:
        return _none('libvirt', expected)
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


def reached(uri: str, problem: str) -> outcome.Result:
    """Whether the agent would reach libvirt, from this user and Python.

    :param uri: [vgpu_mig_libvirt] uri.
    :param problem: why it would not, with what to do; '' if it would.
    """
    if not uri:
        return outcome.success(f'Not checked: {_NOT_EXPECTED}.')
    if problem:
        return outcome.warning(
            f'No VM in QEMU is moved with a GPU VF: {problem}. Check again '
            f'as the agent\'s user.')
    return outcome.success(f'libvirt at {uri} answers, to this user.')


def qemu(version: str | None, expected: bool) -> outcome.Result:
    """
    :param version: None where there is no QEMU.
    :param expected: whether VMs in QEMU are to be moved.
    """
    if version is None:
        return _none('QEMU', expected)
    if outcome.older(version, NOVA_QEMU):
        return outcome.failure(f'QEMU {version}: Nova moves VFs with '
                               f'{_text(NOVA_QEMU)} or later only. Upgrade '
                               f'it.')
    return outcome.success(f'QEMU {version}.')
