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

"""A destination that is gone for good, before it has said PREPARED.

Nobody starts its agent again and nobody tells the source: it must go on by
itself.
"""

from nova_vgpu_mig.migration import phases
from tests.integration import cluster

Phase = phases.Phase


class TestGoneForGood(cluster.ClusterCase):

    def check(self, phase: phases.Phase) -> None:
        self.up(die_b=f'{phases.Role.DESTINATION}:{phase}')
        request = self.request()
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        self.b.await_death()
        record = self.outcome(request.migration_uuid)
        self.assertEqual((phases.Outcome.FAILED, Phase.RETURNED),
                         (record.outcome, record.phase), record.reason)
        self.assertIn('agent', record.reason)
        self.assertEqual('RETURNED',
                         self.state(self.a, request.migration_uuid))
        self.work()
        self.guest.close()

    def test_in_precopy(self) -> None:
        self.check(Phase.PRECOPY)

    def test_in_switchover(self) -> None:
        self.check(Phase.SWITCHOVER)

    def test_in_load(self) -> None:
        self.check(Phase.LOAD)
