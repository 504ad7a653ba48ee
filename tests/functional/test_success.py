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


"""Moves that succeed, through Nova's API, and VMs that are none of ours."""

from nova_vgpu_mig.migration import phases
from tests.functional import base


class SuccessTest(base.CloudTestCase):

    def test_vm_runs_on_at_the_destination(self):
        # One VM stays, so that the other's VF has another index there.
        stays = self.boot()
        server = self.boot()
        source_vf = self.cloud.vf_of(server)

        migration = self.move(server)

        self.assertEqual('completed', migration['status'])
        # The third compute has older firmware.
        self.assert_active(server, 'compute2')
        self.assertNotEqual(source_vf, self.cloud.vf_of(server))
        record = self.record('compute1', server)
        self.assertEqual(phases.Outcome.COMPLETED, record.outcome)
        self.assertEqual(
            (source_vf, self.cloud.vf_of(server)),
            (record.source_vf, record.destination_vf))
        self.assertEqual(migration['uuid'], record.migration_uuid)
        self.assert_reserved({stays: 'compute1', server: 'compute2'})

    def test_busy_vm_is_like_its_twin_that_stayed(self):
        frames = 60
        stays, server = self.boot(), self.boot()
        for each in (stays, server):
            self.cloud.guest(each).call(
                'workload', name='render', seed=7, frames=frames,
                frames_per_second=20, working_set_mib=4)
        self.cloud.guest(server).call('wait', frame=3)

        self.assertEqual('completed', self.move(server)['status'])

        quiet = [self.quiet(each) for each in (stays, server)]
        self.assertEqual(quiet[0], quiet[1])
        self.assertEqual(frames, quiet[1]['frames'])

    def quiet(self, server_id):
        """Wait for the end of the workload and return what is left."""
        guest = self.cloud.guest(server_id)
        status = guest.call('wait', phase='ready')
        gim = self.cloud.computes[self.cloud.host_of(server_id)].gim
        return {'frames': status['frames_retired'],
                'checksum': status['checksum'],
                'retired': status['retired'],
                'tdr': status['tdr_events'],
                'ram': guest.call('ram_digest'),
                'frame buffer': gim.call(
                    'digest', vf=self.cloud.vf_of(server_id))}

    def test_there_and_back(self):
        server = self.boot()
        for host in ('compute2', 'compute1', 'compute2'):
            self.assertEqual('completed', self.move(server)['status'])
            self.assert_active(server, host)
        self.assert_reserved({server: 'compute2'})

    def test_limit_of_the_flavor_reaches_the_agent(self):
        server = self.boot(max_downtime_ms=54321)
        self.assertEqual('completed', self.move(server)['status'])
        self.assertEqual(
            54.321, self.record('compute1', server).limit_seconds)

    def test_vm_without_gpu_is_left_to_nova(self):
        server = self.boot(vfs=0)
        # No agent is asked: there is none.
        for compute in self.cloud.computes.values():
            self.addCleanup(compute.start_agent)
            compute.stop_agent()
        migration = self.move(server, 'compute3')
        self.assertEqual('completed', migration['status'])
        self.assert_active(server, 'compute3')
