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

"""The nodes' agents, over the broker outside."""

import functools

from lab import node as node_
from lab import wait
from tests.lab import base
from tests.lab import faults

COMMAND = ('nova-vgpu-mig --config-file '
           '/etc/nova-vgpu-mig/nova-vgpu-mig.conf')
PATIENCE = 180


class AgentsTestCase(base.LabTestCase):

    def _sees(self, asking: node_.Node, asked: node_.Node) -> bool:
        done = asking.attempt(f'{COMMAND} --host {asked.name} hosts')
        return not done.returncode and asked.name in done.stdout.decode()

    def _assert_each_sees_the_other(self) -> None:
        for pair in ((self.one, self.two), (self.two, self.one)):
            wait.until(f'{pair[1].name} answers {pair[0].name}',
                       functools.partial(self._sees, *pair), PATIENCE,
                       pair[1].console)

    def test_each_node_sees_the_other(self) -> None:
        self._assert_each_sees_the_other()

    def test_one_that_was_killed_answers_again(self) -> None:
        faults.kill_agent(self.one)
        self.assertTrue(self._sees(self.two, self.one))

    def test_they_outlive_their_broker(self) -> None:
        faults.kill_broker()
        self._assert_each_sees_the_other()
