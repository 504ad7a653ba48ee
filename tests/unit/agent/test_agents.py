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

"""Steps and views of two real agents, over the in-process bus."""

import contextlib
import threading
from unittest import mock
import uuid

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import housekeeping
from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.agent import node
from nova_vgpu_mig.agent import steps
from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import driver as software_driver
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.vmm import port
from tests import gpu_lab
from tests.unit.agent import agents

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION


class TestClaim(agents.SharedAgentsCase):

    def test_describe(self) -> None:
        found = self.api.describe(self.ctxt, self.b.name)
        self.assertEqual(self.b.name, found.host)
        self.assertEqual(
            self.b.vfs, [v.address for p in found.as_pools() for v in p.vfs])
        self.assertGreater(found.data_port, 0)

    def test_claim_reserves_once(self) -> None:
        request = self.claimed()
        first = self.api.get(self.ctxt, self.b.name, request.migration_uuid)
        self.assertFalse(self.free(self.b, request.destination_vf))
        again = self.api.claim(self.ctxt, self.b.name, request)
        self.assertEqual(first.as_dict(), again.as_dict())
        with self.assertRaises(errors.VFTaken) as caught:
            self.api.claim(self.ctxt, self.b.name, self.request())
        self.assertIn(request.migration_uuid, caught.exception.message)

    def test_claim_of_a_vf_that_is_in_use(self) -> None:
        guest = gpu_lab.Guest(self.b.gim, self.b.vfs[1])
        self.addCleanup(guest.close)
        with self.assertRaises(errors.VFTaken):
            self.api.claim(self.ctxt, self.b.name, self.request())

    def test_claim_on_a_gpu_with_bad_pages(self) -> None:
        with (mock.patch.object(software_driver, 'FAULTLESS',
                                health.Health(2, 0)),
              self.assertRaises(errors.Incompatible) as caught):
            self.api.claim(self.ctxt, self.b.name, self.request())
        self.assertIn('bad pages of the GPU: 2', str(caught.exception))

    def test_a_vf_whose_guest_driver_loads_stays(self) -> None:
        guest = gpu_lab.Guest(self.a.gim, self.a.vfs[0])
        try:
            guest.mmio(abi.Register.DRIVER_STATE, 1)
            for ask in (
                    lambda: self.api.plan(self.ctxt, self.a.name, 'i',
                                          self.a.vfs[0], None),
                    lambda: self.api.prepare_source(
                        self.ctxt, self.a.name, self.request())):
                with self.assertRaises(errors.Refused) as caught:
                    ask()
                self.assertIn(f'VF {self.a.vfs[0]} of {self.a.name} can\'t '
                              f'be moved now', str(caught.exception))
        finally:
            guest.close()

    def test_claim_of_what_is_not_there(self) -> None:
        for field in ('source_vf', 'destination_vf'):
            with self.assertRaises(errors.VFNotFound):
                self.api.claim(self.ctxt, self.b.name,
                               self.request(**{field: '0000:ff:00.0'}))
        with self.assertRaises(errors.BadRequest):
            self.api.claim(self.ctxt, self.a.name, self.request())

    def test_claim_for_a_hypervisor_that_is_not_there(self) -> None:
        with self.assertRaises(errors.Refused) as caught:
            self.api.claim(self.ctxt, self.b.name,
                           self.request(carrier='hypervisor'))
        self.assertIn('[vgpu_mig_libvirt] uri', caught.exception.message)

    def test_rollback_frees_it_and_ends_the_move(self) -> None:
        request = self.claimed()
        uuid_ = request.migration_uuid
        self.api.prepare(self.ctxt, self.b.name, uuid_)
        for _ in range(2):
            self.api.rollback(self.ctxt, self.b.name, uuid_, DESTINATION)
        self.assertTrue(self.free(self.b, request.destination_vf))
        with self.assertRaises(errors.Refused):
            self.api.claim(self.ctxt, self.b.name, request)
        with self.assertRaises(errors.Refused):
            self.api.prepare(self.ctxt, self.b.name, uuid_)

    def test_prepare_twice_is_one_offer(self) -> None:
        request = self.claimed()
        offers = [self.api.prepare(self.ctxt, self.b.name,
                                   request.migration_uuid)
                  for _ in range(2)]
        self.assertEqual(offers[0], offers[1])

    def test_unknown_migrations(self) -> None:
        unknown = str(uuid.uuid4())
        for role in phases.Role:
            self.assertIsNone(self.api.finish(
                self.ctxt, self.a.name, unknown, role))
            self.assertIsNone(self.api.rollback(
                self.ctxt, self.a.name, unknown, role))
        for call in (self.api.ownership, self.api.commit, self.api.prepare,
                     self.api.start, self.api.abort, self.api.get):
            with self.assertRaises(errors.MigrationNotFound):
                call(self.ctxt, self.a.name, unknown)


