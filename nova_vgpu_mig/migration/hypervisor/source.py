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

"""The source's watch: rounds, steering, and the measured end.

The downtime limit is set low before the job begins, so that QEMU does not
switch over on libvirt's default before anything is known, and from then on
after each round, by steering.py. What cannot converge is aborted here, by
libvirt's own abort, with what would have been needed as the reason.
"""

import dataclasses
import logging
import time

from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration.hypervisor import judgement
from nova_vgpu_mig.migration.hypervisor import report
from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration.hypervisor import watch
from nova_vgpu_mig.migration import limits as limits_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor

LOG = logging.getLogger(__name__)

LOOKS_FOR_THE_END = 6
"""At a guest that has gone, before its job's last statistics are done
without: libvirt tells them a moment later. At one that stays, before its
downtime limit is left as it is: libvirtd may be about to come back."""

SECONDS_FOR_WHO_CANCELLED = 3.0
"""Once a migration was cancelled, before that counts as a failure. Nova's
word of an abort comes after libvirt's deed; its rollback later."""

PAUSED_LIMIT_MS = 2_000_000
"""QEMU's own highest: a guest that stands still anyway loses nothing."""

CLOCK_LOOKS = 10
"""At the other host's clock while there is time for it, in pre-copy: the
quickest answer tells it best."""

NEAR_SECONDS = 0.1
"""Between two looks once the limit is open."""

DEFAULT_LIMIT_MS = 300
"""QEMU's own limit, as long as nobody has set one."""

SOURCE = phases.Role.SOURCE
State = ownership.State


class AbortTooLate(custody.MoveFailed):
    """libvirt no longer takes an abort."""


