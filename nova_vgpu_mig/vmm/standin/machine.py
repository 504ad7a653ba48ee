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


"""The machine around the program: vCPU threads, the VF, its interrupts.

A stop is acknowledged by the threads themselves: each says that it is parked
after its last step, and stop() returns when both have. An idle vCPU blocks
in poll(2), as a halted one does.

Interrupts that the VMM has taken off the VF's eventfds and not yet given to
the guest are `pending`: the interrupt controller's state.
"""

from collections.abc import Iterator
import contextlib
import errno
import logging
import mmap
import os
import select
import threading
import time

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm.standin import clock
from nova_vgpu_mig.vmm.standin import memory
from nova_vgpu_mig.vmm.standin import program

LOG = logging.getLogger(__name__)

_FIRST_FENCE_POLL_MS = 1
_FIRST_FENCE_LIMIT_NS = 2_000_000_000


class VF:
    """The VF as the VMM holds it: attached for as long as this lives."""

    def __init__(self, gim_socket: str, address: str,
                 ram: memory.GuestMemory, incoming: bool) -> None:
        """:raises OSError: no GIM there, no such VF, or it is taken."""
        self.address = address
        self.client = unixcall.Client(gim_socket)
        shape, fds = self.client.call_fds(
            'attach', fds=[ram.fd], vf=address, ram_bytes=ram.size,
            incoming=incoming)
        self.frame_buffer_bytes = int(shape['frame_buffer_bytes'])
        self.kick_fd, self.vectors = fds[1], fds[2:]
        self._map = mmap.mmap(fds[0], abi.DOORBELL_PAGE_BYTES)
        os.close(fds[0])
        self._bells = memoryview(self._map).cast('Q')

    def doorbell(self, engine: int, value: int) -> None:
        self._bells[engine * abi.DOORBELL_STRIDE // 8] = value

    def close(self) -> None:
        """Give the VF back; it is free when this returns."""
        try:
            self.client.call('detach', vf=self.address)
        except OSError as exc:
            LOG.warning('VF %s: detach: %s', self.address, exc)
        self.client.close()


class Machine:
    """Two vCPUs, guest time and the interrupt controller of one guest."""

    def __init__(self, ram: memory.GuestMemory, vf: VF) -> None:
        self.ram = ram
        self.vf = vf
        self.clock = clock.GuestClock()
        self.timers = clock.Timers()
        self.pending = [0] * len(abi.Engine)
        self.progress = threading.Condition()
        self.first_fence: float | None = None
        self._fences = self._read_fences()
        self._ran_at: int | None = None
        self._state = threading.Condition()
        self._running = False
        self._parked = [True, True]
        self._steps = (threading.Lock(), threading.Lock())
        self._wakes = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                       for _ in range(2)]
        self._submitter = program.Submitter(ram, self, self.timers)
        self._handler = program.Handler(ram, self, self.timers,
                                        self._notify)
        for vcpu in range(2):
            threading.Thread(target=self._loop, args=(vcpu,),
                             name=f'vcpu{vcpu}', daemon=True).start()

    @property
    def running(self) -> bool:
        return self._running

    def run(self) -> None:
        """Start the vCPUs where they stood; idempotent."""
        with self._state:
            if self._running:
                return
            self.first_fence = None
            self._ran_at = time.monotonic_ns()
            self._running = True
            self.clock.start()
            self._parked = [False, False]
            self._state.notify_all()

    def stop(self) -> None:
        """Stop the vCPUs; both are parked when this returns."""
        with self._state:
            if not self._running:
                return
            self._running = False
            for vcpu in range(2):
                self.wake(vcpu)
            self._state.wait_for(lambda: all(self._parked))
            self.clock.stop()
            self._fences = self._read_fences()

    def save(self) -> bytes:
        """Return timers and interrupts; the vCPUs are stopped."""
        for engine in abi.Engine:
            self.pending[engine] += self._read_vector(engine)
        return self.timers.pack(self.clock.now(), self.pending)

    def load(self, state: bytes) -> None:
        """Take over what save() gave; the vCPUs have never run."""
        now_ns, self.pending = self.timers.unpack(state)
        self.clock.load(now_ns)
        self._fences = self._read_fences()

    @contextlib.contextmanager
    def in_guest(self) -> Iterator[None]:
        """Act in vCPU 0's place, between two of its steps.

        :raises OSError: EBUSY, the vCPUs are stopped.
        """
        with self._steps[0], self._state:
            if not self._running:
                raise OSError(errno.EBUSY, 'the guest is paused: nothing '
                              'can be asked of its workload')
            yield
        self.wake(0)

    def waiting_interrupts(self) -> list[int]:
        """Raised and not received: pending, or still in an eventfd."""
        return [self.pending[engine] + _eventfd_count(self.vf.vectors[engine])
                for engine in abi.Engine]

    # What the program calls (program.Machine)

    def mmio_write(self, register: int, value: int) -> None:
        self.vf.client.call('mmio_write', vf=self.vf.address,
                            register=register, value=value)

    def doorbell(self, engine: int, value: int) -> None:
        self.vf.doorbell(engine, value)

    def kick(self) -> None:
        os.eventfd_write(self.vf.kick_fd, 1)

    def interrupts(self, engine: int) -> int:
        count = self._read_vector(engine) + self.pending[engine]
        self.pending[engine] = 0
        return count

    def wake(self, vcpu: int) -> None:
        os.eventfd_write(self._wakes[vcpu], 1)

    def _read_vector(self, engine: int) -> int:
        try:
            return os.eventfd_read(self.vf.vectors[engine])
        except BlockingIOError:
            return 0

    def _read_fences(self) -> list[int]:
        words = program.Words(self.ram)
        return [words.fence(engine) for engine in abi.Engine]

    def _notify(self) -> None:
        with self.progress:
            self.progress.notify_all()

    def _loop(self, vcpu: int) -> None:
        poll = select.poll()
        poll.register(self._wakes[vcpu], select.POLLIN)
        if vcpu == 1:
            for fd in self.vf.vectors:
                poll.register(fd, select.POLLIN)
        while True:
            with self._state:
                while not self._running:
                    self._parked[vcpu] = True
                    self._state.notify_all()
                    self._state.wait()
            with self._steps[vcpu]:
                at = self._step(vcpu)
            if at != program.NOW:
                self._halt(vcpu, poll, at)

    def _step(self, vcpu: int) -> int | None:
        if vcpu == 1:
            at = self._handler.step(self.clock.now())
            return self._watch_first_fence(at)
        try:
            at = self._submitter.step(self.clock.now())
        except OSError as exc:
            LOG.error('VF %s fails its driver: %s', self.vf.address, exc)
            self._submitter.fail(exc.errno or errno.EIO)
            at = None
        if at is None:
            self._notify()
        return at

    def _halt(self, vcpu: int, poll: select.poll, at: int | None) -> None:
        """Block until woken, interrupted, or guest time is `at`."""
        timeout = None
        if at is not None:
            timeout = max(0, at - self.clock.now()) / 1_000_000
        poll.poll(timeout)
        try:
            os.eventfd_read(self._wakes[vcpu])
        except BlockingIOError:
            pass

    def _watch_first_fence(self, at: int | None) -> int | None:
        """Note the first fence after run(); look often until it is there."""
        if self._ran_at is None or at == program.NOW:
            return at
        took = time.monotonic_ns() - self._ran_at
        if self._read_fences() != self._fences:
            self.first_fence = took / 1e9
            self._ran_at = None
        elif took > _FIRST_FENCE_LIMIT_NS:
            # Later ones are seen when they interrupt.
            return at
        elif at is not None:
            return min(at, self.clock.now()
                       + _FIRST_FENCE_POLL_MS * 1_000_000)
        return at


def _eventfd_count(fd: int) -> int:
    """Return an eventfd's count without taking it (proc(5), fdinfo)."""
    with open(f'/proc/self/fdinfo/{fd}') as info:
        for line in info:
            name, _, value = line.partition(':')
            if name == 'eventfd-count':
                return int(value, 16)
    return 0
