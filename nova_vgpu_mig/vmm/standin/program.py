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


"""The guest: a GPU driver and the programs of its two vCPUs.

Each vCPU is a state machine whose step() finds everything it knows in guest
RAM and leaves it there, so a guest is moved by moving its RAM, and no step
is done twice or half: the VMM stops a vCPU between two steps only.

vCPU 0 is the driver's submission side: it boots the VF, and puts batches of
commands on the rings. It waits for fence values and for vCPU 1; the pace
only delays what it submits. vCPU 1 is the interrupt side: it counts
interrupts, reads each batch's result once its fences are there, and runs the
TDR timer, the 2 s in which Windows wants to see a submitted job through.

Rejected: one thread of Python as each vCPU's program, with its state on its
stack, which nobody can move.
"""

from collections.abc import Callable
import errno
import struct
from typing import Protocol

import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.vmm.standin import clock
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import memory
from nova_vgpu_mig.vmm.standin import workloads

_U64 = struct.Struct('<Q')
_W = layout.Word

NOW = 0
"""A step's answer: it did something, step again."""

TDR_NS = 2_000_000_000
"""Guest time without progress of a ring that has work."""


class Machine(Protocol):
    """What a vCPU reaches besides guest RAM: the VF, the other vCPU."""

    def mmio_write(self, register: int, value: int) -> None: ...

    def doorbell(self, engine: int, value: int) -> None: ...

    def kick(self) -> None: ...

    def interrupts(self, engine: int) -> int:
        """Take and return the vector's count."""

    def wake(self, vcpu: int) -> None: ...


class Words:
    """The program page by name."""

    def __init__(self, ram: memory.GuestMemory) -> None:
        self._ram = ram

    def get(self, word: int, offset: int = 0) -> int:
        return self._ram.read_word((word + offset) * 8)

    def put(self, word: int, value: int, offset: int = 0) -> None:
        self._ram.write_word((word + offset) * 8, value)

    def fence(self, engine: int) -> int:
        return self._ram.read_word(layout.fence(engine))

    def submitted(self) -> list[int]:
        return [self.get(_W.SUBMITTED, e) for e in abi.Engine]

    def phase(self) -> layout.Phase:
        return layout.Phase(self.get(_W.PHASE))

    def space(self) -> workloads.Space:
        return workloads.Space(self.get(_W.FRAME_BUFFER_BYTES),
                               self.get(_W.RAM_BYTES))


def power_on(ram: memory.GuestMemory, frame_buffer_bytes: int) -> None:
    """Lay down what a guest finds when it is switched on."""
    words = Words(ram)
    words.put(_W.FRAME_BUFFER_BYTES, frame_buffer_bytes)
    words.put(_W.RAM_BYTES, ram.size)
    words.put(_W.MAGIC, layout.MAGIC)


