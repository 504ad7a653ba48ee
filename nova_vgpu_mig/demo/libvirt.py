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


"""The libvirt of the demo's computes: Nova's own double, repaired.

Nova's double runs nothing: its migration fails or ends at once, aborting
does nothing, a domain that is created runs, and a paused one counts as shut
off, so that a failure while paused is taken for a success. This one does
what libvirt does for the few calls that a live migration is made of, so that
Nova and our driver extension meet the job, the errors and the order that
they would meet in a cloud.

A domain with a GPU VF is a process (vmm.standin); any other domain stays a
record, and its migration is done as soon as the destination is defined. The
agent's decision is libvirt's outcome: where libvirt and QEMU would decide,
the double asks the source agent and never contradicts it.
"""

from collections.abc import Callable
import dataclasses
import threading
from typing import Any
from typing import Protocol
from urllib import parse
from xml.etree import ElementTree

from nova.tests.fixtures import libvirt as fakelibvirt
from oslo_context import context as oslo_context
from oslo_log import log as logging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as migration_record

LOG = logging.getLogger(__name__)

POLL_SECONDS = 0.1

# VIR_DOMAIN_JOB_*, named in short.
JOB_NONE = fakelibvirt.VIR_DOMAIN_JOB_NONE
JOB_RUNNING = fakelibvirt.VIR_DOMAIN_JOB_UNBOUNDED
JOB_FAILED = fakelibvirt.VIR_DOMAIN_JOB_FAILED
JOB_CANCELLED = fakelibvirt.VIR_DOMAIN_JOB_CANCELLED


class GuestProcess(Protocol):
    """A VM as a process, at one end (vmm.standin.process)."""

    def call(self, method: str, **args: Any) -> Any:
        """Call the guest; it has happened when this returns."""

    def close(self) -> None:
        """End the process; idempotent."""


class Launcher(Protocol):
    """Starts the process of a VM; returns when it can be called."""

    def __call__(self, instance_uuid: str, vf_address: str, ram_bytes: int,
                 *, incoming: bool) -> GuestProcess: ...


def failure(message: str,
            code: int = fakelibvirt.VIR_ERR_OPERATION_FAILED) -> Exception:
    """Return an error as libvirt raises it for a domain of QEMU."""
    made: Exception = fakelibvirt.make_libvirtError(
        fakelibvirt.libvirtError, message, error_code=code,
        error_domain=fakelibvirt.VIR_FROM_QEMU, error_message=message)
    return made


def hostdev_addresses(xml: str) -> list[str]:
    """Return the PCI addresses of a domain's host devices."""
    found = []
    for node in ElementTree.fromstring(xml).findall(
            "./devices/hostdev[@type='pci']/source/address"):
        domain, bus, slot, function = (
            int(node.get(name, '0'), 16)
            for name in ('domain', 'bus', 'slot', 'function'))
        found.append(f'{domain:04x}:{bus:02x}:{slot:02x}.{function:x}')
    return found


@dataclasses.dataclass(slots=True)
class Job:
    """A migration job; `record` is what the agent last said."""

    kind: int = JOB_RUNNING
    record: migration_record.MigrationRecord | None = None

    def stats(self) -> dict[str, int]:
        if self.record is None:
            return {'type': self.kind}
        return {'type': self.kind,
                'memory_total': self.record.total_bytes,
                'memory_processed': self.record.transferred_bytes,
                'memory_remaining': self.record.remaining_bytes,
                'memory_iteration': len(self.record.rounds)}


