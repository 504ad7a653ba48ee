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

"""The record of one move: what an operator watches and reads afterwards.

Plain values, so that the same record serves the RPC answer, the journal, the
demo's table and `--json`. Times are seconds, sizes are bytes; `*_seconds` of
None means that it has not happened or could not be measured.
"""

import dataclasses
from typing import Any

from nova_vgpu_mig.migration import phases

DOWNTIME_PARTS = ('vcpus', 'drain', 'dirty_units', 'state', 'verify',
                  'commit', 'run')
"""In order; they add up to the downtime. `first_fence` is beside it."""


@dataclasses.dataclass(slots=True)
class Round:
    """One pass of pre-copy, or the last one in stop-copy."""

    number: int
    frame_buffer_bytes: int = 0
    zero_bytes: int = 0
    """Units found to be zero: told, not sent."""

    memory_bytes: int = 0
    stream_bytes: int = 0
    seconds: float = 0.0
    sending_seconds: float = 0.0
    """Of these, spent on frame buffer and stream that were sent; not on
    zeros, nor waiting for guest RAM."""

    dirty_bytes_per_second: float = 0.0
    predicted_downtime_seconds: float | None = None
    stop_copy: bool = False


@dataclasses.dataclass(slots=True)
class MigrationRecord:
    """Everything known about one move on one side of it."""

    migration_uuid: str
    instance_uuid: str
    role: phases.Role
    source_host: str
    destination_host: str
    source_vf: str
    destination_vf: str
    request_id: str | None = None
    """Nova's; notifications carry it instead of the migration's uuid."""

    carrier: phases.Carrier = phases.Carrier.AGENT
    guest: str = ''
    """What the guest was when the move began, and has to be at either end
    of it: a vmm.port.GuestState; '' as long as none takes part."""

    run_tried: bool = False
    """Destination: the VF may have been run, so that one that is served
    needs no reset to be so."""

    phase: phases.Phase = phases.Phase.CLAIMED
    outcome: phases.Outcome | None = None
    reason: str = ''
    level: str = ''
    total_bytes: int = 0
    """Frame buffer plus guest RAM that the move has to consider."""

    transferred_bytes: int = 0
    remaining_bytes: int = 0
    reconnects: int = 0
    """How often the agents' connection was lost and came back."""

    resent_bytes: int = 0
    """What was sent a second time because of that; not in the others."""

    limit_seconds: float | None = None
    plan: dict[str, Any] = dataclasses.field(default_factory=dict)
    job: dict[str, Any] = dataclasses.field(default_factory=dict)
    """Source: what the caller has to hand to libvirt's migrateToURI3; empty
    where the agents carry the state."""

    rounds: list[Round] = dataclasses.field(default_factory=list)
    predicted_downtime_seconds: float | None = None
    downtime_seconds: float | None = None
    """A paused guest has none: no instruction of it was held up."""

    downtime_parts: dict[str, float] = dataclasses.field(
        default_factory=dict)
    first_fence_seconds: float | None = None
    """From the guest's stop at the source to the first command that the GPU
    retired at the destination."""

    predicted_stop_copy_bytes: int | None = None
    """Of the VF, as the last round foretold it."""

    stop_copy_bytes: int | None = None
    """Of the VF; measured by the hypervisor carrier."""

    downtime_error_seconds: float | None = None
    """How far the two hosts' clocks may be apart where the downtime was
    measured by both; None where one clock was enough."""

    timeline: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    """Hypervisor carrier: what was told of the move here, oldest first."""

    notes: list[str] = dataclasses.field(default_factory=list)
    """What an operator should know besides; a sentence each."""

    phase_times: dict[str, float] = dataclasses.field(default_factory=dict)
    """Phase -> wall-clock time (epoch seconds) of its beginning."""

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'MigrationRecord':
        """Inverse of as_dict().

        :raises ValueError: a key or a value does not belong to a record.
        """
        try:
            values = dict(values)
            values['role'] = phases.Role(values['role'])
            values['phase'] = phases.Phase(values['phase'])
            values['carrier'] = phases.Carrier(
                values.get('carrier', phases.Carrier.AGENT))
            outcome = values.get('outcome')
            values['outcome'] = phases.Outcome(outcome) if outcome else None
            values['rounds'] = [Round(**r) for r in values['rounds']]
            return cls(**values)
        except (KeyError, TypeError) as exc:
            raise ValueError(f'not a migration record: {exc}') from exc