class Submitter:
    """vCPU 0."""

    def __init__(self, ram: memory.GuestMemory, machine: Machine,
                 timers: clock.Timers) -> None:
        self._ram = ram
        self._words = Words(ram)
        self._machine = machine
        self._timers = timers

    def step(self, now_ns: int) -> int | None:
        """Do the next thing.

        :returns: NOW, the guest time at which to step again, or None: when
            woken.
        """
        words = self._words
        phase = words.phase()
        if phase is not layout.Phase.FAILED and words.get(_W.TDR_EVENTS):
            words.put(_W.PHASE, layout.Phase.FAILED)
            return NOW
        if phase is layout.Phase.OFF:
            self._boot()
            return NOW
        if phase is layout.Phase.BOOT:
            return self._finish_boot()
        if phase is layout.Phase.WORKING:
            return self._work(now_ns)
        return None

    def fail(self, code: int) -> None:
        """Stop submitting: the VF answers the driver with an error."""
        self._words.put(_W.CAUSE, code)
        self._words.put(_W.PHASE, layout.Phase.FAILED)

    def _boot(self) -> None:
        write = self._machine.mmio_write
        space = self._words.space()
        write(abi.Register.DRIVER_STATE, 1)
        write(abi.Register.PT_ROOT, 0)
        write(abi.Register.PT_ENTRIES, space.entries)
        for engine in abi.Engine:
            at = engine * abi.Register.RING_STRIDE
            write(abi.Register.RING_BASE + at, layout.ring(engine))
            write(abi.Register.RING_ENTRIES + at, layout.RING_ENTRIES)
            write(abi.Register.FENCE_ADDRESS + at, layout.fence(engine))
        # No engine of a VF runs before its driver says that it is loaded.
        write(abi.Register.DRIVER_STATE, 2)
        self._words.put(_W.PHASE, layout.Phase.BOOT)
        self._submit(workloads.boot(space))

    def _finish_boot(self) -> int | None:
        if self._words.get(_W.CONSUMED) < self._words.get(_W.SERIAL):
            return None
        self._words.put(_W.PHASE, layout.Phase.READY)
        return NOW

    def _work(self, now_ns: int) -> int | None:
        words = self._words
        step = words.get(_W.STEP)
        serial = words.get(_W.SERIAL)
        in_flight = serial - words.get(_W.CONSUMED)
        if step >= words.get(_W.FINISH):
            if in_flight:
                return None
            words.put(_W.PHASE, layout.Phase.READY)
            return NOW
        if in_flight >= layout.DEPTH:
            return None
        filling = step < words.get(_W.FILL_BATCHES)
        if not filling and now_ns < self._timers.due_ns:
            return self._timers.due_ns
        self._submit(workloads.batch(self._parameters(), step, serial + 1))
        words.put(_W.STEP, step + 1)
        pace = words.get(_W.FRAMES_PER_1000S)
        if not filling and pace:
            # A frame that is late does not make the next ones hurry.
            period = 1_000_000_000_000 // pace
            self._timers.due_ns = max(self._timers.due_ns + period, now_ns)
        return NOW

    def _parameters(self) -> workloads.Parameters:
        words = self._words
        return workloads.Parameters(
            layout.Workload(words.get(_W.WORKLOAD)), words.get(_W.SEED),
            words.get(_W.WORKING_SET), words.space(),
            words.get(_W.FILL_BATCHES))

    def _submit(self, batch: workloads.Batch) -> None:
        """Put a batch on the rings, its mark beside, and ring the bells."""
        words = self._words
        serial = words.get(_W.SERIAL) + 1
        submitted = words.submitted()
        for address, data in batch.inputs:
            self._ram.write(address, data)
        for command, engine in number(batch, serial, submitted):
            slot = (command.number - 1) % layout.RING_ENTRIES
            self._ram.write(layout.ring(engine) + slot * abi.COMMAND_BYTES,
                            command.pack())
        mark = serial % layout.DEPTH * layout.MARK_WORDS
        words.put(_W.MARK, batch.result_bytes, mark + layout.MARK_RESULT)
        for engine in abi.Engine:
            words.put(_W.SUBMITTED, submitted[engine], engine)
            words.put(_W.MARK, submitted[engine],
                      mark + layout.MARK_FENCE + engine)
        words.put(_W.SERIAL, serial)
        for engine in {work.engine for work in batch.works}:
            self._machine.doorbell(engine, submitted[engine])
        self._machine.kick()
        self._machine.wake(1)


def number(batch: workloads.Batch, serial: int, submitted: list[int],
           ) -> list[tuple[abi.Command, abi.Engine]]:
    """Number a batch's work; `submitted` is brought up to date.

    An engine's first command waits for the batch before, unless it waits for
    a semaphore of this batch, which implies that. Its last one interrupts
    and signals; the SDMA engine's last one of all is the batch's end.
    """
    last = {work.engine: place for place, work in enumerate(batch.works)}
    first: set[abi.Engine] = set()
    commands = []
    for place, work in enumerate(batch.works):
        engine = work.engine
        flags = abi.NO_FLAGS
        semaphore = value = 0
        if work.after is not None:
            flags, semaphore, value = abi.Flag.WAIT, work.after, serial
        elif engine not in first:
            flags, semaphore, value = (abi.Flag.WAIT, workloads.DONE,
                                       serial - 1)
        first.add(engine)
        signal = 0
        if work.signals or last[engine] == place:
            flags |= abi.Flag.SIGNAL
            signal = workloads.signal(engine)
        if last[engine] == place:
            flags |= abi.Flag.INTERRUPT
            if engine is abi.Engine.SDMA:
                signal = workloads.DONE
        submitted[engine] += 1
        commands.append((abi.Command(
            submitted[engine], work.opcode, flags, semaphore, signal,
            work.va, work.length, work.arg0, work.arg1, value,
            serial if flags & abi.Flag.SIGNAL else 0), engine))
    return commands


