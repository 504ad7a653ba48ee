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

"""The scheduler's filter: no host whose VFs could not take the state.

Nova knows a product id; whether the state of a VF can go on in another one
hangs on much more. The filter judges every host by what its node has
published, so that a hopeless move is never begun, and the log says which
rule refused which host and with which values.

It overrides `filter_all` and not `host_passes`, because the source has to be
looked up, once for a request and not once for a host. One filter object
serves all of the scheduler's threads: nothing of a request is kept on it.

It fails closed. A host that publishes nothing, or something that cannot be
read, might be the right one, but a VM is not to find that out half-way.

When it has left out every host it does not return an empty list, as filters
do, but raises the NoValidHost that Nova would raise next: with the reasons
in it, which is what the operator then reads in the server's events instead
of a bare "No valid host was found".

With PCI devices in Placement the host's allocation candidates name the PFs,
and those of unsuitable PFs are taken away. Without, Nova may still claim a
VF of an unsuitable PF on a host that has both kinds, and in either case an
unsuitable VF of a PF that has both kinds; the driver extension refuses that
after the claim.
"""

from collections.abc import Iterable
from collections.abc import Mapping
import dataclasses
from typing import Any

from oslo_log import log as logging

from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.nova.internals import controller
from nova_vgpu_mig.nova import publication

LOG = logging.getLogger(__name__)

_WHAT_TO_DO = ('is nova-compute there running vgpu_mig.VgpuMigLibvirtDriver, '
               'and has it reported since?')


class CannotJudge(Exception):
    """A host has not said what a verdict needs; the text says what."""


@dataclasses.dataclass(frozen=True, slots=True)
class GPUSource:
    """The side that all hosts are compared with."""

    host: str
    pool: publication.Pool
    vf_address: str
    vm_vfs: int


@dataclasses.dataclass(frozen=True, slots=True)
class PoolVerdict:
    pf_address: str
    verdict: verdict.Verdict


def published(stats: Any) -> publication.Publication:
    """Read what a node published.

    :param stats: the node's stats, None before its first report.
    :raises CannotJudge: nothing, garbage, or a problem of the node's own.
    """
    if not stats or publication.KEY not in stats:
        raise CannotJudge(f'it publishes no GPU VFs; {_WHAT_TO_DO}')
    try:
        found = publication.decode(stats[publication.KEY])
    except publication.PublicationError as exc:
        raise CannotJudge(f'what it publishes cannot be read: {exc}') from exc
    if found.problem:
        raise CannotJudge(f'it reports a problem: {found.problem:.200}')
    return found


def gpu_source(source: controller.Source) -> GPUSource | None:
    """Return the GPU VF that a VM holds; None if it holds none.

    :raises CannotJudge: the VM may hold one, but its host does not say.
    """
    if publication.KEY not in source.stats or not source.vfs:
        # No host of ours, or VFs of none: Nova's own business.
        return None
    try:
        found = published(source.stats)
    except CannotJudge:
        if any(vf.by_alias for vf in source.vfs):
            raise
        return None
    try:
        held = [(vf, pool) for vf in source.vfs
                if (pool := found.pool_of(vf.pf_address, vf.address))]
    except publication.PublicationError as exc:
        raise CannotJudge(str(exc)) from exc
    if not held:
        if found.omitted_pools and any(vf.by_alias for vf in source.vfs):
            raise CannotJudge(
                f'{found.omitted_pools} of its PFs found no room in what it '
                "publishes, and the VM's VF may belong to one of them")
        return None
    first, pool = held[0]
    return GPUSource(source.host, pool, first.address, len(held))


def judge_pools(source: GPUSource,
                found: publication.Publication) -> list[PoolVerdict]:
    """Judge each PF of a host. Pure."""
    return [
        PoolVerdict(pool.pf_address, verdict.judge(
            source.pool.identity, pool.identity, free_vfs=pool.free_vfs,
            vm_vfs=source.vm_vfs,
            source_index=source.pool.index_of(source.vf_address),
            free_indices=pool.free_indices, health=pool.health))
        for pool in found.pools]


