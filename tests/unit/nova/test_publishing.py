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


import testtools

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.nova import publication
from nova_vgpu_mig.nova import publishing


def pool(pf='0000:83:00.0', **changes):
    values = {'vendor_id': '1002', 'device_id': '74b5',
              'frame_buffer_mib': 16, 'num_vfs': 1,
              'migration_version': 1, **changes}
    return contract.Pool(pf, identity.VFIdentity(**values), (
        contract.VF(pf[:-1] + '1', 0, True),))


class PublisherTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.answer = (pool(),)
        self.publisher = publishing.Publisher('h', self.ask)

    def ask(self):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def said(self):
        return publication.decode(
            self.publisher.stats()[publication.KEY])

    def test_what_the_agent_says(self):
        self.assertEqual('0000:83:00.0', self.said().pools[0].pf_address)

    def test_any_failure_is_published_and_never_raised(self):
        self.said()
        for failure in (errors.AgentUnreachable('the agent of host h'),
                        ValueError('the agent of host h')):
            self.answer = failure
            said = self.said()
            self.assertEqual((), said.pools)
            self.assertIn('the agent of host h', said.problem)

    def test_addresses_are_published_as_nova_writes_them(self):
        for pf in ('0000:C1:00.0', '10000:e1:00.0'):
            self.answer = (pool(pf),)
            [said] = self.said().pools
            self.assertEqual((pf.lower(), 0),
                             (said.pf_address, said.index_of(
                                 pf.lower()[:-1] + '1')))

    def test_mediated_devices_are_published_beside_vfs(self):
        mdev = '6f314289-8d62-486c-b1b5-25e0177906f1'
        self.answer = (pool(), contract.Pool(
            'mtty', identity.VFIdentity('0000', '0000', None, 1),
            (contract.VF(mdev, 0, True),)))
        said = self.said()
        self.assertEqual(('', 2), (said.problem, len(said.pools)))
        self.assertEqual(said.pools[1], said.pool_of(None, mdev))

    def test_what_no_scheduler_would_read_is_named(self):
        self.answer = (pool(pf='PCI 7.0'),)
        said = self.said()
        self.assertEqual((), said.pools)
        self.assertIn('not the address or the name', said.problem)

    def test_frame_buffers_are_remembered(self):
        self.assertIsNone(
            self.publisher.frame_buffer_bytes(['0000:83:00.1']))
        self.answer = (pool(frame_buffer_mib=None),)
        self.said()
        self.assertIsNone(
            self.publisher.frame_buffer_bytes(['0000:83:00.1']))
        self.answer = (pool(),)
        self.said()
        self.answer = errors.AgentUnreachable('gone')
        self.said()
        self.assertEqual(16 << 20, self.publisher.frame_buffer_bytes(
            ['0000:83:00.1']))
        self.assertIsNone(self.publisher.frame_buffer_bytes(
            ['0000:83:00.1', '0000:83:00.2']))
