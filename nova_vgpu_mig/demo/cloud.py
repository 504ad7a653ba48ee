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


"""A cloud to live-migrate GPU VMs in, started and ended in one process.

Three computes and the controllers. What a VM does goes on in guest
processes. `Cloud` is what the demo and the functional tests drive; it speaks
to Nova by its HTTP API only, as an operator would.

Everything that is started is ended by close(), whatever failed before.
"""

import contextlib
import pathlib
import tempfile
import time
from typing import Any
from typing import Self

from nova.tests.fixtures import libvirt as fakelibvirt
from oslo_context import context as oslo_context

from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.demo import compute as compute_
from nova_vgpu_mig.demo import failure
from nova_vgpu_mig.demo import harness
from nova_vgpu_mig.demo import libvirt
from nova_vgpu_mig.gpu.software import knobs
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as migration_record

ENDED = ('completed', 'failed', 'error', 'cancelled', 'done')
"""Statuses in which a migration of Nova's stays."""


class Cloud:
    """Three computes and the controllers, as a context manager."""

    def __init__(self, plan: compute_.Plan | None = None,
                 log_file: str | None = None) -> None:
        self.plan = plan or compute_.Plan()
        self._closing = contextlib.ExitStack()
        self.directory = pathlib.Path(self._closing.enter_context(
            tempfile.TemporaryDirectory(prefix='vgpu-mig-')))
        self.nova = harness.Harness(
            log_file or str(self.directory / 'cloud.log'))
        self.computes: dict[str, compute_.Compute] = {}
        self.agents: rpcapi.AgentAPI
        self._flavors: dict[tuple[tuple[str, str], ...], str] = {}
        self._failure: failure.Failure | None = None
        self.observers: list[compute_.Observer] = []
        """Called with host and record whenever a move gets on, in the
        agent's thread."""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def context(self) -> oslo_context.RequestContext:
        return oslo_context.RequestContext()

    def start(self) -> None:
        """Start all; returns when every compute has reported its VFs."""
        for host in self.plan.hosts:
            compute = compute_.Compute(
                host, self.directory / host, self.plan, self._observe)
            self._closing.callback(compute.gim.close)
            self.computes[host] = compute
        self._closing.callback(self.nova.stop)
        self.nova.setUp()
        for compute in self.computes.values():
            compute.gim.wait()
            self._closing.callback(compute.stop_agent)
            compute.start_agent()
        self.agents = rpcapi.AgentAPI(harness.CONF)
        self._closing.callback(self.agents.close)
        for compute in self.computes.values():
            compute.libvirt = self._libvirt(compute)
            self._closing.callback(compute.libvirt.close)
            self.nova.start(compute.libvirt)

    def _libvirt(self, compute: compute_.Compute) -> libvirt.Connection:
        return libvirt.Connection(
            host=compute.host, gpu_vfs=frozenset(compute.vfs()),
            launcher=compute.launch, api=self.agents,
            peer=lambda host: self.computes[host].libvirt,
            pci_info=compute.pci_info(), version=harness.LIBVIRT_VERSION,
            hv_version=harness.QEMU_VERSION,
            host_info=fakelibvirt.HostInfo(
                cpu_nodes=2, cpu_sockets=1, cpu_cores=2, cpu_threads=2))

    def close(self) -> None:
        """End everything that was started; idempotent."""
        self._closing.close()

    # As an operator, through Nova's API

    def boot(self, name: str, host: str | None = None, *, vfs: int = 1,
             max_downtime_ms: int | None = None) -> dict[str, Any]:
        """Boot a VM with `vfs` GPU VFs; return it when it is ACTIVE.

        :raises compute_.CloudError: it came to ERROR.
        """
        specs = {}
        if vfs:
            specs['pci_passthrough:alias'] = f'{harness.ALIAS}:{vfs}'
        if max_downtime_ms is not None:
            specs['vgpu_mig:max_downtime_ms'] = str(max_downtime_ms)
        server = self.nova.api.post_server({'server': {
            'name': name, 'flavorRef': self._flavor(specs),
            'imageRef': self.nova.glance.image1['id'],
            'networks': 'none', **({'host': host} if host else {})}})
        return self._wait(server['id'], lambda found: (
            found['status'] in ('ACTIVE', 'ERROR')), 'ACTIVE')

    def _flavor(self, specs: dict[str, str]) -> str:
        key = tuple(sorted(specs.items()))
        if key not in self._flavors:
            self._flavors[key] = self.nova.flavor(
                self.plan.memory_mib, specs)
        return self._flavors[key]

    def server(self, server_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.nova.api.get_server(server_id)
        return found

    def wait_status(self, server_id: str, status: str) -> None:
        """Return when a server has a status and no task."""
        self._wait(server_id, lambda found: (
            found['OS-EXT-STS:task_state'] is None
            and found['status'] == status))

    def delete(self, server_id: str) -> None:
        self.nova.api.delete_server(server_id)
        self.nova._wait_until_deleted({'id': server_id})

    def live_migrate(self, server_id: str, host: str | None = None, *,
                     force: bool = False) -> None:
        """Ask for a live migration; returns when Nova has accepted it.

        :param force: do not ask the scheduler about `host`.
        """
        request = {'host': host, 'block_migration': 'auto'}
        if not force:
            self.nova.api.post_server_action(
                server_id, {'os-migrateLive': request})
            return
        with harness.microversion(self.nova.api, '2.67'):
            self.nova.api.post_server_action(
                server_id, {'os-migrateLive': {**request, 'force': True}})

    def abort(self, server_id: str) -> None:
        """Abort the live migration that goes on.

        :raises Exception: Nova refused, with its text.
        """
        running = self.migration(server_id)
        self.nova.api.api_delete(
            f'/servers/{server_id}/migrations/{running["id"]}')

    def migration(self, server_id: str) -> dict[str, Any]:
        """Return the newest migration of a server, as Nova has it."""
        found = self.nova.api.api_get(
            f'/os-migrations?instance_uuid={server_id}').body['migrations']
        if not found:
            raise compute_.CloudError(
                f'server {server_id} has never been migrated')
        newest: dict[str, Any] = max(found, key=lambda m: m['id'])
        return newest

    def wait_migrated(self, server_id: str,
                      timeout: float = 60) -> dict[str, Any]:
        """Wait for the end of a live migration, whatever it is.

        :returns: the migration; see its `status`.
        """
        self._wait(server_id, lambda found: (
            found['OS-EXT-STS:task_state'] is None
            and self.migration(server_id)['status'] in ENDED),
            timeout=timeout)
        return self.migration(server_id)

    def events(self, server_id: str,
               action: str = 'live-migration') -> list[dict[str, Any]]:
        """Return the events of an action, newest first; as an admin."""
        api = self.nova.api
        return [event for entry in api.get_instance_actions(server_id)
                if entry['action'] == action
                for event in api.get_instance_action_details(
                    server_id, entry['request_id'])['events']]

    def wait_event(self, server_id: str, action: str, event: str,
                   timeout: float = 60) -> dict[str, Any]:
        """Wait for the end of an event of a server's action."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for found in self.events(server_id, action):
                if found['event'] == event and found['result']:
                    return found
            time.sleep(0.1)
        raise compute_.CloudError(f'server {server_id}: no {event} of '
                                  f'{action} in {timeout} s')

    def unsettled(self, host: str,
                  timeout: float = 60) -> list[dict[str, Any]]:
        """Wait until an agent has nothing left to do for any move.

        What failed, such as the clearing of a VF that had gone, is tried
        again by its housekeeping.

        :returns: the moves that it still holds at the time-out, as
            AgentAPI.records().
        """
        deadline = time.monotonic() + timeout
        while True:
            held = [entry for entry in self.agents.records(self.context, host)
                    if not entry['settled']]
            if not held or time.monotonic() > deadline:
                return held
            time.sleep(0.1)

    def refusals(self, server_id: str) -> list[str]:
        """Return what the events say of refused destinations."""
        return [str(event['details']) for event in self.events(server_id)
                if event.get('details')]

    def _wait(self, server_id: str, done: Any, status: str | None = None,
              timeout: float = 60) -> dict[str, Any]:
        deadline = time.monotonic() + timeout
        while True:
            found = self.server(server_id)
            if done(found):
                break
            if time.monotonic() > deadline:
                raise compute_.CloudError(
                    f'server {server_id} did not get there in {timeout} s: '
                    f'{found["status"]}, {found["OS-EXT-STS:task_state"]}')
            time.sleep(0.1)
        if status is not None and found['status'] != status:
            raise compute_.CloudError(
                f'server {found["name"]} is {found["status"]}: '
                f'{found.get("fault", {}).get("message")}')
        return found

    # As a fault

    def fail_in(self, phase: phases.Phase) -> failure.Failure:
        """Make the next moves fail in a phase, until heal()."""
        self._failure = failure.FAILURES[phase]
        return self._failure

    def heal(self) -> None:
        """Turn every knob of every VF back."""
        self._failure = None
        for compute in self.computes.values():
            for vf in compute.vfs():
                for name, (default, _, _) in knobs.KNOBS.items():
                    compute.gim.call('knob', vf=vf, name=name, value=default)

    def _observe(self, host: str,
                 record: migration_record.MigrationRecord) -> None:
        due = self._failure
        if due is not None and due.due(record):
            self.computes[host].gim.call(
                'knob', vf=due.vf(record), name=due.knob, value=due.value)
        for observer in list(self.observers):
            observer(host, record)

    # As someone who looks behind Nova

    def host_of(self, server_id: str) -> str:
        return str(self.server(server_id)['OS-EXT-SRV-ATTR:host'])

    def vf_of(self, server_id: str) -> str:
        """Return the VF that a VM's domain has on the host it runs on."""
        return libvirt.hostdev_addresses(
            self._domain(server_id).XMLDesc(0))[0]

    def _domain(self, server_id: str) -> libvirt.Domain:
        connection = self.computes[self.host_of(server_id)].libvirt
        found: libvirt.Domain = connection.lookupByUUIDString(server_id)
        return found

    def guest(self, server_id: str) -> libvirt.GuestProcess:
        """Return the process of a GPU VM on the host it runs on."""
        guest = self._domain(server_id).guest
        if guest is None:
            raise compute_.CloudError(f'server {server_id} has no GPU')
        return guest

    def record(self, host: str, server_id: str, role: phases.Role
               ) -> migration_record.MigrationRecord:
        """Return what an agent knows of a server's newest move."""
        return self.agents.get(self.context, host, instance_uuid=server_id,
                               role=role)
