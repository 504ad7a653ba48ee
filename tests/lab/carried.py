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

"""One move by the agent carrier, without a guest: run on the source node.

`python3 -m tests.lab.carried SOURCE VF DESTINATION VF` asks the agents as the
VMM stand-in would, and prints the source's record as its last line.
"""

import json
import sys
import time
import uuid

from nova_vgpu_mig.cmd import backend

backend.choose()

from nova_vgpu_mig.agent import objects  # noqa: E402
from nova_vgpu_mig.migration import phases  # noqa: E402
from tests.lab import extension  # noqa: E402

LIMIT_MS = 60000


def main() -> None:
    source, source_vf, destination, destination_vf = sys.argv[1:]
    api = extension.api()
    context = extension.CONTEXT
    request = objects.VFMigrationRequest(
        migration_uuid=str(uuid.uuid4()), instance_uuid=str(uuid.uuid4()),
        source_host=source, destination_host=destination,
        source_vf=source_vf, destination_vf=destination_vf,
        limit_ms=LIMIT_MS)
    api.claim(context, destination, request)
    api.prepare(context, destination, request.migration_uuid)
    api.prepare_source(context, source, request)
    api.start(context, source, request.instance_uuid)
    while True:
        record = api.get(context, source, request.migration_uuid,
                         role=phases.Role.SOURCE)
        if record.phase.terminal:
            break
        time.sleep(0.5)
    if record.outcome is phases.Outcome.COMPLETED:
        for host, role in ((source, phases.Role.SOURCE),
                           (destination, phases.Role.DESTINATION)):
            api.finish(context, host, request.migration_uuid, role)
    print(json.dumps(record.as_dict()))


if __name__ == '__main__':
    main()
