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

from lab import wait
from tests.lab import base
from tests.lab import guest as guest_

KIND = 'vgpu_lab-16'
FRAME_BUFFER = 16 * 1024 * 1024
UNIT = 2 * 1024 * 1024
STRIDE = 4096
RATE = 1024 * 1024
PATIENCE = 120

# What lab/device/README.rst says of the frame buffer after so many words.
_EXPECTED = """
import sys, xxhash
count, size, working_set, stride = map(int, sys.argv[1:])
mask = 2 ** 64 - 1
x = 3 * 0x9e3779b97f4a7c15 & mask
memory = bytearray(size)
for number in range(count):
    x ^= x << 13 & mask
    x ^= x >> 7
    x ^= x << 17 & mask
    at = number * stride % working_set
    word = int.from_bytes(memory[at:at + 8], 'little')
    word = ((word << 13 | word >> 51) + x) & mask
    memory[at:at + 8] = word.to_bytes(8, 'little')
print(xxhash.xxh64(bytes(memory)).hexdigest())
"""


class DeviceTestCase(base.LabTestCase):

    def setUp(self) -> None:
        super().setUp()
        if self.one.attempt('test -e /sys/class/vgpu_lab').returncode:
            self.skipTest('lab/device is not in this image')

    def _work(self, node, mdev: str) -> int:
        return int(node.run(f'cat {base.DEVICES}/{mdev}/work_done'))

    def _assert_works_on(self, node, mdev: str, beyond: int) -> None:
        wait.until(f'{node.name}: work beyond {beyond}',
                   lambda: self._work(node, mdev) > beyond, PATIENCE,
                   node.console)

    def _move_at_work(self, here: str,
                      working_set: int) -> tuple[str, str]:
        """Return the digest after a move, and what it should be."""
        there = self.mdev(self.two, KIND)
        guest = guest_.Guest(self.one, here)
        self.one.run(f'cd {base.DEVICES}/{here}/workload && '
                     f'echo {working_set} >working_set_bytes && '
                     f'echo {STRIDE} >stride_bytes && '
                     f'echo {RATE} >bytes_per_second')
        self._assert_works_on(self.one, here, 0)
        guest.migrate(self.two, there)
        self.assertEqual('running', guest.state(self.two))
        given_up = self._work(self.one, here)
        self.assertGreater(given_up, 0)
        self._assert_works_on(self.two, there, given_up)
        digest, words = self.two.run(
            f'cd {base.DEVICES}/{there} && echo 0 >workload/bytes_per_second '
            '&& cat digest').split()
        expected = self.two.run(
            f'PYTHONPATH=/lab/python python3 - {words} {FRAME_BUFFER} '
            f'{working_set} {STRIDE}', _EXPECTED.encode())
        return digest, expected.strip()

    def test_work_goes_on(self) -> None:
        digest, expected = self._move_at_work(
            self.mdev(self.one, KIND), FRAME_BUFFER)
        self.assertEqual(expected, digest)

    def test_a_unit_that_is_lost_shows(self) -> None:
        here = self.mdev(self.one, KIND)
        knob = f'{base.DEVICES}/{here}/knobs/drop_dirty_unit'
        self.one.run(f'echo 1 >{knob}')
        # In one unit only, which is written up to the end: another one may
        # be dirty although what was sent is what it holds.
        digest, expected = self._move_at_work(here, UNIT)
        if self.one.run(f'cat {knob}').strip() != '0':
            self.skipTest('nothing was dirty at the switchover')
        self.assertNotEqual(expected, digest)

    def test_another_firmware_is_refused(self) -> None:
        here = self.mdev(self.one, KIND)
        there = self.mdev(self.two, KIND)
        self.two.run(f'echo 2.0 >{base.DEVICES}/{there}/identity/firmware')
        guest = guest_.Guest(self.one, here)
        self.one.run(f'echo {RATE} >{base.DEVICES}/{here}/workload/'
                     'bytes_per_second')
        self.assert_refused(guest.migrate, self.two, there)
        self.assertEqual('running', guest.state(self.one))
        self.assertEqual('', guest.state(self.two))
        self._assert_works_on(self.one, here, self._work(self.one, here))