class Domain(fakelibvirt.Domain):  # type: ignore[misc]
    """A domain whose states and jobs are libvirt's."""

    _connection: 'Connection'

    def __init__(self, connection: 'Connection', xml: str,
                 running: bool = False, transient: bool = False) -> None:
        super().__init__(connection, xml, running=running,
                         transient=transient)
        self._gpu_vfs = [address for address in hostdev_addresses(xml)
                         if address in connection.gpu_vfs]
        self.guest: GuestProcess | None = None
        """The VM's process, if it has a GPU VF and is active."""

        self._job: Job | None = None
        self._gone = False

    # States

    def isActive(self) -> int:
        return int(self._state in (fakelibvirt.VIR_DOMAIN_RUNNING,
                                   fakelibvirt.VIR_DOMAIN_PAUSED))

    def start_guest(self, *, incoming: bool) -> None:
        """Start the VM's process, if it has a GPU VF.

        The guest drives one VF; further ones are its as well, and idle.

        :raises libvirtError: the process could not be started.
        """
        if not self._gpu_vfs or self.guest is not None:
            return
        try:
            self.guest = self._connection.launcher(
                self.UUIDString(), self._gpu_vfs[0],
                int(self._def['memory']) * 1024, incoming=incoming)
        except Exception as exc:
            raise failure(f'cannot start domain {self.name()} on VF '
                          f'{self._gpu_vfs[0]}: {exc}') from exc

    def end_guest(self) -> None:
        guest, self.guest = self.guest, None
        if guest is not None:
            guest.close()

    def createWithFlags(self, flags: int) -> None:
        self.start_guest(incoming=False)
        super().createWithFlags(flags)
        if flags & fakelibvirt.VIR_DOMAIN_START_PAUSED:
            self.suspend()

    def suspend(self) -> None:
        if self.guest is not None:
            self.guest.call('stop')
        super().suspend()

    def resume(self) -> None:
        if self.guest is not None:
            self.guest.call('run')
        super().resume()

    def destroy(self) -> None:
        self.end_guest()
        super().destroy()

    def shutdown(self) -> None:
        self.end_guest()
        super().shutdown()

    def vanish(self) -> None:
        """Leave this host after a migration, or before it has begun."""
        self.end_guest()
        self._state = fakelibvirt.VIR_DOMAIN_SHUTOFF
        self._connection.forget(self)
        self._gone = True

    # Jobs

    def jobStats(self, flags: int = 0) -> dict[str, int]:
        if self._gone:
            raise failure(f'Domain not found: {self.UUIDString()}',
                          fakelibvirt.VIR_ERR_NO_DOMAIN)
        job = self._job
        if job is None:
            return {'type': JOB_NONE}
        if job.kind != JOB_RUNNING:
            # Told once: what is left of it must not be taken for the state
            # of the next migration.
            self._job = None
        return job.stats()

    def jobInfo(self) -> list[int]:
        stats = self.jobStats()
        processed = stats.get('memory_processed', 0)
        remaining = stats.get('memory_remaining', 0)
        total = stats.get('memory_total', 0)
        return [stats['type'], 0, 0, total, processed, remaining, total,
                processed, remaining, 0, 0, 0]

    def abortJob(self) -> None:
        if self._job is None or self._job.kind != JOB_RUNNING:
            raise failure('Requested operation is not valid: no job is '
                          'active on the domain',
                          fakelibvirt.VIR_ERR_OPERATION_INVALID)
        try:
            self._connection.api.abort(
                _context(), self._connection.host, self.UUIDString())
        except errors.AgentError as exc:
            raise failure(str(exc),
                          fakelibvirt.VIR_ERR_OPERATION_INVALID) from exc

    def migrateToURI3(self, dconnuri: str, params: dict[str, Any],
                      flags: int) -> None:
        self._job = Job()
        peer = self._connection.peer(parse.urlsplit(dconnuri).hostname or '')
        arriving: Domain | None = None
        try:
            arriving = peer.create_incoming(params['destination_xml'])
            if self.guest is not None:
                self._carry(self._job)
        except Exception as exc:
            # The job's end is told last: whoever sees it finds the rest
            # done.
            if arriving is not None:
                arriving.vanish()
            self._job = Job(kind=_kind(self._job), record=self._job.record)
            if isinstance(exc, fakelibvirt.libvirtError):
                raise
            raise failure(f'internal error: {exc}') from exc
        arriving.arrive(bool(flags & fakelibvirt.VIR_MIGRATE_PERSIST_DEST))
        self.vanish()

    def arrive(self, persistent: bool) -> None:
        """Become the running domain at the destination."""
        self._transient = not persistent
        self._state = fakelibvirt.VIR_DOMAIN_RUNNING

    def _carry(self, job: Job) -> None:
        """Have the source agent carry the state; return when it has.

        An agent that does not answer may be restarting: what becomes of the
        move is in its journal, so it is asked until it says.

        :raises libvirtError: the VM goes on here.
        """
        api, host = self._connection.api, self._connection.host
        while True:
            try:
                if job.record is None:
                    job.record = api.start(_context(), host,
                                           self.UUIDString())
                # Of this move, whatever other one the VM has had.
                job.record = api.get(
                    _context(), host, job.record.migration_uuid,
                    role=phases.Role.SOURCE)
            except errors.AgentUnreachable as exc:
                LOG.warning('%s', exc)
            except errors.AgentError as exc:
                raise failure(str(exc)) from exc
            if job.record is not None and job.record.phase.terminal:
                break
            if self._connection.closing.wait(POLL_SECONDS):
                raise failure('the connection to libvirt is closed')
        if job.record.outcome is not phases.Outcome.COMPLETED:
            raise failure(f'operation {_word(job.record)}: '
                          f'{job.record.reason}')


