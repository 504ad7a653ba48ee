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

"""The server's side of the agents' RPC: from arguments to steps and views.

Beside it is rpcapi.py with the history of the versions; a change here is a
change there. It holds no logic, so that a notification can trigger a step
without passing through RPC. The steps have logged what is worth it, so an
AgentError goes to the caller without a traceback in our log.
"""

from collections.abc import Callable
from typing import Any

import oslo_messaging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.agent import steps as agent_steps
from nova_vgpu_mig.agent import views as agent_views
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery

_expected: Callable[[Any], Any] = oslo_messaging.expected_exceptions(
    errors.AgentError)


class AgentManager:
    """One method for each call of AgentAPI."""

    target = oslo_messaging.Target(version=rpcapi.VERSION)

    def __init__(self, views: agent_views.Views,
                 steps: agent_steps.Steps) -> None:
        self._views = views
        self._steps = steps

    @_expected
    def describe(self, ctxt: Any) -> objects.HostDescription:
        return self._views.describe()

    @_expected
    def plan(self, ctxt: Any, instance_uuid: str, vf_address: str,
             limit_ms: int | None) -> dict[str, Any]:
        return self._views.plan(instance_uuid, vf_address, limit_ms)

    @_expected
    def get(self, ctxt: Any, migration_uuid: str | None,
            instance_uuid: str | None, role: str | None) -> dict[str, Any]:
        return self._views.get(migration_uuid, instance_uuid, role)

    @_expected
    def records(self, ctxt: Any) -> list[dict[str, Any]]:
        return self._views.records()

    @_expected
    def ownership(self, ctxt: Any, migration_uuid: str) -> str:
        return self._views.ownership(migration_uuid)

    @_expected
    def guest_state(self, ctxt: Any, instance_uuid: str) -> dict[str, Any]:
        return self._views.guest_state(instance_uuid)

    @_expected
    def claim(self, ctxt: Any, request: objects.VFMigrationRequest
              ) -> dict[str, Any]:
        return self._steps.claim(request)

    @_expected
    def prepare(self, ctxt: Any, migration_uuid: str) -> dict[str, Any]:
        return self._steps.prepare(migration_uuid)

    @_expected
    def prepare_source(self, ctxt: Any, request: objects.VFMigrationRequest
                       ) -> dict[str, Any]:
        return self._steps.prepare_source(request)

    @_expected
    def start(self, ctxt: Any, instance_uuid: str) -> dict[str, Any]:
        return self._steps.start(instance_uuid)

    @_expected
    def abort(self, ctxt: Any, instance_uuid: str) -> dict[str, Any]:
        return self._steps.abort(instance_uuid)

    @_expected
    def finish(self, ctxt: Any, migration_uuid: str,
               role: str) -> dict[str, Any] | None:
        return self._steps.finish(migration_uuid, phases.Role(role))

    @_expected
    def rollback(self, ctxt: Any, migration_uuid: str,
                 role: str) -> dict[str, Any] | None:
        return self._steps.rollback(migration_uuid, phases.Role(role))

    @_expected
    def commit(self, ctxt: Any, migration_uuid: str) -> dict[str, Any]:
        return self._steps.commit(migration_uuid)

    @_expected
    def resolve(self, ctxt: Any, migration_uuid: str, role: str,
                action: str, dry_run: bool) -> dict[str, Any]:
        return self._steps.resolve(migration_uuid, phases.Role(role),
                                   recovery.Choice(action), dry_run)
