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

"""The options of a node's agent, changed for a test, and back."""

from lab import node as node_

_CONFIG = '/etc/nova-vgpu-mig/nova-vgpu-mig.conf'
_CHANGE = """
set -e
sed -i '/^# Of a test/,$d' {config}
printf '# Of a test\\n[vgpu_mig_libvirt]\\n{lines}' >>{config}
sh /lab/files/agent kill
sh /lab/files/agent start
"""


def change(node: node_.Node, **libvirt: object) -> None:
    """Start the agent with these options of [vgpu_mig_libvirt], and only
    these.
    """
    lines = ''.join(f'{name} = {value}\\n' for name, value in libvirt.items())
    node.run(_CHANGE.format(config=_CONFIG, lines=lines))
