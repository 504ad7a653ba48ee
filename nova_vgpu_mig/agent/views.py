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

"""What an agent answers without changing anything."""

from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import importlib.metadata
import logging
import statistics
import time
from typing import Any

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import requests
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.agent import tenancy
from nova_vgpu_mig.agent import translation
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import downtime
from nova_vgpu_mig.planning import estimate
from nova_vgpu_mig.planning import steering

LOG = logging.getLogger(__name__)

ASSUMED_BANDWIDTH = 1.0e9
"""Bytes a second, until a move of this host has measured it: 10 GbE."""

REMEMBERED = 50
"""Moves of this host, at most, that a plan learns from."""

RECENT = 5
"""Completed moves whose median is believed, so that one that met a slow disk
does not refuse those after it."""

WATCH_SECONDS = 0.5
"""How long a plan watches what the VF dirties; some frames of a guest."""


def without(pools: Iterable[contract.Pool],
            reserved: frozenset[str]) -> tuple[contract.Pool, ...]:
    """Return the pools with VFs that are `reserved` marked as not free."""
    return tuple(
        dataclasses.replace(pool, vfs=tuple(
            dataclasses.replace(vf, free=False)
            if vf.address in reserved else vf for vf in pool.vfs))
        for pool in pools)


def _hypervisor_costs(parts: Mapping[str, float]) -> downtime.FixedCosts:
    """What a switchover costs beside the copying, where QEMU does it.

    Its parts are others (migration.hypervisor.timeline); one that was not
    measured keeps the default of the part that it takes the place of.
    """
    known = {ours: parts[theirs] for ours, theirs in (
        ('drain', 'drain'), ('commit', 'pre_switchover'),
        ('state', 'state'), ('run', 'handover')) if theirs in parts}
    return downtime.FixedCosts.from_parts(
        {'vcpus': 0.0, 'state': 0.0, 'verify': 0.0, **known})


def _agent_parts(values: Mapping[str, Any], rate: float) -> dict[str, float]:
    """The parts of a move's downtime, as it has measured them."""
    del rate
    return dict(values['downtime_parts'])


def _hypervisor_parts(values: Mapping[str, Any],
                      rate: float) -> dict[str, float]:
    """The same, with what its stop-copy took beside the copying as state.

    By the rate of its own rounds, as later moves reckon with theirs. That is
    an upper bound of what does not depend on the bytes: a device may give its
    state more slowly once it has stopped. RAM's bytes count, else a VM with
    much of it would have taken long for nothing; records of releases that did
    not measure them say none.

    :param values: of the record.
    """
    parts: dict[str, float] = dict(values['downtime_parts'])
    for last in values['rounds']:
        if (last['stop_copy'] and last['memory_bytes']
                and 'stop_copy' in parts):
            sent = last['stream_bytes'] + last['memory_bytes']
            parts['state'] = max(0.0, parts['stop_copy'] - sent / rate)
    return parts


