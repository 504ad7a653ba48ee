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

"""tests/conformance, against the kernel's VFIO devices: in a node."""

from lab import places
from tests.lab import base

SUITE = places.CHECKOUT / 'tests' / 'conformance'
SECONDS = 900


class ConformanceTestCase(base.LabTestCase):

    def test_in_a_node(self) -> None:
        if not any(SUITE.rglob('test_*.py')):
            self.skipTest('tests/conformance has no tests')
        done = self.one.attempt(
            'cd /opt/nova-vgpu-mig && python3 -m unittest discover -v '
            '-s tests/conformance -t . 2>&1', seconds=SECONDS)
        self.assertEqual(0, done.returncode, done.stdout.decode())
