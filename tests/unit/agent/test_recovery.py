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

"""What agents do with moves that go wrong after the decision."""

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from tests import gpu_lab
from tests.unit.agent import agents

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION


class TestResolve(agents.AgentsCase):

    def observe(self, record: record_.MigrationRecord) -> None:
        if (record.role, record.phase) == (DESTINATION, phases.Phase.RUN):
            self.vanish(True)

    def vanish(self, value: bool) -> None:
        client = self.b.gim.connect()
        client.call('knob', vf=self.b.vfs[1], name='vanish', value=value)
        client.close()

    def test_a_run_that_goes_on_failing(self) -> None:
        guest = gpu_lab.Guest(self.a.gim, self.a.vfs[0])
        guest.load_driver()
        self.addCleanup(guest.close)
        request = self.request()
        uuid = request.migration_uuid
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)

        def resolve(action: str) -> dict[str, object]:
            return self.api.resolve(self.ctxt, self.b.name, uuid,
                                    DESTINATION, action)

        gpu_lab.until(lambda: 'tried again' in self.api.get(
            self.ctxt, self.b.name, uuid).reason, 'a run that fails')
        with self.assertRaises(errors.Refused):
            resolve('drop')
        said = resolve('run')
        self.assertFalse(said['done'])
        self.assertIn('ENODEV', str(said['explanation']))
        self.vanish(False)
        self.assertTrue(resolve('run')['done'])
        self.assertEqual(
            [('OWNED', 'completed')],
            [(row['state'], row['record']['outcome'])
             for row in self.api.records(self.ctxt, self.b.name)])
