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


"""Moves right after one that failed, before Nova has tidied up."""

from nova_vgpu_mig.demo import compute
from nova_vgpu_mig.migration import phases
from tests.functional import base


class RetryTest(base.CloudTestCase):
    """One VF for each host: what is still claimed is missed at once."""

    PLAN = compute.Plan(vfs=1, old_hosts=())

    def failed(self, server, phase):
        self.cloud.fail_in(phase)
        self.assertEqual('failed', self.move(server, 'compute2')['status'])
        self.cloud.heal()
        self.assert_active(server, 'compute1')

    # No periodic task of Nova's runs in any of these.

    def test_same_vm_and_another(self):
        server, other = self.boot(), self.boot('compute3')
        self.failed(server, phases.Phase.PRECOPY)
        # Nova's claim for the first VM is still there.
        self.assertEqual((0, 1), self.cloud.nova.pci_devices('compute2'))
        self.assertEqual('error', self.move(other, 'compute2')['status'])
        self.assert_active(other, 'compute3')
        self.assertIn('Nova has no free VF on compute2',
                      '\n'.join(self.cloud.refusals(other)))
        self.assertEqual('completed',
                         self.move(server, 'compute2')['status'])
        self.assert_active(server, 'compute2')
        self.assert_reserved({server: 'compute2', other: 'compute3'})

    def test_failed_preparation_leaves_nothing_claimed(self):
        server = self.boot()
        self.failed(server, phases.Phase.PREPARE)
        self.assertEqual((0, 0), self.cloud.nova.pci_devices('compute2'))
