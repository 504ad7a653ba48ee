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

"""A move under way, as the test sees it: a client that plays Nova."""

import json
import subprocess
from typing import Any
import uuid

from lab import errors
from lab import network
from lab import node as node_
from tests.lab import forked
from tests.lab import guest as guest_

URI = 'qemu+tcp://{address}/system'
PATIENCE = 240


def journals(node: node_.Node, *uuids: str) -> dict[str, Any]:
    """Return what the agents know of these moves (tests/lab/journals.py).

    :raises LabError: one of them does not answer.
    """
    said = node.run(f'{forked.COMMAND} journals {" ".join(uuids)}')
    found: dict[str, Any] = json.loads(said.splitlines()[-1])
    return found


class Move:
    """Started when it is made; end() has to be called."""

    def __init__(self, guest: guest_.Guest, to: node_.Node, *mdevs: str,
                 agents: bool = False, **more: Any) -> None:
        self.guest = guest
        self.source = guest.node
        self.to = to
        self.mdevs = mdevs
        self.uuid = str(uuid.uuid4())
        order = {
            'domain': guest.name, 'instance_uuid': guest.uuid,
            'migration_uuid': self.uuid, 'source': guest.node.name,
            'destination': to.name, 'destination_uri': URI.format(
                address=network.node_address(to.number)),
            'destination_xml': guest.xml(mdevs),
            'source_vf': guest.mdevs[0], 'destination_vf': mdevs[0],
            'agents': agents, **more}
        self._process = guest.node.begin(f'{forked.COMMAND} client',
                                         json.dumps(order).encode())

    def result(self, seconds: float = PATIENCE) -> dict[str, Any]:
        """Wait for the client's end and return its Result.

        The guest is thought to be where the move was to take it if it
        says so.

        :raises LabError: no end in this time, or none that it means.
        """
        try:
            said, complaint = self._process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            raise errors.LabError(
                f'{self.guest.name}: no end within {seconds:.0f} s') from None
        lines = [json.loads(line) for line in said.splitlines()]
        if not lines or lines[-1]['step'] != 'end':
            raise errors.LabError(
                'the client ended with '
                f'{said.decode()}{complaint.decode()}')
        result: dict[str, Any] = lines[-1]
        if result['outcome'] == 'completed':
            self.guest.node, self.guest.mdevs = self.to, self.mdevs
        return result

    def running(self) -> bool:
        return self._process.poll() is None

    def abort(self) -> None:
        """Have the source's agent abort it (tests/lab/abort.py)."""
        self.source.run(f'{forked.COMMAND} abort {self.source.name} '
                        f'{self.guest.uuid}')

    def end(self) -> None:
        """End the client, wherever it is."""
        # Not to the end of what it says: the pipe is with ssh's master, which
        # keeps it as long as the node's half lives.
        self._process.kill()
        with self._process:
            pass
