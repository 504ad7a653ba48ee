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

"""A VM that moves and a twin that stays, compared at equal counts of work.

One trial: both begin with a fresh VF and the same seed; the first one goes
on submitting while the real engine moves it to the other host, and stops
when the carrier stops its vCPU. Before its VF runs at the destination, each
engine is told to hold at a count of work units that lies ahead; the twin is
told the same and given the same submissions. So both come to rest at one
state of the program, inside commands, and are compared; then both are let
go, get some more work or none, and are compared at the end.

None instead of more work matters: a doorbell that was lost is healed by the
next one.
"""

import dataclasses
import pathlib
import random
import tempfile
import time
from typing import Any
import uuid

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm.standin import comparison
from tests import gpu_lab
from tests.integration import light_vm
from tests.integration import one_way
from tests.integration import submissions
from tests import two_hosts

Phase = phases.Phase
GIM = {'vfs': 3, 'frame_buffer_mib': submissions.FRAME_BUFFER_MIB,
       'unit_bytes': abi.PAGE_BYTES,
       'work_unit_bytes': submissions.WORK_UNIT_BYTES}
STUCK_SECONDS = 1.0
"""Without any change, a VF that should go on has lost something."""


@dataclasses.dataclass(slots=True)
class Result:
    """What one trial showed."""

    seed: int
    level: contract.Level
    inside: tuple[str, ...] = ()
    """Engines that the switchover preempted strictly inside a command."""

    different: dict[str, list[comparison.Row]] = dataclasses.field(
        default_factory=dict)
    """'inside' and 'at the end' -> the aspects that differ."""

    held: bool = False
    """The first comparison was inside a command."""

    broken: str = ''
    """The knob that was on."""

    def aspects(self) -> list[str]:
        return sorted({row.what for rows in self.different.values()
                       for row in rows})

    def __str__(self) -> str:
        found = '; '.join(
            f'{when}: {row.what}: moved {row.moved}, stayed {row.stayed}'
            for when, rows in self.different.items() for row in rows)
        how = f', {self.broken}' if self.broken else ''
        return (f'seed {self.seed}, level {self.level}{how}: '
                f'{found or "equal"}')


class Lab:
    """Two hosts whose directories, and so journals, are on a tmpfs.

    A thousand moves are many thousand fsyncs, which a disk would serve one
    after the other; what fsync is for is tested where agents are killed.
    """

    def __init__(self, case: Any) -> None:
        shm = pathlib.Path('/dev/shm')  # noqa: S108
        directory = tempfile.TemporaryDirectory(
            prefix='twins', dir=shm if shm.is_dir() else None)
        case.addClassCleanup(directory.cleanup)
        self.hosts = []
        for name, pf in (('east', '0000:81:00.0'), ('west', '0000:c1:00.0')):
            self.hosts.append(two_hosts.Host(name, directory.name, pf,
                                             **GIM))
            case.addClassCleanup(self.hosts[-1].close)

    def gims(self) -> list[int]:
        return [host.gim.process.pid for host in self.hosts]


def trial(lab: Lab, seed: int, broken: str = '') -> Result:
    """One trial, with all of its processes' resources given back.

    :param seed: says everything, level and direction too; both take turns
        in seeds that follow each other.
    :param broken: a knob (gpu/software/knobs.py) for the VF that moves.
    :raises AssertionError: the move failed; with the seed.
    """
    hosts = lab.hosts[::-1] if seed // 2 % 2 else lab.hosts
    with one_way.OneWay(*hosts) as way:
        return Trial(way, seed, broken).run()


