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

"""What an agent does by itself from its start on."""

import pathlib

from tests import gpu_lab
from tests.unit.agent import agents


class TestVMM(agents.AgentsCase):

    def test_a_vmm_that_comes_later_than_its_agent(self) -> None:
        folder = pathlib.Path(self.a.conf.vmm_standin.runtime_dir)
        self.a.stop()
        folder.rmdir()
        self.a.start()

        def carriers() -> list[str]:
            return list(self.api.describe(self.ctxt, self.a.name).carriers)

        self.assertEqual([], carriers())
        folder.mkdir()
        gpu_lab.until(lambda: carriers() == ['agent'],
                      'the VMM port to be found')
