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
import threading
from unittest import mock
import uuid

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import service
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from tests import gpu_lab
from tests import hypervisor_standin
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


class TestLibvirt(agents.AgentsCase):

    def level(self, uri: str) -> str:
        """At which an agent that reaches no libvirt says so."""
        self.a.stop()
        self.a.conf.set_override('uri', uri, 'vgpu_mig_libvirt')
        self.a.hypervisor = found = hypervisor_standin.StandinHypervisor()
        found.down = 'no socket'
        with self.assertLogs(service.LOG, 'INFO') as caught:
            self.a.start()
        level, = (record.levelname for record in caught.records
                  if 'no VM in QEMU' in record.getMessage())
        return level

    def test_a_warning_where_one_is_expected(self) -> None:
        self.assertEqual('WARNING', self.level('qemu:///system'))
        self.assertEqual('INFO', self.level(''))


class TestStart(agents.AgentsCase):

    def doubt(self) -> None:
        """Leave a verified VF in the journal of b, whose agent is down."""
        self.b.stop()
        migration = str(uuid.uuid4())
        values = record.MigrationRecord(
            migration, str(uuid.uuid4()), phases.Role.DESTINATION,
            self.a.name, self.b.name, self.a.vfs[0], self.b.vfs[1])
        book = journal.Journal(
            str(self.b.folder / self.b.name / 'journal.sqlite'))
        book.begin(phases.Role.DESTINATION, values.as_dict())
        for state in (ownership.State.LOADING, ownership.State.PREPARED):
            book.move(migration, phases.Role.DESTINATION, state)
        book.close()

    def test_peers_are_asked_when_calls_are_answered(self) -> None:
        self.doubt()
        self.b.conf.set_override('periodic_seconds', 3600, 'vgpu_mig_agent')
        answered: list[bool] = []
        asked = threading.Event()

        def ask(this: node.Node, entry: journal.Entry) -> None:
            # What the peer may have to do before it has an answer.
            try:
                self.api.describe(self.ctxt, self.b.name)
            except errors.AgentUnreachable:
                answered.append(False)
            else:
                answered.append(True)
            asked.set()

        with mock.patch.object(node.Node, 'ask_source', ask):
            self.b.start()
            # At once, not after a period.
            self.assertTrue(asked.wait(gpu_lab.PATIENCE))
        self.assertEqual([True], answered)
