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

"""The steps of a move that the hypervisor carries, on this host's agent.

The same calls as for the agent carrier, and the same journal; but there is
nothing to open and nothing to run here. A step begins a watch, ends one, or
waits for one. A watch is no more than eyes: when the agent was down, a new
one looks and finds what libvirt has done meanwhile.
"""

import dataclasses
import logging
import time
from typing import Any

from oslo_context import context

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import views
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration.hypervisor import destination
from nova_vgpu_mig.migration.hypervisor import source
from nova_vgpu_mig.migration.hypervisor import watch
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor

LOG = logging.getLogger(__name__)

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION
State = ownership.State


class AgentPeer(watch.Peer):
    """The agent of the other end, over RPC."""

    def __init__(self, node: node_.Node, entry: journal_.Entry) -> None:
        self._api = node.api
        self._host = entry.peer_host
        self._uuid = entry.migration_uuid
        self._instance = entry.instance_uuid
        self._role = DESTINATION if entry.role is SOURCE else SOURCE
        self._best = watch.PeerAnswer(clock_error=float('inf'))

    def guest(self) -> watch.PeerAnswer:
        before = time.time()
        try:
            said = self._api.guest_state(context.RequestContext(),
                                         self._host, self._instance)
            error = (time.time() - before) / 2
            answer = watch.PeerAnswer(
                hypervisor.View.from_dict(said),
                float(said['now']) - before - error, error)
        except (errors.AgentError, KeyError, ValueError) as exc:
            LOG.debug('the guest at %s: %s', self._host, exc)
            return watch.PeerAnswer()
        if answer.clock_error < self._best.clock_error:
            # The quickest answer tells the clock best.
            self._best = answer
        return dataclasses.replace(
            answer, clock_ahead=self._best.clock_ahead,
            clock_error=self._best.clock_error)

    def record(self) -> record_.MigrationRecord | None:
        try:
            return self._api.get(context.RequestContext(), self._host,
                                 migration_uuid=self._uuid, role=self._role)
        except (errors.AgentError, ValueError) as exc:
            LOG.debug('the record at %s: %s', self._host, exc)
            return None


def _watchable(entry: journal_.Entry) -> bool:
    return (entry.carrier is phases.Carrier.HYPERVISOR
            and entry.state in watch.WATCHED)


