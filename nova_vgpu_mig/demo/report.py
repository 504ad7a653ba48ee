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

"""What a run of the demo has found: for its tables, and for `--json`."""

import dataclasses
from typing import Any

from nova_vgpu_mig.vmm.standin import comparison


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """Something the demo promises, and whether it held."""

    promise: str
    held: bool
    seen: str


@dataclasses.dataclass(slots=True)
class Report:
    """Filled as the story goes on; JSON types throughout but for rows."""

    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    verdicts: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    refusals: list[str] = dataclasses.field(default_factory=list)
    plan: dict[str, Any] | None = None
    migration: dict[str, Any] | None = None
    """Nova's migration, as its API shows it."""

    record: dict[str, Any] | None = None
    """The source agent's record of the move."""

    in_flight: dict[str, Any] | None = None
    """Engine -> command that the switchover preempted; empty where it fell
    between two commands, None where the VF was not given up."""

    compared_in_flight: dict[str, Any] | None = None
    """Engine -> command that mover and twin were held in for the comparison
    in the middle of one; None for an idle GPU."""

    timeline: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Who did what, when and for how long; ms since the request."""

    unfinished_bytes: int | None = None
    """Of the round that a failure or an abort broke off."""

    stood_still_ms: float | None = None
    """What a failed switchover cost the guest, at most."""

    slices: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    comparisons: dict[str, list[comparison.Row]] = dataclasses.field(
        default_factory=dict)
    checks: list[Check] = dataclasses.field(default_factory=list)

    @property
    def held(self) -> bool:
        """Whether everything that was promised held."""
        return bool(self.checks) and all(c.held for c in self.checks)

    def check(self, promise: str, held: bool, seen: object) -> None:
        self.checks.append(Check(promise, held, str(seen)))

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {'held': self.held}
