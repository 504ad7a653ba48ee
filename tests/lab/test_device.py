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
from tests.lab import phases

_BEING_STOPPED = phases.Phase(phases.Side.SOURCE, 'pre_copy_p2p')


class DeviceTestCase(base.LabTestCase):

    def test_work_goes_on(self) -> None:
        there = self.mdev(self.two, gpu_.KIND)
        guest, source = self._at_work(gpu_.FRAME_BUFFER)
        self.assert_moves(guest, self.two, there)
        given_up = source.done()
        self.assertGreater(given_up, 0)
        gpu = gpu_.GPU(self.two, there)
        gpu.await_work(given_up)
        digest, expected = gpu.digests()
        self.assertEqual(expected, digest)

    def test_a_unit_that_is_lost_shows(self) -> None:
        there = self.mdev(self.two, gpu_.KIND)
        # In one unit only, which is written up to the end: another one may
        # be dirty although what was sent is what it holds.
        guest, source = self._at_work(gpu_.UNIT)
        source.set('knobs/drop_dirty_unit', 1)
        held = phases.Held(_BEING_STOPPED, source)
        move = self.begin(guest, self.two, there)
        held.reached(move)
        # QEMU reads no more before the state to come: this stays dirty.
        source.await_more()
        self.assertTrue(held.still())
        held.release()
        result = move.result()
        self.assertEqual('completed', result['outcome'], result)
        self.assertEqual('0', source.get('knobs/drop_dirty_unit'))
        digest, expected = gpu_.GPU(self.two, there).digests()
        self.assertNotEqual(expected, digest)

    def _at_work(self,
                 working_set: int) -> tuple[guest_.Guest, gpu_.GPU]:
        """Return a guest on node one, and its device, which works."""
        here = self.mdev(self.one, gpu_.KIND)
        guest = guest_.Guest(self.one, here)
        gpu = gpu_.GPU(self.one, here)
        gpu.work(working_set)
        return guest, gpu

    def test_another_firmware_is_refused(self) -> None:
        there = self.mdev(self.two, gpu_.KIND)
        gpu_.GPU(self.two, there).set('identity/firmware', '2.0')
        guest, gpu = self._at_work(gpu_.FRAME_BUFFER)
        self.assert_refused(guest, self.two, there)
        gpu.await_more()
        digest, expected = gpu.digests()
        self.assertEqual(expected, digest)