def _context() -> oslo_context.RequestContext:
    return oslo_context.RequestContext()


def _word(record: migration_record.MigrationRecord) -> str:
    return ('aborted' if record.outcome is phases.Outcome.ABORTED
            else 'failed')


def _kind(job: Job) -> int:
    if (job.record is not None
            and job.record.outcome is phases.Outcome.ABORTED):
        return int(JOB_CANCELLED)
    return int(JOB_FAILED)


class Connection(fakelibvirt.Connection):  # type: ignore[misc]
    """libvirt on one compute.

    :param host: the compute manager's host.
    :param gpu_vfs: PCI addresses of the VFs that the GIM of the host serves.
    :param launcher: starts the process of a VM.
    :param api: the agents.
    :param peer: returns the connection of another host by its name.
    """

    def __init__(self, *, host: str, gpu_vfs: frozenset[str],
                 launcher: Launcher, api: rpcapi.AgentAPI,
                 peer: Callable[[str], 'Connection'], **kwargs: Any) -> None:
        super().__init__('qemu:///system', hostname=host, **kwargs)
        self.host = host
        self.gpu_vfs = gpu_vfs
        self.launcher = launcher
        self.api = api
        self.peer = peer
        self.closing = threading.Event()

    def defineXML(self, xml: str) -> Domain:
        name = ElementTree.fromstring(xml).findtext('./name')
        known = self._vms.get(name)
        if known is not None:
            # libvirt changes the configuration of the domain it has.
            known._def = known._parse_definition(xml)
            known._transient = False
            return known  # type: ignore[no-any-return]
        made = Domain(self, xml)
        self._vms[made.name()] = made
        return made

    def createXML(self, xml: str, flags: int) -> Domain:
        made = Domain(self, xml, transient=True)
        self._vms[made.name()] = made
        made.createWithFlags(flags)
        return made

    def create_incoming(self, xml: str) -> Domain:
        """Create the destination of a migration: paused.

        :raises libvirtError: a domain of that name is here already, or the
            VM's process could not be started.
        """
        made = Domain(self, xml, transient=True)
        if made.name() in self._vms:
            raise failure(f'domain {made.name()} exists already on '
                          f'{self.host}')
        made.start_guest(incoming=True)
        self._vms[made.name()] = made
        self._mark_running(made)
        made._state = fakelibvirt.VIR_DOMAIN_PAUSED
        return made

    def forget(self, domain: Domain) -> None:
        """Drop a domain, and nothing of what is stored for it."""
        self._vms.pop(domain.name(), None)
        for number, known in list(self._running_vms.items()):
            if known is domain:
                del self._running_vms[number]

    def close(self) -> None:
        """End the VMs of this host; what waits for an agent gives up."""
        self.closing.set()
        for domain in list(self._vms.values()):
            domain.end_guest()
