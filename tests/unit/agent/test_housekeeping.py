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

"""What is done unasked keeps out of the way of what was asked for."""

import pathlib
import tempfile
import threading
import time
from typing import Any
import unittest
import uuid

from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import steps
from nova_vgpu_mig.agent import views
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import port
from tests import gpu_lab
from tests.unit.agent import agents

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION
State = ownership.State


class GPU:
    """Of the GPU driver what housekeeping asks for."""

    def __init__(self) -> None:
        self.busy: OSError | None = None
        self.scrubbed: list[str] = []

    def scrub(self, address: str) -> None:
        if self.busy is not None:
            raise self.busy
        self.scrubbed.append(address)


class HousekeepingCase(unittest.TestCase):

    def setUp(self) -> None:
        super().setUp()
        made = tempfile.TemporaryDirectory(prefix='housekeeping')
        self.addCleanup(made.cleanup)
        folder = pathlib.Path(made.name)
        self.gpu = GPU()
        self.guests: dict[str, port.Guest] = {}
        self.journal = journal.Journal(str(folder / 'journal'))
        self.addCleanup(self.journal.close)
        driver: Any = self.gpu
        nothing: Any = None
        self.node = node.Node(
            host='here', conf=agents.configuration(folder, 'here'),
            journal=self.journal, driver=driver, vmm=None, server=nothing,
            api=nothing)
        self.recovery = recovery.Recovery(
            self.journal, driver_for=lambda address: driver,
            guest_for=lambda instance: None,
            ask_source=lambda entry: None,
            push_destination=lambda entry: doubt.Answer())
        self.steps = steps.Steps(self.node, views.Views(self.node),
                                 self.recovery)

    def entry(self, role: phases.Role, *states: State,
              deadline: float | None = None, **changes: Any) -> str:
        """Enter a move, take it through `states`; its uuid."""
        migration = str(uuid.uuid4())
        values = record_.MigrationRecord(**({
            'migration_uuid': migration, 'instance_uuid': str(uuid.uuid4()),
            'role': role, 'source_host': 'here', 'destination_host': 'there',
            'source_vf': f's-{migration}', 'destination_vf': f'd-{migration}'
        } | changes)).as_dict()
        self.journal.begin(role, values, deadline=deadline)
        for state in states:
            self.journal.move(migration, role, state)
        return migration

    def state(self, migration: str, role: phases.Role) -> State:
        return self.journal.get(migration, role).state


class TestTurns(HousekeepingCase):

    def test_a_step_under_way_keeps_only_its_own_entry(self) -> None:
        held, other = (self.entry(DESTINATION, deadline=time.time() - 1)
                       for _ in range(2))
        with self.node.moves.step(held):
            self.steps.housekeep()
            self.assertEqual(State.RESERVED, self.state(held, DESTINATION))
            self.assertEqual(State.DROPPED, self.state(other, DESTINATION))
        self.steps.housekeep()
        self.assertEqual(State.DROPPED, self.state(held, DESTINATION))

    def test_nothing_is_finished_beside_a_step(self) -> None:
        self.node.conf.set_override('reservation_seconds', 1,
                                    'vgpu_mig_agent')
        migration = self.entry(SOURCE, State.GIVEN_UP,
                               outcome=phases.Outcome.COMPLETED)
        gpu_lab.until(lambda: time.time() > self.journal.get(
            migration, SOURCE).changed_at + 1, 'the end of the patience')
        with self.node.moves.step(migration):
            self.assertEqual([], self.steps.housekeep())
        self.assertIn(migration, self.steps.housekeep()[0])
        self.assertEqual(State.FINISHED, self.state(migration, SOURCE))

    def test_a_step_waits_for_the_turn(self) -> None:
        table, entered = moves.Moves(), threading.Event()

        def step() -> None:
            with table.step('m'):
                entered.set()

        thread = threading.Thread(target=step)
        with table.turn('m') as ours, table.turn('m') as again:
            self.assertEqual((True, False), (ours, again))
            thread.start()
            self.assertFalse(entered.is_set())
        thread.join(gpu_lab.PATIENCE)
        self.assertTrue(entered.is_set())
