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

from tests.lab import base

COMMAND = ('nova-vgpu-mig --config-file '
           '/etc/nova-vgpu-mig/nova-vgpu-mig.conf')


class AgentsTestCase(base.LabTestCase):

    def test_each_node_sees_the_other(self) -> None:
        for asked, asking in ((self.one, self.two), (self.two, self.one)):
            with self.subTest(asked.name):
                said = asking.run(f'{COMMAND} --host {asked.name} hosts')
                self.assertIn(asked.name, said)
