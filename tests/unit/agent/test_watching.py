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

"""Moves that the hypervisor carries, watched by two agents over RPC."""

import time
from unittest import mock
import uuid

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor
from tests import gpu_lab
from tests import hypervisor_standin
from tests import qemu_model
from tests.unit.agent import agents

SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
MIB = 1 << 20
State = hypervisor.GuestState


def qemu(**changes: float) -> qemu_model.Qemu:
    values = {'used': 16 * MIB, 'working_set': 4 * MIB,
              'dirty_rate': 400 * MIB, 'bandwidth': 100 * MIB} | changes
    return qemu_model.Qemu(**values)  # type: ignore[arg-type]


class WatchedCase(agents.AgentsCase):

    def setUp(self) -> None:
        super().setUp()
        self.instance = str(uuid.uuid4())
        self.pair = hypervisor_standin.Pair(self.instance)
        for host, has in ((self.a, self.pair.source),
                          (self.b, self.pair.destination)):
            host.stop()
            host.hypervisor = has
            host.conf.set_override('poll_interval', 0.05, 'vgpu_mig_libvirt')
            host.start()

    def prepared(self, **changes: object) -> objects.VFMigrationRequest:
        """A move for which libvirt's job may begin."""
        request = self.request(**{
            'carrier': 'hypervisor', 'instance_uuid': self.instance,
            'limit_ms': 500, **changes})
        self.api.claim(self.ctxt, self.b.name, request)
        self.assertEqual({}, self.api.prepare(
            self.ctxt, self.b.name, request.migration_uuid))
        self.api.prepare_source(self.ctxt, self.a.name, request)
        return request

    def record(self, request: objects.VFMigrationRequest,
               role: phases.Role = SOURCE) -> record_.MigrationRecord:
        host = self.a if role is SOURCE else self.b
        return self.api.get(self.ctxt, host.name, request.migration_uuid,
                            role=role)

    def until(self, request: objects.VFMigrationRequest,
              phase: phases.Phase, role: phases.Role = SOURCE) -> None:
        gpu_lab.until(lambda: self.record(request, role).phase is phase,
                      f'{role} to be in {phase}')

    def go_on(self, one: qemu_model.Qemu, steps: int = 60) -> None:
        """Let QEMU copy, with the agent's looks between."""
        for _ in range(steps):
            if one.stopped is not None or self.pair.source.aborted:
                return
            one.run(0.5)
            time.sleep(0.1)

    def moved(self, request: objects.VFMigrationRequest) -> None:
        """Let it switch over and arrive, 0.5 s later."""
        self.pair.source.final = {
            'vfio_data_transferred': 40 * MIB, 'memory_processed': 99 * MIB,
            'downtime': 700}
        now = time.time()
        self.pair.switch_over(now)
        gpu_lab.until(lambda: bool(self.record(request).phase
                                   is phases.Phase.LOAD),
                      'the source to have seen it')
        self.pair.arrive(now + 0.5)
        self.until(request, phases.Phase.COMPLETED)
        self.until(request, phases.Phase.COMPLETED, DESTINATION)

    def states(self, request: objects.VFMigrationRequest) -> list[str]:
        return [entry['state'] for host in (self.a, self.b)
                for entry in self.api.records(self.ctxt, host.name)
                if entry['record']['migration_uuid']
                == request.migration_uuid]


