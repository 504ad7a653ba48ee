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

"""This checkout, as the nodes run it.

It is not in the image: it is sent to running nodes, so that a changed line
needs neither a build nor a boot. What pip would write about an installed
package (its name and its entry points) is made from pyproject.toml.
"""

import hashlib
import io
import pathlib
import tarfile
import tomllib

from lab import network
from lab import places

WHERE = 'opt/nova-vgpu-mig'
_TAKEN = ('nova_vgpu_mig', 'tests', 'pyproject.toml')
_SITE = 'usr/local/lib/python3.13/dist-packages/lab.pth'


def archive(number: int, broker_port: int, password: str) -> bytes:
    """Return a tar of all that a node gets, by path from its root."""
    files = {**_sources(), **_metadata(), _SITE: _paths(),
             'etc/nova-vgpu-mig/nova-vgpu-mig.conf':
             _settings(number, broker_port, password)}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode='w') as tar:
        for name, content in sorted(files.items()):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sources() -> dict[str, bytes]:
    found = {}
    for taken in _TAKEN:
        top = places.CHECKOUT / taken
        for path in [top] if top.is_file() else top.rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                name = path.relative_to(places.CHECKOUT)
                found[f'{WHERE}/{name}'] = path.read_bytes()
    return found


def _metadata() -> dict[str, bytes]:
    text = (places.CHECKOUT / 'pyproject.toml').read_text()
    project = tomllib.loads(text)['project']
    groups = {'console_scripts': project.get('scripts', {}),
              **project.get('entry-points', {})}
    lines = []
    for group, points in groups.items():
        lines += [f'[{group}]']
        lines += [f'{name} = {target}' for name, target in points.items()]
    about = pathlib.PurePosixPath(WHERE) / 'nova_vgpu_mig-0.dist-info'
    return {
        f'{about}/METADATA': f'Metadata-Version: 2.1\n'
        f'Name: {project["name"]}\nVersion: 0\n'.encode(),
        f'{about}/entry_points.txt': '\n'.join([*lines, '']).encode()}


def _paths() -> bytes:
    return f'/{WHERE}\n/lab/python\n'.encode()


def _settings(number: int, broker_port: int, password: str) -> bytes:
    return f"""\
[DEFAULT]
transport_url = rabbit://lab:{password}@{network.OUTSIDE}:{broker_port}//

[vgpu_mig_agent]
host = {network.node_name(number)}
data_host = {network.node_address(number)}

[vgpu_mig_libvirt]
# On a node, two looks a second at seven moves cost more than the moves.
poll_interval = 1

[vmm_standin]
memory_host = {network.node_address(number)}

[oslo_messaging_rabbit]
rabbit_quorum_queue = false
""".encode()
