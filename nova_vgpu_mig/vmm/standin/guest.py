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


"""The guest process: one VM, and the calls its VMM answers.

What a call may do depends on what the guest is: one that has been switched
on here, one that waits to be moved in, or one whose state has arrived. The
calls are the methods of the class; process.py starts one.
"""

import errno
import os
import threading
import time
from typing import Any

import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm import port
from nova_vgpu_mig.vmm.standin import incoming as incoming_module
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import machine
from nova_vgpu_mig.vmm.standin import memory
from nova_vgpu_mig.vmm.standin import program
from nova_vgpu_mig.vmm.standin import stream
from nova_vgpu_mig.vmm.standin import workloads

_W = layout.Word
_MIB = 1 << 20


class GuestProcess:
    """One VM. `methods` is the table that its socket serves."""

    def __init__(self, gim_socket: str, vf: str, ram_mib: int, *,
                 incoming: bool, seed: int) -> None:
        """Attach the VF and switch the guest on, or wait for it.

        :raises OSError: no GIM, no such VF, or it is taken.
        :raises ValueError: an amount of RAM that a guest cannot have.
        """
        self._incoming = incoming
        self._seed = seed
        self._lock = threading.RLock()
        self._sender: stream.Sender | None = None
        self._receiver: incoming_module.Receiver | None = None
        self.ended = threading.Event()
        self._ram = memory.GuestMemory(ram_mib * _MIB)
        self._vf = machine.VF(gim_socket, vf, self._ram, incoming)
        self._machine = machine.Machine(self._ram, self._vf)
        self._words = program.Words(self._ram)
        self.methods: dict[str, unixcall.Method] = {
            method.__name__: method for method in (
                self.pid, self.state, self.stop, self.run, self.take_over,
                self.listen_memory, self.begin_memory, self.memory_progress,
                self.finish_memory, self.cancel_memory, self.memory_digest,
                self.ram_digest,
                self.first_fence, self.fences, self.workload,
                self.finish_workload, self.workload_status, self.wait,
                self.destroy)}
        if not incoming:
            program.power_on(self._ram, self._vf.frame_buffer_bytes)
            self._machine.run()

    def close(self) -> None:
        """Stop the guest and give the VF back."""
        self.cancel_memory(unixcall.Connection(), [])
        self._machine.stop()
        self._vf.close()

    # vCPUs

    def state(self, connection: unixcall.Connection,
              fds: list[int]) -> str:
        return (port.GuestState.RUNNING if self._machine.running
                else port.GuestState.PAUSED)

    def pid(self, connection: unixcall.Connection, fds: list[int]) -> int:
        return os.getpid()

    def stop(self, connection: unixcall.Connection, fds: list[int]) -> None:
        self._machine.stop()

    def run(self, connection: unixcall.Connection, fds: list[int]) -> None:
        with self._lock:
            self.take_over(connection, fds)
            self._machine.run()

    def take_over(self, connection: unixcall.Connection,
                  fds: list[int]) -> None:
        with self._lock:
            if self._incoming:
                if self._receiver is None or self._receiver.digest is None:
                    raise OSError(errno.EINVAL, 'this guest waits to be '
                                  'moved in: nothing has arrived to run')
                self._receiver.close()
                self._incoming = False

    def first_fence(self, connection: unixcall.Connection,
                    fds: list[int]) -> float | None:
        return self._machine.first_fence

    def fences(self, connection: unixcall.Connection,
               fds: list[int]) -> list[int]:
        return [self._words.fence(engine) for engine in abi.Engine]

    # Guest RAM

    def listen_memory(self, connection: unixcall.Connection, fds: list[int],
                      host: str = '127.0.0.1') -> dict[str, Any]:
        with self._lock:
            if not self._incoming:
                raise OSError(errno.EBUSY, 'this guest has run here; only '
                              'one started with --incoming can be moved in')
            if self._receiver is not None:
                raise OSError(errno.EBUSY, 'this guest listens already; '
                              'cancel first')
            self._receiver = incoming_module.Receiver(self._machine, host)
            where = self._receiver.endpoint
            return {'host': where.host, 'port': where.port,
                    'token': where.token}

    def begin_memory(self, connection: unixcall.Connection, fds: list[int],
                     host: str, port_number: int, token: str) -> None:
        with self._lock:
            if self._incoming:
                raise OSError(errno.EINVAL, 'this guest waits to be moved '
                              'in: it has nothing to send')
            if self._sender is not None:
                raise OSError(errno.EBUSY, 'guest RAM is being sent already; '
                              'cancel first')
            self._sender = stream.Sender(
                self._machine, port.MemoryEndpoint(host, port_number, token))

    def memory_progress(self, connection: unixcall.Connection,
                        fds: list[int]) -> dict[str, int]:
        sender = self._sending()
        if sender.error is not None:
            raise OSError(errno.EIO, sender.error)
        return {'sent_bytes': sender.sent_bytes,
                'dirty_bytes': max(0, sender.dirty_bytes)}

    def finish_memory(self, connection: unixcall.Connection,
                      fds: list[int]) -> dict[str, Any]:
        with self._lock:
            sender = self._sending()
            if self._machine.running:
                raise OSError(errno.EBUSY, 'the vCPUs run; stop them before '
                              'the last round of guest RAM')
            try:
                sent = sender.finish()
            finally:
                self._sender = None
            return {'sent_bytes': sent.sent_bytes,
                    'digest': sent.digest.hex()}

    def cancel_memory(self, connection: unixcall.Connection,
                      fds: list[int]) -> None:
        # Without the lock: finish_memory may be what has to be ended.
        sender, receiver = self._sender, self._receiver
        if sender is not None:
            sender.cancel()
        if receiver is not None:
            receiver.close()
        with self._lock:
            self._sender = None
            if self._incoming:
                self._receiver = None

    def memory_digest(self, connection: unixcall.Connection,
                      fds: list[int]) -> str:
        receiver = self._receiver
        if receiver is None:
            raise OSError(errno.EINVAL, 'no guest RAM was asked for here')
        if receiver.digest is None:
            raise OSError(errno.EAGAIN, 'guest RAM has not arrived: '
                          + (receiver.error or 'the stream has no end yet'))
        return receiver.digest.hex()

    def ram_digest(self, connection: unixcall.Connection,
                   fds: list[int]) -> str:
        """xxh3-128 of RAM alone: there is no time in it."""
        return xxhash.xxh3_128_hexdigest(self._ram.view)

    def _sending(self) -> stream.Sender:
        if self._sender is None:
            raise OSError(errno.EINVAL, 'no guest RAM is being sent')
        return self._sender

    # The workload

    def workload(self, connection: unixcall.Connection, fds: list[int],
                 name: str, seed: int | None = None,
                 frames: int | None = None,
                 frames_per_second: float | None = None,
                 working_set_mib: float | None = None,
                 fill_percent: int = 0) -> None:
        kind = _workload(name)
        defaults = workloads.DEFAULTS[kind]
        pace = (defaults.frames_per_second if frames_per_second is None
                else float(frames_per_second))
        size = (defaults.working_set if working_set_mib is None
                else int(working_set_mib * _MIB))
        number = self._seed if seed is None else int(seed)
        checks = (('frames_per_second', 0 <= pace <= 1000),
                  ('working_set_mib', 0 <= size < 2**40),
                  ('fill_percent', 0 <= fill_percent <= 100),
                  ('frames', frames is None or 0 <= frames < 2**62),
                  ('seed', 0 <= number < 2**64))
        for what, right in checks:
            if not right:
                raise OSError(errno.EINVAL, f'workload {name}: {what} is out '
                              'of range')
        with self._machine.in_guest():
            space = self._words.space()
            program.start_workload(
                self._ram, self._machine.timers,
                workloads.Parameters(
                    kind, number, size, space,
                    workloads.fill_batches(space, fill_percent)),
                frames_per_second=pace, frames=frames,
                now_ns=self._machine.clock.now())

    def finish_workload(self, connection: unixcall.Connection,
                        fds: list[int], frame: int | None = None) -> int:
        with self._machine.in_guest():
            return program.finish_workload(self._ram, frame)

    def workload_status(self, connection: unixcall.Connection,
                        fds: list[int]) -> dict[str, Any]:
        """Return what the guest knows, from one look at its RAM."""
        return self._status()

    def wait(self, connection: unixcall.Connection, fds: list[int],
             phase: str | None = None, frame: int | None = None,
             seconds: float = 20.0) -> dict[str, Any]:
        """Block until the phase or the frame is reached, or it failed."""
        deadline = time.monotonic() + seconds
        with self._machine.progress:
            while True:
                status = self._status()
                if status['phase'] == 'failed' and phase != 'failed':
                    raise OSError(errno.EIO, status['error'])
                if ((phase is None or status['phase'] == phase)
                        and (frame is None
                             or status['frames_retired'] >= frame)):
                    return status
                left = deadline - time.monotonic()
                if left <= 0:
                    raise OSError(errno.ETIMEDOUT, 'the guest is in phase '
                                  f'{status["phase"]} at frame '
                                  f'{status["frames_retired"]}')
                # The bound is for a guest that is paused in between.
                self._machine.progress.wait(min(left, 1.0))

    def destroy(self, connection: unixcall.Connection,
                fds: list[int]) -> None:
        self.ended.set()

    def _status(self) -> dict[str, Any]:
        get = self._words.get
        fill = get(_W.FILL_BATCHES)
        finish = get(_W.FINISH)
        retired = get(_W.CONSUMED) - get(_W.FIRST_SERIAL) - fill
        return {
            'workload': layout.Workload(get(_W.WORKLOAD)).name.lower(),
            'phase': self._words.phase().name.lower(),
            'seed': get(_W.SEED),
            'frames_submitted': max(0, get(_W.STEP) - fill),
            'frames_retired': max(0, min(retired, get(_W.STEP) - fill)),
            'finish_frame': None if finish == 2**64 - 1
            else max(0, finish - fill),
            'batches': get(_W.SERIAL),
            'submitted': self._words.submitted(),
            'retired': [self._words.fence(e) for e in abi.Engine],
            'interrupts_received': [get(_W.RECEIVED, e)
                                    for e in abi.Engine],
            'interrupts_pending': self._machine.waiting_interrupts(),
            'tdr_events': get(_W.TDR_EVENTS),
            'checksum': f'{get(_W.CHECKSUM):016x}',
            'error': self._error(),
        }

    def _error(self) -> str:
        get = self._words.get
        if get(_W.TDR_EVENTS):
            engine = abi.Engine(get(_W.TDR_ENGINE))
            return (f'TDR: VF {self._vf.address}: command '
                    f'{get(_W.TDR_COMMAND)} of engine {engine.name} was not '
                    f'retired within {program.TDR_NS // 10**9} s of guest '
                    'time')
        if self._words.phase() is layout.Phase.FAILED:
            return (f'VF {self._vf.address} failed its driver: '
                    f'{os.strerror(get(_W.CAUSE))}')
        return ''


def _workload(name: str) -> layout.Workload:
    try:
        return layout.Workload[str(name).upper()]
    except KeyError:
        known = ', '.join(w.name.lower() for w in layout.Workload)
        raise OSError(errno.EINVAL, f'no workload {name!r}; there are: '
                      f'{known}') from None
