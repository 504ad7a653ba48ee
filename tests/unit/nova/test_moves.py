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


import dataclasses

import testtools

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.nova import moves
from nova_vgpu_mig.nova import publication
from nova_vgpu_mig.planning import limit


def pool(slot, free, **changes):
    """Return a pool of two VFs at 0000:<slot>:00."""
    values = {'vendor_id': '1002', 'device_id': '74b5',
              'frame_buffer_mib': 16, 'num_vfs': 2,
              'migration_version': 1 << 16, 'driver_version': '8',
              'vbios_version': '1', 'partition': 'SPX',
              'firmware': {'MEC': '1'}, **changes}
    return contract.Pool(
        f'0000:{slot}:00.0', identity.VFIdentity(**values),
        tuple(contract.VF(f'0000:{slot}:00.{index + 1}', index,
                          index in free) for index in range(2)))


class JudgeHostTest(testtools.TestCase):

    SOURCE = pool('83', {1})

    def judge(self, *pools, vm_vfs=1):
        return moves.judge_host(
            self.SOURCE, self.SOURCE.vfs[0], vm_vfs, pools)

    def test_one_pool_that_can_is_enough(self):
        judged = self.judge(pool('01', set()),
                            pool('02', {0}, firmware={'MEC': '0'}),
                            pool('03', {0}))
        self.assertTrue(judged.compatible)

    def test_nearest_pool_gives_the_reason(self):
        judged = self.judge(
            pool('01', set(), firmware={'MEC': '0'}, device_id='0000'),
            pool('02', {0}, firmware={'MEC': '0'}))
        self.assertEqual(['firmware'],
                         [finding.rule for finding in judged.refusals])

    def test_a_gpu_with_bad_pages_is_left_for_another(self):
        bad = dataclasses.replace(pool('02', {0}), health=health.Health(1, 0))
        judged = self.judge(bad)
        self.assertEqual(['bad_pages'],
                         [finding.rule for finding in judged.refusals])
        self.assertTrue(self.judge(bad, pool('03', {0})).compatible)

    def test_host_without_a_gpu(self):
        self.assertIsNone(self.judge())

    def test_two_vfs_are_refused_by_rule(self):
        judged = self.judge(pool('01', {0, 1}), vm_vfs=2)
        self.assertEqual(['vm_vfs'],
                         [finding.rule for finding in judged.refusals])


class ValuesTest(testtools.TestCase):

    def test_what_is_published_is_what_the_agent_said(self):
        pools = (pool('83', {1}), dataclasses.replace(
            pool('c1', {0, 1}), health=health.Health(0, 7)))
        said = publication.decode(publication.encode(
            moves.published(pools)))
        self.assertEqual(
            [(each.pf_address, each.identity, each.health,
              [(vf.address, vf.index, vf.free) for vf in each.vfs])
             for each in pools],
            [(each.pf_address, each.identity, each.health,
              [(vf.address, vf.index, vf.free) for vf in each.vfs])
             for each in said.pools])

    def test_vf_is_found_in_its_pool(self):
        pools = (pool('83', {1}), pool('c1', {0}))
        found, vf = moves.find_vf(pools, '0000:c1:00.2')
        self.assertEqual(('0000:c1:00.0', 1), (found.pf_address, vf.index))
        self.assertIsNone(moves.find_vf(pools, '0000:c1:00.3'))

    def test_limit_of_the_flavor_or_none(self):
        self.assertIsNone(moves.limit_ms({}))
        self.assertEqual(20, moves.limit_ms({limit.EXTRA_SPEC: '20'}))
        self.assertRaises(limit.LimitError, moves.limit_ms,
                          {limit.EXTRA_SPEC: 'soon'})
