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

"""What the agent needs of its configuration and its disk. Pure."""

import ipaddress

from nova_vgpu_mig.status import outcome


def journal(path: str, directory: str, writable: bool) -> outcome.Result:
    """
    :param path: [vgpu_mig_agent] journal.
    :param directory: the nearest directory above it that there is.
    :param writable: whether this user may write there.
    """
    if not writable:
        return outcome.failure(
            f'[vgpu_mig_agent] journal = {path}: this user may not write in '
            f'{directory}. The right to run a VF is noted there: give the '
            f'directory to the agent\'s user, and check again as that user.')
    return outcome.success(f'{directory} can be written, by this user.')


def data_host(address: str) -> outcome.Result:
    """:param address: [vgpu_mig_agent] data_host."""
    try:
        local = ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = address == 'localhost'
    if local:
        return outcome.warning(
            f'[vgpu_mig_agent] data_host = {address}: no other host can '
            f'send a VF\'s state to it. Set it to an address of this host '
            f'that the other compute hosts reach.')
    return outcome.success(f'VF state is taken on {address}.')
