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


"""What a host has measured holds for the next move from it too."""

from unittest import mock

from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.migration import source
from tests import gpu_lab
from tests.unit.agent import agents

PARTS = {'vcpus': 0.001, 'drain': 0.002, 'dirty_units': 0.01, 'state': 0.003,
         'verify': 0.004, 'commit': 0.005, 'run': 0.006}


class TestMeasured(agents.AgentsCase):

    def remember(self) -> None:
        """A move of another VM from host a has ended well."""
        self.a.stop()
        values = record.MigrationRecord(
            'm', 'another', phases.Role.SOURCE, self.a.name, self.b.name,
            self.a.vfs[1], self.b.vfs[0],
            outcome=phases.Outcome.COMPLETED, downtime_parts=dict(PARTS),
            rounds=[record.Round(1, frame_buffer_bytes=1 << 28, seconds=.3,
                                 sending_seconds=.3)])
        book = journal.Journal(
            str(self.a.folder / self.a.name / 'journal.sqlite'))
        book.begin(phases.Role.SOURCE, values.as_dict())
        for state in (ownership.State.GIVEN_UP, ownership.State.FINISHED):
            book.move('m', phases.Role.SOURCE, state)
        book.close()
        self.a.start()

    def test_the_move_reckons_as_its_plan(self) -> None:
        self.remember()
        seen: list[limits.Limits] = []

        def build(*, limits: limits.Limits, **_: object) -> None:
            seen.append(limits)
            raise ValueError('enough is known')

        request = self.request()
        with mock.patch.object(source, 'SourceMigration', build):
            self.api.claim(self.ctxt, self.b.name, request)
            self.api.prepare_source(self.ctxt, self.a.name, request)
            self.api.start(self.ctxt, self.a.name, request.instance_uuid)
            gpu_lab.until(lambda: bool(seen), 'the source\'s side')
        for part, seconds in PARTS.items():
            if part != 'dirty_units':
                self.assertEqual(seconds, getattr(seen[0].costs, part))
