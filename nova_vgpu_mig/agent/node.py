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

"""What the steps and the views of an agent work with, and how it is found.

One value instead of eight arguments; it decides nothing.
"""

from collections.abc import Callable
import dataclasses
import logging

from oslo_config import cfg
from oslo_context import context

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import moves as moves_
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import server as server_
from nova_vgpu_mig.vmm import hypervisor as hypervisor_
from nova_vgpu_mig.vmm import port as vmm_port
from nova_vgpu_mig.vmm import registry as vmm_registry

LOG = logging.getLogger(__name__)

FindVMM = Callable[[], vmm_port.VMMPort]
Observer = Callable[[record_.MigrationRecord], None]


def _nowhere() -> vmm_port.VMMPort:
    raise vmm_registry.NoVMMPort('No VMM port is looked for here.')


@dataclasses.dataclass(slots=True)
class Node:
    """A compute host as its agent sees it."""

    host: str
    """The compute manager's host."""

    conf: cfg.ConfigOpts
    journal: journal_.Journal
    driver: contract.GPUDriver
    vmm: vmm_port.VMMPort | None
    server: server_.DataServer
    api: rpcapi.AgentAPI
    hypervisor: hypervisor_.Hypervisor
    moves: moves_.Moves = dataclasses.field(default_factory=moves_.Moves)
    observer: Observer | None = None
    """Called with the record as a move goes on; must be quick."""

    find_vmm: FindVMM = _nowhere
    """Asked as long as `vmm` is None: a VMM may be set up later than its
    agent. Raises vmm_registry.NoVMMPort."""

    def look_for_vmm(self) -> str:
        """Look again if there was no VMM port; '', or why there is none."""
        if self.vmm is None:
            try:
                self.vmm = self.find_vmm()
            except vmm_registry.NoVMMPort as exc:
                return str(exc)
            LOG.info('VMM port %s: the agent carries VMs on this host.',
                     self.vmm.name)
        return ''

    def carriers(self) -> list[phases.Carrier]:
        """Who can carry the VMs of this host now."""
        found = [] if self.vmm is None else [phases.Carrier.AGENT]
        if not self.hypervisor.available():
            found.append(phases.Carrier.HYPERVISOR)
        return found

    def carrier_of(self, instance_uuid: str) -> phases.Carrier:
        """Who carries a VM of this host: who has it.

        :raises hypervisor.HypervisorError: libvirt can't tell now.
        """
        if (phases.Carrier.HYPERVISOR in self.carriers()
                and self.hypervisor.view(instance_uuid).state.here):
            return phases.Carrier.HYPERVISOR
        return phases.Carrier.AGENT

    def guest(self, instance_uuid: str) -> vmm_port.Guest | None:
        """The VM's guest here, None if there is none; to be closed.

        None as well when there is no VMM port: look_for_vmm() says so.
        """
        self.look_for_vmm()
        if self.vmm is None:
            return None
        try:
            return self.vmm.guest(instance_uuid)
        except vmm_port.GuestNotFound:
            return None

    def locate(self, address: str) -> tuple[contract.Pool, contract.VF]:
        """Return a VF and its pool, fresh from the GPU driver.

        :raises errors.VFNotFound: no such VF here.
        """
        for pool in self.driver.pools():
            for vf in pool.vfs:
                if vf.address == address:
                    return pool, vf
        raise errors.VFNotFound(
            f'agent of {self.host}: GPU driver {self.driver.name} serves no '
            f'VF {address}; check that the host driver has its VFs enabled')

    def driver_for(self, address: str) -> contract.GPUDriver:
        """:raises LookupError: no GPU driver here serves the VF."""
        try:
            self.locate(address)
        except errors.VFNotFound as exc:
            raise LookupError(exc.message) from exc
        return self.driver

    def find(self, migration_uuid: str,
             role: phases.Role) -> journal_.Entry | None:
        """Return the entry in the journal, None if there is none."""
        try:
            return self.journal.get(migration_uuid, role)
        except journal_.NotInJournal:
            return None

    def ask_source(self, entry: journal_.Entry) -> ownership.State | None:
        """Return the state in the source's journal, None if unknown now."""
        try:
            return ownership.State(self.api.ownership(
                _context(), entry.peer_host, entry.migration_uuid))
        except (errors.AgentError, ValueError):
            return None

    def push_destination(self, entry: journal_.Entry) -> doubt.Answer:
        """Make a destination look at our journal; what it says then."""
        try:
            said = self.api.commit(_context(), entry.peer_host,
                                   entry.migration_uuid)
            outcome = said['outcome']
            return doubt.Answer(
                ownership.State(said['state']),
                phases.Outcome(outcome) if outcome else None,
                # Missing where the agent there is an older one.
                str(said.get('reason') or ''))
        except (errors.AgentError, KeyError, ValueError):
            return doubt.Answer()


def _context() -> context.RequestContext:
    """A context for calls that no request of Nova's is behind."""
    return context.RequestContext()
