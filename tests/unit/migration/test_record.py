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

"""The record of a move outlives the agent that has written it."""

from oslotest import base

from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record


class RecordTest(base.BaseTestCase):

    def values(self):
        return record.MigrationRecord(
            'm', 'i', phases.Role.SOURCE, 'here', 'there', 'a', 'b',
            guest='paused').as_dict()

    def test_what_was_the_guest_is_kept(self):
        self.assertEqual('paused', record.MigrationRecord.from_dict(
            self.values()).guest)

    def test_one_written_before_there_was_a_guest(self):
        values = self.values()
        del values['guest']
        self.assertEqual('', record.MigrationRecord.from_dict(values).guest)

    def test_something_else_is_no_record(self):
        self.assertRaises(ValueError, record.MigrationRecord.from_dict,
                          self.values() | {'ghost': 'paused'})
