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


"""`python -m benchmarks.engine`: one host's end of moves, as a process.

What an agent does between its RPC and its data port, and no more, so that
each end has an interpreter lock and a memory of its own, as agents have.
Calls are lines of JSON on standard input, answers are lines of JSON on
standard output; it ends when standard input does.

Rejected: whole agents with RPC (their set-up would be measured with each
move), and both ends in one process (they would share the interpreter lock,
and nobody could tell whose memory it is).
"""

from collections.abc import Callable
import contextlib
import json
import logging
import os
import sys
import time
from typing import Any

import numpy
import numpy.typing
from oslo_config import cfg

from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import client
from nova_vgpu_mig.gpu.software import driver as driver_
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import offer as offer_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.migration import server as server_
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm import port as vmm_port
from nova_vgpu_mig.vmm.standin import port as standin

END_SECONDS = 60.0

MADV_POPULATE_WRITE = 23
"""Since Linux 5.14; Python's mmap has no name for it."""


class PresentDevice(client.SoftwareDevice):
    """A device whose frame buffer takes memory before anything comes.

    A VF's VRAM is there; a page of shared memory is made when it is first
    touched, which takes longer than to copy it. Measured with holes, the
    carrier would look slow, and stopping first far slower still.
    """

    def set_state(self, state: contract.DeviceState) -> (
            contract.DataStream | None):
        stream = super().set_state(state)
        if state is contract.DeviceState.RESUMING and self._map is not None:
            self._map.madvise(MADV_POPULATE_WRITE)
        return stream

    def zero_units(self, first: int, count: int) -> None:
        """Write zeros, but not over a VF that was just scrubbed."""
        if count * self.unit_size < len(self.frame_buffer):
            contract.UnitDevice.zero_units(self, first, count)


class LateDevice(PresentDevice):
    """A device that shows no unit before everything has stopped.

    With it the same engine stops first and copies everything then: its
    first round finds nothing, and its last one the whole frame buffer.
    """

    _stopped = False

    def set_state(self, state: contract.DeviceState) -> (
            contract.DataStream | None):
        stream = super().set_state(state)
        self._stopped = state is contract.DeviceState.STOP_COPY
        return stream

    def dirty_units(self, *, clear: bool) -> numpy.typing.NDArray[
            numpy.bool_]:
        if self._stopped:
            return super().dirty_units(clear=clear)
        return numpy.zeros(len(self.frame_buffer) // self.unit_size, bool)


class PresentDriver(driver_.SoftwareGPUDriver):
    """Opens VFs with memory behind all of their frame buffer."""

    def open(self, address: str) -> client.SoftwareDevice:
        return PresentDevice(self._connect(address), address)


class LateDriver(driver_.SoftwareGPUDriver):
    """Opens VFs for stopping first and copying everything then."""

    def open(self, address: str) -> client.SoftwareDevice:
        return LateDevice(self._connect(address), address)


class Engine:
    """A journal, a data port, and the moves that use them."""

    def __init__(self, name: str, directory: str) -> None:
        conf = cfg.ConfigOpts()
        conf([])
        for options in (software_gim, vmm_standin):
            options.register_opts(conf)
            conf.set_override('runtime_dir',
                              os.path.join(directory, options.GROUP),
                              options.GROUP)
        self._name = name
        self._drivers = {False: PresentDriver(conf),
                         True: LateDriver(conf)}
        self._vmm = standin.StandinPort(conf)
        self._journal = journal_.Journal(os.path.join(directory, 'journal'))
        self._server = server_.DataServer('127.0.0.1', 0)
        self._server.start()
        self._recovery = recovery.Recovery(
            self._journal, driver_for=lambda address: self._drivers[False],
            guest_for=lambda instance: None, ask_source=lambda entry: None,
            push_destination=lambda entry: None)
        self._incoming: destination.DestinationMigration | None = None
        self._guest: vmm_port.Guest | None = None
        self.calls: dict[str, Callable[..., Any]] = {
            'cpu': time.process_time, 'expect': self.expect,
            'run': self.run, 'arrived': self.arrived,
            'finish': self.finish, 'rewind': self.rewind,
            'throw_away': self.throw_away}

    def expect(self, move: dict[str, Any], guest: bool,
               limits: dict[str, Any]) -> dict[str, Any]:
        """Destination: what the agent's `claim` and `prepare` do."""
        record = record_.MigrationRecord(
            role=phases.Role.DESTINATION, **move)
        self._journal.begin(phases.Role.DESTINATION, record.as_dict(),
                            deadline=time.time() + END_SECONDS)
        self._guest = (self._vmm.guest(move['instance_uuid']) if guest
                       else None)
        self._incoming = destination.DestinationMigration(
            driver=self._drivers[False], journal=self._journal,
            record=record, server=self._server,
            limits=limits_.Limits(**limits), ask_source=self._ask_source)
        return self._incoming.prepare(self._guest).as_dict()

    @staticmethod
    def _ask_source() -> ownership.State | None:
        return None

    def run(self, move: dict[str, Any], guest: bool,
            limits: dict[str, Any], offer: dict[str, Any],
            late: bool) -> dict[str, Any]:
        """Source: the whole move; returns the record.

        :param late: stop first and copy everything then.
        """
        record = record_.MigrationRecord(role=phases.Role.SOURCE, **move)
        self._journal.begin(phases.Role.SOURCE, record.as_dict())
        with contextlib.ExitStack() as stack:
            vm = None
            if guest:
                vm = self._vmm.guest(move['instance_uuid'])
                stack.callback(vm.close)
            migration = source.SourceMigration(
                driver=self._drivers[late], guest=vm, journal=self._journal,
                record=record, offer=offer_.Offer.from_dict(offer),
                limits=limits_.Limits(**limits))
            return migration.run().as_dict()

    def arrived(self) -> None:
        """Destination: wait until the move has ended here.

        :raises TimeoutError: it has not.
        """
        assert self._incoming is not None
        if not self._incoming.wait(END_SECONDS):
            raise TimeoutError(f'{self._name}: the move has no end')
        self._incoming = None
        if self._guest is not None:
            self._guest.close()
            self._guest = None

    def finish(self, migration_uuid: str, role: str) -> None:
        """Either: what the agent's `finish` does; scrubs the source's VF."""
        self._recovery.finish(migration_uuid, phases.Role(role))

    def rewind(self, migration_uuid: str, vf: str) -> None:
        """Source: run a VF on that was given up.

        No product may: here the other copy is thrown away, and the same
        frame buffer is moved once more.
        """
        self._journal.move(migration_uuid, phases.Role.SOURCE,
                           ownership.State.FINISHED)
        device = self._drivers[False].open(vf)
        try:
            custody.run_device(device)
        finally:
            device.close()

    def throw_away(self, migration_uuid: str, vf: str) -> None:
        """Destination: clear a VF that came without a guest."""
        self._journal.move(migration_uuid, phases.Role.DESTINATION,
                           ownership.State.FINISHED)
        driver = self._drivers[False]
        device = driver.open(vf)
        try:
            device.reset()
        finally:
            device.close()
        driver.scrub(vf)


def main() -> int:
    logging.basicConfig(level=logging.WARNING)
    name, directory = sys.argv[1:]
    engine = Engine(name, directory)
    for line in sys.stdin:
        call = json.loads(line)
        try:
            answer = {'result': engine.calls[call['call']](**call['args'])}
        except Exception as exc:
            logging.exception('%s: %s', name, call['call'])
            answer = {'error': f'{type(exc).__name__}: {exc}'}
        print(json.dumps(answer), flush=True)
    return 0


if __name__ == '__main__':
    sys.exit(main())
