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

"""When QEMU may switch over: decided by the downtime limit it is given.

In the hypervisor carrier nobody asks us: QEMU switches over as soon as what
is left fits into its downtime limit, and that limit is all there is to steer
with. So it is held low while the dirty state would take longer than the VM
may stand still. Then it is opened, at most to the VM's limit less what a
switchover costs beside the copying, which QEMU leaves out.

QEMU looks within a pass, too: it takes what is left of the pass together with
what was dirtied again meanwhile. With all of the VM's limit it would switch
over in the middle of one, with up to twice of what it has at the end. So the
limit is first opened just as far as a pass has taken. Where that does not do,
as QEMU goes by a bandwidth of its own, all of the limit follows.

QEMU does not tell what a device has dirty. But it copies in passes: it asks
the device, sends what was named, and asks again. What was sent between two
looks is what the device had dirty at the first. So a pass is a round of
pre-copy, and the same decision that the agent carrier takes (convergence.py)
is taken on it.

Rejected: to raise the limit in more steps up to the VM's. Each step would be
a wait, and the rounds already say which limit would be met.
"""

from collections.abc import Sequence
import dataclasses
import math

from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import downtime

HOLD_MS = 1
"""The least that libvirt takes. QEMU still switches over once its estimate
of what is left is 0."""

ROUND_SECONDS = 1.0
"""Passes are taken together up to this: a pass over a small device lasts
milliseconds, and a guest's frame is not a workload's change."""

MARGIN = 1.15
"""Of the time that a pass took, when the limit is opened: a pass is not quite
like the one before, nor what QEMU measures of a tenth of a second."""

NARROW_LEAST = 0.2
"""Seconds. Below it those differ by more. And QEMU that just misses a limit
looks all the time instead of sending, so that more and more becomes dirty."""

NARROW_PASSES = 3
NARROW_SECONDS = 1.0
"""So many passes, and at least so long, QEMU has only that: it is the end of
a pass that fits, and a new limit counts after up to 0.1 s."""

OPEN_PASSES = 50
OPEN_SECONDS = 2.0
"""How often QEMU may look at a limit that should do and find that it does
not, before the move is given up, and for how long at least: a fast way has so
many passes before the limit counts."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What the hypervisor has said of a running job."""

    at: float
    """Seconds of a clock that never goes back."""

    passes: int
    """How often it has looked at what is dirty; 1 is the first copy."""

    sent_bytes: int
    """Of guest RAM and devices together."""

    device_bytes: int | None = None
    """Of these, the VFIO devices'; None where the hypervisor can't tell."""

    narrow: bool = False
    """See Opening.narrow: what goes between two looks is no pass then."""


@dataclasses.dataclass(frozen=True, slots=True)
class Opening:
    """How far QEMU's limit is open."""

    since: Sample | None = None
    """With as much as now; None: it is held."""

    whole: bool = False
    """All that the VM allows, now or the next time: less has been tried.

    That is tried once. A guest with bursts would else be met in a quiet
    moment with less than does, each time."""

    @property
    def narrow(self) -> bool:
        """Only as much as a pass has taken."""
        return self.since is not None and not self.whole


HELD = Opening()


@dataclasses.dataclass(frozen=True, slots=True)
class Step:
    """What to do now."""

    limit_ms: int
    decision: convergence.Decision | None = None
    """None as long as the first pass goes on."""

    opening: Opening = HELD
    """Once it is done."""

    @property
    def abort(self) -> bool:
        return (self.decision is not None
                and self.decision.action is convergence.Action.ABORT)

    @property
    def opened(self) -> bool:
        return (self.decision is not None
                and self.decision.action is convergence.Action.SWITCHOVER)


def rounds(samples: Sequence[Sample],
           round_seconds: float = ROUND_SECONDS
           ) -> list[convergence.Observation]:
    """Return the finished rounds of a job, oldest first.

    The first one is the first pass; those after it are passes taken
    together, and what each has dirty is what one pass of it has sent. Where
    the limit was narrow QEMU has looked within its passes, so that this tells
    nothing, and is left out.

    :param samples: in the order of time, from the beginning of the job.
    """
    found: list[convergence.Observation] = []
    begin = samples[0] if samples else None
    for sample in samples:
        assert begin is not None
        if sample.narrow:
            begin = sample
            continue
        passes = sample.passes - begin.passes
        seconds = sample.at - begin.at
        if passes < 1 or (found and seconds < round_seconds):
            continue
        sent = max(0, sample.sent_bytes - begin.sent_bytes)
        if not found:
            # What the first look after the first copy has found is not
            # known before it has been sent.
            found.append(convergence.Observation(sent, seconds, sent))
        else:
            found.append(convergence.Observation(
                sent, seconds, math.ceil(sent / passes)))
        begin = sample
    return found


def add(samples: list[Sample], sample: Sample) -> None:
    """Add what was seen last, without what no round will need.

    Of the pass that the first sample is in only the first and the last one
    count, and with a large guest that pass lasts for nearly all of the job.
    """
    if len(samples) > 1 and samples[-1].passes == samples[0].passes:
        samples.pop()
    samples.append(sample)