class Handler:
    """vCPU 1."""

    def __init__(self, ram: memory.GuestMemory, machine: Machine,
                 timers: clock.Timers,
                 progress: Callable[[], None]) -> None:
        self._ram = ram
        self._words = Words(ram)
        self._machine = machine
        self._timers = timers
        self._progress = progress

    def step(self, now_ns: int) -> int | None:
        """Handle what there is; answers as Submitter.step() does."""
        words = self._words
        for engine in abi.Engine:
            count = self._machine.interrupts(engine)
            if count:
                words.put(_W.RECEIVED, words.get(_W.RECEIVED, engine)
                          + count, engine)
        consumed = words.get(_W.CONSUMED)
        if consumed < words.get(_W.SERIAL) and self._retired(consumed + 1):
            self._consume(consumed + 1)
            self._machine.wake(0)
            self._progress()
            return NOW
        return self._check_timer(now_ns)

    def _retired(self, serial: int) -> bool:
        mark = (_W.MARK + serial % layout.DEPTH * layout.MARK_WORDS
                + layout.MARK_FENCE)
        return all(self._words.fence(engine) >= self._words.get(mark, engine)
                   for engine in abi.Engine)

    def _consume(self, serial: int) -> None:
        """Fold the batch's result into the checksum, and log that."""
        words = self._words
        mark = serial % layout.DEPTH * layout.MARK_WORDS
        length = words.get(_W.MARK, mark + layout.MARK_RESULT)
        start = layout.result(serial)
        checksum = xxhash.xxh3_64_intdigest(
            self._ram.view[start:start + length], words.get(_W.CHECKSUM))
        words.put(_W.CHECKSUM, checksum)
        self._ram.write(layout.LOG + serial % layout.LOG_ENTRIES * 8,
                        _U64.pack(checksum))
        words.put(_W.CONSUMED, serial)

    def _check_timer(self, now_ns: int) -> int | None:
        """Run TDR: no progress of a ring that has work is an error."""
        words = self._words
        next_ns: int | None = None
        for engine in abi.Engine:
            fence = words.fence(engine)
            if fence >= words.get(_W.SUBMITTED, engine):
                self._timers.since_ns[engine] = 0
                continue
            since = self._timers.since_ns[engine]
            if not since or fence != self._timers.seen[engine]:
                self._timers.seen[engine] = fence
                self._timers.since_ns[engine] = since = max(1, now_ns)
            if words.get(_W.TDR_EVENTS):
                continue
            due = since + TDR_NS
            if now_ns >= due:
                self._time_out(engine, fence + 1)
                return NOW
            next_ns = due if next_ns is None else min(next_ns, due)
        return next_ns

    def _time_out(self, engine: abi.Engine, command: int) -> None:
        words = self._words
        words.put(_W.TDR_ENGINE, engine)
        words.put(_W.TDR_COMMAND, command)
        words.put(_W.TDR_EVENTS, words.get(_W.TDR_EVENTS) + 1)
        self._machine.wake(0)
        self._progress()


def start_workload(ram: memory.GuestMemory, timers: clock.Timers,
                   parameters: workloads.Parameters, *,
                   frames_per_second: float, frames: int | None,
                   now_ns: int) -> None:
    """Give vCPU 0 something to do; it stands between two steps.

    :raises OSError: EBUSY, something runs; EINVAL, the driver is not loaded.
    """
    words = Words(ram)
    phase = words.phase()
    if phase is not layout.Phase.READY:
        busy = phase in (layout.Phase.BOOT, layout.Phase.WORKING)
        raise OSError(errno.EBUSY if busy else errno.EINVAL,
                      f'the guest cannot start a workload: it is in phase '
                      f'{phase.name.lower()}')
    fill = parameters.fill_batches
    if fill:
        ram.write(layout.PATTERN, workloads.pattern(parameters.seed))
    if parameters.workload is layout.Workload.IDLE:
        frames = 0
    words.put(_W.WORKLOAD, parameters.workload)
    words.put(_W.SEED, parameters.seed)
    words.put(_W.WORKING_SET, parameters.working_set)
    words.put(_W.FRAMES_PER_1000S, round(frames_per_second * 1000))
    words.put(_W.FILL_BATCHES, fill)
    words.put(_W.STEP, 0)
    words.put(_W.FINISH, 2**64 - 1 if frames is None else fill + frames)
    words.put(_W.FIRST_SERIAL, words.get(_W.SERIAL))
    timers.due_ns = now_ns
    words.put(_W.PHASE, layout.Phase.WORKING)


def finish_workload(ram: memory.GuestMemory, frame: int | None) -> int:
    """Let the workload end after `frame` frames, or as soon as it can.

    :returns: the frame it will end after.
    :raises OSError: ERANGE, more frames have been submitted already; EINVAL,
        no workload runs.
    """
    words = Words(ram)
    if words.phase() is not layout.Phase.WORKING:
        raise OSError(errno.EINVAL, 'no workload runs in this guest')
    fill = words.get(_W.FILL_BATCHES)
    submitted = max(0, words.get(_W.STEP) - fill)
    if frame is None:
        frame = submitted
    if frame < submitted:
        raise OSError(errno.ERANGE, f'frame {frame}: {submitted} frames have '
                      'been submitted already')
    words.put(_W.FINISH, fill + frame)
    return frame