class Watching:
    """Begins, finds and ends the watches of a node."""

    def __init__(self, node: node_.Node, view: views.Views) -> None:
        libvirt_conf.register_opts(node.conf)
        self._node = node
        self._view = view
        self._options = node.conf[libvirt_conf.GROUP]
        self._told: set[tuple[str, phases.Role]] = set()
        """Entries of which it was logged that they can't be watched."""

    def resume(self) -> None:
        """Watch again what is under way and nobody watches.

        :raises journal.JournalError: it can not be read now.
        """
        for entry in self._node.journal.entries(unsettled=True):
            if not _watchable(entry):
                continue
            try:
                self._resume(entry.migration_uuid, entry.role)
            except (ValueError, journal_.Unreadable) as exc:
                # One move's record must not stop all the others.
                self._tell_unreadable(entry, exc)

    def _resume(self, migration_uuid: str, role: phases.Role) -> None:
        with self._node.moves.turn(migration_uuid) as ours:
            # What was listed may be old. In this order: a watch that ends in
            # between has left the table after its entry has its end.
            if not ours or (migration_uuid, role) in self._node.moves:
                return
            entry = self._node.find(migration_uuid, role)
            if entry is not None and _watchable(entry):
                self._start(entry)

    def _tell_unreadable(self, entry: journal_.Entry,
                         exc: Exception) -> None:
        key = entry.migration_uuid, entry.role
        if key not in self._told:
            self._told.add(key)
            LOG.error(
                'migration %s, %s, VF %s: its record in %s can not be read, '
                'so that nobody watches it and it keeps the VF: %s; run the '
                'release that has begun it until it has ended, or stop the '
                'agent and correct the row with sqlite3', *key,
                entry.vf_address, self._node.journal.path, exc)

    def prepare(self, entry: journal_.Entry) -> dict[str, Any]:
        """Destination: watch for the guest; there is nothing to offer."""
        if entry.state is State.RESERVED:
            entry = self._node.journal.move(
                entry.migration_uuid, DESTINATION, State.LOADING,
                expected=State.RESERVED, deadline=entry.deadline)
        self._find(entry)
        return {}

    def check(self, instance_uuid: str) -> hypervisor.View:
        """Return the guest, if libvirt has it and could migrate it.

        :raises errors.Refused: why not.
        """
        host = self._node.hypervisor
        view = host.view(instance_uuid)
        if not view.state.here:
            raise errors.Refused(
                f'agent of {self._node.host}: libvirt has no guest of '
                f'instance {instance_uuid} that could be migrated ({view})')
        blockers = host.blockers(instance_uuid)
        if blockers:
            raise errors.Refused(
                f'agent of {self._node.host}: QEMU can not migrate instance '
                f'{instance_uuid}: {"; ".join(blockers)}')
        return view

    def begin_source(self, entry: journal_.Entry) -> dict[str, Any]:
        """Source: hold the limit, watch, and say how to begin the job.

        :raises hypervisor.HypervisorError: the guest can't be steered;
            nothing is watched then.
        """
        if entry.state is not State.ACTIVE:
            return entry.record
        live = self._node.moves.watch(entry.migration_uuid, SOURCE)
        if live is not None:
            return live.record.as_dict()
        record = record_.MigrationRecord.from_dict(entry.record)
        host = self._node.hypervisor
        view, abilities = self.check(entry.instance_uuid), host.abilities()
        source.begin_record(record, view, abilities)
        # What is there is of an agent that has asked before: it knew the
        # limit that was before ours.
        record.job |= self._job(abilities, record)
        made = self._make(dataclasses.replace(entry, record=record.as_dict()))
        assert isinstance(made, source.SourceWatch)
        made.remember_limit()
        self._node.journal.save_record(entry.migration_uuid, SOURCE,
                                       made.record.as_dict())
        self._node.moves.add_watch(made)
        # Only now: whatever becomes of this agent, the limit can be undone.
        try:
            made.hold()
            made.start()
        except BaseException:
            self._node.moves.remove_watch(made)
            made.let_go()
            raise
        return made.record.as_dict()

    def _job(self, abilities: hypervisor.Abilities,
             record: record_.MigrationRecord) -> dict[str, Any]:
        """What the job is to be begun with; None for what is left out."""
        options = self._options
        bandwidth = options.switchover_bandwidth_mib * 2 ** 20
        return {
            'downtime_limit_ms': (
                steering.HOLD_MS if options.steer
                else max(1, round((record.limit_seconds or 0) * 1000))),
            'parallel_connections': (
                options.parallel_connections or None
                if abilities.parallel else None),
            'switchover_bandwidth': (
                bandwidth or None if abilities.switchover_bandwidth
                else None),
        }

    def _find(self, entry: journal_.Entry) -> watch.Watch:
        return (self._node.moves.watch(entry.migration_uuid, entry.role)
                or self._start(entry))

    def _start(self, entry: journal_.Entry) -> watch.Watch:
        made = self._make(entry)
        self._node.moves.add_watch(made)
        made.start()
        return made

    def _make(self, entry: journal_.Entry) -> watch.Watch:
        node = self._node
        record = record_.MigrationRecord.from_dict(entry.record)
        scene = watch.Scene(
            node.hypervisor, node.journal, record, AgentPeer(node, entry),
            self._options.poll_interval, node.moves.remove_watch,
            node.observer, self._explanation(entry))
        if entry.role is DESTINATION:
            return destination.DestinationWatch(scene)
        known = self._view.experience(entry.instance_uuid,
                                      phases.Carrier.HYPERVISOR)
        return source.SourceWatch(
            scene, limits.Limits.from_conf(
                node.conf, record.limit_seconds, known.costs),
            steer=self._options.steer)

    def _explanation(self, entry: journal_.Entry) -> contract.Explain:
        try:
            return self._node.driver.explanation(
                entry.vf_address, resets=entry.role is SOURCE)
        except contract.DeviceError as exc:
            # It only adds to a reason; no move ends for want of it.
            LOG.info('What would explain a failure is not known: %s', exc)
            return contract.nothing_more

    def abort(self, entry: journal_.Entry, reason: str) -> None:
        """Source: ask libvirt to abort; what comes of it is watched.

        :raises source.AbortTooLate: it can only be completed.
        """
        live = self._find(entry)
        assert isinstance(live, source.SourceWatch)
        live.abort(reason)

    def rollback(self, entry: journal_.Entry, patience: float) -> None:
        """Nova has given it up: wait until libvirt's word is known.

        :raises errors.Refused: the guest is not where Nova will look.
        """
        if entry.state in watch.WATCHED:
            live = self._find(entry)
            live.give_up('Nova has rolled the migration back')
            live.hear(patience)
        entry = self._node.journal.get(entry.migration_uuid, entry.role)
        if entry.state not in (State.RETURNED, State.DROPPED):
            notes = '; '.join(entry.record.get('notes', ())[-1:])
            raise errors.Refused(
                f'agent of {self._node.host}: migration '
                f'{entry.migration_uuid} is {entry.state} as {entry.role}, '
                f'by what libvirt says: {notes or "it is looked at still"}')
