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

import errno
import io
import pathlib
import tempfile
import threading
import time
from typing import Any
import unittest
from unittest import mock
import uuid

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import housekeeping
from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import steps
from nova_vgpu_mig.agent import tenancy
from nova_vgpu_mig.agent import views
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm import registry
from tests import gpu_lab
from tests import hypervisor_standin
from tests.unit.agent import agents

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION
State = ownership.State

VF = '0000:41:02.0'


class DeviceBusy(contract.DeviceError):

    def __init__(self, address: str, text: str) -> None:
        super().__init__(errno.EBUSY, address, text)


class GPU:
    """Of the GPU driver what housekeeping asks for."""

    def __init__(self) -> None:
        self.busy: OSError | None = None
        self.scrubbed: list[str] = []

    def scrub(self, address: str) -> None:
        if self.busy is not None:
            raise self.busy
        self.scrubbed.append(address)


class VMM:
    """Of the VMM only which VMs it has."""

    def __init__(self) -> None:
        self.guests: set[str] = set()

    def guest(self, instance: str) -> Any:
        if instance not in self.guests:
            raise port.GuestNotFound(instance)
        return io.BytesIO()


class HousekeepingCase(unittest.TestCase):

    def setUp(self) -> None:
        super().setUp()
        made = tempfile.TemporaryDirectory(prefix='housekeeping')
        self.addCleanup(made.cleanup)
        folder = pathlib.Path(made.name)
        self.gpu = GPU()
        self.vmm = VMM()
        self.journal = journal.Journal(str(folder / 'journal'))
        self.addCleanup(self.journal.close)
        driver: Any = self.gpu
        vmm: Any = self.vmm
        nothing: Any = None
        self.node = node.Node(
            host='here', conf=agents.configuration(folder, 'here'),
            journal=self.journal, driver=driver, vmm=vmm, server=nothing,
            api=nothing, hypervisor=nothing)
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
        migration = self.entry(SOURCE, State.GIVEN_UP,
                               outcome=phases.Outcome.COMPLETED)
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


class TestResume(HousekeepingCase):
    """What the hypervisor carries is watched again."""

    def setUp(self) -> None:
        super().setUp()
        self.has = hypervisor_standin.StandinHypervisor()
        self.node.hypervisor = self.has
        gpu: Any = self.gpu
        gpu.explanation = lambda address, resets: contract.nothing_more
        self.addCleanup(self.node.moves.stop)

    def carried(self) -> str:
        """Enter a move that libvirt has not begun yet."""
        migration = self.entry(SOURCE, deadline=time.time() + 60,
                               carrier=phases.Carrier.HYPERVISOR)
        instance = self.journal.get(migration, SOURCE).instance_uuid
        self.has.views[instance] = hypervisor.View(
            hypervisor.GuestState.RUNNING)
        return migration

    def spoil(self, migration: str, **values: str) -> None:
        self.journal.save_record(migration, SOURCE, {
            **self.journal.get(migration, SOURCE).record, **values})

    def test_one_that_can_not_be_read_stops_no_other(self) -> None:
        overdue = self.entry(DESTINATION, deadline=time.time() - 1)
        good, bad, unknown = (self.carried() for _ in range(3))
        self.spoil(bad, phase='of a newer release')
        self.spoil(unknown, carrier='of a newer release')
        with self.assertLogs(level='ERROR') as logs:
            for _ in range(2):
                self.steps.housekeep()
        self.assertEqual(2, len(logs.output), logs.output)
        for migration in (bad, unknown):
            (said,) = (line for line in logs.output if migration in line)
            self.assertIn('of a newer release', said)
            self.assertIn('correct the row with sqlite3', said)
            self.assertNotIn((migration, SOURCE), self.node.moves)
        self.assertIn((good, SOURCE), self.node.moves)
        self.assertEqual(State.DROPPED, self.state(overdue, DESTINATION))

    def test_one_that_has_ended_since_it_was_listed(self) -> None:
        migration = self.carried()
        listed = self.journal.entries(unsettled=True)
        self.journal.move(migration, SOURCE, State.RETURNED)
        self.journal.settle(migration, SOURCE)
        with mock.patch.object(self.journal, 'entries', autospec=True,
                               return_value=listed):
            self.steps.housekeep()
        self.assertNotIn((migration, SOURCE), self.node.moves)

    def test_one_that_a_step_has_begun_to_watch(self) -> None:
        migration = self.carried()
        self.steps.housekeep()
        first = self.node.moves.watch(migration, SOURCE)
        self.steps.housekeep()
        self.assertIs(first, self.node.moves.watch(migration, SOURCE))


