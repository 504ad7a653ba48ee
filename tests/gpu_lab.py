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

"""A software GIM as a real process, and a guest small enough for a test."""

import errno
import mmap
import os
import pathlib
import select
import signal
import subprocess
import sys
import tempfile
import time
from typing import Any

import numpy

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import client
from nova_vgpu_mig import unixcall

PF = '0000:81:00.0'
MIB = 1024 * 1024
PATIENCE = 30.0
"""Seconds after which a test that waits for something gives up."""


class GIMProcess:
    """`python -m nova_vgpu_mig.gpu.software`, ready when built."""

    def __init__(self, directory: str | pathlib.Path, pf: str = PF, *,
                 vfs: int = 2, frame_buffer_mib: int = 4,
                 unit_bytes: int = abi.PAGE_BYTES,
                 work_unit_bytes: int = 4096, options: tuple[str, ...] = (),
                 ) -> None:
        self.pf = pf
        self.path = f'{directory}/{pf}.sock'
        self.process = subprocess.Popen(
            [sys.executable, '-m', 'nova_vgpu_mig.gpu.software',
             '--pf', pf, '--runtime-dir', str(directory),
             '--vfs', str(vfs), '--frame-buffer-mib', str(frame_buffer_mib),
             '--unit-bytes', str(unit_bytes),
             '--work-unit-bytes', str(work_unit_bytes),
             '--die-with-parent', *options],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.ready = self.process.stdout.readline().startswith('listening')

    def connect(self) -> unixcall.Client:
        return unixcall.Client(self.path, timeout=PATIENCE)

    def open(self, address: str) -> client.SoftwareDevice:
        return client.SoftwareDevice(self.connect(), address)

    def stop(self) -> str:
        """End it; return what it wrote to standard error."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        _, errors = self.process.communicate(timeout=PATIENCE)
        return errors


class Guest:
    """Plays the guest driver: rings, doorbells, fences, a page table.

    Guest RAM: a page for each ring, then one for the fences. The page table
    is at the frame buffer's start and maps VA 0.. to the frame buffer, then
    to guest RAM.
    """

    RING_ENTRIES = 256
    FENCES = len(abi.Engine) * abi.PAGE_BYTES

    def __init__(self, gim: GIMProcess, vf: str, *, ram_bytes: int = MIB,
                 incoming: bool = False) -> None:
        self.vf = vf
        self.incoming = incoming
        self.client = gim.connect()
        self.ram_fd = os.memfd_create('guest-ram')
        os.ftruncate(self.ram_fd, ram_bytes)
        self.ram = numpy.frombuffer(mmap.mmap(self.ram_fd, ram_bytes),
                                    numpy.uint64)
        shape, fds = self.client.call_fds(
            'attach', fds=[self.ram_fd], vf=vf, ram_bytes=ram_bytes,
            incoming=incoming)
        self.frame_buffer_bytes = int(shape['frame_buffer_bytes'])
        self.kick, self.vectors = fds[1], fds[2:]
        self.doorbells = numpy.frombuffer(
            mmap.mmap(fds[0], abi.DOORBELL_PAGE_BYTES), numpy.uint64)
        os.close(fds[0])
        self.submitted = dict.fromkeys(abi.Engine, 0)
        self.turn = 0
        """For a workload that counts its rounds."""

    def call(self, method: str, **args: Any) -> Any:
        return self.client.call(method, vf=self.vf, **args)

    def load_driver(self) -> None:
        """What a guest driver does at boot; the page table comes by SDMA."""
        write = self.mmio
        write(abi.Register.DRIVER_STATE, 1)
        frame_pages = self.frame_buffer_bytes // abi.PAGE_BYTES
        ram_pages = self.ram.nbytes // abi.PAGE_BYTES
        write(abi.Register.PT_ROOT, 0)
        write(abi.Register.PT_ENTRIES, frame_pages + ram_pages)
        for engine in abi.Engine:
            at = engine * abi.Register.RING_STRIDE
            write(abi.Register.RING_BASE + at, engine * abi.PAGE_BYTES)
            write(abi.Register.RING_ENTRIES + at, self.RING_ENTRIES)
            write(abi.Register.FENCE_ADDRESS + at, self.FENCES + engine * 8)
        write(abi.Register.DRIVER_STATE, 2)
        self.submit(abi.Engine.SDMA, abi.Opcode.WRITE_PTE, va=0,
                    length=frame_pages, arg0=abi.PTE_VALID,
                    arg1=abi.PAGE_BYTES)
        self.submit(abi.Engine.SDMA, abi.Opcode.WRITE_PTE, va=frame_pages,
                    length=ram_pages, arg0=abi.PTE_VALID | abi.PTE_SYSTEM,
                    arg1=abi.PAGE_BYTES)
        self.wait(abi.Engine.SDMA)

    def mmio(self, register: int, value: int) -> None:
        self.call('mmio_write', register=int(register), value=value)

    def ram_va(self, offset: int) -> int:
        return self.frame_buffer_bytes + offset

    def submit(self, engine: abi.Engine, opcode: abi.Opcode, *,
               number: int | None = None, **fields: Any) -> int:
        """Put a command into a ring and ring the doorbell."""
        self.submitted[engine] += 1
        command = abi.Command(number or self.submitted[engine], opcode,
                              **fields)
        self.put(engine, command.pack())
        return self.submitted[engine]

    def put(self, engine: abi.Engine, packet: bytes) -> None:
        slot = (self.submitted[engine] - 1) % self.RING_ENTRIES
        at = (engine * abi.PAGE_BYTES + slot * abi.COMMAND_BYTES) // 8
        self.ram[at:at + 8] = numpy.frombuffer(packet, numpy.uint64)
        self.doorbells[engine * abi.DOORBELL_STRIDE // 8] = self.submitted[
            engine]
        os.eventfd_write(self.kick, 1)

    def fence(self, engine: abi.Engine) -> int:
        return int(self.ram[self.FENCES // 8 + engine])

    def wait(self, engine: abi.Engine, number: int | None = None) -> None:
        """Wait for a fence; the last submitted command's by default."""
        due = self.submitted[engine] if number is None else number
        self._until(lambda: self.fence(engine) >= due,
                    f'fence {due} of {engine.name}')

    def wait_held(self, *engines: abi.Engine) -> None:
        """Wait until the engines stand at their hold."""
        def held() -> bool:
            states = self.call('held')
            return all(states[engine.name] for engine in engines)

        self._until(held, f'engines {engines} to stand at their hold')

    def wait_fault(self) -> list[dict[str, Any]]:
        self._until(lambda: self.state()['faults'], 'a fault')
        found: list[dict[str, Any]] = self.state()['faults']
        return found

    def _until(self, condition: Any, what: str) -> None:
        try:
            until(condition, what)
        except AssertionError as exc:
            raise AssertionError(f'{exc}: {self.state()}') from exc

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.call('vf_state')
        return found

    def interrupts(self, engine: abi.Engine) -> int:
        """Wait for the vector and read it."""
        ready, _, _ = select.select([self.vectors[engine]], [], [], PATIENCE)
        assert ready, f'no interrupt of {engine.name}'
        return os.eventfd_read(self.vectors[engine])

    def read_now(self, engine: abi.Engine) -> int:
        """:raises BlockingIOError: no interrupt is pending."""
        return os.eventfd_read(self.vectors[engine])

    def close(self) -> None:
        self.call('detach')
        self.client.close()
        for fd in (self.ram_fd, self.kick, *self.vectors):
            os.close(fd)


def vf_addresses(gim: GIMProcess) -> list[str]:
    admin = gim.connect()
    try:
        return [vf['address'] for vf in admin.call('describe')['vfs']]
    finally:
        admin.close()


def directory(case: Any) -> str:
    """A directory that goes with the test; short, for socket paths."""
    made = tempfile.TemporaryDirectory(prefix='gim')
    case.addCleanup(made.cleanup)
    return made.name


class Move:
    """The agent's part of a move, without an agent."""

    def __init__(self, source: client.SoftwareDevice,
                 target: client.SoftwareDevice,
                 level: contract.Level) -> None:
        self.source = source
        self.target = target
        self.level = level
        for device in (source, target):
            device.select_level(level)
        self.buffer = memoryview(bytearray(256 * 1024))
        self.bytes = 0
        self.out: contract.DataStream | None = None
        self.into: contract.DataStream | None = None

    def begin(self, first: contract.DeviceState) -> None:
        """To PRE_COPY or STOP_COPY at the source, RESUMING at the other."""
        self.out = self.source.set_state(first)
        self.into = self.target.set_state(contract.DeviceState.RESUMING)

    def pump(self) -> None:
        """Carry what the source has now, in either way."""
        assert self.out is not None and self.into is not None
        while True:
            try:
                count = self.out.read_into(self.buffer)
            except contract.TemporaryEnd:
                break
            if not count:
                break
            self.bytes += count
            sent = 0
            while sent < count:
                sent += self.into.write(self.buffer[sent:count])
        if self.level is contract.Level.UNITS:
            self.copy_units()

    def copy_units(self) -> None:
        unit = self.source.unit_size
        for index in numpy.flatnonzero(
                self.source.dirty_units(clear=True)).tolist():
            self.target.frame_buffer[index * unit:(index + 1) * unit] = (
                self.source.frame_buffer[index * unit:(index + 1) * unit])

    def close(self) -> None:
        for end in (self.out, self.into, self.source, self.target):
            if end is not None:
                end.close()


def class_directory(case: Any) -> str:
    """As directory(), for as long as the class's tests run."""
    made = tempfile.TemporaryDirectory(prefix='gim')
    case.addClassCleanup(made.cleanup)
    return made.name


def until(condition: Any, what: str) -> None:
    """Wait for a condition that another process brings about."""
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f'waited in vain for {what}')
        time.sleep(0.001)


def code(exc: OSError) -> str:
    return errno.errorcode.get(exc.errno or 0, str(exc.errno))
