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

"""The driver extension's part of a move that the client plays.

Its own module, since what it imports takes a node seconds.
"""

from collections.abc import Callable
from typing import Any

from oslo_config import cfg

from nova_vgpu_mig.cmd import backend

backend.choose()

from nova_vgpu_mig.agent import errors  # noqa: E402
from nova_vgpu_mig.agent import objects  # noqa: E402
from nova_vgpu_mig.agent import rpcapi  # noqa: E402
from nova_vgpu_mig.compatibility import verdict  # noqa: E402
from nova_vgpu_mig.gpu import contract  # noqa: E402
from nova_vgpu_mig.migration import phases  # noqa: E402
from tests.lab import client  # noqa: E402

CONFIG = '/etc/nova-vgpu-mig/nova-vgpu-mig.conf'
CONTEXT: dict[str, Any] = {}
Migrate = Callable[[client.Order, dict[str, Any]], client.Result]


class Refused(Exception):
    """By the verdict or the plan, before anything was claimed."""


def api() -> rpcapi.AgentAPI:
    """Return the agents' API, as a node's configuration has it."""
    conf = cfg.ConfigOpts()
    conf(['--config-file', CONFIG], project='nova-vgpu-mig')
    return rpcapi.AgentAPI(conf)


class Extension:
    def __init__(self, order: client.Order) -> None:
        self._api = api()
        self._order = order
        self._request = objects.VFMigrationRequest(
            migration_uuid=order.migration_uuid,
            instance_uuid=order.instance_uuid, source_host=order.source,
            destination_host=order.destination, source_vf=order.source_vf,
            destination_vf=order.destination_vf, limit_ms=order.limit_ms,
            carrier=objects.CARRIER_HYPERVISOR)

    def check(self) -> None:
        """Compare both ends, and ask for a plan.

        :raises Refused: the verdict or the plan speaks against it.
        """
        order = self._order
        client.say('describe')
        source = self._api.describe(CONTEXT, order.source)
        there = self._api.describe(CONTEXT, order.destination)
        for host in (source, there):
            if objects.CARRIER_HYPERVISOR not in host.carriers:
                raise Refused(f'{host.host} has no hypervisor carrier, only '
                              f'{host.carriers}')
        if order.judge:
            judged = verdict.judge(
                _pool(source, order.source_vf).identity,
                _pool(there, order.destination_vf).identity,
                free_vfs=1)
            client.say('verdict', **judged.as_dict())
            if not judged.compatible:
                raise Refused(judged.reason())
        plan = self._api.plan(CONTEXT, order.source, order.instance_uuid,
                              order.source_vf, order.limit_ms)
        client.say('plan', plan=plan)
        if order.judge and plan['fits'] is False:
            raise Refused(str(plan['reason']))

    def prepare(self) -> dict[str, Any]:
        """Claim and prepare; return the job's settings."""
        order = self._order
        client.say('claim')
        self._api.claim(CONTEXT, order.destination, self._request)
        client.say('prepare')
        self._api.prepare(CONTEXT, order.destination, order.migration_uuid)
        client.say('prepare_source')
        record = self._api.prepare_source(CONTEXT, order.source,
                                          self._request)
        return record.job

    def end(self, moved: bool) -> None:
        """Finish or roll back at both ends; as Nova, never give up."""
        call = self._api.finish if moved else self._api.rollback
        client.say('finish' if moved else 'rollback')
        for host, role in self._ends():
            try:
                call(CONTEXT, host, self._order.migration_uuid, role)
            except errors.AgentError as exc:
                client.say('trouble', host=host, error=str(exc))

    def records(self) -> list[dict[str, Any] | None]:
        """Return the records of both ends; None of one without any."""
        found: list[dict[str, Any] | None] = []
        for host, role in self._ends():
            try:
                found.append(self._api.get(
                    CONTEXT, host, role=role,
                    migration_uuid=self._order.migration_uuid).as_dict())
            except errors.AgentError as exc:
                client.say('trouble', host=host, error=str(exc))
                found.append(None)
        return found

    def _ends(self) -> list[tuple[str, phases.Role]]:
        return [(self._order.source, phases.Role.SOURCE),
                (self._order.destination, phases.Role.DESTINATION)]


def _pool(host: objects.HostDescription,
          address: str) -> contract.Pool:
    for pool in host.as_pools():
        if any(vf.address.lower() == address.lower() for vf in pool.vfs):
            return pool
    raise Refused(f'no GPU driver on {host.host} serves {address}')


def move(order: client.Order, migrate: Migrate) -> client.Result:
    extension = Extension(order)
    try:
        extension.check()
        result = _carry(extension, order, migrate)
    except (Refused, errors.AgentError) as exc:
        return client.Result('refused', f'{type(exc).__name__}: {exc}')
    result.source_record, result.destination_record = extension.records()
    return result


def _carry(extension: Extension, order: client.Order,
           migrate: Migrate) -> client.Result:
    try:
        job = extension.prepare()
    except errors.AgentError:
        extension.end(moved=False)
        raise
    result = migrate(order, job)
    extension.end(moved=result.outcome == 'completed')
    return result
