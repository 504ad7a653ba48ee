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


"""Failures at a phase of a move, for the demo and the functional tests.

A failure is a knob of the software GIM that is turned when an agent enters a
phase: by an observed event, never after a sleep. Product code knows nothing
of it.
"""

import dataclasses
from typing import Any

from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """Which knob is turned, on the VF of which side, and when."""

    role: phases.Role
    entering: phases.Phase
    knob: str
    value: Any
    what: str

    def due(self, seen: record.MigrationRecord) -> bool:
        return seen.role is self.role and seen.phase is self.entering

    def vf(self, seen: record.MigrationRecord) -> str:
        return (seen.source_vf if self.role is phases.Role.SOURCE
                else seen.destination_vf)


FAILURES = {
    phases.Phase.PREPARE: Failure(
        phases.Role.DESTINATION, phases.Phase.PREPARE, 'vanish', True,
        'the destination VF vanishes while it is prepared'),
    phases.Phase.PRECOPY: Failure(
        phases.Role.SOURCE, phases.Phase.PREPARE, 'export_error', 'pre-copy',
        'the source VF fails to export while the VM runs'),
    phases.Phase.SWITCHOVER: Failure(
        phases.Role.SOURCE, phases.Phase.PREPARE, 'export_error',
        'stop-copy', 'the source VF fails to export when it has stopped'),
    phases.Phase.LOAD: Failure(
        phases.Role.DESTINATION, phases.Phase.PREPARE, 'import_error', 3,
        'the destination VF refuses the state that changed last'),
    phases.Phase.COMMIT: Failure(
        phases.Role.DESTINATION, phases.Phase.PREPARE, 'fail_run_once', True,
        'the destination VF, given the right to run, fails to at first'),
}
"""Before the commit the VM goes on at the source, after it forward."""
