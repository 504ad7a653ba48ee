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


"""What the driver extension does about one VM that holds a GPU VF.

The driver's hooks are Nova's; this is the other half: which agent is asked
for what, and how an answer becomes Nova's refusal. It keeps no state, so that
a restarted nova-compute goes on with a move that it no longer remembers: all
that has to survive is in the agents' journals.

Before the claim, everything that speaks against a move is a veto and Nova
tries the next host. After it, errors of agents go up as they are, and the
driver decides what Nova may see of them.
"""

from collections.abc import Sequence
from typing import Any

from oslo_log import log as logging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.nova.internals import compute as internals
from nova_vgpu_mig.nova import publication
from nova_vgpu_mig.planning import limit

LOG = logging.getLogger(__name__)


_NEEDS = {
    objects.CARRIER_AGENT: (
        'the agents carry it, as no QEMU holds it',
        'that agent reaches no VMM: start the VMM there; VMs in QEMU need '
        'libvirt at both ends'),
    objects.CARRIER_HYPERVISOR: (
        'QEMU holds it',
        'that agent reaches no libvirt: check there [vgpu_mig_libvirt] uri '
        'and the agent\'s log'),
}
"""Carrier -> why it is this one, and what to do where it is missing."""


def lacks_carrier(carrier: str, host: str,
                  carriers: Sequence[str]) -> str | None:
    """Return why a host can't take part in a move; None if it can.

    :param carrier: who holds the VM at the source.
    :param carriers: what the agent of `host` says that it has.
    """
    if carrier in carriers:
        return None
    why, remedy = _NEEDS.get(carrier, (
        'the source\'s agent says so', 'upgrade nova-vgpu-mig there'))
    return (f'{host} lacks the carrier {carrier} of this VM ({why}); it has '
            f'{", ".join(carriers) or "none"}: {remedy}')


def limit_ms(extra_specs: dict[str, str]) -> int | None:
    """Return the flavor's downtime limit; None leaves it to the agent.

    :raises planning.limit.LimitError: it can't be read.
    """
    if limit.EXTRA_SPEC not in extra_specs:
        return None
    return limit.parse_ms(limit.EXTRA_SPEC, extra_specs[limit.EXTRA_SPEC])


def find_vf(pools: tuple[contract.Pool, ...], address: str
            ) -> tuple[contract.Pool, contract.VF] | None:
    """Return the VF at an address, and the pool that it is in."""
    for pool in pools:
        for vf in pool.vfs:
            if vf.address.lower() == address.lower():
                return pool, vf
    return None


def published(pools: tuple[contract.Pool, ...]) -> publication.Publication:
    """Return an agent's pools as the scheduler reads them."""
    return publication.Publication(pools=tuple(
        publication.Pool.of(pool.pf_address.lower(), pool.identity, [
            publication.VF(vf.address.lower(), vf.index, vf.free)
            for vf in pool.vfs], pool.health)
        for pool in pools))


def judge_host(pool: contract.Pool, vf: contract.VF, vm_vfs: int,
               pools: tuple[contract.Pool, ...]) -> verdict.Verdict | None:
    """Return the verdict of a host's best pool; None if it has no pool."""
    verdicts = []
    for other in pools:
        free = frozenset(v.index for v in other.vfs if v.free)
        verdicts.append(verdict.judge(
            pool.identity, other.identity, free_vfs=len(free), vm_vfs=vm_vfs,
            source_index=vf.index, free_indices=free, health=other.health))
    return min(verdicts, key=lambda v: len(v.refusals), default=None)


