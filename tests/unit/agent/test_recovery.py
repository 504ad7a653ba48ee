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

import threading
from typing import Any
from unittest import mock

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import resolving
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
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


class TestDoubt(agents.AgentsCase):
    """A destination that waits for its source, and is live."""

    def setUp(self) -> None:
        self.prepared, self.go_on = threading.Event(), threading.Event()
        self.answer: ownership.State | None = None
        super().setUp()
        self.addCleanup(self.go_on.set)
        self.enterContext(mock.patch.object(node.Node, 'ask_source',
                                            self.ask_source))
        self.b.conf.set_override('rpc_timeout', 1, 'vgpu_mig_agent')
        guest = gpu_lab.Guest(self.a.gim, self.a.vfs[0])
        guest.load_driver()
        self.addCleanup(guest.close)
        request = self.request()
        self.uuid = request.migration_uuid
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        self.assertTrue(self.prepared.wait(gpu_lab.PATIENCE))

    def ask_source(self, entry: journal.Entry) -> ownership.State | None:
        return self.answer

    def observe(self, record: record_.MigrationRecord) -> None:
        if (record.role, record.phase) == (DESTINATION, phases.Phase.COMMIT):
            self.prepared.set()
            self.go_on.wait(gpu_lab.PATIENCE)

    def doubt(self) -> None:
        """The source's agent ends before it has heard of PREPARED."""
        self.a.stop()
        self.go_on.set()
        gpu_lab.until(lambda: 'in doubt' in self.reason(), 'the doubt')

    def reason(self) -> str:
        return str(self.api.get(self.ctxt, self.b.name, self.uuid).reason)

    def state(self) -> str:
        return str(self.api.records(self.ctxt, self.b.name)[0]['state'])

    def resolve(self, action: str, **options: Any) -> dict[str, Any]:
        return self.api.resolve(self.ctxt, self.b.name, self.uuid,
                                DESTINATION, action, **options)

    def test_an_operator_drops_it(self) -> None:
        self.doubt()
        with self.assertRaises(errors.Refused) as caught:
            self.resolve('run')
        self.assertIn(f'nova-vgpu-mig --host {self.b.name} resolve '
                      f'{self.uuid} --role destination --action drop --yes',
                      caught.exception.message)
        self.assertFalse(self.resolve('auto')['done'])
        told = self.resolve('drop', dry_run=True)
        self.assertFalse(told['done'])
        self.assertIn('evacuated or rebuilt', told['explanation'])
        self.assertEqual('PREPARED', self.state())
        self.assertTrue(self.resolve('drop')['done'])
        self.assertEqual('DROPPED', self.state())
        self.assertRegex(self.reason(),
                         f'^dropped by the operator: .* {self.a.name} can '
                         f'not be read')
        self.assertTrue(self.free(self.b, self.b.vfs[1]))

    def test_the_source_says_it_itself(self) -> None:
        self.doubt()
        self.answer = ownership.State.RETURNED
        self.assertTrue(self.resolve('auto')['done'])
        self.assertEqual('DROPPED', self.state())
        self.assertIn('went on with the VF', self.reason())

    def test_a_source_that_comes_back_at_the_last_moment(self) -> None:
        self.doubt()
        give_up = destination.DestinationMigration.give_up

        def late(this: destination.DestinationMigration,
                 reason: str) -> None:
            self.answer = ownership.State.ACTIVE
            give_up(this, reason)

        self.enterContext(mock.patch.object(resolving, '_END_SECONDS', 0.0))
        self.enterContext(mock.patch.object(
            destination.DestinationMigration, 'give_up', late))
        self.assertFalse(self.resolve('drop')['done'])
        self.assertEqual('PREPARED', self.state())
        with self.assertRaises(errors.Refused):
            self.resolve('drop')

    def test_what_is_not_in_doubt_is_not_dropped(self) -> None:
        with self.assertRaises(errors.Refused) as caught:
            self.resolve('drop')
        self.assertIn('not in doubt', caught.exception.message)
        self.assertEqual('PREPARED', self.state())

    def test_an_operator_drops_it_after_a_restart(self) -> None:
        self.doubt()
        self.b.stop()
        self.b.start()
        self.assertTrue(self.resolve('drop')['done'])
        self.assertEqual('DROPPED', self.state())
        self.assertIn('dropped by the operator', self.reason())
