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

"""Asking several agents: what was found, and who did not answer."""

from collections.abc import Iterable
import shlex
from typing import Any
import uuid

from oslo_context import context

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import rpcapi


def request() -> context.RequestContext:
    """A context for what an operator asks, with an id for the logs."""
    return context.RequestContext(request_id=f'req-{uuid.uuid4()}')


def typed(app: Any, *words: str) -> str:
    """Return a command that can be typed to ask the same agents.

    :param app: the OperatorApp, with its `hosts` and options.
    """
    files = app.options.config_file or ()
    return shlex.join([
        'nova-vgpu-mig',
        *(word for file in files for word in ('--config-file', file)),
        *(word for host in app.hosts for word in ('--host', host)), *words])


def everywhere(api: rpcapi.AgentAPI, hosts: Iterable[str]
               ) -> tuple[list[tuple[str, dict[str, Any]]], list[str]]:
    """Return (host, entry) of every host, and why others are missing."""
    found: list[tuple[str, dict[str, Any]]] = []
    missing: list[str] = []
    for host in hosts:
        try:
            found += [(host, entry)
                      for entry in api.records(request(), host)]
        except errors.AgentError as exc:
            missing.append(exc.message)
    return found, missing


def of_migration(found: Iterable[tuple[str, dict[str, Any]]],
                 wanted: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the sides of one move.

    :param wanted: uuid of a migration, or of an instance: then of its
        newest move.
    """
    sides = [(host, entry) for host, entry in found
             if wanted in (entry['record']['migration_uuid'],
                           entry['record']['instance_uuid'])]
    if not sides:
        return []
    newest = max(sides, key=lambda side: float(side[1]['changed_at']))
    chosen = newest[1]['record']['migration_uuid']
    return [side for side in sides
            if side[1]['record']['migration_uuid'] == chosen]
