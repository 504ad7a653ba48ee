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

"""An agent is killed in each phase, at each end, and started again.

The source's VF may be run again only if it was not given up; what is
verified at the destination is run there only if it was; and in the end
exactly one of them runs, and nothing is reserved.
"""

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from tests.integration import cluster

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION
Phase = phases.Phase


class TestKilled(cluster.ClusterCase):

    def check(self, role: phases.Role, phase: phases.Phase,
              moved: bool) -> None:
        """Kill the agent of `role` at `phase`, start it, see the end."""
        die = f'{role}:{phase}'
        at = self.a if role is SOURCE else self.b
        self.up(**{'die_a' if role is SOURCE else 'die_b': die})
        request = self.request()
        migration = request.migration_uuid
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        # start() lets the source fetch the offer itself.
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        at.await_death()
        at.start()
        self.await_up(at)
        if moved:
            self.until_states(migration, 'GIVEN_UP', 'OWNED')
            self.guest.close()
            self.api.finish(self.ctxt, self.a.name, migration, SOURCE)
            self.api.finish(self.ctxt, self.b.name, migration, DESTINATION)
            self.until_states(migration, 'FINISHED', 'FINISHED')
            self.until_device(self.b, request.destination_vf,
                              contract.DeviceState.RUNNING)
            self.until_free(self.a, request.source_vf)
            return
        self.api.rollback(self.ctxt, self.a.name, migration, SOURCE)
        self.api.rollback(self.ctxt, self.b.name, migration, DESTINATION)
        self.until_states(migration, 'RETURNED', 'DROPPED')
        self.until_free(self.b, request.destination_vf)
        self.work()
        self.guest.close()

    def test_source_in_prepare(self) -> None:
        self.check(SOURCE, Phase.PREPARE, moved=False)

    def test_source_in_precopy(self) -> None:
        self.check(SOURCE, Phase.PRECOPY, moved=False)

    def test_source_in_switchover(self) -> None:
        self.check(SOURCE, Phase.SWITCHOVER, moved=False)

    def test_source_in_load(self) -> None:
        self.check(SOURCE, Phase.LOAD, moved=False)

    def test_source_before_it_gives_up(self) -> None:
        self.check(SOURCE, Phase.COMMIT, moved=False)

    def test_source_after_it_has_given_up(self) -> None:
        self.check(SOURCE, Phase.RUN, moved=True)

    def test_destination_in_precopy(self) -> None:
        self.check(DESTINATION, Phase.PRECOPY, moved=False)

    def test_destination_in_load(self) -> None:
        self.check(DESTINATION, Phase.LOAD, moved=False)

    def test_destination_after_prepared(self) -> None:
        self.check(DESTINATION, Phase.COMMIT, moved=False)

    def test_destination_before_it_runs(self) -> None:
        self.check(DESTINATION, Phase.RUN, moved=True)
