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

"""Is the VM that moved the same as the twin that stayed?

A pure function of two snapshots taken at the same count of retired work, so
that the demo, the tests and the bench call the same thing "equal". Clocks
and scheduling counters are not in a snapshot at all: leaving them out here
would have been a list to keep up.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """A VM and its VF, both quiet."""

    frame_buffer: str
    """xxh3-128 of the VF's frame buffer, hexadecimal."""

    vf_state: Mapping[str, Any]
    """The software GIM's call `vf_state` (gpu/software/abi.py)."""

    guest_ram: str
    """xxh3-128 of guest RAM, what the GPU wrote by DMA included."""

    received: Mapping[str, int]
    """Interrupts that the guest has handled, by engine."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """One thing compared: what a person reads, and whether it is equal."""

    what: str
    moved: str
    stayed: str
    equal: bool


def _engines(snapshot: Snapshot) -> Mapping[str, Mapping[str, Any]]:
    engines: Mapping[str, Mapping[str, Any]] = snapshot.vf_state['engines']
    return engines


def _of_each(*keys: str) -> Callable[[Snapshot], Any]:
    def pick(snapshot: Snapshot) -> Any:
        return {name: tuple(engine[key] for key in keys)
                for name, engine in _engines(snapshot).items()}
    return pick


def _rings(snapshot: Snapshot) -> str:
    return ', '.join(
        f'{name} {engine["read"]}/{engine["write"]}'
        for name, engine in _engines(snapshot).items() if engine['write'])


def _in_flight(snapshot: Snapshot) -> str:
    flying = [(name, engine['in_flight'])
              for name, engine in _engines(snapshot).items()
              if engine['in_flight']]
    return ', '.join(
        f'{name} #{command["number"]}, {command["done"]} of '
        f'{command["total"]} work units' for name, command in flying) or '-'


def _work(snapshot: Snapshot) -> str:
    return ', '.join(f'{name} {engine["retired_units"]}'
                     for name, engine in _engines(snapshot).items()
                     if engine['retired_units'])


def _interrupts(snapshot: Snapshot) -> str:
    return ', '.join(
        f'{name} {engine["interrupts_raised"]}'
        f'/{snapshot.received.get(name, 0)}'
        for name, engine in _engines(snapshot).items()
        if engine['interrupts_raised'])


def _faults(snapshot: Snapshot) -> str:
    return str(len(snapshot.vf_state['faults']))


ASPECTS: tuple[tuple[str, Callable[[Snapshot], Any],
                     Callable[[Snapshot], str]], ...] = (
    ('frame buffer (xxh3-128)', lambda s: s.frame_buffer,
     lambda s: s.frame_buffer[:16]),
    ('rings, read/write',
     _of_each('ring_base', 'ring_entries', 'read', 'write'), _rings),
    ('retired work units', _of_each('retired_commands', 'retired_units'),
     _work),
    ('in-flight command', _of_each('in_flight'), _in_flight),
    ('semaphores', lambda s: list(s.vf_state['semaphores']),
     lambda s: f'{sum(s.vf_state["semaphores"])} signalled'),
    ('page tables (xxh3-128)', lambda s: s.vf_state['page_table'],
     lambda s: s.vf_state['page_table'][:16]),
    ('interrupts, raised/handled',
     lambda s: (_of_each('interrupts_raised')(s), dict(s.received)),
     _interrupts),
    ('guest RAM with DMA (xxh3-128)', lambda s: s.guest_ram,
     lambda s: s.guest_ram[:16]),
    ('faults', lambda s: s.vf_state['faults'], _faults),
)
"""What is compared, the value that has to be equal, what is shown of it."""


def compare(moved: Snapshot, stayed: Snapshot) -> list[Row]:
    """Compare two snapshots, aspect by aspect."""
    return [Row(what, show(moved), show(stayed),
                value(moved) == value(stayed))
            for what, value, show in ASPECTS]
