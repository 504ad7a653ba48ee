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

"""The plan of a move, before it begins: rounds, bytes, seconds, downtime.

The estimate plays the rounds through with the same decision that the move
will take, on a guest that dirties memory at a steady rate within a working
set. So the plan says not only how long, but also whether the move would be
given up, and why.

A rate that nobody has measured is not guessed: then the plan has only the
worst case, to stop and send everything, which is also a useful answer.
"""

import dataclasses
import math
from typing import Any

from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import downtime


@dataclasses.dataclass(frozen=True, slots=True)
class Workload:
    """What is known of the VM; bytes of frame buffer and guest memory."""

    used_bytes: int | None
    """What the first round has to send; None: not even the worst is known.
    """

    dirty_bytes_per_second: float | None = None
    """None: not measured yet."""

    working_set_bytes: int | None = None
    """The most that is ever dirty at once; None: all that is in use."""

    def dirty_after(self, seconds: float) -> int:
        """Return the bytes dirtied in that time, at most the working set.

        A guest that writes the same place twice dirties it once, so this
        is an upper bound, on the safe side of a plan.
        """
        bounds = [bound for bound in (
            self.used_bytes, self.working_set_bytes) if bound is not None]
        written = (self.dirty_bytes_per_second or 0.0) * seconds
        return math.ceil(min([*bounds, written]))


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """What a move is expected to take. None: not known before the move."""

    rounds: int | None
    """Rounds of pre-copy; the stop-copy is not one."""

    precopy_bytes: int | None
    stop_copy_bytes: int | None
    total_bytes: int | None
    precopy_seconds: float | None
    total_seconds: float | None
    downtime_seconds: float | None
    downtime_parts: dict[str, float]
    """Part -> seconds; empty if not known."""

    worst_downtime_seconds: float | None
    """To stop first and send everything then."""

    limit_seconds: float
    bandwidth_bytes_per_second: float
    converges: bool | None
    """Whether the move would come to a switchover within the limit."""

    reason: str

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON types."""
        return dataclasses.asdict(self)


def plan(workload: Workload, *, bandwidth: float, limit_seconds: float,
         costs: downtime.FixedCosts,
         max_rounds: int = convergence.MAX_ROUNDS) -> Plan:
    """Predict a move.

    :param bandwidth: bytes a second between the two hosts, more than 0.
    :param max_rounds: the bound that the move itself will have.
    :raises ValueError: a number is negative, infinite or not a number.
    """
    downtime.check('bytes in use', workload.used_bytes or 0)
    downtime.check('bandwidth', bandwidth)
    downtime.check('dirty rate', workload.dirty_bytes_per_second or 0)
    downtime.check('working set', workload.working_set_bytes or 0)
    if not bandwidth:
        raise ValueError('bandwidth: 0 bytes a second move nothing')
    if workload.used_bytes is None:
        return _unknown(None, bandwidth, limit_seconds)
    worst = downtime.seconds(workload.used_bytes, bandwidth, costs)
    if workload.dirty_bytes_per_second is None:
        return _unknown(worst, bandwidth, limit_seconds)
    rounds: list[convergence.Observation] = []
    decision = None
    sending = workload.used_bytes
    while decision is None or decision.action is convergence.Action.CONTINUE:
        seconds = sending / bandwidth
        rounds.append(convergence.Observation(
            sending, seconds, workload.dirty_after(seconds)))
        decision = convergence.decide(
            rounds, limit_seconds=limit_seconds, bandwidth=bandwidth,
            costs=costs, max_rounds=max_rounds)
        sending = rounds[-1].dirty_bytes
    sent = sum(r.bytes_sent for r in rounds)
    precopy = math.fsum(r.seconds for r in rounds)
    parts = downtime.parts(sending, bandwidth, costs)
    standing = math.fsum(parts.values())
    return Plan(
        rounds=len(rounds), precopy_bytes=sent, stop_copy_bytes=sending,
        total_bytes=sent + sending, precopy_seconds=precopy,
        total_seconds=precopy + standing, downtime_seconds=standing,
        downtime_parts=parts, worst_downtime_seconds=worst,
        limit_seconds=limit_seconds, bandwidth_bytes_per_second=bandwidth,
        converges=decision.action is convergence.Action.SWITCHOVER,
        reason=decision.reason)


def _unknown(worst: float | None, bandwidth: float,
             limit_seconds: float) -> Plan:
    """Return what can be said without a dirty rate, or without a size.

    :param worst: seconds of downtime, None if no size is known.
    """
    fits = worst is not None and worst <= limit_seconds
    if worst is None:
        reason = ('neither what the VF uses nor how large its frame buffer '
                  'is is exposed, so nothing can be said before the move')
    else:
        reason = ('the dirty rate is not known before the move; to stop and '
                  f'send everything would take {worst * 1000:.0f} ms, '
                  f'{"within" if fits else "above"} the limit of '
                  f'{limit_seconds * 1000:.0f} ms')
    return Plan(
        rounds=None, precopy_bytes=None, stop_copy_bytes=None,
        total_bytes=None, precopy_seconds=None, total_seconds=None,
        downtime_seconds=None, downtime_parts={},
        worst_downtime_seconds=worst, limit_seconds=limit_seconds,
        bandwidth_bytes_per_second=bandwidth,
        converges=True if fits else None, reason=reason)
