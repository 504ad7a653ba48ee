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

"""After a round of pre-copy: go on, switch over, or give up?

Switch over as soon as the predicted downtime is within the limit; go on
while rounds still make it smaller; give up when they no longer do. To give
up early, with the numbers that would have been needed, is kinder than a
time-out: the guest ran slower all the time, and nobody learns why.

Rejected: raising the limit step by step, as Nova does for RAM. The limit is
what the VM's owner can bear; it does not grow because a move is hard.
"""

from collections.abc import Sequence
import dataclasses
import enum
import math

from nova_vgpu_mig.planning import downtime

_MIB = 2 ** 20

MAX_ROUNDS = 30
"""A bound for workloads that shrink for ever without arriving."""

STALL_ROUNDS = 3
"""Rounds without progress before giving up. One may be a burst of the
guest; three in a row are its working set."""

PROGRESS = 0.05
"""The least share by which the dirty bytes must fall below their best so
far to count as progress."""


class Action(enum.StrEnum):
    CONTINUE = 'continue'
    SWITCHOVER = 'switchover'
    ABORT = 'abort'


@dataclasses.dataclass(frozen=True, slots=True)
class Observation:
    """One finished round of pre-copy."""

    bytes_sent: int
    seconds: float
    dirty_bytes: int
    """Frame buffer and guest memory dirty after the round."""


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    action: Action
    predicted_downtime_seconds: float
    """If it switched over now; infinite without any bandwidth."""

    reason: str
    needed_limit_seconds: float | None = None
    """ABORT: a limit at which it could have switched over; None if that is
    above an hour."""

    needed_bandwidth: float | None = None
    """ABORT: bytes a second that would have kept the limit; None if no
    bandwidth would."""


def decide(rounds: Sequence[Observation], *, limit_seconds: float,
           bandwidth: float, costs: downtime.FixedCosts,
           counted: downtime.FixedCosts | None = None,
           max_rounds: int = MAX_ROUNDS,
           stall_rounds: int = STALL_ROUNDS) -> Decision:
    """Decide after the last of `rounds`; every finished round, in order.

    :param limit_seconds: the VM's downtime limit.
    :param bandwidth: bytes a second, as measured up to now.
    :param costs: what a switchover is predicted, and advised, with.
    :param counted: what of them is held against the limit; None: all.
    :raises ValueError: no round, or a number that is negative, infinite or
        not a number.
    """
    if not rounds:
        raise ValueError('no finished round to decide upon')
    downtime.check('downtime limit', limit_seconds)
    dirty = rounds[-1].dirty_bytes
    counted = costs if counted is None else counted
    predicted = downtime.seconds(dirty, bandwidth, costs)
    held = downtime.seconds(dirty, bandwidth, counted)
    if held <= limit_seconds:
        return Decision(Action.SWITCHOVER, predicted,
                        f'predicted downtime {_ms(held)} is within the '
                        f'limit of {_ms(limit_seconds)}')
    if counted.total > limit_seconds:
        why = f'even an idle VM stands still for {_ms(costs.total)}'
    elif _stalled(rounds, stall_rounds):
        why = (f'{stall_rounds} rounds without progress at {_size(dirty)} '
               'dirty')
    elif len(rounds) >= max_rounds:
        why = f'not converged in {len(rounds)} rounds'
    else:
        return Decision(Action.CONTINUE, predicted,
                        f'predicted downtime {_ms(held)} is above the '
                        f'limit of {_ms(limit_seconds)}, and falling')
    return _abort(why, rounds, limit_seconds, bandwidth, costs, stall_rounds)


def _stalled(rounds: Sequence[Observation], stall_rounds: int) -> bool:
    """Tell whether the last rounds brought no new low of dirty bytes."""
    if len(rounds) <= stall_rounds:
        return False
    best = min(r.dirty_bytes for r in rounds[:-stall_rounds])
    recent = min(r.dirty_bytes for r in rounds[-stall_rounds:])
    return recent > best * (1 - PROGRESS)


def _abort(why: str, rounds: Sequence[Observation], limit_seconds: float,
           bandwidth: float, costs: downtime.FixedCosts,
           stall_rounds: int) -> Decision:
    """Say what would have been needed at the best of the last rounds.

    Rounded away from the limit, so that following the advice suffices.
    """
    dirty = min(r.dirty_bytes for r in rounds[-stall_rounds:])
    predicted = downtime.seconds(rounds[-1].dirty_bytes, bandwidth, costs)
    best = downtime.seconds(dirty, bandwidth, costs)
    # Above an hour no limit is advice, and a float may overflow.
    limit = (math.floor(best * 1000) + 1) / 1000 if best < 3600 else None
    spare = limit_seconds - costs.total
    # Nor is a bandwidth that sends everything within a microsecond.
    needed = _round_up(dirty / spare) if spare > 1e-6 else None
    advice = [] if limit is None else [f'a limit of {_ms(limit)}']
    if needed is not None and needed > bandwidth:
        advice.append(f'{_rate(needed)} instead of {_rate(bandwidth)}')
    return Decision(
        Action.ABORT, predicted,
        f'cannot keep the downtime limit of {_ms(limit_seconds)}: {why}; '
        f'would need {" or ".join(advice) or "a connection that moves"}',
        limit, needed)


def _round_up(rate: float) -> float:
    """Return at least `rate`, with two digits of MiB that people can read."""
    if rate <= 0:
        return 0.0
    mib = rate / _MIB
    step = 10.0 ** (math.floor(math.log10(mib)) - 1)
    return math.ceil(mib / step) * step * _MIB


def _ms(seconds: float) -> str:
    if seconds > 1e9:
        return 'without end'
    return f'{math.ceil(seconds * 1000 - 1e-6)} ms'


def _size(number: float) -> str:
    return f'{number / _MIB:.0f} MiB'


def _rate(rate: float) -> str:
    mib = rate / _MIB
    return f'{mib:,.0f} MiB/s' if mib >= 10 else f'{mib:.2g} MiB/s'
