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

"""What Nova asks two agents for, as tests ask for it."""

from typing import Any
from typing import Protocol
import uuid

from nova_vgpu_mig.agent import objects


class Host(Protocol):
    """As much of a host as a request names."""

    name: str
    vfs: list[str]


def between(source: Host, destination: Host,
            **changes: Any) -> objects.VFMigrationRequest:
    """Ask for a move to another VF index, with a patient limit."""
    values = {
        'migration_uuid': str(uuid.uuid4()),
        'instance_uuid': str(uuid.uuid4()), 'request_id': 'req-1',
        'source_host': source.name, 'destination_host': destination.name,
        'source_vf': source.vfs[0], 'destination_vf': destination.vfs[1],
        'limit_ms': 60000}
    return objects.VFMigrationRequest(**(values | changes))
