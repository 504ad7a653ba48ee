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

"""What a record says at its end, and that the journal keeps it."""

import os
import tempfile

from oslotest import base

from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import progress
from nova_vgpu_mig.migration import record as record_


class EndTest(base.BaseTestCase):

    def end(self, phase, outcome):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        book = journal.Journal(os.path.join(directory.name, 'journal'))
        self.addCleanup(book.close)
        record = record_.MigrationRecord(
            'm', 'i', phases.Role.SOURCE, 'here', 'there', 'a', 'b',
            remaining_bytes=42)
        book.begin(phases.Role.SOURCE, record.as_dict())
        progress.Progress(record, book, None).end(phase, outcome, 'why')
        return book.get('m', phases.Role.SOURCE).record

    def test_nothing_is_left_of_a_completed_move(self):
        kept = self.end(phases.Phase.COMPLETED, phases.Outcome.COMPLETED)
        self.assertEqual((0, 'completed'),
                         (kept['remaining_bytes'], kept['outcome']))

    def test_what_was_left_of_one_that_went_back(self):
        kept = self.end(phases.Phase.RETURNED, phases.Outcome.ABORTED)
        self.assertEqual((42, 'why'),
                         (kept['remaining_bytes'], kept['reason']))
