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


"""Moves that the GPU or the other host's agent drops out of, in pre-copy."""

from unittest import mock

from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.migration import phases
from tests.functional import base


class FaultTest(base.CloudTestCase):

    def stays(self, server):
        """The move has failed, and the VM is where it was."""
        migration = self.cloud.wait_migrated(server)
        self.assertEqual('failed', migration['status'])
        self.assert_active(server, 'compute1')
        self.assertEqual('running', self.cloud.guest(server).call('state'))
        record = self.record('compute1', server)
        self.assertEqual(phases.Outcome.FAILED, record.outcome)
        return record

    def test_source_vf_is_reset_in_precopy(self):
        server = self.boot()
        vf = self.cloud.vf_of(server)
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server)
        held.reached()
        self.cloud.computes['compute1'].gim.call('reset', vf=vf)
        held.release()
        record = self.stays(server)
        self.assertIn(vf, record.reason)
        self.assertIn('reset', record.reason)
        self.assertIn('pre-copy', record.reason)
        self.assertEqual(vf, self.cloud.vf_of(server))
        self.assert_reserved({server: 'compute1'})

    def test_destination_agent_dies_in_precopy(self):
        server = self.boot()
        compute = self.cloud.computes['compute2']
        held = self.hold(phases.Role.SOURCE, phases.Phase.PRECOPY)
        self.cloud.live_migrate(server)
        held.reached()
        # It takes no leave of its moves, and writes nothing any more.
        with mock.patch.object(moves.Moves, 'stop', lambda table: None):
            compute.stop_agent()
        held.release()
        self.stays(server)
        compute.start_agent()
        self.assert_reserved({server: 'compute1'})
        self.assertEqual('completed', self.move(server)['status'])
        self.assert_active(server, 'compute2')
        self.assert_reserved({server: 'compute2'})
