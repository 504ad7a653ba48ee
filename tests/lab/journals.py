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

"""Says what both agents know of some moves: run on a node, by ssh.

`python3 -m tests.lab.journals UUID ...` prints a line of JSON: of each move
and role whether the entry is settled, its outcome, and its notes; and the
VFs of each host that are free.
"""

import json
import sys
from typing import Any

from nova_vgpu_mig.cmd import backend

backend.choose()

from nova_vgpu_mig.agent import rpcapi  # noqa: E402
from tests.lab import extension  # noqa: E402

HOSTS = ('node1', 'node2')


def _free(api: rpcapi.AgentAPI, host: str) -> list[str]:
    described = api.describe(extension.CONTEXT, host)
    return [vf.address for pool in described.as_pools() for vf in pool.vfs
            if vf.free]


def _entries(api: rpcapi.AgentAPI, uuids: list[str]) -> list[dict[str, Any]]:
    return [{'uuid': entry['record']['migration_uuid'],
             'role': entry['record']['role'], 'settled': entry['settled'],
             'outcome': entry['record']['outcome'],
             'notes': entry['record']['notes']}
            for host in HOSTS for entry in api.records(extension.CONTEXT,
                                                       host)
            if entry['record']['migration_uuid'] in uuids]


def main() -> None:
    api = extension.api()
    print(json.dumps({'entries': _entries(api, sys.argv[1:]),
                      'free': {host: _free(api, host) for host in HOSTS}}))


if __name__ == '__main__':
    main()