class Trial:
    """One seed's VM, twin and move."""

    def __init__(self, way: one_way.OneWay, seed: int, broken: str) -> None:
        level = list(contract.Level)[seed % 2]
        self.result = Result(seed, level, broken=broken)
        self._draw = random.Random(seed)
        self._way = way
        here, there = way.source, way.destination
        self.vf, self.twin_vf = self._draw.sample(here.vfs, 2)
        self.target_vf = self._draw.choice(
            [vf for vf in there.vfs
             if there.vfs.index(vf) != here.vfs.index(self.vf)])
        self._instance = str(uuid.UUID(int=self._draw.getrandbits(128)))
        for host in (here, there):
            for vf in host.vfs:
                host.admin.call('release', vf=vf)
        if broken:
            here.knob(self.vf, broken, True)
            way.addCleanup(here.knob, self.vf, broken, False)
        self.vm = self._guest(here, self.vf)
        self.twin = self._guest(here, self.twin_vf)
        self.moved = self._guest(there, self.target_vf, incoming=True)
        self._move = two_hosts.Move(
            way, self.vf, self.target_vf,
            limits=dataclasses.replace(two_hosts.LIMITS, level=level,
                                       fence_seconds=0.0),
            guest=light_vm.LightVM(self.vm, self._instance),
            target=light_vm.LightVM(self.moved, self._instance),
            instance=self._instance)

    def _guest(self, host: two_hosts.Host, vf: str,
               **options: Any) -> light_vm.Driver:
        made = light_vm.Driver(host.gim, vf, self.result.seed, **options)
        self._way.addCleanup(made.close)
        return made

    def run(self) -> Result:
        """:raises AssertionError: the move itself failed."""
        draw = self._draw.randrange
        self.vm.start_vcpu()
        self.vm.allow(draw(3))
        self._move.on_phase = {
            Phase.PRECOPY: lambda: self._work_on(draw(4), draw(150)),
            Phase.SWITCHOVER: lambda: self._work_on(
                2 * light_vm.DEPTH, 1 + draw(150)),
            Phase.COMMIT: self._hold}
        done = self._move.run()
        self.vm.end_vcpu()
        if done.outcome is not phases.Outcome.COMPLETED:
            raise AssertionError(f'seed {self.result.seed}: {done.reason}')
        assert self._move.destination.wait(two_hosts.PATIENCE)
        self._compare_inside()
        self._compare_at_the_end()
        for guest in (self.vm, self.twin, self.moved):
            guest.call('detach')
        self._way.finish(self._move.uuid)
        return self.result

    def _work_on(self, batches: int, units: int) -> None:
        """Let the vCPU submit, and some work pass: to no moment special.

        More batches than are ever in flight leave the vCPU submitting, with
        full rings, when this returns.
        """
        goal = _retired(self.vm) + min(units, 40 * batches)
        serial = self.vm.serial + min(batches, light_vm.DEPTH)
        self.vm.allow(batches)
        gpu_lab.until(lambda: (self.vm.serial >= serial
                               and _retired(self.vm) >= goal), 'work')

    def _hold(self) -> None:
        """All is loaded and nothing runs yet at the destination."""
        engines = self.moved.state()['engines']
        self.result.inside = tuple(
            name for name, engine in engines.items()
            if engine['in_flight'] is not None)
        self._holds = {}
        for engine, end in submissions.total(self.vm.rings).items():
            low = engines[engine.name]['retired_units']
            self._holds[engine] = self._draw.randint(min(low, end), end)
        for guest in (self.moved, self.twin):
            for engine, count in self._holds.items():
                guest.call('hold', engine=int(engine), work_units=count)

    def _compare_inside(self) -> None:
        rest = submissions.rest(self.vm.rings, self._holds)
        self.twin.feed(self.vm.serial)
        for guest in (self.twin, self.moved):
            _settle(guest, rest)
        self._compare('inside')

    def _compare_at_the_end(self) -> None:
        for guest in (self.twin, self.moved):
            guest.call('release')
        if not self.result.different:
            more = self.vm.serial + self._draw.randrange(3)
            for guest in (self.twin, self.moved):
                guest.feed(more)
        for guest in (self.twin, self.moved):
            _settle(guest, submissions.total(self.twin.rings))
        self._compare('at the end')

    def _compare(self, when: str) -> None:
        moved, stayed = _snapshot(self.moved), _snapshot(self.twin)
        rows = comparison.compare(moved, stayed)
        self.result.held |= any(
            engine['in_flight']
            for engine in stayed.vf_state['engines'].values())
        different = [row for row in rows if not row.equal]
        if different:
            self.result.different[when] = different



def _retired(guest: light_vm.Driver) -> int:
    return sum(engine['retired_units']
               for engine in guest.state()['engines'].values())


def _settle(guest: light_vm.Driver, rest: submissions.Counts) -> None:
    """Return when the engines are there, or when nothing moves any more."""
    last: Any = None
    since = time.monotonic()
    while True:
        engines = guest.state()['engines']
        if all(engines[engine.name]['retired_units'] == count
               for engine, count in rest.items()):
            return
        if engines != last:
            last, since = engines, time.monotonic()
        elif time.monotonic() - since > STUCK_SECONDS:
            return
        guest.read_interrupts(0.001)


def _snapshot(guest: light_vm.Driver) -> comparison.Snapshot:
    """What is compared. The VF is at rest: all its interrupts are raised."""
    guest.read_interrupts()
    return comparison.Snapshot(
        frame_buffer=guest.call('digest'), vf_state=guest.state(),
        guest_ram=guest.ram_digest(),
        received={engine.name: count
                  for engine, count in guest.received.items()})