def _agent_rate(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Bytes a second of frame buffer and stream while they were sent."""
    seconds = sum(r['sending_seconds'] for r in rounds)
    sent = sum(r['frame_buffer_bytes'] + r['stream_bytes'] for r in rounds)
    return sent / seconds if seconds > 0 else 0.0


def _hypervisor_rate(rounds: Sequence[Mapping[str, Any]]) -> float:
    """Bytes a second of the best round, as the move itself reckons.

    Guest RAM goes the same way, so it counts. A round of a held limit waits
    for longer than it sends: all rounds together would say how little was
    dirty, not what the way carries.
    """
    return steering.bandwidth([
        convergence.Observation(r['stream_bytes'] + r['memory_bytes'],
                                r['seconds'], 0) for r in rounds])


@dataclasses.dataclass(frozen=True, slots=True)
class _Reading:
    """How what a carrier's moves have measured is read."""

    costs: Callable[[Mapping[str, float]], downtime.FixedCosts]
    """Of the medians of parts()."""

    parts: Callable[[Mapping[str, Any], float], dict[str, float]]
    """Of a record's values, and rate()."""

    at_most: frozenset[str]
    """Parts of which a move tells an upper bound only, so that the least of
    several counts, and one tells nothing: too much would refuse every move
    that could show better."""

    rate: Callable[[Sequence[Mapping[str, Any]]], float]
    believed: Callable[[list[float]], float]
    """Of the rates of several moves."""


_READINGS = {
    phases.Carrier.AGENT: _Reading(downtime.FixedCosts.from_parts,
                                   _agent_parts, frozenset(), _agent_rate,
                                   statistics.median),
    # QEMU was seen to send at least so much: a small guest, or one that is
    # mostly zeros, does not show what the way carries. Too high a rate costs
    # a move that is aborted early, by what it measures itself; too low a one
    # refuses every move that would have shown better.
    phases.Carrier.HYPERVISOR: _Reading(_hypervisor_costs, _hypervisor_parts,
                                        frozenset({'state'}),
                                        _hypervisor_rate, max),
}


def _usual(moves: Sequence[Mapping[str, float]],
           at_most: frozenset[str]) -> dict[str, float]:
    """Return what each part takes, by what moves have measured."""
    found = {}
    for name in set().union(*moves):
        values = [parts[name] for parts in moves if name in parts]
        if name not in at_most:
            found[name] = statistics.median(values)
        elif len(values) > 1:
            found[name] = min(values)
    return found


@dataclasses.dataclass(frozen=True, slots=True)
class Experience:
    """What earlier moves of this source have measured."""

    bandwidth: float = ASSUMED_BANDWIDTH
    costs: downtime.FixedCosts = dataclasses.field(
        default_factory=downtime.FixedCosts)
    dirty_bytes_per_second: float | None = None
    """Of the same VM, in its last move."""

    moves: int = 0
    """How many completed moves have measured it; 0: assumed."""

    @classmethod
    def of(cls, records: Iterable[dict[str, Any]], instance_uuid: str,
           carrier: phases.Carrier = phases.Carrier.AGENT) -> 'Experience':
        """Pure. :param records: MigrationRecord.as_dict(), newest first."""
        reading = _READINGS[carrier]
        rates: list[float] = []
        parts: list[dict[str, float]] = []
        dirty = None
        for values in records:
            if values.get('carrier', phases.Carrier.AGENT) != carrier:
                continue
            rounds = [r for r in values['rounds'] if not r['stop_copy']]
            if (dirty is None and rounds
                    and values['instance_uuid'] == instance_uuid):
                dirty = rounds[-1]['dirty_bytes_per_second']
            if (values['outcome'] != phases.Outcome.COMPLETED
                    or len(parts) == RECENT):
                continue
            rate = reading.rate(rounds)
            # A paused guest had no downtime, and says nothing of its parts;
            # a connection that was lost meanwhile says nothing of the next.
            if (rate and values['downtime_parts']
                    and not values.get('reconnects')):
                parts.append(reading.parts(values, rate))
                rates.append(rate)
        if not parts:
            return cls(dirty_bytes_per_second=dirty)
        costs = reading.costs(_usual(parts, reading.at_most))
        return cls(reading.believed(rates), costs, dirty, len(parts))

    def __str__(self) -> str:
        """Where bandwidth and fixed costs come from, for the reason."""
        origin = (f'as the last {self.moves} completed moves from this host '
                  'have measured them' if self.moves else
                  'assumed, as no move from this host has measured them')
        return (f'{self.bandwidth / 2 ** 20:.0f} MiB/s and fixed costs of '
                f'{self.costs.total * 1000:.0f} ms are {origin}')


def used_bytes(pool: contract.Pool, vf: contract.VF) -> int | None:
    """Return what the first round has to send of a VF; the worst if unknown.

    Pure. A VF without a guest driver has nothing to carry, whatever its
    last guest has left in the frame buffer. None: not even the worst is
    known, as no frame buffer shows.
    """
    if vf.state is contract.VFState.EMPTY:
        return 0
    if vf.used_bytes is not None:
        return vf.used_bytes
    size = pool.identity.frame_buffer_mib
    return None if size is None else size * 2 ** 20


def fits(workload: estimate.Workload, limit: limits.Limits,
         known: Experience, made: estimate.Plan) -> bool | None:
    """Tell whether a move may be refused before it begins. Pure.

    :returns: as made.converges, but None where only the fixed costs stand
        against it: those are of other moves, and if they refused every next
        one, none would ever measure that they have become less.
    """
    if made.converges is not False:
        return made.converges
    bare = estimate.plan(workload, bandwidth=known.bandwidth,
                         limit_seconds=limit.downtime_seconds,
                         costs=downtime.NO_COSTS,
                         max_rounds=limit.max_rounds)
    return None if bare.converges else False


class Views:
    """Reading calls; every one raises errors.AgentError only."""

    def __init__(self, node: node_.Node) -> None:
        self._node = node
        self.host = node.host

    @translation.translated
    def describe(self) -> objects.HostDescription:
        node = self._node
        return objects.HostDescription(
            host=node.host,
            version=importlib.metadata.version('nova-vgpu-mig'),
            rpc_version=rpcapi.VERSION,
            data_host=node.server.address[0],
            data_port=node.server.address[1],
            pools=[objects.PoolDescription.from_pool(pool)
                   for pool in without(node.driver.pools(), self._held())],
            carriers=[str(carrier) for carrier in node.carriers()])

    def _held(self) -> frozenset[str]:
        """The VFs that moves hold, but not what a claim would clear."""
        journal_ = self._node.journal
        return journal_.reserved() - {
            entry.vf_address for entry in journal_.entries(unsettled=True)
            if tenancy.vacant(entry)}

    @translation.translated
    def plan(self, instance_uuid: str, vf_address: str,
             limit_ms: int | None) -> dict[str, Any]:
        """As AgentAPI.plan(). `fits` is None when it can't be known.

        :raises errors.Refused: the VF can't be moved now.
        """
        node = self._node
        pool, vf = node.locate(vf_address)
        requests.refuse_now(node.host, vf)
        used = used_bytes(pool, vf)
        limit = limits.Limits.from_conf(
            node.conf, None if limit_ms is None else limit_ms / 1000)
        carrier = node.carrier_of(instance_uuid)
        known = self.experience(instance_uuid, carrier)
        workload = estimate.Workload(
            used, 0.0 if used == 0 else self._dirty_rate(vf_address, known))
        made = estimate.plan(
            workload, bandwidth=known.bandwidth,
            limit_seconds=limit.downtime_seconds, costs=known.costs,
            max_rounds=limit.max_rounds)
        standing = (made.worst_downtime_seconds
                    if made.downtime_seconds is None
                    else made.downtime_seconds)
        worst = None if used is None else used / known.bandwidth
        blockers = (node.hypervisor.blockers(instance_uuid)
                    if carrier is phases.Carrier.HYPERVISOR else ())
        return {
            **made.as_dict(),
            'carrier': str(carrier),
            'used_bytes': used,
            'bytes': used if made.total_bytes is None else made.total_bytes,
            'seconds': (worst if made.total_seconds is None
                        else made.total_seconds),
            'downtime_ms': None if standing is None else standing * 1000,
            'limit_ms': limit.downtime_seconds * 1000,
            'fits': (False if blockers
                     else fits(workload, limit, known, made)),
            'reason': (f'QEMU can not migrate it: {"; ".join(blockers)}'
                       if blockers else f'{made.reason} ({known})'),
        }

    def experience(self, instance_uuid: str,
                   carrier: phases.Carrier = phases.Carrier.AGENT
                   ) -> Experience:
        """What this host's last moves tell about the next of a VM."""
        return Experience.of(
            (entry.record for entry in self._node.journal.entries(
                role=phases.Role.SOURCE, limit=REMEMBERED)), instance_uuid,
            carrier)

    @translation.translated
    def guest_state(self, instance_uuid: str) -> dict[str, Any]:
        """What the hypervisor has of a guest, and this host's clock."""
        return {**self._node.hypervisor.view(instance_uuid).as_dict(),
                'now': time.time()}

    def _dirty_rate(self, address: str, known: Experience) -> float | None:
        """Bytes a second now, else of the last move, None if unknown."""
        try:
            rate = self._node.driver.dirty_rate(address, WATCH_SECONDS)
        except contract.DeviceError as exc:
            # Another plan watches it now; that is no reason to refuse one.
            LOG.info('Dirty rate of VF %s: %s', address, exc)
            rate = None
        return known.dirty_bytes_per_second if rate is None else rate

    def entry(self, migration_uuid: str | None, instance_uuid: str | None,
              role: phases.Role | None) -> journal.Entry:
        """Return an entry; by instance the one under way, else the newest.

        :raises errors.MigrationNotFound: there is none.
        """
        entry = self._node.journal.newest(
            migration_uuid=migration_uuid, instance_uuid=instance_uuid,
            role=role)
        if entry is not None:
            return entry
        raise errors.MigrationNotFound(
            f'agent of {self.host}: the journal knows no migration '
            f'{migration_uuid or "of instance " + str(instance_uuid)}'
            + (f' as {role}' if role else '')
            + f'; "nova-vgpu-mig --host {self.host} list" shows those it '
            f'knows')

    def values(self, entry: journal.Entry) -> dict[str, Any]:
        """Return the record: the live one, else the journal's."""
        run = self._node.moves.get(entry.migration_uuid, entry.role)
        return entry.record if run is None else run.record.as_dict()

    @translation.translated
    def get(self, migration_uuid: str | None = None,
            instance_uuid: str | None = None,
            role: str | None = None) -> dict[str, Any]:
        if migration_uuid is None and instance_uuid is None:
            raise errors.BadRequest(
                f'agent of {self.host}: get needs a migration or an instance')
        return self.values(self.entry(
            migration_uuid, instance_uuid,
            None if role is None else phases.Role(role)))

    @translation.translated
    def records(self) -> list[dict[str, Any]]:
        return [{'record': self.values(entry), 'state': str(entry.state),
                 'settled': entry.settled, 'deadline': entry.deadline,
                 'changed_at': entry.changed_at}
                for entry in self._node.journal.entries()]

    @translation.translated
    def ownership(self, migration_uuid: str) -> str:
        return str(self._node.journal.get(
            migration_uuid, phases.Role.SOURCE).state)