class SourceWatch(watch.Watch):
    """What is seen of a move at the host that it leaves."""

    role = SOURCE

    def __init__(self, scene: watch.Scene, limits: limits_.Limits, *,
                 steer: bool) -> None:
        """:param steer: otherwise the limit is set once, and left."""
        super().__init__(scene)
        self._limits = limits
        self._steer = steer
        self._samples: list[steering.Sample] = []
        self._counted = False
        """QEMU was seen to count what it sends."""

        self._limit_ms: int | None = None
        self._opening = steering.HELD
        self._begun = scene.record.phase not in (phases.Phase.CLAIMED,
                                                 phases.Phase.PREPARE)
        self._aborting = ''
        self._abort_at_once = False
        """The job is to be aborted as soon as there is one."""

        self._aborted = False
        self._blind = self._begun
        """QEMU may have gone on without this watch having been told."""

        self._trace: list[report.Sent] = []
        self._ram_trace: list[report.Sent] = []
        self._final: dict[str, object] = {}
        self._looks_for_the_end = LOOKS_FOR_THE_END
        self._hear_until: float | None = None
        """Monotonic; of who has cancelled it."""

        self._paused = False
        self._clock_looks = CLOCK_LOOKS

    # What Nova, or an operator, asks for

    def remember_limit(self) -> None:
        """Keep the limit that the guest has, once, before hold().

        It has to be saved before it is changed: an agent that is killed in
        between would take ours for what the guest had.

        :raises hypervisor.HypervisorError: it can't be asked now.
        """
        if 'former_limit_ms' in self._record.job:
            return
        former = self._host.downtime_limit(self._instance)
        if former <= steering.HOLD_MS:
            # Nobody else sets that: an earlier move could not undo it.
            former = DEFAULT_LIMIT_MS
        with self._progress.lock:
            self._record.job['former_limit_ms'] = former

    def hold(self) -> None:
        """Before the job: set the limit that it begins with.

        :raises hypervisor.HypervisorError: the guest can't be steered.
        """
        self.remember_limit()
        if self._steer:
            self._set_limit(steering.HOLD_MS)
        else:
            self._set_limit(max(1, round(
                self._limits.downtime_seconds * 1000)))

    def let_go(self) -> None:
        """Undo hold(), once there is no job: libvirt itself goes back to ours.

        With it, a migration that somebody begins by hand would never end.
        """
        try:
            self._undo_hold()
        except hypervisor.HypervisorError as exc:
            former = self._record.job['former_limit_ms']
            self._note(f'the downtime limit of libvirt may still be '
                       f'{self._limit_ms or steering.HOLD_MS} ms instead of '
                       f'{former} ms ({exc}): virsh migrate-setmaxdowntime '
                       f'{self._instance} {former}')

    def _undo_hold(self) -> None:
        """:raises hypervisor.HypervisorError: not now."""
        former = self._record.job.get('former_limit_ms')
        if former is not None:
            self._host.limit_downtime(self._instance, former)

    def abort(self, reason: str) -> None:
        """Ask libvirt to abort the job; what becomes of it is judged.

        Nova may be about to begin one that it can't take back. So where
        there is none yet the guest is watched on, until Nova rolls back or
        the time to begin is past, and a job is aborted when it is seen.

        :raises AbortTooLate: libvirt refuses it.
        """
        self._aborting = self._aborting or reason
        if not self._begun:
            self._abort_at_once = True
            self._wake.set()
            return
        if report.cancelled(self._record):
            # Nova has done it; this is how the agent hears of it.
            self._wake.set()
            return
        try:
            self._host.abort(self._instance)
        except hypervisor.HypervisorError as exc:
            raise AbortTooLate(
                f'migration {self._uuid}: {exc}; it is over, or can only be '
                f'completed') from exc
        self._aborted = True
        self._wake.set()

    # The thread

    def _take(self, event: hypervisor.Event) -> None:
        super()._take(event)
        if event.what is hypervisor.What.JOB_ENDED:
            self._final = event.values
        elif timeline.switches_over(event):
            self._note_if_early()
        elif event.what is hypervisor.What.LOST:
            self._blind = True

    def _note_if_early(self) -> None:
        if (self._steer and self._opening.since is None
                and not self._paused):
            self._note('QEMU switched over while the limit was held at '
                       f'{self._limit_ms} ms: its own estimate of what was '
                       'left was next to nothing')

    def _look(self) -> None:
        found = self._host.sample(self._instance)
        if found is None:
            return
        self._begun = True
        if not self._counted:
            # No event need have told of it, nor of the job before.
            self._counted = True
            self._enter(phases.Phase.PRECOPY)
            # An agent that is killed has to know that a job was seen.
            self._progress.save()
        device_bytes = found.sample.device_bytes
        if device_bytes is not None:
            now = time.time()
            self._trace.append(report.Sent(now, device_bytes))
            self._ram_trace.append(report.Sent(
                now, found.sample.sent_bytes - device_bytes))
        if self._record.phase is not phases.Phase.PRECOPY:
            self._let_a_paused_one_go()
            return
        sample = dataclasses.replace(found.sample,
                                     narrow=self._opening.narrow)
        steering.add(self._samples, sample)
        carried = self._record.job.get('switchover_bandwidth')
        foreseen = steering.forecast(
            self._samples, costs=self._limits.costs, carried=carried,
            used_bytes=int(self._record.plan.get('used_bytes') or 0))
        with self._progress.lock:
            report.note_progress(self._record, found, self._samples,
                                 foreseen)
        if self._steer:
            self._note_if_costs_are_tried()
            self._act(steering.steer(
                steering.rounds(self._samples),
                limit_seconds=self._limits.downtime_seconds,
                costs=self._limits.costs, now=sample,
                opening=self._opening, carried=carried,
                max_rounds=self._limits.max_rounds))
        self._progress.notify()
        self._look_at_the_clock()

    def _let_a_paused_one_go(self) -> None:
        """Open the limit for a guest that somebody has paused meanwhile.

        Its devices have left pre-copy with it, so that all of their state is
        left for the end, which QEMU would not begin under a limit that is
        held; and libvirt lets nobody resume it before the move is over.
        """
        if (self._paused or self._record.phase is not phases.Phase.SWITCHOVER
                or not timeline.paused(self._events, time.time())):
            return
        self._set_limit(PAUSED_LIMIT_MS)
        self._paused = True
        self._note('the guest was paused during its migration (as by virsh '
                   'suspend), and stands still until it is over; so QEMU may '
                   'take as long as it needs for the rest')

    def _look_at_the_clock(self) -> None:
        """Last of a look: an agent that is away takes a call's time-out.

        And so it is asked once: the clock is not worth a move that nobody
        steers, and the question after its end tells it as well.
        """
        if self._clock_looks:
            answered = self._peer.guest().view is not None
            self._clock_looks = self._clock_looks - 1 if answered else 0

    def _note_if_costs_are_tried(self) -> None:
        limit, costs = self._limits.downtime_seconds, self._limits.costs
        if steering.counted(limit, costs) is not costs:
            self._note(f'what a switchover takes beside the copying is said '
                       f'to be {costs.total * 1000:.0f} ms (the plan says '
                       f'by what), and the downtime limit is '
                       f'{limit * 1000:.0f} ms: only the copying is held to '
                       f'it, so that this move can measure the rest; the '
                       f'guest may stand still for longer')

    def _act(self, step: steering.Step) -> None:
        if step.abort and not self._aborted:
            assert step.decision is not None
            LOG.warning('migration %s is given up: %s', self._uuid,
                        step.decision.reason)
            self._aborting = step.decision.reason
            self._host.abort(self._instance)
            self._aborted = True
            return
        if step.opened:
            # It may stop at any time now, and what was sent by then counts.
            self._poll = min(self._poll, NEAR_SECONDS)
        self._set_limit(step.limit_ms)
        self._opening = step.opening

    def _set_limit(self, milliseconds: int) -> None:
        if milliseconds == self._limit_ms:
            return
        self._host.limit_downtime(self._instance, milliseconds)
        LOG.info('migration %s: QEMU\'s downtime limit is %d ms now',
                 self._uuid, milliseconds)
        self._limit_ms = milliseconds

    # The end

    def _judge(self) -> bool:
        here = self._host.view(self._instance)
        running = here.state is hypervisor.GuestState.RUNNING
        if here.job is hypervisor.Job.OUT or not here.state.here:
            # Whatever it was that this agent did not see.
            self._begun = True
        if here.job is hypervisor.Job.OUT:
            self._abort_what_has_begun()
        overdue = not self._begun and self._overdue()
        if (here.job is not hypervisor.Job.NONE
                or (running and not self._begun and not overdue)):
            return False
        answer = self._peer.guest()
        found = self._decide(judgement.Sight(
            here, answer.view, self._record.source_host,
            self._record.destination_host, self._instance,
            handed_over=self._handed_over(),
            paused=self._record.guest == hypervisor.GuestState.PAUSED,
            abandoned=self._overdue()),
            begun=self._begun, overdue=overdue)
        if found.ending is judgement.Ending.MOVED:
            if not self._final and self._looks_for_the_end:
                self._looks_for_the_end -= 1
                return False
            self._completed(answer)
        elif found.ending is judgement.Ending.STAYED:
            if self._may_hear_of_an_abort():
                return False
            self._stayed()
        elif found.ending is judgement.Ending.NOWHERE:
            self._returned(phases.Outcome.FAILED, found.sentence)
        return found.ending.ends

    def _abort_what_has_begun(self) -> None:
        """Do what was asked before there was a job.

        :raises hypervisor.HypervisorError: not now; the next look tries it
            again.
        """
        if self._abort_at_once and not self._aborted:
            self._host.abort(self._instance)
            self._aborted = True

    def _handed_over(self) -> bool:
        """Whether the destination may have the guest, as far as was seen.

        Without QEMU's events nobody tells that all has been sent.
        """
        return (self._blind or self._record.phase in (
            phases.Phase.LOAD, phases.Phase.COMMIT, phases.Phase.RUN)
            or not self._host.abilities().monitor_events)

    def _completed(self, answer: watch.PeerAnswer) -> None:
        self._enter(phases.Phase.RUN)
        theirs = self._peer.record()
        resumed = None if theirs is None else report.resumed(theirs)
        final = self._final or self._host.ended_job(self._instance)
        marks = timeline.marks(self._events)
        if (marks.still is None and marks.stopped is not None
                and not self._blind and self._host.abilities().device_events):
            self._note(report.NO_DEVICE_EVENTS)
        with self._progress.lock:
            report.complete(
                self._record, marks=marks,
                resumed_at=(None if resumed is None
                            else resumed - answer.clock_ahead),
                clock_error=answer.clock_error, final=final,
                at_stop=report.sent_at_stop(self._trace, marks),
                ram_at_stop=report.sent_at_stop(self._ram_trace, marks))
            if self._paused:
                # They would say of later moves how long somebody paused it.
                self._record.downtime_parts = {}
        self._end(State.GIVEN_UP, phases.Phase.COMPLETED,
                  phases.Outcome.COMPLETED, expected=State.ACTIVE)

    def _may_hear_of_an_abort(self) -> bool:
        if (self._aborting or self._given_up
                or not report.cancelled(self._record)):
            return False
        now = time.monotonic()
        if self._hear_until is None:
            self._hear_until = now + SECONDS_FOR_WHO_CANCELLED
        return now < self._hear_until

    def _stayed(self) -> None:
        outcome, reason = report.why_returned(
            self._record, begun=self._begun,
            # That Nova rolls back is no reason of what has begun.
            aborting=self._aborting or ('' if self._begun
                                        else self._given_up),
            final=self._final or self._host.ended_job(self._instance))
        if self._looks_for_the_end:
            self._looks_for_the_end -= 1
            self._undo_hold()
        else:
            self.let_go()
        self._returned(outcome, reason)

    def _returned(self, outcome: phases.Outcome, reason: str) -> None:
        """The VF is this host's and its guest's, whether that runs or not.
        """
        if outcome is phases.Outcome.FAILED:
            reason += self._explain()
        self._end(State.RETURNED, phases.Phase.RETURNED, outcome, reason,
                  expected=State.ACTIVE)
        LOG.warning('migration %s has ended, its guest is not moved: %s',
                    self._uuid, reason)


def begin_record(record: record_.MigrationRecord, view: hypervisor.View,
                 abilities: hypervisor.Abilities) -> None:
    """Write down what the guest and the hypervisor are before a move."""
    record.guest = str(view.state)
    record.level = 'stream'
    record.notes += abilities.missing
    record.phase_times[str(phases.Phase.PREPARE)] = time.time()
    record.phase = phases.Phase.PREPARE
