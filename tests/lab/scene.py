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

"""As many moves as there are phases, each held in its own.

A fault then meets all phases at once. That costs a fifth of a fault for each
phase: what takes time is libvirt's patience and the start of QEMU, and both
are waited for by all together.
"""

import concurrent.futures
import dataclasses
import json
from typing import Any

from lab import errors
from lab import node as node_
from lab import wait
from tests.lab import forked
from tests.lab import gpu as gpu_
from tests.lab import guest as guest_
from tests.lab import moves
from tests.lab import phases

AT_ONCE = 3
"""Of the moves that are being begun; with more the nodes crawl."""

SETTLE_SECONDS = 180


def look(node: node_.Node) -> dict[str, dict[str, Any]]:
    """Return what libvirt says there of each guest (tests/lab/look.py)."""
    found: dict[str, dict[str, Any]] = json.loads(
        node.run(f'{forked.COMMAND} look'))
    return found


@dataclasses.dataclass
class Case:
    """One move that is held."""

    phase: phases.Phase
    guest: guest_.Guest
    source: gpu_.GPU
    destination: gpu_.GPU
    held: phases.Held
    move: moves.Move

    def ends(self) -> tuple[gpu_.GPU, gpu_.GPU]:
        return self.source, self.destination


def begin(test: Any, phase: phases.Phase) -> Case:
    """Begin a move of a new guest and return when it is held.

    :param test: a base.LabTestCase.
    """
    source = gpu_.GPU(test.one, test.mdev(test.one, gpu_.KIND))
    there = gpu_.GPU(test.two, test.mdev(test.two, gpu_.KIND))
    guest = guest_.Guest(test.one, source.mdev)
    source.work()
    held = phases.Held(
        phase, source if phase.side is phases.Side.SOURCE else there)
    # Nothing here is about steering: it shall get through its phases.
    move = test.begin_watched(guest, test.two, there.mdev)
    held.reached(move)
    return Case(phase, guest, source, there, held, move)


def begin_all(test: Any) -> list[Case]:
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(lambda phase: begin(test, phase),
                             phases.PHASES))


def settle(cases: list[Case]) -> list[tuple[str, str]]:
    """Return libvirt's words for both ends of each when no job goes on."""
    nodes = [gpu.node for gpu in cases[0].ends()]
    seen: list[dict[str, dict[str, Any]]] = []

    def settled() -> bool:
        seen[:] = [look(node) for node in nodes]
        return not any(guest['job'] for node in seen
                       for guest in node.values())

    wait.until('no job of a guest', settled, SETTLE_SECONDS,
               nodes[0].console)
    return [(_words(seen[0].get(case.guest.name)),
             _words(seen[1].get(case.guest.name))) for case in cases]


@dataclasses.dataclass(frozen=True)
class Report:
    """What the agents of both ends say of one move."""

    settled: bool
    """At both ends."""

    outcomes: tuple[str, ...]
    notes: tuple[str, ...]
    free: dict[str, list[str]]
    """The VFs that are free, by host."""

    @property
    def doubts(self) -> bool:
        return any(note.startswith('IN DOUBT') for note in self.notes)

    def words(self) -> str:
        if self.settled:
            return f'settled: {", ".join(sorted(set(self.outcomes)))}'
        return 'IN DOUBT' if self.doubts else 'open'


def reports(cases: list[Case], doubts: bool = True) -> list[Report]:
    """Return them when each move is settled, or, if that may be, in doubt.
    """
    found: list[Report] = []
    uuids = [case.move.uuid for case in cases]

    def known() -> bool:
        try:
            said = moves.journals(cases[0].source.node, *uuids)
        except errors.LabError:
            # An agent that was killed a moment ago, or the broker.
            return False
        found[:] = [_report(said, case.move.uuid) for case in cases]
        return all(report.settled or (doubts and report.doubts)
                   for report in found)

    wait.until('the agents know what has become of each move', known,
               SETTLE_SECONDS, cases[0].source.node.console)
    return found


def _report(said: dict[str, Any], uuid: str) -> Report:
    entries = [entry for entry in said['entries'] if entry['uuid'] == uuid]
    return Report(
        settled=len(entries) == 2
        and all(entry['settled'] for entry in entries),
        outcomes=tuple(str(entry['outcome']) for entry in entries),
        notes=tuple(note for entry in entries for note in entry['notes']),
        free=said['free'])


def _words(found: dict[str, Any] | None) -> str:
    return f'{found["state"]} ({found["reason"]})' if found else 'none'
