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

"""One move of many between two hosts, in one direction, tidied up after it.

two_hosts.Pair has one source, one destination, and all that a test made
stays until the test ends. Fifty or a thousand moves in one test, there and
back, need neither.
"""

import contextlib

from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery
from tests import two_hosts


class OneWay(contextlib.ExitStack):
    """What two_hosts.Move asks of a pair and of a test case.

    As a context manager: what was added is cleaned up when it is left.
    """

    addCleanup = contextlib.ExitStack.callback

    def __init__(self, source: two_hosts.Host,
                 destination: two_hosts.Host) -> None:
        super().__init__()
        self.source, self.destination = source, destination
        self.case = self

    def finish(self, migration_uuid: str) -> None:
        """Release both sides, as Nova's post hooks make the agents do.

        The guest at the source is gone already.
        """
        for host, role in ((self.source, phases.Role.SOURCE),
                           (self.destination, phases.Role.DESTINATION)):
            recovery.Recovery(
                host.journal, driver_for=lambda _, h=host: h.driver,
                guest_for=lambda _: None, ask_source=lambda _: None,
                push_destination=lambda _: doubt.Answer(),
            ).finish(migration_uuid, role)
