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

"""The steps of a move: what RPC and notifications both trigger.

Each is idempotent and may come in any order, twice or never; the journal's
state says what is left to do. None of them decides who may run the VF: that
is the journal's table and `migration.recovery`.
"""

from collections.abc import Callable
import time
from typing import Any

from oslo_context import context

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import housekeeping
from nova_vgpu_mig.agent import moves
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import requests
from nova_vgpu_mig.agent import resolving
from nova_vgpu_mig.agent import tenancy
from nova_vgpu_mig.agent import translation
from nova_vgpu_mig.agent import views
from nova_vgpu_mig.agent import watching
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import recovery as recovery_
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm import port as vmm_port

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION
HYPERVISOR = phases.Carrier.HYPERVISOR
State = ownership.State

OVER = frozenset((State.RETURNED, State.DROPPED, State.FINISHED))


def first_record(request: objects.VFMigrationRequest, role: phases.Role,
                 limit_seconds: float) -> record_.MigrationRecord:
    """Return the record that a side of a move begins with. Pure."""
    return record_.MigrationRecord(
        migration_uuid=request.migration_uuid,
        instance_uuid=request.instance_uuid, role=role,
        source_host=request.source_host,
        destination_host=request.destination_host,
        source_vf=request.source_vf, destination_vf=request.destination_vf,
        request_id=request.request_id, limit_seconds=limit_seconds,
        carrier=phases.Carrier(request.carrier),
        phase_times={str(phases.Phase.CLAIMED): time.time()})


