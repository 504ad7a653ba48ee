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

"""Faults that come in the middle of a move.

Each is struck from the host. Before each test, and after it, all of them are
undone (heal), whatever became of who struck them.
"""

from collections.abc import Callable
import dataclasses
import time

from lab import broker
from lab import cable
from lab import node as node_
from lab import state as state_

CUT_SECONDS = 6
"""Of a cut that passes: long enough for TCP to miss something, shorter than
libvirt waits for an answer (30 s)."""

Nodes = tuple[node_.Node, node_.Node]
"""Source and destination."""

# Of what was killed and is to run.
_HEAL = """
pgrep -x libvirtd >/dev/null || sh /lab/files/libvirtd start
kill -0 "$(cat /run/nova-vgpu-mig/agent.pid)" 2>/dev/null ||
    sh /lab/files/agent start
"""


@dataclasses.dataclass(frozen=True)
class Fault:
    """`strike` returns when it is over, or has begun if it lasts."""

    name: str
    strike: Callable[[Nodes], None]
    passes: bool = False
    """Whether a move goes on when it is over."""

    parts: bool = False
    """Whether libvirt's own finish may leave the guest running at both ends,
    as neither can know what the other does."""


def heal(nodes: Nodes) -> None:
    """Undo whatever fault there is, of this test or of one before."""
    cable.mend()
    _start_broker()
    for node in nodes:
        node.run(_HEAL)


def kill_libvirtd(node: node_.Node) -> None:
    """And start it again."""
    node.run('sh /lab/files/libvirtd kill; sh /lab/files/libvirtd start')


def kill_agent(node: node_.Node) -> None:
    """And start it again."""
    node.run('sh /lab/files/agent kill; sh /lab/files/agent start')


def kill_broker() -> None:
    """And start it again."""
    broker.stop()
    _start_broker()


def _start_broker() -> None:
    state = state_.running()
    if not broker.alive():
        broker.start(state.broker_port, state.broker_password)
    broker.await_answer(state.broker_port)


def _cut_for_a_while(nodes: Nodes) -> None:
    cable.cut()
    # What it is about is that time passes.
    time.sleep(CUT_SECONDS)
    cable.mend()


SOURCE_LIBVIRTD = Fault('libvirtd killed at the source',
                        lambda nodes: kill_libvirtd(nodes[0]))
DESTINATION_LIBVIRTD = Fault('libvirtd killed at the destination',
                             lambda nodes: kill_libvirtd(nodes[1]),
                             parts=True)
CUT_FOR_A_WHILE = Fault('network cut for a while', _cut_for_a_while, True)
CUT_FOR_GOOD = Fault('network cut for good', lambda nodes: cable.cut(),
                     parts=True)
SOURCE_AGENT = Fault('agent killed at the source',
                     lambda nodes: kill_agent(nodes[0]), True)
DESTINATION_AGENT = Fault('agent killed at the destination',
                          lambda nodes: kill_agent(nodes[1]), True)
BROKER = Fault('RabbitMQ killed', lambda nodes: kill_broker(), True)
PASSING = (CUT_FOR_A_WHILE, SOURCE_AGENT, DESTINATION_AGENT, BROKER)
