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

"""A VM in the test's own process, behind the real VMM port.

A guest process takes longer to start than a move of a small VF takes; a
thousand moves need something lighter. This one has what the carrier asks of
a VMM: vCPUs that stop and run when told (one thread, which goes on
submitting until it is stopped), and guest RAM that is sent in rounds, found
through DMA logging, digests at both ends. RAM goes by assignment instead of
a socket: the guest processes' stream has tests of its own.
"""

import secrets
import select
import threading
import time

import numpy
import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.vmm import port
from tests import gpu_lab
from tests.integration import submissions

_LOG_PAGE = 4096
DEPTH = 4
"""Batches that the guest driver has in flight at most."""

_listening: dict[str, 'LightVM'] = {}


class Driver(gpu_lab.Guest):
    """The guest: a GPU driver whose vCPU submits a seed's batches."""

    RING_ENTRIES = 32
    """Few: rings wrap in every run."""

    def __init__(self, gim: gpu_lab.GIMProcess, vf: str, seed: int, *,
                 incoming: bool = False) -> None:
        self.seed = seed
        self.serial = 0
        self.rings: dict[abi.Engine, list[abi.Command]] = {
            engine: [] for engine in abi.Engine}
        super().__init__(gim, vf, incoming=incoming,
                         ram_bytes=submissions.RAM_PAGES * abi.PAGE_BYTES)
        self.received = dict.fromkeys(abi.Engine, 0)
        self.running = not incoming
        self._allowed = 0
        self._changed = threading.Condition()
        self._vcpu: threading.Thread | None = None
        self._ending = False
        self._failure: BaseException | None = None
        if not incoming:
            self._boot()
        self.marks = [self.submitted.copy()]
        """How far each ring is at the end of each batch."""

    def _boot(self) -> None:
        """Load the driver, and lay down what the video engine reads."""
        self.load_driver()
        start = submissions.BITSTREAM * abi.PAGE_BYTES // 8
        count = abi.PAGE_BYTES // 8
        self.ram[start:start + count] = numpy.random.default_rng(
            self.seed).integers(0, 2**63, count, numpy.uint64)

    def put(self, engine: abi.Engine, packet: bytes) -> None:
        self.rings[engine].append(abi.Command.unpack(packet))
        super().put(engine, packet)

    def submit_batch(self) -> None:
        self.serial += 1
        for engine, fields in submissions.batch(self.seed, self.serial):
            self.submit(engine, **fields)
        self.marks.append(self.submitted.copy())

    def in_flight(self) -> int:
        """Count batches that have been submitted and not retired."""
        done = self.serial
        while done and not all(
                self.fence(engine) >= self.marks[done][engine]
                for engine in abi.Engine):
            done -= 1
        return self.serial - done

    def feed(self, serial: int) -> None:
        """Submit up to a batch, as the vCPU does, in the caller's thread."""
        end = time.monotonic() + gpu_lab.PATIENCE
        while self.serial < serial:
            if self.in_flight() < DEPTH:
                self.submit_batch()
            elif time.monotonic() > end:
                raise AssertionError(f'no fence for batch {self.serial}: '
                                     f'{self.state()}')
            else:
                self.read_interrupts(0.005)

    def read_interrupts(self, seconds: float = 0.0) -> None:
        """Handle what has been raised, or wait for it so long."""
        ready, _, _ = select.select(self.vectors, [], [], seconds)
        for engine in abi.Engine:
            if self.vectors[engine] in ready:
                self.received[engine] += self.read_now(engine)

    def ram_digest(self) -> str:
        return xxhash.xxh3_128_hexdigest(self.ram)

    def hand_over(self, target: 'Driver') -> None:
        """What a guest process has in its RAM: how far its driver is."""
        target.serial = self.serial
        target.submitted = self.submitted.copy()
        target.received = self.received.copy()
        target.marks = list(self.marks)
        target.rings = {engine: list(ring)
                        for engine, ring in self.rings.items()}

    # The vCPU

    def start_vcpu(self) -> None:
        """Submit as far as allow() lets it, while it is not paused."""
        self._vcpu = threading.Thread(target=self._submit_on, name='vcpu')
        self._vcpu.start()

    def allow(self, batches: int) -> None:
        with self._changed:
            self._allowed += batches
            self._changed.notify_all()

    def pause(self) -> None:
        """No guest instruction runs when this has returned."""
        with self._changed:
            self.running = False

    def go(self) -> None:
        with self._changed:
            self.running = True
            self._changed.notify_all()

    def end_vcpu(self) -> None:
        """:raises AssertionError: the guest driver failed."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        if self._vcpu is not None:
            self._vcpu.join(gpu_lab.PATIENCE)
        if self._failure is not None:
            raise AssertionError('the vCPU failed') from self._failure

    def _submit_on(self) -> None:
        try:
            while not self._ending:
                with self._changed:
                    if not self.running or self.serial >= self._allowed:
                        self._changed.wait_for(lambda: self._ending or (
                            self.running and self.serial < self._allowed))
                    elif self.in_flight() < DEPTH:
                        self.submit_batch()
                    else:
                        self.read_interrupts(0.001)
        except BaseException as exc:
            self._failure = exc

    def close(self) -> None:
        """The VM ends: its VF is free, its vCPU gone."""
        try:
            self.end_vcpu()
        finally:
            super().close()


class LightVM(port.Guest):
    """The VMM of one such guest."""

    def __init__(self, driver: Driver, instance_uuid: str) -> None:
        self.driver = driver
        self.instance_uuid = instance_uuid
        self._token = ''
        self._target: LightVM | None = None
        self._sent = 0
        self._digest = ''

    def state(self) -> port.GuestState:
        return (port.GuestState.RUNNING if self.driver.running
                else port.GuestState.PAUSED)

    def stop(self) -> None:
        self.driver.pause()

    def run(self) -> None:
        self.driver.go()

    def take_over(self) -> None:
        """Nothing was held back until it runs."""

    def listen_memory(self) -> port.MemoryEndpoint:
        self._token = secrets.token_hex(16)
        _listening[self._token] = self
        return port.MemoryEndpoint('in-process', 1, self._token)

    def begin_memory(self, endpoint: port.MemoryEndpoint) -> None:
        self._target = _listening.pop(endpoint.token)
        ram = self.driver.ram
        self.driver.call('dma_logging_start', page_size=_LOG_PAGE,
                         ranges=[[0, ram.nbytes]])
        self._target.driver.ram[:] = ram
        self._sent = ram.nbytes

    def memory_progress(self) -> port.MemoryProgress:
        return port.MemoryProgress(self._sent, 0)

    def finish_memory(self) -> port.MemoryReport:
        """Send what the GPU's log names, and what the vCPU wrote: rings."""
        driver, target = self.driver, self._target
        assert target is not None
        ram = driver.ram
        pages = dirty.from_hex(
            driver.call('dma_logging_report', iova=0, length=ram.nbytes,
                        page_size=_LOG_PAGE), ram.nbytes // _LOG_PAGE)
        pages[:driver.FENCES // _LOG_PAGE] = True
        size = _LOG_PAGE // 8
        for page in numpy.flatnonzero(pages).tolist():
            target.driver.ram[page * size:(page + 1) * size] = (
                ram[page * size:(page + 1) * size])
        self._sent += int(pages.sum()) * _LOG_PAGE
        driver.call('dma_logging_stop')
        self._target = None
        driver.hand_over(target.driver)
        target._digest = target.driver.ram_digest()
        return port.MemoryReport(self._sent, driver.ram_digest())

    def cancel_memory(self) -> None:
        _listening.pop(self._token, None)
        if self._target is not None:
            self._target = None
            self.driver.call('dma_logging_stop')

    def memory_digest(self) -> str:
        return self._digest

    def first_fence_seconds(self) -> float | None:
        return None

    def close(self) -> None:
        """The guest is its owner's."""