class TestIncompatible(agents.AgentsCase):

    gim_options_b = ('--firmware', 'MEC=0x01')

    def test_claim_is_refused_with_both_values(self) -> None:
        with self.assertRaises(errors.Incompatible) as caught:
            self.api.claim(self.ctxt, self.b.name, self.request())
        self.assertIn('MEC', caught.exception.message)
        self.assertTrue(self.free(self.b, self.b.vfs[1]))


class TestMove(agents.AgentsCase):

    def setUp(self) -> None:
        self.reached = threading.Event()
        self.go_on = threading.Event()
        self.hold: tuple[phases.Role, phases.Phase] | None = None
        super().setUp()
        self.addCleanup(self.go_on.set)
        self.guest = gpu_lab.Guest(self.a.gim, self.a.vfs[0])
        self.guest.load_driver()
        self.guest.submit(abi.Engine.SDMA, abi.Opcode.RMW,
                          va=65536, length=65536, arg0=7, arg1=1)
        self.guest.wait(abi.Engine.SDMA)

    def observe(self, record: record_.MigrationRecord) -> None:
        if (record.role, record.phase) == self.hold:
            self.reached.set()
            self.go_on.wait(gpu_lab.PATIENCE)

    def begin(self) -> str:
        self.wanted = request = self.request()
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare(self.ctxt, self.b.name, request.migration_uuid)
        record = self.api.prepare_source(self.ctxt, self.a.name, request)
        self.assertIn('downtime_ms', record.plan)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        return str(request.migration_uuid)

    def state(self, host: agents.Host) -> str:
        return str(self.api.records(self.ctxt, host.name)[0]['state'])

    def ended(self, migration: str) -> record_.MigrationRecord:
        """Wait for the outcome at the source."""
        def record() -> record_.MigrationRecord:
            return self.api.get(self.ctxt, self.a.name, migration)

        gpu_lab.until(lambda: record().outcome is not None
                      and record().phase.terminal, 'the end of the move')
        return record()

    def test_move_and_finish_twice(self) -> None:
        migration = self.begin()
        # Asked again while it goes on, or when it has ended: the same move.
        self.api.start(self.ctxt, self.a.name, self.wanted.instance_uuid)
        record = self.ended(migration)
        self.assertEqual(phases.Outcome.COMPLETED, record.outcome,
                         record.reason)
        self.assertEqual('GIVEN_UP', self.api.ownership(
            self.ctxt, self.a.name, migration))
        with self.assertRaises(errors.Refused):
            self.api.abort(self.ctxt, self.a.name,
                           self.wanted.instance_uuid)
        with self.assertRaises(errors.Refused):
            self.api.rollback(self.ctxt, self.a.name, migration, SOURCE)
        self.guest.close()
        for _ in range(2):
            self.api.finish(self.ctxt, self.a.name, migration, SOURCE)
            self.api.finish(self.ctxt, self.b.name, migration, DESTINATION)
        self.assertEqual('FINISHED', self.state(self.a))
        self.assertEqual('FINISHED', self.state(self.b))
        self.assertTrue(self.free(self.a, self.wanted.source_vf))
        with self.assertRaises(errors.Refused) as caught:
            self.api.start(self.ctxt, self.a.name,
                           self.wanted.instance_uuid)
        self.assertIn('FINISHED', caught.exception.message)

    def test_the_next_move_does_not_wait_for_a_lost_finish(self) -> None:
        self.enterContext(mock.patch.object(
            housekeeping.Housekeeping, 'go_round', autospec=True,
            return_value=[]))
        migration = self.begin()
        self.ended(migration)
        source_vf = self.wanted.source_vf
        self.assertFalse(self.free(self.a, source_vf))
        back = self.request(
            source_host=self.b.name, destination_host=self.a.name,
            source_vf=self.b.vfs[0], destination_vf=source_vf)
        with self.assertRaises(errors.VFTaken) as caught:
            self.api.claim(self.ctxt, self.a.name, back)
        self.assertIn(migration, caught.exception.message)
        self.guest.close()
        gpu_lab.until(lambda: self.free(self.a, source_vf), 'the VF')
        self.api.claim(self.ctxt, self.a.name, back)
        self.assertEqual('FINISHED', self.api.ownership(
            self.ctxt, self.a.name, migration))

    def test_abort_in_precopy(self) -> None:
        self.hold = (SOURCE, phases.Phase.PRECOPY)
        migration = self.begin()
        self.assertTrue(self.reached.wait(gpu_lab.PATIENCE))
        self.api.abort(self.ctxt, self.a.name, self.wanted.instance_uuid)
        self.go_on.set()
        record = self.ended(migration)
        self.assertEqual(phases.Outcome.ABORTED, record.outcome)
        self.api.rollback(self.ctxt, self.a.name, migration, SOURCE)
        self.api.rollback(self.ctxt, self.b.name, migration, DESTINATION)
        self.assertEqual('RETURNED', self.state(self.a))
        self.assertEqual('DROPPED', self.state(self.b))
        self.assertTrue(self.free(self.b, self.wanted.destination_vf))
        self.guest.submit(abi.Engine.SDMA, abi.Opcode.RMW,
                          va=65536, length=4096, arg0=9, arg1=1)
        self.guest.wait(abi.Engine.SDMA)
        self.guest.close()

    def test_abort_while_it_is_being_started(self) -> None:
        entered, asked = threading.Event(), threading.Event()
        build, step = steps.Steps._source_run, moves.Moves.step

        def slowly(this: steps.Steps, entry: journal.Entry
                   ) -> moves.SourceRun:
            entered.set()
            asked.wait(gpu_lab.PATIENCE)
            return build(this, entry)

        def observed(this: moves.Moves, uuid_: str
                     ) -> contextlib.AbstractContextManager[None]:
            if entered.is_set():
                asked.set()
            return step(this, uuid_)

        self.enterContext(mock.patch.object(steps.Steps, '_source_run',
                                            slowly))
        self.enterContext(mock.patch.object(moves.Moves, 'step', observed))
        starting = threading.Thread(target=self.begin)
        starting.start()
        self.assertTrue(entered.wait(gpu_lab.PATIENCE))
        self.api.abort(self.ctxt, self.a.name, self.wanted.instance_uuid)
        starting.join(gpu_lab.PATIENCE)
        record = self.ended(self.wanted.migration_uuid)
        self.assertEqual(phases.Outcome.ABORTED, record.outcome)
        self.assertEqual('aborted by the operator', record.reason)
        self.assertEqual('RETURNED', self.state(self.a))
        self.assertEqual('RUNNING', self.device_state(
            self.a, self.wanted.source_vf).name)
        self.guest.close()

    def test_destination_gone_before_the_start(self) -> None:
        request = self.wanted = self.request()
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.b.stop()
        self.a.conf.set_override('step_timeout', 1, 'vgpu_mig_agent')
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        record = self.ended(request.migration_uuid)
        self.assertEqual(phases.Outcome.FAILED, record.outcome)
        self.assertIn(self.b.name, record.reason)
        self.assertEqual('RETURNED', self.state(self.a))
        with self.assertRaises(errors.Refused):
            self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        self.guest.close()

    def test_a_move_that_can_not_begin(self) -> None:
        find = node.Node.guest

        def guest(this: node.Node, instance: str) -> port.Guest | None:
            if this.host == self.a.name:
                raise port.VMMError('the monitor says nothing')
            return find(this, instance)

        self.enterContext(mock.patch.object(node.Node, 'guest', guest))
        migration = self.begin()
        record = self.ended(migration)
        self.assertEqual(phases.Outcome.FAILED, record.outcome)
        self.assertIn('the monitor says nothing', record.reason)
        self.assertEqual('RETURNED', self.state(self.a))
        self.assertEqual('RUNNING', self.device_state(
            self.a, self.wanted.source_vf).name)
        self.guest.close()

    def test_rolled_back_before_it_was_known(self) -> None:
        request = self.request()
        self.assertIsNone(self.api.rollback(
            self.ctxt, self.a.name, request.migration_uuid, SOURCE))
        with self.assertRaises(errors.Refused) as caught:
            self.api.prepare_source(self.ctxt, self.a.name, request)
        self.assertIn('rolled it back', caught.exception.message)
        self.api.prepare_source(self.ctxt, self.a.name, self.request(
            instance_uuid=request.instance_uuid))
        self.guest.close()

    def test_second_move_of_the_same_vm(self) -> None:
        request = self.request()
        self.api.prepare_source(self.ctxt, self.a.name, request)
        with self.assertRaises(errors.MigrationConflict):
            self.api.prepare_source(self.ctxt, self.a.name, self.request(
                instance_uuid=request.instance_uuid))
        self.api.rollback(self.ctxt, self.a.name, request.migration_uuid,
                          SOURCE)
        self.api.prepare_source(self.ctxt, self.a.name, self.request(
            instance_uuid=request.instance_uuid))
        self.guest.close()

    def test_agent_stops_in_precopy(self) -> None:
        self.hold = (SOURCE, phases.Phase.PRECOPY)
        migration = self.begin()
        self.assertTrue(self.reached.wait(gpu_lab.PATIENCE))
        told = threading.Event()
        abort = moves.SourceRun.abort

        def observed(run: moves.SourceRun, reason: str) -> None:
            abort(run, reason)
            told.set()

        self.enterContext(mock.patch.object(moves.SourceRun, 'abort',
                                            observed))
        stopping = threading.Thread(target=self.a.stop)
        stopping.start()
        self.assertTrue(told.wait(gpu_lab.PATIENCE))
        self.go_on.set()
        stopping.join(gpu_lab.PATIENCE)
        self.assertFalse(stopping.is_alive())
        self.a.start()
        record = self.ended(migration)
        self.assertEqual(phases.Outcome.ABORTED, record.outcome)
        self.assertIn('going down', record.reason)
        self.guest.close()
