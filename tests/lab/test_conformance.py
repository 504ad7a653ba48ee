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

"""The contract's suite, against the kernel's VFIO devices: in a node."""

from tests.lab import base

SECONDS = 900
BY_CDEV = ('--iommufd', '/run/iommu')


class ConformanceTestCase(base.LabTestCase):

    def _run(self, *options: str) -> None:
        done = self.two.attempt(
            'cd /opt/nova-vgpu-mig && python3 -m tests.conformance '
            f'--driver vfio --type {" ".join(options)} 2>&1',
            seconds=SECONDS)
        self.assertEqual(0, done.returncode, done.stdout.decode())

    def test_mtty(self) -> None:
        self._run('mtty-2')

    def test_device(self) -> None:
        self._run('vgpu_lab-16')

    def test_device_without_p2p(self) -> None:
        # As GIM has it.
        self._run('vgpu_lab-16', '--flags', '0x5')

    def test_mtty_by_cdev(self) -> None:
        self._run('mtty-2', *BY_CDEV)

    def test_device_by_cdev(self) -> None:
        self._run('vgpu_lab-16', *BY_CDEV)