class TestForgotten(HousekeepingCase):
    """A move whose finish() was lost."""

    def completed(self, role: phases.Role, **changes: Any) -> str:
        states = ((State.GIVEN_UP,) if role is SOURCE else
                  (State.LOADING, State.PREPARED, State.OWNED))
        return self.entry(role, *states,
                          outcome=phases.Outcome.COMPLETED, **changes)

    def request(self, **changes: Any) -> objects.VFMigrationRequest:
        return objects.VFMigrationRequest(**({
            'migration_uuid': str(uuid.uuid4()),
            'instance_uuid': str(uuid.uuid4()), 'request_id': 'req-1',
            'source_host': 'here', 'destination_host': 'there',
            'source_vf': VF, 'destination_vf': VF} | changes))

    def make_way(self, role: phases.Role, **changes: Any) -> None:
        tenancy.Tenancy(self.node, self.recovery).make_way(
            self.request(**changes), role, 0.0)

    def test_source_is_finished_as_soon_as_the_vm_is_gone(self) -> None:
        migration = self.completed(SOURCE)
        self.gpu.busy = DeviceBusy(VF, 'a guest holds it')
        with self.assertLogs(housekeeping.LOG, 'INFO') as logs:
            for _ in range(3):
                self.assertEqual([], self.steps.housekeep())
        self.assertEqual(1, len(logs.output))
        self.assertEqual(State.GIVEN_UP, self.state(migration, SOURCE))
        self.gpu.busy = None
        self.steps.housekeep()
        self.assertEqual([f's-{migration}'], self.gpu.scrubbed)
        self.assertEqual(State.FINISHED, self.state(migration, SOURCE))

    def test_destination_waits_for_its_vm_or_its_time(self) -> None:
        seen, unseen = (self.completed(DESTINATION) for _ in range(2))
        guest = self.journal.get(seen, DESTINATION).instance_uuid
        self.vmm.guests.add(guest)
        self.steps.housekeep()
        self.assertEqual(State.FINISHED, self.state(seen, DESTINATION))
        self.assertEqual(State.OWNED, self.state(unseen, DESTINATION))
        self.node.conf.set_override('reservation_seconds', 1,
                                    'vgpu_mig_agent')
        gpu_lab.until(lambda: bool(self.steps.housekeep()), 'the end of it')
        self.assertEqual(State.FINISHED, self.state(unseen, DESTINATION))

    def test_a_move_that_has_not_completed_is_left(self) -> None:
        migration = self.entry(SOURCE, State.GIVEN_UP, source_vf=VF)
        self.steps.housekeep()
        self.make_way(SOURCE)
        self.assertEqual(State.GIVEN_UP, self.state(migration, SOURCE))

    def test_a_claim_clears_the_vf(self) -> None:
        migration = self.completed(SOURCE, source_vf=VF)
        self.gpu.busy = DeviceBusy(VF, 'something has it open')
        with self.assertRaises(errors.VFTaken) as caught:
            self.make_way(DESTINATION)
        self.assertIn('something has it open', caught.exception.message)
        self.assertEqual(State.GIVEN_UP, self.state(migration, SOURCE))
        self.gpu.busy = None
        self.make_way(DESTINATION)
        self.assertEqual([VF], self.gpu.scrubbed)
        self.assertEqual(State.FINISHED, self.state(migration, SOURCE))

    def test_the_next_tenant_moves_and_is_not_cleared(self) -> None:
        migration = self.completed(SOURCE, source_vf=VF)
        left = self.journal.get(migration, SOURCE).instance_uuid
        self.vmm.guests.add(left)
        with self.assertRaises(errors.VFTaken) as caught:
            self.make_way(SOURCE)
        self.assertIn(left, caught.exception.message)
        self.vmm.guests.clear()
        self.make_way(SOURCE)
        self.assertEqual([], self.gpu.scrubbed)
        self.assertEqual(State.FINISHED, self.state(migration, SOURCE))

    def test_a_vmm_that_can_not_be_asked_says_nothing(self) -> None:
        migration = self.completed(SOURCE, source_vf=VF, guest='running')
        vmm, self.node.vmm = self.node.vmm, None

        def fails() -> port.VMMPort:
            raise registry.NoVMMPort('no VMM answers')

        self.node.find_vmm = fails
        with self.assertRaises(errors.VFTaken) as caught:
            self.make_way(SOURCE)
        self.assertIn('no VMM answers', caught.exception.message)
        self.assertEqual(State.GIVEN_UP, self.state(migration, SOURCE))
        self.node.vmm = vmm
        self.make_way(SOURCE)
        self.assertEqual(State.FINISHED, self.state(migration, SOURCE))

    def test_the_dead_copy_of_a_vm_is_not_moved_again(self) -> None:
        migration = self.completed(SOURCE, source_vf=VF)
        left = self.journal.get(migration, SOURCE).instance_uuid
        self.gpu.busy = DeviceBusy(VF, 'a guest holds it')
        with self.assertRaises(errors.VFTaken):
            self.make_way(SOURCE, instance_uuid=left)
        self.assertEqual(State.GIVEN_UP, self.state(migration, SOURCE))

    def test_a_vm_that_came_may_go_on_and_keeps_its_vf(self) -> None:
        migration = self.completed(DESTINATION, destination_vf=VF)
        self.make_way(DESTINATION)
        self.assertEqual(State.OWNED, self.state(migration, DESTINATION))
        self.make_way(SOURCE)
        self.assertEqual(State.FINISHED, self.state(migration, DESTINATION))
