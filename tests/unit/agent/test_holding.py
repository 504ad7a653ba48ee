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

"""A guest's downtime limit is changed only when it can be given back."""

import time
from typing import Any
from unittest import mock

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration.hypervisor import source
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor
from tests import hypervisor_standin
from tests.unit.agent import test_housekeeping

SOURCE = phases.Role.SOURCE
State = ownership.State


class Host(hypervisor_standin.StandinHypervisor):
    """Tells what an agent would find that was killed at each change."""

    def __init__(self, case: 'TestHolding') -> None:
        super().__init__()
        self.case = case
        self.found: list[tuple[Any, bool]] = []
        self.refuses = False

    def limit_downtime(self, instance_uuid: str, milliseconds: int) -> None:
        self.found.append((self.case.former(), self.case.watched()))
        if self.refuses:
            raise hypervisor.HypervisorError('the monitor does not answer')
        super().limit_downtime(instance_uuid, milliseconds)


class TestHolding(test_housekeeping.HousekeepingCase):

    def setUp(self) -> None:
        super().setUp()
        self.has = Host(self)
        self.node.hypervisor = self.has
        gpu: Any = self.gpu
        gpu.explanation = lambda address, resets: contract.nothing_more
        self.addCleanup(self.node.moves.stop)
        self.migration = self.entry(
            SOURCE, deadline=time.time() + 60, limit_seconds=0.5,
            carrier=phases.Carrier.HYPERVISOR)
        instance = self.journal.get(self.migration, SOURCE).instance_uuid
        self.has.views[instance] = hypervisor.View(
            hypervisor.GuestState.RUNNING)

    def former(self) -> object:
        """What the journal has of the limit before the move."""
        job = self.journal.get(self.migration, SOURCE).record['job']
        return job.get('former_limit_ms')

    def watched(self) -> bool:
        return (self.migration, SOURCE) in self.node.moves

    def begin(self) -> None:
        self.steps._watch_source(self.migration)

    def test_what_was_before_is_saved_and_watched_first(self) -> None:
        self.begin()
        self.assertEqual([steering.HOLD_MS], self.has.limits)
        self.assertEqual([(300, True)], self.has.found)

    def test_begun_again_by_an_agent_that_was_killed(self) -> None:
        self.begin()
        self.node.moves.stop()
        again = type(self.node.moves)()
        self.node.moves = again
        self.addCleanup(again.stop)
        self.steps._watching.begin_source(
            self.journal.get(self.migration, SOURCE))
        self.assertEqual(300, self.former())

    def test_given_back_where_it_can_not_be_watched(self) -> None:
        with mock.patch.object(
                source.SourceWatch, 'start', autospec=True,
                side_effect=RuntimeError('no thread')):
            self.assertRaises(RuntimeError, self.begin)
        self.assertEqual([steering.HOLD_MS, 300], self.has.limits)
        self.assertFalse(self.watched())
        self.assertEqual(State.RETURNED, self.state(self.migration, SOURCE))

    def test_what_can_not_be_given_back_is_said(self) -> None:
        self.has.refuses = True
        self.assertRaises(hypervisor.HypervisorError, self.begin)
        self.assertFalse(self.watched())
        entry = self.journal.get(self.migration, SOURCE)
        self.assertEqual((State.RETURNED, True), (entry.state, entry.settled))
        self.assertIn('could not begin', entry.record['reason'])
        self.assertIn(f'virsh migrate-setmaxdowntime {entry.instance_uuid} '
                      f'300', entry.record['notes'][0])

    def test_what_an_earlier_move_left_is_not_the_guests(self) -> None:
        self.has.limits = [steering.HOLD_MS]
        self.begin()
        self.assertEqual(source.DEFAULT_LIMIT_MS, self.former())

    def test_the_agent_goes_down_before_it_is_watched(self) -> None:
        with mock.patch.object(source.SourceWatch, 'start', autospec=True):
            self.begin()
        self.node.moves.stop()
        self.assertEqual(300, self.former())