class TestWatched(WatchedCase):

    def test_a_move_is_steered_and_measured(self) -> None:
        plan = self.api.plan(self.ctxt, self.a.name, self.instance,
                             self.a.vfs[0], 500)
        self.assertEqual('hypervisor', plan['carrier'])
        request = self.prepared()
        self.assertEqual([steering.HOLD_MS], self.pair.source.limits)
        one = qemu()
        self.pair.begin(one)
        self.go_on(one)
        self.assertIsNotNone(one.stopped)
        self.moved(request)
        found = self.record(request)
        self.assertEqual(phases.Outcome.COMPLETED, found.outcome)
        self.assertEqual(2, len(self.pair.source.limits))
        self.assertAlmostEqual(0.5, found.downtime_seconds or 0, delta=0.1)
        self.assertEqual(['drain', 'pre_switchover', 'stop_copy', 'handover'],
                         list(found.downtime_parts))
        self.assertAlmostEqual(
            4 * MIB, found.predicted_stop_copy_bytes or 0, delta=MIB)
        self.assertIsNotNone(found.stop_copy_bytes)
        # Housekeeping may have been here already.
        source, destination = self.states(request)
        self.assertIn(source, ('GIVEN_UP', 'FINISHED'))
        self.assertIn(destination, ('OWNED', 'FINISHED'))
        for host, role in ((self.a, SOURCE), (self.b, DESTINATION)):
            self.api.finish(self.ctxt, host.name, request.migration_uuid,
                            role)
        self.assertEqual(['FINISHED', 'FINISHED'], self.states(request))
        self.assertTrue(self.free(self.a, self.a.vfs[0]))

    def test_what_cannot_converge_is_aborted_with_what_it_needs(
            self) -> None:
        request = self.prepared(limit_ms=250)
        one = qemu(used=64 * MIB, working_set=60 * MIB)
        self.pair.begin(one)
        self.go_on(one)
        self.assertTrue(self.pair.source.aborted)
        self.pair.go_back('operation aborted: migration out: canceled by '
                          'client')
        self.until(request, phases.Phase.RETURNED)
        found = self.record(request)
        self.assertEqual(phases.Outcome.FAILED, found.outcome)
        self.assertIn('would need a limit of', found.reason)
        self.until(request, phases.Phase.RETURNED, DESTINATION)
        self.assertEqual(['RETURNED', 'DROPPED'], self.states(request))
        self.assertTrue(self.free(self.b, request.destination_vf))
        # What libvirt had before is what a migration by hand will find.
        self.assertEqual(300, self.pair.source.limits[-1])

    def test_the_host_driver_says_why_the_state_was_refused(self) -> None:
        asked = []

        def explanation(driver: object, address: str,
                        resets: bool = True) -> contract.Explain:
            asked.append((address, resets))
            return lambda: '; GIM: FW_MIGRATION_IMPORT_FAIL: PSP version'

        with mock.patch.object(contract.GPUDriver, 'explanation',
                               explanation):
            request = self.prepared()
        one = qemu()
        self.pair.begin(one)
        one.run(0.1)
        self.until(request, phases.Phase.PRECOPY)
        self.until(request, phases.Phase.PRECOPY, DESTINATION)
        self.pair.go_back('load of migration failed: Invalid argument')
        for role in (SOURCE, DESTINATION):
            self.until(request, phases.Phase.RETURNED, role)
            self.assertIn('; GIM: FW_MIGRATION_IMPORT_FAIL: PSP version',
                          self.record(request, role).reason)
        # QEMU opens the destination's yet, and so resets it.
        self.assertEqual({(request.source_vf, True),
                          (request.destination_vf, False)}, set(asked))

    def test_the_operator_aborts(self) -> None:
        request = self.prepared()
        self.pair.begin(qemu())
        self.pair.source.qemu.run(0.1)
        self.until(request, phases.Phase.PRECOPY)
        self.api.abort(self.ctxt, self.a.name, self.instance)
        self.assertTrue(self.pair.source.aborted)
        self.pair.go_back('operation aborted')
        self.until(request, phases.Phase.RETURNED)
        self.assertEqual(phases.Outcome.ABORTED,
                         self.record(request).outcome)

    def test_agents_killed_in_mid_move_see_what_libvirt_did(self) -> None:
        request = self.prepared()
        one = qemu()
        self.pair.begin(one)
        one.run(0.1)
        self.until(request, phases.Phase.PRECOPY)
        for host in (self.a, self.b):
            host.stop()
        self.pair.arrive(time.time())
        for host in (self.a, self.b):
            host.start()
        self.until(request, phases.Phase.COMPLETED)
        self.until(request, phases.Phase.COMPLETED, DESTINATION)

    def test_libvirt_is_restarted(self) -> None:
        request = self.prepared()
        one = qemu()
        self.pair.begin(one)
        one.run(0.1)
        self.until(request, phases.Phase.PRECOPY)
        self.pair.source.down = 'libvirtd is gone'
        time.sleep(0.3)
        self.assertFalse(self.record(request).phase.terminal)
        self.pair.source.down = ''
        self.go_on(one)
        self.moved(request)

    def test_rollback_of_what_did_not_begin(self) -> None:
        request = self.prepared()
        for host, role in ((self.a, SOURCE), (self.b, DESTINATION)):
            self.api.rollback(self.ctxt, host.name, request.migration_uuid,
                              role)
        self.assertEqual(['RETURNED', 'DROPPED'], self.states(request))
        self.assertTrue(self.free(self.b, request.destination_vf))

    def test_a_reservation_ends_where_nothing_comes(self) -> None:
        for host in (self.a, self.b):
            host.stop()
            host.conf.set_override('reservation_seconds', 1,
                                   'vgpu_mig_agent')
            host.start()
        request = self.prepared()
        self.until(request, phases.Phase.RETURNED, DESTINATION)
        self.until(request, phases.Phase.RETURNED)
        self.assertIn('did not begin in time', self.record(request).reason)

    def test_a_blocked_guest_is_refused_before_the_move(self) -> None:
        self.pair.source.blocked = ('0000:c1:00.2: VFIO migration is not '
                                    'supported in kernel',)
        plan = self.api.plan(self.ctxt, self.a.name, self.instance,
                             self.a.vfs[0], 500)
        self.assertIs(False, plan['fits'])
        self.assertIn('not supported in kernel', plan['reason'])
        with self.assertRaises(errors.Refused):
            self.prepared()
        self.assertEqual([], [e['state'] for e in self.api.records(
            self.ctxt, self.a.name)])

    def test_doubt_is_said_and_ends_by_what_a_person_does(self) -> None:
        request = self.prepared()
        one = qemu()
        self.pair.begin(one)
        one.run(0.1)
        self.until(request, phases.Phase.PRECOPY)
        paused = hypervisor.View(State.PAUSED, 'migration')
        self.pair.source.qemu = None
        self.pair.source.views[self.instance] = paused
        self.pair.destination.views[self.instance] = (
            hypervisor.View(State.RUNNING, 'migrated'))
        gpu_lab.until(
            lambda: any('must never run again' in note
                        for note in self.record(request).notes),
            'the doubt to be said')
        self.assertEqual(['ACTIVE', 'LOADING'], self.states(request))
        self.pair.source.views.pop(self.instance)
        self.until(request, phases.Phase.COMPLETED)
        self.until(request, phases.Phase.COMPLETED, DESTINATION)

    def test_libvirt_begins_it_not_the_agent(self) -> None:
        self.prepared()
        with self.assertRaises(errors.Refused):
            self.api.start(self.ctxt, self.a.name, self.instance)
