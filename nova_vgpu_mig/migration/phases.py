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

"""The phases of a move, and which may follow which.

A phase is what an operator sees; the journal's state (journal.py) is what
the invariants rest on. They are kept apart because a phase may be lost with
a process, and the right to run may not.
"""

import enum


class Phase(enum.StrEnum):
    CLAIMED = 'claimed'
    PREPARE = 'prepare'
    PRECOPY = 'pre-copy'
    SWITCHOVER = 'switchover'
    LOAD = 'load'
    COMMIT = 'commit'
    RUN = 'run'
    COMPLETED = 'completed'
    RETURNED = 'returned'
    """Failed or aborted before the commit: it runs on at the source."""

    @property
    def terminal(self) -> bool:
        return self in (Phase.COMPLETED, Phase.RETURNED)


class Role(enum.StrEnum):
    SOURCE = 'source'
    DESTINATION = 'destination'


class Carrier(enum.StrEnum):
    """Who carries the state of a VF."""

    AGENT = 'agent'
    """The agents, over a channel of their own; they decide who runs."""
    HYPERVISOR = 'hypervisor'
    """QEMU, inside libvirt's migration, which decides who runs."""


class Outcome(enum.StrEnum):
    COMPLETED = 'completed'
    FAILED = 'failed'
    ABORTED = 'aborted'


FAILURE_PHASES = (Phase.PREPARE, Phase.PRECOPY, Phase.SWITCHOVER, Phase.LOAD,
                  Phase.COMMIT)
"""Phases in which the demo and the tests make a move fail."""
