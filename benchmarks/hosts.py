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


"""Two hosts on this machine, and a VM that goes there and back.

Each host is a software GIM and an engine (engine.py), each a process. The
VM's guest is a process too. Nothing is started during a measurement.
"""

import contextlib
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, Self
import uuid

from benchmarks import processes
from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.conf import vmm_standin
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm.standin import process

MIB = 1 << 20
RAM_MIB = 16
FILL_SECONDS = 120.0
FENCE_SECONDS = 0.5

LIMIT_SECONDS = 2.0
"""Of downtime. Wide, so that the largest working set is moved too; the
engine switches over after the first round that fits."""

_END_SECONDS = 10.0


class BenchmarkError(Exception):
    """A measurement could not be made; the message says why."""


class Child:
    """A process that serves lines of JSON until its input ends."""

    def __init__(self, *command: str) -> None:
        self._name = ' '.join(command)
        self.process = subprocess.Popen(
            [sys.executable, '-m', *command], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, text=True)

    @property
    def pid(self) -> int:
        return self.process.pid

    def send(self, method: str, **args: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(
            {'call': method, 'args': args}) + '\n')
        self.process.stdin.flush()

    def receive(self) -> Any:
        """:raises BenchmarkError: the process failed, or it is gone."""
        line = self.read()
        answer = json.loads(line)
        if 'error' in answer:
            raise BenchmarkError(answer['error'])
        return answer['result']

    def call(self, method: str, **args: Any) -> Any:
        self.send(method, **args)
        return self.receive()

    def read(self) -> str:
        """:raises BenchmarkError: the process has ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchmarkError(f'{self._name} ended with status '
                                 f'{self.process.wait()}')
        return line

    def close(self) -> None:
        assert (self.process.stdin is not None
                and self.process.stdout is not None)
        self.process.stdin.close()
        try:
            self.process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process.stdout.close()


class Host:
    """One PF with one VF, and the engine of the agent."""

    def __init__(self, name: str, directory: pathlib.Path, pf: str,
                 frame_buffer_mib: int) -> None:
        self.name = name
        self.directory = directory / name
        self.guests = self.directory / vmm_standin.GROUP
        gpus = self.directory / software_gim.GROUP
        for made in (self.directory, self.guests, gpus):
            made.mkdir()
        self.socket = str(gpus / f'{pf}.sock')
        with contextlib.ExitStack() as stack:
            self.gim = Child(
                'nova_vgpu_mig.gpu.software', '--pf', pf, '--runtime-dir',
                str(gpus), '--vfs', '1', '--frame-buffer-mib',
                str(frame_buffer_mib), '--die-with-parent')
            stack.callback(self._end_gim)
            self.gim.read()
            self.engine = Child('benchmarks.engine', name,
                                str(self.directory))
            stack.callback(self.engine.close)
            admin = unixcall.Client(self.socket)
            self.vf = str(admin.call('describe')['vfs'][0]['address'])
            admin.close()
            self._stack = stack.pop_all()

    def _end_gim(self) -> None:
        self.gim.process.terminate()
        self.gim.close()

    def boot(self, instance: str, *,
             incoming: bool) -> process.GuestLauncher:
        return process.GuestLauncher(
            instance, self.guests, gim_socket=self.socket, vf=self.vf,
            ram_mib=RAM_MIB, incoming=incoming)

    def close(self) -> None:
        self._stack.close()


@dataclasses.dataclass(frozen=True, slots=True)
class Move:
    """How one move went."""

    record: record_.MigrationRecord
    cpu_seconds: float
    """Of both engines."""

    @property
    def seconds(self) -> float:
        """From the source's first step until the VF ran at the other end."""
        times = self.record.phase_times
        return times[phases.Phase.COMPLETED] - times[phases.Phase.PREPARE]

    @property
    def sent_bytes(self) -> int:
        """Frame buffer, device state and guest RAM, all rounds."""
        return sum(r.frame_buffer_bytes + r.stream_bytes + r.memory_bytes
                   for r in self.record.rounds)

    @property
    def downtime(self) -> float:
        assert self.record.downtime_seconds is not None
        return self.record.downtime_seconds