class VFMoves:
    """The moves of this host's VMs, in terms of the agents' RPC.

    :param host: the compute manager's host, by which its agent is addressed.
    :param timeout: seconds for calls on whose answer nothing depends.
    """

    def __init__(self, api: rpcapi.AgentAPI, host: str,
                 timeout: int) -> None:
        self._api = api
        self._host = host
        self._timeout = timeout

    def pools(self, ctxt: Any) -> tuple[contract.Pool, ...]:
        """Return this host's pools, fresh from its agent."""
        return self._api.describe(
            ctxt, self._host, timeout=self._timeout).as_pools()

    # Vetoes

    def check_destination(self, ctxt: Any, instance: Any,
                          held: list[internals.HeldVF]) -> None:
        """Refuse a move to this host that can't succeed.

        :raises MigrationPreCheckError: with the rule and both values.
        """
        source_host = internals.host_of(instance)
        vf = held[0]
        with _vetoes(vf.address):
            source = self._api.describe(ctxt, source_host)
            here = self._api.describe(ctxt, self._host)
            pool, found = self._locate(source, vf.address)
            plan = self._plan(ctxt, instance, source_host, vf.address)
            for description in (source, here):
                self._check_carrier(plan, description)
            judged = judge_host(pool, found, len(held), here.as_pools())
            if judged is None:
                raise internals.veto(
                    f'{self._host} has no GPU: no GPU driver of its agent '
                    f'serves a PF')
            for warning in judged.warnings:
                LOG.warning('Live migration to %(host)s: %(what)s',
                            {'host': self._host, 'what': warning.sentence},
                            instance=instance)
            if not judged.compatible:
                raise internals.veto(f'{self._host}: {judged.reason()}')
            self._check_fits(plan, instance)

    def check_source(self, ctxt: Any, instance: Any,
                     held: list[internals.HeldVF]) -> None:
        """Refuse, at the source, what changed since the destination asked.

        :raises MigrationPreCheckError: with the reason.
        """
        with _vetoes(held[0].address):
            description = self._api.describe(ctxt, self._host)
            self._locate(description, held[0].address)
            plan = self._plan(ctxt, instance, self._host, held[0].address)
            self._check_carrier(plan, description)
            self._check_fits(plan, instance)

    def claim(self, ctxt: Any, instance: Any, held: list[internals.HeldVF],
              claimed: dict[str, str], names: internals.MoveNames) -> None:
        """Reserve the VF that Nova has claimed here, by its address.

        :raises MigrationPreCheckError: with the reason; nothing is reserved.
        """
        address = held[0].address
        with _vetoes(address):
            if address not in claimed:
                raise internals.veto(
                    f'Nova claimed no VF on {self._host} for {address}; it '
                    f'claimed for {sorted(claimed) or "none"}')
            self._api.claim(ctxt, self._host, self._request(
                ctxt, instance, address, claimed[address], names))

    def _check_carrier(self, plan: dict[str, Any],
                       description: objects.HostDescription) -> str:
        """Return the carrier of a plan, which a host must have.

        :raises MigrationPreCheckError: it has not.
        """
        # An agent that does not say so knows of no other.
        carrier = str(plan.get('carrier', objects.CARRIER_AGENT))
        lacking = lacks_carrier(carrier, description.host,
                                description.carriers)
        if lacking is not None:
            raise internals.veto(lacking)
        return carrier

    def _locate(self, description: objects.HostDescription, address: str
                ) -> tuple[contract.Pool, contract.VF]:
        found = find_vf(description.as_pools(), address)
        if found is None:
            raise internals.veto(
                f'no GPU driver on {description.host} serves VF {address}; '
                f'if it is no GPU\'s, name the aliases of GPUs in [vgpu_mig] '
                f'pci_aliases')
        return found

    def _plan(self, ctxt: Any, instance: Any, source_host: str,
              address: str) -> dict[str, Any]:
        return self._api.plan(
            ctxt, source_host, instance.uuid, address,
            limit_ms(internals.extra_specs(instance)))

    def _check_fits(self, plan: dict[str, Any], instance: Any) -> None:
        LOG.info('Plan of the live migration: %(bytes)d bytes in '
                 '%(seconds).1f s, downtime %(downtime_ms).0f ms, limit '
                 '%(limit_ms).0f ms: %(reason)s', plan, instance=instance)
        # None: nothing is known yet of what the workload writes.
        if plan['fits'] is False:
            raise internals.veto(str(plan['reason']))

    def _request(self, ctxt: Any, instance: Any, source_vf: str,
                 destination_vf: str, names: internals.MoveNames
                 ) -> objects.VFMigrationRequest:
        """Return the request of a move.

        The carrier is asked for at each step: nothing that Nova hands from
        one to the next has room for it, and nova-compute may have been
        restarted in between.
        """
        carrier = self._check_carrier(
            self._plan(ctxt, instance, names.source_host, source_vf),
            self._api.describe(ctxt, self._host))
        return objects.VFMigrationRequest(
            migration_uuid=names.migration_uuid,
            instance_uuid=instance.uuid,
            request_id=getattr(ctxt, 'request_id', None),
            source_host=names.source_host,
            destination_host=names.destination_host,
            source_vf=source_vf, destination_vf=destination_vf,
            limit_ms=limit_ms(internals.extra_specs(instance)),
            carrier=carrier)

    # Steps

    def prepare(self, ctxt: Any, names: internals.MoveNames) -> None:
        """Destination: the VF takes state from now on.

        :raises MigrationPreCheckError: Nova shows the text of its own
            exceptions only; of another it would show the class's name.
        """
        try:
            self._api.prepare(ctxt, self._host, names.migration_uuid)
        except errors.AgentError as exc:
            raise internals.veto(f'{self._host}: {exc}') from exc

    def prepare_source(self, ctxt: Any, instance: Any,
                       held: list[internals.HeldVF], claimed: dict[str, str],
                       names: internals.MoveNames) -> dict[str, Any]:
        """Source: the move is in the journal from now on.

        :returns: the settings of libvirt's job, for job_parameters.merge().
        :raises MigrationPreCheckError: this host has lost its carrier.
        """
        address = held[0].address
        if address not in claimed:
            raise errors.BadRequest(
                f'Nova claimed no VF on {names.destination_host} for VF '
                f'{address}')
        record = self._api.prepare_source(ctxt, self._host, self._request(
            ctxt, instance, address, claimed[address], names))
        return record.job

    def has_left(self, ctxt: Any, instance: Any) -> bool:
        """Return whether no move has, or may have, brought the VM here.

        :raises errors.AgentError: it can not be known now.
        """
        try:
            record = self._api.get(ctxt, self._host,
                                   instance_uuid=instance.uuid,
                                   role=phases.Role.DESTINATION)
        except errors.MigrationNotFound:
            return True
        return record.phase is phases.Phase.RETURNED

    def finish(self, ctxt: Any, instance: Any, names: internals.MoveNames,
               role: phases.Role) -> None:
        """Release what a completed move holds here; never raises."""
        try:
            self._api.finish(ctxt, self._host, names.migration_uuid, role,
                             timeout=self._timeout)
        except Exception:
            LOG.exception(
                'The agent of %(host)s could not finish migration %(uuid)s; '
                'it tries again by itself. See: '
                'nova-vgpu-mig --host %(host)s show %(uuid)s',
                {'host': self._host, 'uuid': names.migration_uuid},
                instance=instance)

    def rollback(self, ctxt: Any, instance: Any, names: internals.MoveNames,
                 role: phases.Role) -> None:
        """Drop what a failed move holds at one end; never raises."""
        host = (names.source_host if role is phases.Role.SOURCE
                else names.destination_host)
        try:
            self._api.rollback(ctxt, host, names.migration_uuid, role,
                               timeout=self._timeout)
        except Exception:
            LOG.exception(
                'The agent of %(host)s could not roll migration %(uuid)s '
                'back; a reservation there ends by its deadline. See: '
                'nova-vgpu-mig --host %(host)s show %(uuid)s',
                {'host': host, 'uuid': names.migration_uuid},
                instance=instance)


class _vetoes:
    """Turns what speaks against a move into Nova's refusal.

    A fault of our own too: any other exception would end in ERROR.
    """

    def __init__(self, address: str) -> None:
        self._address = address

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, exc: BaseException | None,
                 traceback: object) -> None:
        if isinstance(exc, errors.AgentUnreachable):
            LOG.error('%s', exc)
            raise internals.veto(
                f'VF {self._address} stays: {exc.message.split(":")[0]}; '
                f'there type: systemctl status nova-vgpu-mig-agent') from exc
        if isinstance(exc, errors.AgentError | limit.LimitError):
            raise internals.veto(str(exc)) from exc
        if isinstance(exc, Exception) and not internals.is_veto(exc):
            LOG.error('VF %s can\'t be judged', self._address, exc_info=exc)
            raise internals.veto(
                f'VF {self._address} can\'t be judged: '
                f'{type(exc).__name__}: {exc}') from exc
