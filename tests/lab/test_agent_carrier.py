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

"""The agents carry kernel devices that no QEMU holds, over the real network.

The device lives as long as its file is open, so its work begins when the
source's agent opens it, and goes on through pre-copy.
"""

import json

from nova_vgpu_mig.migration import phases
from tests.lab import base
from tests.lab import forked
from tests.lab import gpu as gpu_

SECONDS = 240
_KEPT = 'cd /opt/nova-vgpu-mig && python3 -m tests.lab.kept'


class AgentCarrierTestCase(base.LabTestCase):

    def test_a_device_moves_and_its_work_goes_on(self) -> None:
        here = self.mdev(self.one, gpu_.KIND)
        there = self.mdev(self.two, gpu_.KIND)
        source = gpu_.GPU(self.one, here)
        source.set('workload/working_set_bytes', 4 * gpu_.UNIT)
        source.set('workload/stride_bytes', gpu_.STRIDE)
        source.set('workload/bytes_per_second', gpu_.RATE)
        said = self.one.run(
            f'{forked.COMMAND} carried {self.one.name} {here} '
            f'{self.two.name} {there}',
            seconds=SECONDS)
        record = json.loads(said.splitlines()[-1])
        self.assertEqual(phases.Outcome.COMPLETED, record['outcome'], record)
        self.assertEqual('stream', record['level'])
        gpu = gpu_.GPU(self.two, there)
        self.assertGreater(gpu.done(), 0)
        digest, expected = gpu.digests()
        self.assertEqual(expected, digest)
        # The source's was scrubbed.
        self.assertEqual(0, source.done())

    def test_a_checkpoint_is_loaded_on_the_other_node(self) -> None:
        here = self.mdev(self.one, gpu_.KIND)
        there = self.mdev(self.two, gpu_.KIND)
        file = '/run/checkpoint'
        state = self.one.run(f'{_KEPT} save {here} {file} '
                             f'{4 * gpu_.UNIT} {gpu_.STRIDE}',
                             seconds=SECONDS).splitlines()[-1]
        content = self.one.run(f'base64 {file}', seconds=SECONDS)
        self.two.run(f'base64 -d >{file}', content.encode(), seconds=SECONDS)
        loaded = self.two.run(f'{_KEPT} load {there} {file}',
                              seconds=SECONDS).splitlines()[-1]
        self.assertEqual(state, loaded)
        # Another firmware: refused before the device is touched.
        other = self.mdev(self.two, gpu_.KIND)
        gpu_.GPU(self.two, other).set('identity/firmware', '2.0')
        said = self.two.attempt(f'{_KEPT} load {other} {file}',
                                seconds=SECONDS)
        self.assertNotEqual(0, said.returncode)
        self.assertIn(b'firmware', said.stdout + said.stderr)