def device_rounds(samples: Sequence[Sample]
                  ) -> list[convergence.Observation]:
    """Return the same rounds as rounds(), of the devices' bytes alone."""
    return rounds([dataclasses.replace(s, sent_bytes=s.device_bytes or 0)
                   for s in samples])


def bandwidth(done: Sequence[convergence.Observation]) -> float:
    """Return bytes a second: the best that a round has had.

    A round in which little was dirty waits more than it sends, so the best
    is what the way can carry; the first copy is hardly ever beaten.
    """
    return max((r.bytes_sent / r.seconds for r in done if r.seconds > 0),
               default=0.0)


@dataclasses.dataclass(frozen=True, slots=True)
class Forecast:
    """A switchover, if it came now."""

    device_bytes: int | None
    """What the devices would still have to send; None: can't be told."""

    downtime_seconds: float


def forecast(samples: Sequence[Sample], *, used_bytes: int,
             costs: downtime.FixedCosts,
             carried: float | None = None) -> Forecast | None:
    """Predict a switchover from what was seen of a job up to now.

    In the first copy what is left of it; then what a pass finds dirty.

    :param used_bytes: of the device, as the plan has it; 0 if unknown.
    :param carried: bytes a second, where it is known better than measured.
    :returns: None as long as nothing has been sent.
    """
    done = rounds(samples)
    if len(done) > 1:
        rate = carried or bandwidth(done)
        left = device_rounds(samples)[-1].dirty_bytes
        all_ = done[-1].dirty_bytes
    else:
        first, last = (samples[0], samples[-1]) if samples else (None, None)
        if first is None or last is None or last.at <= first.at:
            return None
        rate = carried or ((last.sent_bytes - first.sent_bytes)
                           / (last.at - first.at))
        left = all_ = max(0, used_bytes - (last.device_bytes or 0))
    if not rate:
        return None
    told = samples[-1].device_bytes is not None
    return Forecast(left if told else None,
                    downtime.seconds(all_, rate, costs))


def counted(limit_seconds: float,
            costs: downtime.FixedCosts) -> downtime.FixedCosts:
    """Return the costs that are held against a limit: all, or none of them.

    They are assumed, or of other moves. Where they alone reach the limit
    every move would be aborted for them after all of its first copy, and
    none would ever complete and measure what they really are. A plan lets
    such a move through for the same reason.
    """
    return costs if costs.total < limit_seconds else downtime.NO_COSTS


def open_limit_ms(limit_seconds: float, costs: downtime.FixedCosts) -> int:
    """Return what QEMU may take of a VM's limit, milliseconds."""
    return max(HOLD_MS, math.floor((limit_seconds - costs.total) * 1000))


def pass_seconds(last: convergence.Observation,
                 carried: float | None = None) -> float:
    """Return for how long QEMU reckons that it sends what a pass finds.

    :param carried: bytes a second, if QEMU was told; else it measures, and
        with little to send it measures little.
    """
    rate = carried or bandwidth([last])
    return last.dirty_bytes / rate if rate else 0.0


def steer(done: Sequence[convergence.Observation], *, limit_seconds: float,
          costs: downtime.FixedCosts, now: Sample,
          opening: Opening = HELD, carried: float | None = None,
          max_rounds: int = convergence.MAX_ROUNDS) -> Step:
    """Decide on the limit after the last of the finished rounds.

    :param done: as rounds() gives them.
    :param limit_seconds: the VM's own downtime limit.
    :param costs: of a switchover, beside the copying; see counted().
    :param now: what was seen last.
    :param opening: of the step before.
    :param carried: bytes a second, where it is known better than measured.
    """
    closed = Opening(whole=opening.whole)
    if len(done) < 2:
        # The first copy says how fast, not yet how much is dirty.
        return Step(HOLD_MS, opening=closed)
    rate = carried or bandwidth(done)
    held = counted(limit_seconds, costs)
    decision = convergence.decide(
        done[1:], limit_seconds=limit_seconds, bandwidth=rate, costs=costs,
        counted=held, max_rounds=max_rounds)
    if decision.action is not convergence.Action.SWITCHOVER:
        return Step(HOLD_MS, decision, closed)
    whole = open_limit_ms(limit_seconds, held)
    needed = pass_seconds(done[-1], carried)
    since = opening.since or now
    if not opening.whole:
        # In this order: a float may be too large to be rounded.
        narrow = math.ceil(min(
            whole, max(NARROW_LEAST, needed * MARGIN) * 1000))
        # What QEMU was told of the way makes no pass shorter.
        if narrow < whole and now.at - since.at < max(
                NARROW_SECONDS, NARROW_PASSES * pass_seconds(done[-1])):
            return Step(narrow, decision, Opening(since))
        since = now
    passes, seconds = now.passes - since.passes, now.at - since.at
    if passes > OPEN_PASSES and seconds > OPEN_SECONDS:
        decision = dataclasses.replace(
            decision, action=convergence.Action.ABORT, reason=(
                f'QEMU has looked {passes} times in {seconds:.0f} s at a '
                f'limit of {whole} ms and not switched over, although '
                f'{decision.reason}: what the device says is left does not '
                f'become less, or QEMU measures less bandwidth than '
                f'{rate / 2 ** 20:,.0f} MiB/s'))
    return Step(whole, decision, Opening(since, whole=True))
