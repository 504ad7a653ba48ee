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

"""The dynamic state of a VF, as a value and as bytes.

All that is neither frame buffer, firmware nor identity: registers, ring
counts, doorbells, semaphores, interrupts, the preempted command of each
engine and how much of it is done. The value is what an export takes from a
quiet VF and an import puts into one; it is checked in between, because the
bytes come from another host.

Rejected: JSON. A section of known size leaves nothing to bound.
"""

import dataclasses
import struct

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import execute
from nova_vgpu_mig.gpu.software import pagetable

_HEAD = struct.Struct(f'<IIQQ{abi.SEMAPHORES}Q')
_ENGINE = struct.Struct(f'<10QIIQQ{abi.COMMAND_BYTES}s')
_NO_COMMAND = bytes(abi.COMMAND_BYTES)

DRIVER_NONE, DRIVER_LOADING, DRIVER_LOADED = 0, 1, 2


@dataclasses.dataclass(frozen=True, slots=True)
class EngineState:
    """One engine of a VF between two work units."""

    ring_base: int = 0
    ring_entries: int = 0
    fence_address: int = 0
    doorbell: int = 0
    """Packets submitted so far, fetched or not."""
    retired_commands: int = 0
    retired_units: int = 0
    interrupts_raised: int = 0
    interrupts_pending: int = 0
    """Raised, and not yet read by the guest."""
    done: int = 0
    """Work units done of the preempted command; 0: there is none."""
    preempted: bytes = _NO_COMMAND
    """Its packet, as fetched."""
    fault_kind: int = 0
    fault_number: int = 0
    fault_address: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class DynamicState:
    """A quiet VF."""

    driver_state: int
    pt_root: int
    pt_entries: int
    semaphores: tuple[int, ...]
    engines: tuple[EngineState, ...]
    touched: bytes
    """Bitmap of the frame-buffer units that hold data."""


def size(touched_bytes: int) -> int:
    """Bytes of a packed state with a bitmap of that size."""
    return _HEAD.size + len(abi.Engine) * _ENGINE.size + touched_bytes


def pack(state: DynamicState) -> bytes:
    parts = [_HEAD.pack(state.driver_state, len(state.engines),
                        state.pt_root, state.pt_entries, *state.semaphores)]
    parts.extend(_ENGINE.pack(
        engine.ring_base, engine.ring_entries, engine.fence_address,
        engine.doorbell, engine.retired_commands, engine.retired_units,
        engine.interrupts_raised, engine.interrupts_pending, engine.done,
        0, engine.fault_kind, 0, engine.fault_number, engine.fault_address,
        engine.preempted) for engine in state.engines)
    return b''.join([*parts, state.touched])


def unpack(data: bytes | memoryview, touched_bytes: int,
           work_unit_bytes: int) -> DynamicState:
    """Read and check a state.

    :raises ValueError: what does not fit, in words.
    """
    if len(data) != size(touched_bytes):
        raise ValueError(f'dynamic state of {len(data)} bytes instead of '
                         f'{size(touched_bytes)}')
    driver_state, engines, root, entries, *semaphores = _HEAD.unpack_from(
        data)
    if driver_state not in (DRIVER_NONE, DRIVER_LOADED):
        raise ValueError(f'driver state {driver_state} cannot be migrated')
    if engines != len(abi.Engine):
        raise ValueError(f'{engines} engines instead of {len(abi.Engine)}')
    return DynamicState(
        driver_state, root, entries, tuple(semaphores),
        tuple(_unpack_engine(data, engine, work_unit_bytes)
              for engine in abi.Engine),
        bytes(data[len(data) - touched_bytes:]))


def _unpack_engine(data: bytes | memoryview, engine: abi.Engine,
                   work_unit_bytes: int) -> EngineState:
    (base, entries, fence, doorbell, commands, units, raised, pending, done,
     _, fault_kind, _, fault_number, fault_address,
     packet) = _ENGINE.unpack_from(data, _HEAD.size + engine * _ENGINE.size)
    state = EngineState(base, entries, fence, doorbell, commands, units,
                        raised, pending, done, packet, fault_kind,
                        fault_number, fault_address)
    if fault_kind:
        pagetable.FaultKind(fault_kind)
    if doorbell < commands or pending > raised:
        raise ValueError(f'{engine.name}: counts contradict each other')
    if done:
        command = abi.Command.unpack(packet)
        total = execute.unit_count(command, work_unit_bytes)
        if command.number != commands + 1 or not 0 < done < total:
            raise ValueError(
                f'{engine.name}: preempted command {command.number} after '
                f'{commands} retired ones, {done} of {total} units done')
    elif packet != _NO_COMMAND:
        raise ValueError(f'{engine.name}: a command without progress')
    return state