class Steps:
    """Changing calls; every public one raises errors.AgentError only."""

    def __init__(self, node: node_.Node, view: views.Views,
                 recovery: recovery_.Recovery) -> None:
        self.host = node.host
        self.journal = node.journal
        self._node = node
        self._view = view
        self._recovery = recovery
        self._moves = node.moves
        self._house = housekeeping.Housekeeping(node, recovery)
        self._watching = watching.Watching(node, view)

    def _deadline(self) -> float:
        """By when a move that was asked for has to begin, epoch seconds."""
        options = self._node.conf[agent_conf.GROUP]
        return float(time.time() + options.reservation_seconds)

    def _limits(self, seconds: float | None) -> limits.Limits:
        return limits.Limits.from_conf(self._node.conf, seconds)

    def _patience(self) -> float:
        """How long a move that has been decided may take to its end."""
        limit = self._limits(None)
        return limit.fence_seconds + limit.silence_seconds

    def _make_way(self, request: objects.VFMigrationRequest,
                  role: phases.Role) -> None:
        tenancy.Tenancy(self._node, self._recovery).make_way(
            request, role, self._patience())

    def _begin(self, request: objects.VFMigrationRequest, role: phases.Role,
               deadline: float | None = None,
               plan: dict[str, Any] | None = None) -> dict[str, Any]:
        ms = request.limit_ms
        limit = self._limits(None if ms is None else ms / 1000)
        record = first_record(request, role, limit.downtime_seconds)
        record.plan = plan or {}
        entry = self.journal.begin(role, record.as_dict(), deadline=deadline)
        if entry.state in OVER:
            raise errors.Refused(
                f'agent of {self.host}: migration {entry.migration_uuid} has '
                f'ended already ({entry.state}); a new one needs a new uuid')
        return self._view.values(entry)

    @translation.translated
    def claim(self, request: objects.VFMigrationRequest) -> dict[str, Any]:
        """Destination: reserve the VF; the verdict once more, fresh."""
        requests.check(request, self.host, DESTINATION)
        requests.refuse_carrier(self._node, request)
        self._make_way(request, DESTINATION)
        with self._moves.step(request.migration_uuid):
            if self._node.find(request.migration_uuid, DESTINATION) is None:
                requests.refuse_unfit(self._node, request)
            return self._begin(request, DESTINATION,
                               deadline=self._deadline())

    @translation.translated
    def prepare(self, migration_uuid: str) -> dict[str, Any]:
        """Destination: take the VF to RESUMING; the offer for the source."""
        with self._moves.step(migration_uuid):
            entry = self.journal.get(migration_uuid, DESTINATION)
            if entry.carrier is HYPERVISOR and entry.state not in OVER:
                return self._watching.prepare(entry)
            run = self._moves.destination(migration_uuid)
            if run is None:
                if entry.state is not State.RESERVED:
                    raise errors.Refused(
                        f'agent of {self.host}: migration {migration_uuid} '
                        f'is {entry.state}, it can not be prepared again')
                run = self._destination_run(entry)
                self._moves.add_destination(run)
            return run.prepare().as_dict()

    def _destination_run(self, entry: journal_.Entry
                         ) -> moves.DestinationRun:
        record = record_.MigrationRecord.from_dict(entry.record)
        migration = destination.DestinationMigration(
            driver=self._node.driver, journal=self.journal, record=record,
            server=self._node.server,
            limits=self._limits(record.limit_seconds),
            ask_source=lambda: self._node.ask_source(entry),
            observer=self._node.observer)
        return moves.DestinationRun(
            migration, lambda: self._node.guest(entry.instance_uuid),
            self._moves.remove_destination)

    @translation.translated
    def prepare_source(self, request: objects.VFMigrationRequest
                       ) -> dict[str, Any]:
        """Source: note the move, with its plan."""
        requests.check(request, self.host, SOURCE)
        requests.refuse_carrier(self._node, request)
        self._make_way(request, SOURCE)
        plan = self._view.plan(request.instance_uuid, request.source_vf,
                               request.limit_ms)
        with self._moves.step(request.migration_uuid):
            self._moves.refuse_forbidden(request.migration_uuid)
            if request.carrier == HYPERVISOR:
                self._watching.check(request.instance_uuid)
            begun = self._begin(request, SOURCE, deadline=self._deadline(),
                                plan=plan)
            if request.carrier != HYPERVISOR:
                return begun
            return self._watch_source(request.migration_uuid)

    def _watch_source(self, migration_uuid: str) -> dict[str, Any]:
        try:
            return self._watching.begin_source(
                self.journal.get(migration_uuid, SOURCE))
        except Exception as exc:
            # With what was written since: how to undo what can't be now.
            self._end_unbegun(self.journal.get(migration_uuid, SOURCE),
                              phases.Outcome.FAILED,
                              f'it could not begin: {custody.explain(exc)}')
            raise

    def _end_unbegun(self, entry: journal_.Entry, outcome: phases.Outcome,
                     reason: str) -> None:
        """RETURNED, where nothing is left that has to be taken back."""
        self.journal.move(entry.migration_uuid, SOURCE, State.RETURNED,
                          expected=State.ACTIVE, record={
                              **entry.record, 'outcome': str(outcome),
                              'reason': reason,
                              'phase': str(phases.Phase.RETURNED)})
        self.journal.settle(entry.migration_uuid, SOURCE)

    @translation.translated
    def start(self, instance_uuid: str) -> dict[str, Any]:
        """Source: begin the transfer in a thread of its own.

        Asked again it returns the record of the same move.

        :raises errors.Refused: the VM's last move has ended; there is none
            to start.
        """
        entry = self._view.entry(None, instance_uuid, SOURCE)
        if entry.carrier is HYPERVISOR:
            raise errors.Refused(
                f'agent of {self.host}: migration {entry.migration_uuid} is '
                f'begun by libvirt (migrateToURI3); this agent watches it')
        with self._moves.step(entry.migration_uuid):
            # In this order: a move that ends in between has left the table
            # after it has left ACTIVE.
            run = self._moves.source(entry.migration_uuid)
            entry = self.journal.get(entry.migration_uuid, SOURCE)
            if run is None and entry.state is State.ACTIVE:
                run = self._source_run(entry)
                self._moves.add_source(run)
                run.start()
            elif run is None and entry.state in OVER:
                raise errors.Refused(
                    f'agent of {self.host}: migration '
                    f'{entry.migration_uuid} has ended already '
                    f'({entry.state}); a new one needs a new uuid: '
                    f'{entry.record["reason"]}')
            return self._view.values(entry)

    def _source_run(self, entry: journal_.Entry) -> moves.SourceRun:
        node = self._node
        record = record_.MigrationRecord.from_dict(entry.record)
        held: list[vmm_port.Guest] = []

        def fetch() -> offer_.Offer:
            return offer_.Offer.from_dict(node.api.prepare(
                context.RequestContext(), record.destination_host,
                record.migration_uuid))

        def build(offer: offer_.Offer) -> source.SourceMigration:
            guest = node.guest(entry.instance_uuid)
            if guest is not None:
                held.append(guest)
            return source.SourceMigration(
                driver=node.driver, guest=guest, journal=self.journal,
                record=record, offer=offer,
                limits=limits.Limits.from_conf(
                    node.conf, record.limit_seconds,
                    self._view.experience(entry.instance_uuid).costs),
                observer=node.observer)

        def ended(run: moves.SourceRun) -> None:
            for guest in held:
                guest.close()
            self._moves.remove_source(run)

        return moves.SourceRun(record, self.journal, fetch, build, ended)

    @translation.translated
    def abort(self, instance_uuid: str) -> dict[str, Any]:
        """Source: go back, whichever move of the VM is the newest."""
        entry = self._view.entry(None, instance_uuid, SOURCE)
        return self.abort_migration(entry.migration_uuid)

    @translation.translated
    def abort_migration(self, migration_uuid: str) -> dict[str, Any]:
        """As abort(), for one that is known by its uuid."""
        with self._moves.step(migration_uuid):
            # Not before the lock: start() may be about to make it live.
            run = self._moves.source(migration_uuid)
            if run is not None:
                run.abort('aborted by the operator')
                return run.record.as_dict()
            entry = self.journal.get(migration_uuid, SOURCE)
            if entry.carrier is HYPERVISOR and entry.state is State.ACTIVE:
                self._watching.abort(entry, 'aborted by the operator')
            elif entry.state is State.ACTIVE:
                self._give_back(entry, phases.Outcome.ABORTED,
                                'aborted by the operator')
            elif entry.state is not State.RETURNED:
                raise self._given_up(entry)
        return self._view.values(self.journal.get(migration_uuid, SOURCE))

    def _given_up(self, entry: journal_.Entry) -> errors.Refused:
        return errors.Refused(
            f'agent of {self.host}: VF {entry.vf_address} has been given up '
            f'to {entry.peer_host}; migration {entry.migration_uuid} can '
            f'only be completed')

    def _give_back(self, entry: journal_.Entry, outcome: phases.Outcome,
                   reason: str) -> None:
        """ACTIVE, and nothing serves it: RETURNED, then let it run."""
        record = {**entry.record, 'outcome': str(outcome), 'reason': reason,
                  'phase': str(phases.Phase.RETURNED)}
        self.journal.move(entry.migration_uuid, SOURCE, State.RETURNED,
                          expected=State.ACTIVE, record=record)
        self._recovery.step(entry.migration_uuid, SOURCE)

    @translation.translated
    def finish(self, migration_uuid: str,
               role: phases.Role) -> dict[str, Any] | None:
        """Release what a completed move still holds; None if unknown."""
        with self._moves.step(migration_uuid):
            entry = self._node.find(migration_uuid, role)
            if entry is None:
                return None
            self._wait_for(entry)
            entry = self.journal.get(migration_uuid, role)
            if entry.state is State.PREPARED:
                self._recovery.step(migration_uuid, role)
            if entry.state is not State.FINISHED:
                self._recovery.finish(migration_uuid, role)
            return self._view.values(self.journal.get(migration_uuid, role))

    def housekeep(self) -> list[str]:
        """One round of what is done unasked; a sentence for each thing."""
        self._watching.resume()
        return self._house.go_round()

    def _wait_for(self, entry: journal_.Entry) -> None:
        """Let a live move come to its end, if that is near.

        Nova may be told of the end of a migration before the thread that
        carried it has written its report.

        :raises errors.Refused: it goes on.
        """
        run = self._moves.get(entry.migration_uuid, entry.role)
        if run is not None and not run.wait(self._patience()):
            raise errors.Refused(
                f'agent of {self.host}: migration {entry.migration_uuid} is '
                f'still under way ({run.record.phase})')

    @translation.translated
    def rollback(self, migration_uuid: str,
                 role: phases.Role) -> dict[str, Any] | None:
        """Undo a move that Nova has given up; None if unknown."""
        with self._moves.step(migration_uuid):
            entry = self._node.find(migration_uuid, role)
            if entry is None:
                if role is SOURCE:
                    self._moves.forbid(migration_uuid)
                return None
            undo: Callable[[journal_.Entry], None] = (
                self._rollback_watched
                if entry.carrier is HYPERVISOR
                else self._rollback_source if role is SOURCE
                else self._rollback_destination)
            undo(entry)
            return self._view.values(self.journal.get(migration_uuid, role))

    def _rollback_watched(self, entry: journal_.Entry) -> None:
        self._watching.rollback(entry, self._patience())

    def _rollback_source(self, entry: journal_.Entry) -> None:
        run = self._moves.source(entry.migration_uuid)
        if run is not None:
            run.abort('Nova has rolled the migration back')
            self._wait_for(entry)
            entry = self.journal.get(entry.migration_uuid, SOURCE)
        if entry.state is State.ACTIVE:
            self._give_back(entry, phases.Outcome.FAILED,
                            'Nova has rolled the migration back')
        elif entry.state is State.RETURNED and not entry.settled:
            self._recovery.step(entry.migration_uuid, SOURCE)
        elif entry.state is not State.RETURNED:
            raise self._given_up(entry)

    def _rollback_destination(self, entry: journal_.Entry) -> None:
        uuid = entry.migration_uuid
        run = self._moves.destination(uuid)
        if run is not None:
            try:
                run.migration.drop('Nova has rolled the migration back')
            except destination.DropRefused:
                run.migration.look()
            self._wait_for(entry)
            entry = self.journal.get(uuid, DESTINATION)
        if entry.state in (State.RESERVED, State.LOADING):
            record = {**entry.record,
                      'outcome': str(phases.Outcome.FAILED),
                      'reason': 'Nova has rolled the migration back',
                      'phase': str(phases.Phase.RETURNED)}
            self.journal.move(uuid, DESTINATION, State.DROPPED,
                              record=record)
        entry = self.journal.get(uuid, DESTINATION)
        if not entry.settled:
            self._recovery.step(uuid, DESTINATION)
        entry = self.journal.get(uuid, DESTINATION)
        if entry.state is not State.DROPPED:
            raise errors.Refused(
                f'agent of {self.host}: migration {uuid} holds verified '
                f'state ({entry.state}); only the journal of '
                f'{entry.peer_host} decides, see '
                f'"nova-vgpu-mig --host {self.host} show {uuid}"')

    @translation.translated
    def commit(self, migration_uuid: str) -> dict[str, Any]:
        """Destination: look at the source's journal now; what came of it.
        """
        run = self._moves.destination(migration_uuid)
        if run is not None:
            run.migration.look()
            self._wait_for(self.journal.get(migration_uuid, DESTINATION))
        else:
            with self._moves.step(migration_uuid):
                self._recovery.step(migration_uuid, DESTINATION)
        entry = self.journal.get(migration_uuid, DESTINATION)
        return {'state': str(entry.state),
                'outcome': entry.record.get('outcome'),
                'reason': entry.record.get('reason')}

    @translation.translated
    def resolve(self, migration_uuid: str, role: phases.Role,
                choice: recovery_.Choice, dry_run: bool) -> dict[str, Any]:
        """Decide a move that could not decide itself."""
        with self._moves.step(migration_uuid):
            entry = self.journal.get(migration_uuid, role)
            run = self._moves.destination(migration_uuid)
            if run is not None and entry.state in resolving.DECIDED:
                return resolving.resolve(self._node, run, entry, choice,
                                         dry_run)
            if (migration_uuid, role) in self._moves:
                raise errors.Refused(
                    f'agent of {self.host}: migration {migration_uuid} is '
                    f'under way and decides itself; watch it, or abort it '
                    f'through Nova')
            made = self._recovery.resolve(migration_uuid, role, choice,
                                          dry_run=dry_run)
            return {'done': made.done, 'explanation': made.explanation}
