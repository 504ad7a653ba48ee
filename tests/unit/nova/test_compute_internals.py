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


import types

from nova import exception
from nova import objects
import testtools

from nova_vgpu_mig.nova.internals import compute

objects.register_all()


class ReleaseTest(testtools.TestCase):

    def test_failure_does_not_replace_a_refusal(self):
        def broken(context, instance):
            raise OSError('database')

        tracker = types.SimpleNamespace(
            free_pci_device_claims_for_instance=broken)
        driver = types.SimpleNamespace(virtapi=types.SimpleNamespace(
            _compute=types.SimpleNamespace(rt=tracker)))

        def refuse():
            try:
                raise compute.veto('no')
            except Exception:
                compute.release_pci_claim(
                    driver, None, objects.Instance(uuid='u'))
                raise

        refusal = self.assertRaises(exception.MigrationPreCheckError, refuse)
        self.assertTrue(compute.is_veto(refusal))


class LacksDevicesTest(testtools.TestCase):

    def failure(self, alias, source=objects.InstancePCIRequest.FLAVOR_ALIAS):
        port = (None if source == objects.InstancePCIRequest.FLAVOR_ALIAS
                else '2d5a5b0f-19c3-4b2b-b1b8-a05bb0d1a2b2')
        return exception.PciDeviceRequestFailed(requests=[
            objects.InstancePCIRequest(
                count=1, spec=[], alias_name=alias, requester_id=port)])

    def test_only_aliases_of_gpus(self):
        self.assertTrue(compute.lacks_flavor_devices(
            self.failure('gpu'), []))
        self.assertTrue(compute.lacks_flavor_devices(
            self.failure('gpu'), ['gpu']))
        self.assertFalse(compute.lacks_flavor_devices(
            self.failure('qat'), ['gpu']))
        self.assertFalse(compute.lacks_flavor_devices(
            self.failure(None, 'port'), []))

    def test_no_error_or_another(self):
        self.assertFalse(compute.lacks_flavor_devices(None, []))
        self.assertFalse(compute.lacks_flavor_devices(OSError(), []))
