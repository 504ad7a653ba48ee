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

"""A virtual function: memory, registers, four engine contexts, a guest.

The VF knows nothing of migrations. It can be stopped between work units,
its state taken and put, and started again; what that means for a migration
is migration.py's.
"""

from collections.abc import Callable
import errno
import os
import threading
from typing import Any

import xxhash

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import engines
from nova_vgpu_mig.gpu.software import execute
from nova_vgpu_mig.gpu.software import geometry as geometry_module
from nova_vgpu_mig.gpu.software import memory

_U64 = 2**64


class VF:
    """One VF. Calls that change it are serialised by its owner (gim.py)."""

    def __init__(self, address: str, index: int,
                 geometry: geometry_module.Geometry,
                 wake: Callable[..., None]) -> None:
        """:param wake: WorldSwitch.wake."""
        self.address = address
        self.index = index
        self.geometry = geometry
        self.frame_buffer = memory.SharedMemory.create(
            f'vf-{address}', geometry.frame_buffer_bytes)
        self.units = dirty.DirtyUnits(geometry.frame_buffer_bytes,
                                      geometry.unit_bytes)
        self.log = dirty.DMALog()
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.shared = engines.Shared(memory.SharedMemory.create(
            f'doorbells-{address}', abi.DOORBELL_PAGE_BYTES))
        self._wake = wake
        self.contexts = {engine: engines.Context(engine, self.shared, wake)
                         for engine in abi.Engine}
        self.ram: memory.SharedMemory | None = None
        self._lock = threading.RLock()

    # The guest

    def attach(self, fd: int, ram_bytes: int) -> list[int]:
        """Map guest RAM; return the descriptors that the guest gets.

        :raises OSError: EBUSY a guest is attached, EINVAL bad RAM.
        """
        with self._lock:
            if self.ram is not None:
                raise OSError(errno.EBUSY, f'VF {self.address} is taken by '
                              'another guest')
            try:
                ram = memory.SharedMemory.adopt(fd, ram_bytes)
            except (ValueError, OSError) as exc:
                raise OSError(errno.EINVAL,
                              f'VF {self.address}: {exc}') from exc
            self.ram = ram
            for context in self.contexts.values():
                with context.lock:
                    context.interrupt = os.eventfd(
                        0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                    context.space = execute.Space(
                        self.frame_buffer, ram, self.units, self.log,
                        self.geometry.work_unit_bytes)
            self._wake()
            return [self.shared.doorbells.fd, self.kick,
                    *(context.interrupt
                      for context in self.contexts.values()
                      if context.interrupt is not None)]

    def detach(self) -> None:
        """The guest is gone: nothing of it runs any more."""
        with self._lock:
            if self.ram is None:
                return
            self.log.stop()
            for context in self.contexts.values():
                with context.lock:
                    context.space = None
                    if context.interrupt is not None:
                        os.close(context.interrupt)
                    context.interrupt = None
            self.ram.close()
            self.ram = None
            self.clear_state()

    # Registers

    def _ring(self, register: int) -> tuple[engines.Context, abi.Register]:
        base = abi.Register.RING_BASE
        engine, which = divmod(register - base, abi.Register.RING_STRIDE)
        try:
            return (self.contexts[abi.Engine(engine)],
                    abi.Register(base + which))
        except ValueError as exc:
            raise OSError(errno.EINVAL, f'VF {self.address}: no register '
                          f'{register}') from exc

    def mmio_write(self, register: int, value: int) -> None:
        """:raises OSError: EINVAL no such register, or a bad value."""
        if not 0 <= value < _U64:
            raise OSError(errno.EINVAL, f'VF {self.address}: register '
                          f'{register} cannot take {value}')
        with self._lock:
            if register == abi.Register.DRIVER_STATE:
                self._set_driver_state(value)
            elif register == abi.Register.PT_ROOT:
                self.shared.pt_root = value
            elif register == abi.Register.PT_ENTRIES:
                self.shared.pt_entries = value
            else:
                context, which = self._ring(register)
                with context.lock:
                    setattr(context, which.name.lower(), value)
        self._wake()

    def mmio_read(self, register: int) -> int:
        """:raises OSError: EINVAL no such register."""
        if register == abi.Register.DRIVER_STATE:
            return self.shared.driver_state
        if register == abi.Register.PT_ROOT:
            return self.shared.pt_root
        if register == abi.Register.PT_ENTRIES:
            return self.shared.pt_entries
        context, which = self._ring(register)
        return int(getattr(context, which.name.lower()))

    def _set_driver_state(self, value: int) -> None:
        if value > dynamic.DRIVER_LOADED:
            raise OSError(errno.EINVAL, f'VF {self.address}: no driver '
                          f'state {value}')
        if value == dynamic.DRIVER_LOADING:
            self._clear_work()
        self.shared.driver_state = value

    def _clear_work(self) -> None:
        for context in self.contexts.values():
            with context.lock:
                context.reset()
                context.doorbell = 0
        with self.shared.lock:
            self.shared.semaphores[:] = [0] * abi.SEMAPHORES

    def clear_state(self) -> None:
        """Forget everything but the frame buffer (a function reset)."""
        with self._lock:
            self.shared.driver_state = dynamic.DRIVER_NONE
            self._clear_work()
            self.shared.pt_root = 0
            self.shared.pt_entries = 0
            for context in self.contexts.values():
                with context.lock:
                    context.clear_registers()

    def clear_frame_buffer(self) -> None:
        """Zero the frame buffer by giving its pages back."""
        self.frame_buffer.clear()
        self.units.forget()

    # The schedule

    def stop(self) -> None:
        """Leave the schedule; no work unit runs when this returns.

        What the guest has not read of its interrupts becomes pending.
        """
        self.shared.scheduled = False
        for context in self.contexts.values():
            with context.lock:
                if context.interrupt is not None:
                    try:
                        context.pending += os.eventfd_read(context.interrupt)
                    except BlockingIOError:
                        pass

    def run(self) -> None:
        """Enter the schedule; pending interrupts are raised."""
        for context in self.contexts.values():
            with context.lock:
                if context.interrupt is not None and context.pending:
                    os.eventfd_write(context.interrupt, context.pending)
                    context.pending = 0
        self.shared.scheduled = True
        self._wake()

    def kicked(self) -> None:
        """The guest rang: wake the engines that have something to do."""
        try:
            os.eventfd_read(self.kick)
        except BlockingIOError:
            pass
        self._wake([engine for engine, context in self.contexts.items()
                    if context.may_have_work()])

    def set_hold(self, engine: abi.Engine, units: int | None) -> None:
        context = self.contexts[engine]
        with context.lock:
            context.hold = units
        self._wake()

    # State

    def save(self) -> dynamic.DynamicState:
        """The state of a stopped VF."""
        return dynamic.DynamicState(
            self.shared.driver_state, self.shared.pt_root,
            self.shared.pt_entries, tuple(self.shared.semaphores),
            tuple(self.contexts[engine].save() for engine in abi.Engine),
            dirty.to_bytes(self.units.touched()))

    def load(self, state: dynamic.DynamicState) -> None:
        """Put a checked state into a stopped VF."""
        with self._lock:
            self.shared.driver_state = state.driver_state
            self.shared.pt_root = state.pt_root
            self.shared.pt_entries = state.pt_entries
            self.shared.semaphores[:] = state.semaphores
            for engine in abi.Engine:
                with self.contexts[engine].lock:
                    self.contexts[engine].load(state.engines[engine])
            self.units.set_touched(dirty.from_bytes(state.touched,
                                                    self.units.count))

    def digest(self) -> str:
        """xxh3-128 of the frame buffer; holes are read without filling."""
        digest = xxhash.xxh3_128()
        buffer = bytearray(1024 * 1024)
        for offset, length in self.frame_buffer.chunks():
            view = memoryview(buffer)[:length]
            os.preadv(self.frame_buffer.fd, [view], offset)
            digest.update(view)
        return digest.hexdigest()

    def page_table_digest(self) -> str:
        root, size = self.shared.pt_root, self.shared.pt_entries * 8
        if root + size > self.frame_buffer.length:
            return ''
        return xxhash.xxh3_128(
            self.frame_buffer.octets[root:root + size].data).hexdigest()

    def describe_state(self) -> dict[str, Any]:
        """What two equal VFs have equal (abi.py: vf_state)."""
        rings = {}
        for engine, context in self.contexts.items():
            with context.lock:
                rings[engine.name] = _describe(
                    context, self.geometry.work_unit_bytes)
        return {'driver_state': self.shared.driver_state,
                'page_table': self.page_table_digest(),
                'semaphores': list(self.shared.semaphores),
                'engines': rings,
                'faults': [dict(engine=name, **ring['fault'])
                           for name, ring in rings.items()
                           if ring['fault']]}


def _describe(context: engines.Context,
              work_unit_bytes: int) -> dict[str, Any]:
    state = context.save()
    in_flight = fault = None
    if state.done:
        command = abi.Command.unpack(state.preempted)
        in_flight = {'number': command.number, 'done': state.done,
                     'total': execute.unit_count(command, work_unit_bytes)}
    if context.fault is not None:
        fault = {'kind': context.fault[0].kind.name,
                 'number': state.fault_number,
                 'address': state.fault_address}
    return {'ring_base': state.ring_base,
            'ring_entries': state.ring_entries,
            'fence_address': state.fence_address,
            'write': state.doorbell,
            'read': state.retired_commands + (1 if state.done else 0),
            'retired_commands': state.retired_commands,
            'retired_units': state.retired_units,
            'interrupts_raised': state.interrupts_raised,
            'in_flight': in_flight,
            'fault': fault}
