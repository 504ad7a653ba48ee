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


"""Two compute hosts on one machine: GIM processes, journals, data ports."""

import pathlib
import tempfile
import threading
import time
from typing import Any
import uuid

from oslo_config import cfg

from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.gpu.software import driver
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import offer
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.migration import server
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm.standin import port as standin
from nova_vgpu_mig.vmm.standin import process
from tests import gpu_lab

PATIENCE = 60.0
"""Seconds after which a test that waits for something gives up."""

LIMITS = limits.Limits(downtime_seconds=2.0, silence_seconds=10.0,
                       load_seconds=20.0, ask_seconds=0.05,
                       fence_seconds=0.2, reconnect_seconds=0.5)


class Host:
    """A host with one PF, as an agent sees it."""

    def __init__(self, name: str, directory: str, pf: str,
                 **gim: Any) -> None:
        self.name = name
        self.directory = pathlib.Path(directory, name)
        self.gims = self.directory / 'gim'
        self.guests = self.directory / 'vm'
        for made in (self.directory, self.gims, self.guests):
            made.mkdir()
        self.gim = gpu_lab.GIMProcess(self.gims, pf, **gim)
        conf = cfg.ConfigOpts()
        conf([])
        software_gim.register_opts(conf)
        conf.set_override('runtime_dir', str(self.gims),
                          'software_gim')
        self.driver = driver.SoftwareGPUDriver(conf)
        conf_vmm = cfg.ConfigOpts()
        conf_vmm([])
        vmm_standin.register_opts(conf_vmm)
        conf_vmm.set_override('runtime_dir', str(self.guests),
                              'vmm_standin')
        self.vmm = standin.StandinPort(conf_vmm)
        self.vfs = gpu_lab.vf_addresses(self.gim)
        self.admin = self.gim.connect()
        self.start_agent()

    def start_agent(self) -> None:
        self.journal = journal.Journal(str(self.directory / 'journal'))
        self.server = server.DataServer('127.0.0.1', 0,
                                        LIMITS.silence_seconds,
                                        LIMITS.reconnect_seconds)
        self.server.start()

    def stop_agent(self) -> None:
        self.server.close()
        self.journal.close()

    def close(self) -> None:
        self.stop_agent()
        self.admin.close()
        self.gim.stop()

    def boot(self, case: Any, vf: str, instance: str, *,
             incoming: bool = False) -> process.GuestLauncher:
        """Start a guest process; it ends with the test case."""
        made = process.GuestLauncher(
            instance, self.guests, gim_socket=self.gim.path, vf=vf,
            ram_mib=16, incoming=incoming)
        case.addCleanup(made.close)
        return made

    def knob(self, vf: str, name: str, value: Any) -> None:
        self.admin.call('knob', vf=vf, name=name, value=value)

    def vf(self, address: str) -> dict[str, Any]:
        found: dict[str, Any] = next(
            vf for vf in self.admin.call('describe')['vfs']
            if vf['address'] == address)
        return found


def heard(host: Host, entry: journal.Entry) -> doubt.Answer:
    """What a destination's agent would answer about a move."""
    made = host.journal.get(entry.migration_uuid, phases.Role.DESTINATION)
    outcome = made.record.get('outcome')
    return doubt.Answer(made.state,
                        phases.Outcome(outcome) if outcome else None,
                        made.record['reason'])


class Pair:
    """A source and a destination; goes with the test case."""

    def __init__(self, case: Any, **gim: Any) -> None:
        directory = tempfile.TemporaryDirectory(prefix='pair')
        case.addCleanup(directory.cleanup)
        self.case = case
        self.source = Host('source', directory.name, '0000:81:00.0', **gim)
        case.addCleanup(self.source.close)
        self.destination = Host('destination', directory.name,
                                '0000:c1:00.0', **gim)
        case.addCleanup(self.destination.close)

    def move(self, source_vf: str, destination_vf: str,
             **options: Any) -> 'Move':
        return Move(self, source_vf, destination_vf, **options)


class Move:
    """One move, with what each side is built from."""

    def __init__(self, pair: Pair, source_vf: str, destination_vf: str, *,
                 limits: limits.Limits = LIMITS,
                 guest: port.Guest | None = None,
                 target: port.Guest | None = None,
                 reservation: float = 600.0,
                 instance: str | None = None) -> None:
        self.pair = pair
        self.uuid = str(uuid.uuid4())
        self.limits = limits
        self.guest, self.target = guest, target
        self.phases: list[phases.Phase] = []
        self.on_phase: dict[phases.Phase, Any] = {}
        common = {
            'migration_uuid': self.uuid,
            'instance_uuid': instance or str(uuid.uuid4()),
            'source_host': pair.source.name,
            'destination_host': pair.destination.name,
            'source_vf': source_vf, 'destination_vf': destination_vf}
        self.source_record = record.MigrationRecord(
            role=phases.Role.SOURCE, **common)
        self.destination_record = record.MigrationRecord(
            role=phases.Role.DESTINATION, **common)
        pair.destination.journal.begin(
            phases.Role.DESTINATION, self.destination_record.as_dict(),
            deadline=time.time() + reservation)
        pair.source.journal.begin(
            phases.Role.SOURCE, self.source_record.as_dict())
        self.destination = destination.DestinationMigration(
            driver=pair.destination.driver,
            journal=pair.destination.journal,
            record=self.destination_record,
            server=pair.destination.server, limits=limits,
            ask_source=self.ask_source)
        pair.case.addCleanup(self.destination.close)

    def ask_source(self) -> ownership.State | None:
        return self.pair.source.journal.get(
            self.uuid, phases.Role.SOURCE).state

    def prepare(self) -> offer.Offer:
        made = self.destination.prepare(self.target)
        # As over the agents' RPC.
        return offer.Offer.from_dict(made.as_dict())

    def begin(self, made: offer.Offer | None = None) -> None:
        """Build the source's side."""
        self.source = source.SourceMigration(
            driver=self.pair.source.driver, guest=self.guest,
            journal=self.pair.source.journal, record=self.source_record,
            offer=made or self.prepare(), limits=self.limits,
            observer=self._observe)

    def cut(self) -> None:
        """The connection is lost."""
        channel = self.source._export.channel
        assert channel is not None
        channel.close()

    def run(self) -> record.MigrationRecord:
        """The whole move, in the calling thread."""
        self.begin()
        return self.source.run()

    def start(self) -> threading.Thread:
        self.begin()
        thread = threading.Thread(target=self.source.run)
        thread.start()
        self.pair.case.addCleanup(thread.join, PATIENCE)
        return thread

    def _observe(self, seen: record.MigrationRecord) -> None:
        if seen.phase not in self.phases:
            self.phases.append(seen.phase)
            action = self.on_phase.get(seen.phase)
            if action is not None:
                action()

    def states(self) -> tuple[ownership.State, ownership.State]:
        """What the journals say: source, destination."""
        hosts = (self.pair.source, self.pair.destination)
        roles = (phases.Role.SOURCE, phases.Role.DESTINATION)
        first, second = (host.journal.get(self.uuid, role).state
                         for host, role in zip(hosts, roles, strict=True))
        return first, second
