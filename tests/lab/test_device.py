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

"""The GPU of our own moves with its guest, and its work goes on."""

from tests.lab import base
from tests.lab import gpu as gpu_
from tests.lab import guest as guest_


class DeviceTestCase(base.LabTestCase):

    def _move_at_work(self, here: str,
                      working_set: int) -> tuple[str, str]:
        """Return the digest after a move, and what it should be."""
        there = self.mdev(self.two, gpu_.KIND)
        guest = guest_.Guest(self.one, here)
        source = gpu_.GPU(self.one, here)
        source.work(working_set)
        self.assert_moves(guest, self.two, there)
        given_up = source.done()
        self.assertGreater(given_up, 0)
        gpu = gpu_.GPU(self.two, there)
        gpu.await_work(given_up)
        return gpu.digests()

    def test_work_goes_on(self) -> None:
        digest, expected = self._move_at_work(
            self.mdev(self.one, gpu_.KIND), gpu_.FRAME_BUFFER)
        self.assertEqual(expected, digest)

    def test_a_unit_that_is_lost_shows(self) -> None:
        here = self.mdev(self.one, gpu_.KIND)
        source = gpu_.GPU(self.one, here)
        source.set('knobs/drop_dirty_unit', 1)
        # In one unit only, which is written up to the end: another one may
        # be dirty although what was sent is what it holds.
        digest, expected = self._move_at_work(here, gpu_.UNIT)
        if source.get('knobs/drop_dirty_unit') != '0':
            self.skipTest('nothing was dirty at the switchover')
        self.assertNotEqual(expected, digest)

    def test_another_firmware_is_refused(self) -> None:
        here = self.mdev(self.one, gpu_.KIND)
        there = self.mdev(self.two, gpu_.KIND)
        gpu_.GPU(self.two, there).set('identity/firmware', '2.0')
        guest = guest_.Guest(self.one, here)
        gpu = gpu_.GPU(self.one, here)
        gpu.work()
        self.assert_refused(guest, self.two, there)
        gpu.await_more()
        digest, expected = gpu.digests()
        self.assertEqual(expected, digest)