class Pair:
    """Two hosts and one VM; `here` is the one that the VM is on."""

    def __init__(self, frame_buffer_mib: int) -> None:
        self.frame_buffer_mib = frame_buffer_mib
        self.instance = str(uuid.uuid4())
        with contextlib.ExitStack() as stack:
            directory = pathlib.Path(stack.enter_context(
                tempfile.TemporaryDirectory(prefix='bench')))
            self.hosts = []
            for name, pf in (('a', '0000:81:00.0'), ('b', '0000:c1:00.0')):
                self.hosts.append(Host(name, directory, pf,
                                       frame_buffer_mib))
                stack.callback(self.hosts[-1].close)
            self.here, self.there = self.hosts
            self.vm = self.here.boot(self.instance, incoming=False)
            stack.callback(lambda: self.vm.close())
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._stack.close()

    def fill(self) -> None:
        """Let the guest write all of the frame buffer, then idle."""
        self.vm.call('wait', phase='ready')
        self.vm.call('workload', name='idle', seed=1, fill_percent=100,
                     frames=0)
        self._wait(phase='ready')

    def render(self, working_set_mib: int, frames_per_second: float) -> None:
        """Start to render for ever in a frame buffer that was filled."""
        self.vm.call('workload', name='render', seed=2,
                     working_set_mib=working_set_mib,
                     frames_per_second=frames_per_second)
        self.wait_frames(2)

    def idle(self) -> None:
        """End what was begun with render()."""
        self.vm.call('finish_workload')
        self._wait(phase='ready')

    def wait_frames(self, count: int) -> None:
        """Wait until the guest has finished so many frames more."""
        done = self.vm.call('workload_status')['frames_retired']
        self._wait(frame=done + count)

    def _wait(self, **condition: Any) -> None:
        self.vm.call('wait', seconds=FILL_SECONDS, **condition)

    def gim_share(self, seconds: float) -> float:
        """Share of one core that the GIM of the VM's host takes."""
        began, cpu = time.monotonic(), processes.cpu_seconds(
            self.here.gim.pid)
        time.sleep(seconds)
        return ((processes.cpu_seconds(self.here.gim.pid) - cpu)
                / (time.monotonic() - began))

    def move_vf(self) -> Move:
        """Move the VF alone, throw the copy away, and stay."""
        done = self._move(guest=False, late=False)
        uuid_ = done.record.migration_uuid
        self.there.engine.call('throw_away', migration_uuid=uuid_,
                               vf=self.there.vf)
        self.here.engine.call('rewind', migration_uuid=uuid_,
                              vf=self.here.vf)
        return done

    def move_vm(self, *, late: bool = False) -> Move:
        """Move the VM; it is on the other host afterwards.

        :param late: stop it first and copy everything then.
        """
        target = self.there.boot(self.instance, incoming=True)
        try:
            done = self._move(guest=True, late=late)
        except BaseException:
            target.close()
            raise
        self.vm, gone = target, self.vm
        gone.close()
        for host, role in ((self.here, phases.Role.SOURCE),
                           (self.there, phases.Role.DESTINATION)):
            host.engine.call('finish', role=role,
                             migration_uuid=done.record.migration_uuid)
        self.here, self.there = self.there, self.here
        return done

    def _move(self, *, guest: bool, late: bool) -> Move:
        """:raises BenchmarkError: it did not complete; says why."""
        what = {'move': {'migration_uuid': str(uuid.uuid4()),
                         'instance_uuid': self.instance,
                         'source_host': self.here.name,
                         'destination_host': self.there.name,
                         'source_vf': self.here.vf,
                         'destination_vf': self.there.vf},
                'guest': guest,
                'limits': {'downtime_seconds': LIMIT_SECONDS,
                           'fence_seconds': FENCE_SECONDS}}
        offer = self.there.engine.call('expect', **what)
        cpu = self._cpu()
        record = record_.MigrationRecord.from_dict(
            self.here.engine.call('run', offer=offer, late=late, **what))
        self.there.engine.call('arrived')
        cpu = self._cpu() - cpu
        if record.outcome is not phases.Outcome.COMPLETED:
            raise BenchmarkError(f'a move failed: {record.reason}')
        return Move(record, cpu)

    def _cpu(self) -> float:
        return sum(float(host.engine.call('cpu')) for host in self.hosts)
