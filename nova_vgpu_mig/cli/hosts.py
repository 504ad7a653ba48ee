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

"""hosts: the agents, their releases and their GPUs.

What has to be known before a rolling upgrade ends, and before a move.
"""

from typing import Any

from cliff import lister

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.cli import ask
from nova_vgpu_mig.cli import blocks

COLUMNS = ('Host', 'Release', 'RPC', 'Data address', 'Carriers', 'PF',
           'VFs', 'Free VFs')


def rows(found: objects.HostDescription) -> list[tuple[Any, ...]]:
    """Return a line for each PF, one without for a host that has none."""
    head = (found.host, found.version, found.rpc_version,
            f'{found.data_host}:{found.data_port}',
            ', '.join(found.carriers) or 'none')
    return [(*head, pool.pf_address, len(pool.vfs),
             sum(vf.free for vf in pool.vfs))
            for pool in found.as_pools()] or [(*head, '', 0, 0)]


class ListHosts(blocks.InBlocks, lister.Lister):  # type: ignore[misc]
    """List the agents of the given hosts, with releases and free VFs."""

    def take_action(self, parsed_args: Any) -> Any:
        found: list[tuple[Any, ...]] = []
        for host in self.app.hosts:
            try:
                found += rows(self.app.api.describe(ask.request(), host))
            except errors.AgentError as exc:
                self.app.stderr.write(f'{exc.message}\n')
        if not found:
            raise RuntimeError('no agent has answered')
        return COLUMNS, found
