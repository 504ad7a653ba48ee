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

"""The engines of a PF and the world switch that shares them out.

Each engine is a thread. It grants the VFs that have work for it a time slice
in turn, and stops between two work units when the slice is over or the VF
leaves the schedule. An engine without work sleeps: idle costs nothing.

What a VF's engine has done depends on its ring, its memory and the VF's
semaphores only, never on when it was scheduled. A command counts as fetched
when its first work unit is done, so that the state at a given count of
retired units is one state, whatever the interleaving.

Rejected: one thread that runs all engines. Work units of different engines
would alternate in one order, and a race between engines of one VF would
never show.
"""

from collections.abc import Callable, Iterable, Mapping
import logging
import os
import threading
import time

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import execute
from nova_vgpu_mig.gpu.software import memory
from nova_vgpu_mig.gpu.software import pagetable

LOG = logging.getLogger(__name__)

SLICE_US = 4000
"""Of an engine for which the identity names no time slice."""


class Shared:
    """What the engines of one VF share. None of it is timing."""

    def __init__(self, doorbells: memory.SharedMemory) -> None:
        self.doorbells = doorbells
        self.lock = threading.Lock()
        self.pt_root = 0
        self.pt_entries = 0
        self.driver_state = dynamic.DRIVER_NONE
        self.semaphores = [0] * abi.SEMAPHORES
        self.scheduled = True
        """The VF is in the world switch (RUNNING or PRE_COPY)."""


