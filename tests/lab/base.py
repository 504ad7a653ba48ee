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

"""A test on the two nodes, with what it makes there taken back."""

from collections.abc import Iterable
import functools
import sys
import time
from typing import Any
import unittest
import uuid

from lab import cluster
from lab import errors
from lab import node as node_
from lab import state
from tests.lab import faults
from tests.lab import forked
from tests.lab import gpu
from tests.lab import guest as guest_
from tests.lab import moves

PATIENT_MS = 60000
"""A limit for a move that shall come to its end, however slow the nodes."""


@functools.cache
def nodes() -> tuple[node_.Node, node_.Node]:
    """The nodes of the running lab, ready for the programs of the tests."""
    first, second = cluster.nodes(state.running())
    begun = [node.begin(forked.BEGIN) for node in (first, second)]
    for node, process in zip((first, second), begun, strict=True):
        _, complaint = process.communicate()
        if process.returncode:
            raise errors.LabError(f'{node.name}: {complaint.decode()}')
    return first, second


# A transition that waits goes on; then guests first: a device that is in use
# can't be removed.
_CLEAR = f"""
for knob in {gpu.DEVICES}/*/knobs/hold; do
    ! [ -e "$knob" ] || echo none >"$knob"
done
for guest in $(virsh -q list --all --name); do
    virsh -q destroy "$guest" || true
    virsh -q undefine "$guest" || true
done 2>/dev/null
for device in {gpu.DEVICES}/*; do
    ! [ -e "$device" ] || echo 1 >"$device/remove"
done
"""


class LabTestCase(unittest.TestCase):
    """`self.one` and `self.two` are the nodes."""

    def setUp(self) -> None:
        self.addCleanup(self._say_seconds, time.monotonic())
        self.one, self.two = nodes()
        # What is there now is of a run that was interrupted.
        self._clear()
        self.addCleanup(self._clear)

    def _say_seconds(self, began: float) -> None:
        print(f'{time.monotonic() - began:.0f} s ', end='', file=sys.stderr,
              flush=True)

    def _clear(self) -> None:
        faults.heal((self.one, self.two))
        for node in (self.one, self.two):
            node.run(_CLEAR)

    def mdev(self, node: node_.Node, kind: str) -> str:
        """Make a mediated device of this type; return its UUID.

        A fresh one for each test: mtty keeps its state when it is closed.
        """
        made = str(uuid.uuid4())
        node.run('set -- /sys/class/mdev_bus/*/mdev_supported_types/'
                 f'{kind}/create; echo {made} >"$1"')
        return made

    def begin(self, guest: guest_.Guest, to: node_.Node, *mdevs: str,
              **more: Any) -> moves.Move:
        """Begin a move; it is given up when the test ends."""
        move = moves.Move(guest, to, *mdevs, **more)
        self.addCleanup(move.end)
        return move

    def begin_watched(self, guest: guest_.Guest, to: node_.Node,
                      *mdevs: str, **more: Any) -> moves.Move:
        """Begin one that the agents watch and steer."""
        return self.begin(guest, to, *mdevs,
                          **{'agents': True, 'limit_ms': PATIENT_MS, **more})

    def assert_moves(self, guest: guest_.Guest, to: node_.Node, *mdevs: str,
                     **more: Any) -> dict[str, Any]:
        """Move it there; return the client's Result."""
        result = self.begin(guest, to, *mdevs, **more).result()
        self.assertEqual('completed', result['outcome'], result)
        self.assert_only_at(guest, to)
        return result

    def assert_refused(self, guest: guest_.Guest, to: node_.Node,
                       *mdevs: str, **more: Any) -> str:
        """Assert that a move fails and the guest stays; return why."""
        result = self.begin(guest, to, *mdevs, **more).result()
        self.assertEqual('failed', result['outcome'], result)
        self.assert_only_at(guest, guest.node)
        return str(result['error'])

    def assert_nothing_open(self, *uuids: str, entries: int = 2,
                            free: Iterable[gpu.GPU] = ()) -> None:
        """Assert that both agents have settled these moves.

        :param entries: of each move in the two journals.
        :param free: devices that nobody holds any more, a move neither.
        """
        said = moves.journals(self.one, *uuids)
        self.assertEqual([True] * entries * len(uuids), [
            entry['settled'] for entry in said['entries']], said)
        for device in free:
            self.assertIn(device.mdev, said['free'][device.node.name])

    def assert_only_at(self, guest: guest_.Guest, node: node_.Node) -> None:
        """Assert that it runs there, and the other node has none of it."""
        self.assertEqual(
            {node.name: 'running'},
            {at.name: found for at in (self.one, self.two)
             if (found := guest.state(at))})