def shortened(reasons: Mapping[str, str],
              limit: int = verdict.MAX_REASON) -> str:
    """Return `host: reason` for as many hosts as find room. Pure.

    :param limit: characters; Nova may cut an event's details at 255.
    """
    each = max(40, limit // max(1, len(reasons)) - 4)
    parts = [f'{host}: {reason}' for host, reason in reasons.items()]
    cut = [part if len(part) <= each else part[:each - 3] + '...'
           for part in parts]
    for shown in range(len(cut), 0, -1):
        left = len(cut) - shown
        text = '; '.join(cut[:shown]) + (
            f'; and {left} more, see the scheduler\'s log' if left else '')
        if len(text) <= limit:
            return text
    return f'{len(reasons)} hosts refuse, see the scheduler\'s log'


def _named(exc: Exception) -> str:
    return f'{type(exc).__name__}: {exc!s:.120}; see the scheduler\'s log'


class VFCompatibilityFilter(controller.BaseHostFilter):  # type: ignore[misc]
    """Leave out hosts whose VFs cannot take the state of the VM's VF."""

    RUN_ON_REBUILD = False

    def filter_all(self, filter_obj_list: Iterable[Any],
                   spec_obj: Any) -> Iterable[Any]:
        """Return the hosts that can take the VM; see the base class."""
        hosts = list(filter_obj_list)
        if not controller.may_be_live_migration(spec_obj):
            return hosts
        try:
            found = controller.source_of(spec_obj)
            source = None if found is None else gpu_source(found)
        except controller.SourceGone as exc:
            raise self._refusal(spec_obj, f'its source is gone: {exc}') \
                from exc
        except CannotJudge as exc:
            raise self._refusal(
                spec_obj, f'nothing is known of its VF, because of its host '
                f'{found and found.host}: {exc}') from exc
        except Exception as exc:
            LOG.exception('The source of VM %s cannot be looked up',
                          spec_obj.instance_uuid)
            raise self._refusal(
                spec_obj, f'its source cannot be looked up: {_named(exc)}'
            ) from exc
        if source is None:
            return hosts
        reasons = {host.host: self._reason(host, source, spec_obj)
                   for host in hosts}
        kept = [host for host in hosts if reasons[host.host] is None]
        if hosts and not kept:
            raise self._refusal(spec_obj, shortened(
                {name: reason for name, reason in reasons.items() if reason}))
        return kept

    @staticmethod
    def _refusal(spec: Any, reason: str) -> Exception:
        LOG.warning('VM %s cannot be live-migrated: %s', spec.instance_uuid,
                    reason)
        refusal: Exception = controller.NoValidHost(
            reason=f'GPU VF: {reason}')
        return refusal

    def _reason(self, host: Any, source: GPUSource, spec: Any) -> str | None:
        """Return why a host cannot; a host that fails spoils no other."""
        try:
            return self._reason_against(host, source, spec)
        except Exception as exc:
            LOG.exception('Host %s cannot be judged for VM %s', host.host,
                          spec.instance_uuid)
            return f'it cannot be judged: {_named(exc)}'

    def _reason_against(self, host: Any, source: GPUSource,
                        spec: Any) -> str | None:
        """Return and log why a host cannot; prune the PFs of one that can."""
        try:
            pools = judge_pools(source, published(
                getattr(host, 'stats', None)))
        except CannotJudge as exc:
            LOG.info('Host %s cannot take VM %s: %s', host.host,
                     spec.instance_uuid, exc)
            return str(exc)
        if not pools:
            LOG.info('Host %s cannot take VM %s: it has no GPU', host.host,
                     spec.instance_uuid)
            return 'it has no GPU'
        for pool in pools:
            self._log_findings(host, pool, spec)
        good = {pool.pf_address for pool in pools if pool.verdict.compatible}
        if not good:
            return pools[0].verdict.reason()
        refused = {pool.pf_address for pool in pools
                   if not pool.verdict.compatible}
        for pf_address in sorted(good & refused):
            LOG.info('Host %s, PF %s has suitable and unsuitable VFs for VM '
                     '%s and Placement does not know them apart: Nova may '
                     'claim the wrong one, which is then refused', host.host,
                     pf_address, spec.instance_uuid)
        bad = refused - good
        if bad and not self._prune(host, bad, spec):
            return 'Placement has no candidate on a suitable PF'
        return None

    @staticmethod
    def _log_findings(host: Any, pool: PoolVerdict, spec: Any) -> None:
        for found in pool.verdict.refusals:
            LOG.info('Host %s, PF %s cannot take VM %s: %s [rule %s; source: '
                     '%s; destination: %s]', host.host, pool.pf_address,
                     spec.instance_uuid, found.sentence, found.rule,
                     found.source_value, found.destination_value)
        if pool.verdict.compatible:
            LOG.debug('Host %s, PF %s can take VM %s; warnings: %s',
                      host.host, pool.pf_address, spec.instance_uuid,
                      '; '.join(f.sentence for f in pool.verdict.warnings)
                      or 'none')

    @staticmethod
    def _prune(host: Any, bad: set[str], spec: Any) -> bool:
        """Take away the candidates of unsuitable PFs; False if none stay."""
        candidates = [
            (candidate, providers) for candidate in host.allocation_candidates
            if (providers := controller.alias_providers(
                spec, candidate))]
        if not candidates:
            LOG.info('Host %s has suitable and unsuitable PFs for VM %s and '
                     'Placement does not know them apart: Nova may claim '
                     'the wrong one, which is then refused', host.host,
                     spec.instance_uuid)
            return True
        pf_of = controller.pf_of_providers(spec, host.uuid)
        kept = [candidate for candidate, providers in candidates
                if not any(pf_of.get(provider) in bad
                           for provider in providers)]
        LOG.debug('Host %s: %d of %d allocation candidates are on suitable '
                  'PFs', host.host, len(kept), len(candidates))
        host.allocation_candidates = kept
        if not kept:
            LOG.info('Host %s cannot take VM %s: Placement has no candidate '
                     'on a suitable PF', host.host, spec.instance_uuid)
        return bool(kept)