class Context:
    """One engine of one VF. `lock` is held for each work unit."""

    def __init__(self, engine: abi.Engine, shared: Shared,
                 wake: Callable[[], None]) -> None:
        """:param wake: tells the VF's other engines to look again."""
        self.engine = engine
        self.shared = shared
        self.lock = threading.Lock()
        self.slices = 0
        self.hold: int | None = None
        self.space: execute.Space | None = None
        self.interrupt: int | None = None
        """The vector's eventfd, while a guest is attached."""
        self._wake = wake
        self.clear_registers()
        self.reset()

    def reset(self) -> None:
        """Clear counts and command; registers stay."""
        self.retired_commands = 0
        self.retired_units = 0
        self.raised = 0
        self.pending = 0
        self.done = 0
        self.command: abi.Command | None = None
        self.fault: tuple[pagetable.Fault, int] | None = None
        self._work: execute.Work | None = None

    def clear_registers(self) -> None:
        self.ring_base = 0
        self.ring_entries = 0
        self.fence_address = 0

    @property
    def doorbell(self) -> int:
        return int(self.shared.doorbells.words[
            self.engine * abi.DOORBELL_STRIDE // 8])

    @doorbell.setter
    def doorbell(self, value: int) -> None:
        self.shared.doorbells.words[
            self.engine * abi.DOORBELL_STRIDE // 8] = value

    @property
    def held(self) -> bool:
        return self.hold is not None and self.retired_units >= self.hold

    def may_have_work(self) -> bool:
        """A cheap look without the lock; advance() decides."""
        return (self.shared.scheduled and self.fault is None
                and not self.held and self.space is not None
                and (self.done > 0
                     or self.doorbell > self.retired_commands))

    def advance(self) -> bool:
        """Do one work unit; the caller has the lock. False: nothing to do."""
        if not self.may_have_work() or (
                self.shared.driver_state != dynamic.DRIVER_LOADED):
            return False
        try:
            work = self._work or self._fetch()
            if work is None:
                return False
            work.step(self.done)
        except pagetable.Fault as fault:
            self._stop(fault)
            return False
        except Exception:
            LOG.exception('engine %s failed', self.engine.name)
            self._stop(pagetable.Fault(pagetable.FaultKind.INTERNAL, 0))
            return False
        self.done += 1
        self.retired_units += 1
        if self.done >= work.total:
            self._retire()
        return True

    def _stop(self, fault: pagetable.Fault) -> None:
        self.fault = (fault, self.retired_commands + 1)
        LOG.warning('engine %s: %s in command %d', self.engine.name, fault,
                    self.retired_commands + 1)

    def _fetch(self) -> execute.Work | None:
        """Make the next command ready; None while it waits."""
        space = self.space
        assert space is not None
        command = self.command or self._read_packet(space)
        if (command.flags & abi.Flag.WAIT and self.done == 0
                and self.shared.semaphores[command.wait_semaphore]
                < command.wait_value):
            return None
        self._work = execute.prepare(command, space, self.shared.pt_root,
                                     self.shared.pt_entries)
        self.command = command
        return self._work

    def _read_packet(self, space: execute.Space) -> abi.Command:
        ring = pagetable.FaultKind.RING
        entries = self.ring_entries
        if (entries <= 0 or self.ring_base + entries * abi.COMMAND_BYTES
                > space.ram.length):
            raise pagetable.Fault(ring, self.ring_base)
        if (self.fence_address % 8
                or self.fence_address + 8 > space.ram.length):
            raise pagetable.Fault(ring, self.fence_address)
        if self.doorbell - self.retired_commands > entries:
            raise pagetable.Fault(ring, self.doorbell)
        at = self.ring_base + (self.retired_commands % entries
                               ) * abi.COMMAND_BYTES
        try:
            command = abi.Command.unpack(
                space.ram.octets[at:at + abi.COMMAND_BYTES].tobytes())
        except ValueError as exc:
            raise pagetable.Fault(pagetable.FaultKind.COMMAND, at) from exc
        if command.number != self.retired_commands + 1:
            raise pagetable.Fault(pagetable.FaultKind.NUMBER, command.number)
        if max(command.wait_semaphore,
               command.signal_semaphore) >= abi.SEMAPHORES:
            raise pagetable.Fault(pagetable.FaultKind.COMMAND, at)
        return command

    def _retire(self) -> None:
        """Semaphore, fence, interrupt, in this order."""
        command, space = self.command, self.space
        assert command is not None and space is not None
        if command.flags & abi.Flag.SIGNAL:
            with self.shared.lock:
                semaphores = self.shared.semaphores
                semaphores[command.signal_semaphore] = max(
                    semaphores[command.signal_semaphore],
                    command.signal_value)
        self.done = 0
        self.command = None
        self._work = None
        self.retired_commands = command.number
        space.ram.words[self.fence_address // 8] = command.number
        space.log.mark(self.fence_address, 8)
        if command.flags & abi.Flag.INTERRUPT:
            self.raised += 1
            if self.interrupt is None:
                self.pending += 1
            else:
                os.eventfd_write(self.interrupt, 1)
        if command.flags & abi.Flag.SIGNAL:
            self._wake()

    def save(self) -> dynamic.EngineState:
        """The engine's state; it must be quiet."""
        fault, number = self.fault or (None, 0)
        return dynamic.EngineState(
            self.ring_base, self.ring_entries, self.fence_address,
            self.doorbell, self.retired_commands, self.retired_units,
            self.raised, self.pending, self.done,
            self.command.pack() if self.command and self.done
            else bytes(abi.COMMAND_BYTES),
            fault.kind if fault else 0, number,
            fault.address if fault else 0)

    def load(self, state: dynamic.EngineState) -> None:
        """Take over a checked state."""
        self.reset()
        self.ring_base = state.ring_base
        self.ring_entries = state.ring_entries
        self.fence_address = state.fence_address
        self.doorbell = state.doorbell
        self.retired_commands = state.retired_commands
        self.retired_units = state.retired_units
        self.raised = state.interrupts_raised
        self.pending = state.interrupts_pending
        self.done = state.done
        if state.done:
            self.command = abi.Command.unpack(state.preempted)
        if state.fault_kind:
            self.fault = (
                pagetable.Fault(pagetable.FaultKind(state.fault_kind),
                                state.fault_address), state.fault_number)


class WorldSwitch:
    """One thread for each engine; VFs take turns."""

    def __init__(self, slices_us: Mapping[str, int]) -> None:
        """:param slices_us: engine name -> time slice, microseconds."""
        self._seconds = {
            engine: slices_us.get(engine.name, SLICE_US) / 1e6
            for engine in abi.Engine}
        self._changed = {engine: threading.Condition()
                         for engine in abi.Engine}
        self._generation = dict.fromkeys(abi.Engine, 0)
        self._contexts: dict[abi.Engine, list[Context]] = {
            engine: [] for engine in abi.Engine}

    def start(self, contexts: Iterable[Context]) -> None:
        for context in contexts:
            self._contexts[context.engine].append(context)
        for engine in abi.Engine:
            threading.Thread(target=self._run, args=(engine,), daemon=True,
                             name=f'engine-{engine.name}').start()

    def wake(self, engines: Iterable[abi.Engine] = tuple(abi.Engine)) -> None:
        """Something changed that may have given these engines work."""
        for engine in engines:
            with self._changed[engine]:
                self._generation[engine] += 1
                self._changed[engine].notify_all()

    def _run(self, engine: abi.Engine) -> None:
        changed = self._changed[engine]
        while True:
            seen = self._generation[engine]
            worked = False
            for context in self._contexts[engine]:
                if context.may_have_work():
                    worked = self._grant(context) or worked
            if not worked:
                with changed:
                    changed.wait_for(
                        lambda seen=seen:  # type: ignore[misc]
                        self._generation[engine] != seen)

    def _grant(self, context: Context) -> bool:
        """One time slice; True when any work was done in it."""
        end = time.monotonic() + self._seconds[context.engine]
        worked = False
        while True:
            with context.lock:
                if not context.advance():
                    return worked
                if not worked:
                    context.slices += 1
                    worked = True
            if time.monotonic() >= end:
                return True
