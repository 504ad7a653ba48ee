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

"""What a watched move's record says: from samples, events and statistics.

Values in, values out, apart from the record that `complete` fills. Where
something could not be measured it stays None; nothing is made up from what
is next to it.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import convergence
from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor

_DEVICES = 'vfio_data_transferred'

NO_DEVICE_EVENTS = (
    'the time in which the devices came to rest is not in the measured '
    'downtime: the guest was started without migration-events on them; it '
    'has them after its next cold start, or hard reboot, with nova-vgpu-mig')
"""Where the hypervisor has them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sent:
    """What had been sent at a time, epoch seconds: of the devices, or of RAM.
    """

    at: float
    sent_bytes: int


def sent_at_stop(trace: Sequence[Sent],
                 marks: timeline.Marks) -> int | None:
    """Return what had been sent when all stood still.

    A look between the stop and the saving of the rest tells it exactly.
    Without one the last looks before it are carried on at their rate, which
    a later look bounds: a guess then, but never from after the stop.
    """
    if marks.stopped is None:
        return None
    saving = marks.stopped if marks.saving is None else marks.saving
    for look in trace:
        if marks.stopped <= look.at < saving:
            return look.sent_bytes
    before = [look for look in trace if look.at < marks.stopped][-2:]
    if len(before) < 2:
        return before[0].sent_bytes if before else None
    (first, last) = before
    rate = ((last.sent_bytes - first.sent_bytes)
            / max(last.at - first.at, 1e-3))
    guess = last.sent_bytes + round(rate * (marks.stopped - last.at))
    later = [look.sent_bytes for look in trace if look.at >= saving]
    return max(last.sent_bytes, min([guess, *later[:1]]))


def rounds(samples: Sequence[steering.Sample]) -> list[record_.Round]:
    """Return the finished rounds as a record has them."""
    made = []
    for number, (all_, vf) in enumerate(zip(
            steering.rounds(samples), steering.device_rounds(samples),
            strict=True), 1):
        made.append(record_.Round(
            number=number, stream_bytes=vf.bytes_sent,
            memory_bytes=max(0, all_.bytes_sent - vf.bytes_sent),
            seconds=all_.seconds, sending_seconds=_share(vf, all_),
            dirty_bytes_per_second=(vf.bytes_sent / vf.seconds
                                    if number > 1 and vf.seconds else 0.0)))
    return made


def _share(vf: convergence.Observation,
           all_: convergence.Observation) -> float:
    """Return the seconds of a round that went to the VF.

    By bytes: guest RAM goes the same way, and QEMU does not tell when which
    of the two was sent.
    """
    if not all_.bytes_sent:
        return 0.0
    return all_.seconds * min(1.0, vf.bytes_sent / all_.bytes_sent)


def note_progress(record: record_.MigrationRecord,
                  found: hypervisor.JobSample,
                  samples: Sequence[steering.Sample],
                  foreseen: steering.Forecast | None) -> None:
    """Write how far a job is, and what a switchover would be now.

    What is left is of guest RAM by QEMU's word, and of the VF, which QEMU
    leaves out there, by the forecast.
    """
    record.rounds = rounds(samples)
    record.transferred_bytes = found.sample.sent_bytes
    record.remaining_bytes = found.remaining_bytes
    if foreseen is not None:
        record.predicted_downtime_seconds = foreseen.downtime_seconds
        record.predicted_stop_copy_bytes = foreseen.device_bytes
        record.remaining_bytes += foreseen.device_bytes or 0


def resumed(theirs: record_.MigrationRecord) -> float | None:
    """Return when the destination's guest began to run, by its clock."""
    return next((float(event['at']) for event in theirs.timeline
                 if event['what'] == hypervisor.What.RESUME), None)


def complete(record: record_.MigrationRecord, *, marks: timeline.Marks,
             resumed_at: float | None, clock_error: float,
             final: Mapping[str, Any], at_stop: int | None,
             ram_at_stop: int | None = None) -> None:
    """Write what a move has come to.

    :param resumed_at: by the source's clock; None if it was not told.
    :param final: the job's last statistics, as libvirt has them.
    :param at_stop: the devices' bytes when all stood still.
    :param ram_at_stop: and those of all else.
    """
    whole, parts = timeline.downtime(marks, resumed_at)
    record.downtime_parts = parts
    record.downtime_seconds = whole
    if whole is not None:
        record.downtime_error_seconds = clock_error
    elif 'downtime' in final:
        record.downtime_seconds = int(final['downtime']) / 1000
        record.notes.append('the downtime is libvirt\'s own figure: the '
                            'events of one end are missing')
    if _DEVICES in final:
        sent = int(final[_DEVICES])
        if at_stop is not None:
            record.stop_copy_bytes = max(0, sent - at_stop)
            record.rounds.append(record_.Round(
                number=len(record.rounds) + 1, stop_copy=True,
                stream_bytes=record.stop_copy_bytes,
                memory_bytes=_ram_since(final, sent, ram_at_stop),
                seconds=parts.get('stop_copy', 0.0)))
    if 'memory_processed' in final:
        record.transferred_bytes = int(final['memory_processed'])
    record.remaining_bytes = 0


def _ram_since(final: Mapping[str, Any], device_bytes: int,
               at_stop: int | None) -> int:
    """Return what was sent beside the devices since then; 0: not known.

    What QEMU calls memory has the devices' bytes in it, and the few of the
    rest of the machine, so that this is never nothing.
    """
    all_ = final.get('memory_processed')
    if all_ is None or at_stop is None:
        return 0
    return max(0, int(all_) - device_bytes - at_stop)


def why_returned(record: record_.MigrationRecord, *, begun: bool,
                 aborting: str, final: Mapping[str, Any]
                 ) -> tuple[phases.Outcome, str]:
    """Return outcome and reason of a move that has stayed at the source.

    :param aborting: why this agent asked for the abort; '' if it did not.
    """
    said = str(final.get('errmsg') or '')
    phase = str(record.phase)
    if aborting.startswith('aborted'):
        return phases.Outcome.ABORTED, aborting
    if aborting:
        return phases.Outcome.FAILED, aborting
    if not begun:
        return phases.Outcome.FAILED, 'the migration did not begin in time'
    if 'cancel' in said or 'abort' in said:
        return phases.Outcome.ABORTED, f'{phase}: {said}'
    return phases.Outcome.FAILED, (
        f'{phase}: {said or _why_ended(record)}; the log of '
        f'libvirt and that of QEMU at {record.destination_host} '
        f'(/var/log/libvirt/qemu) say why')


def _why_ended(record: record_.MigrationRecord) -> str:
    """What can be told where libvirt gives no reason."""
    if any(event['what'] == hypervisor.What.LOST
           for event in record.timeline):
        return 'libvirtd was restarted, and has ended the migration'
    if cancelled(record):
        return ('libvirt has cancelled it, because somebody had it aborted '
                '(as by virsh domjobabort) or because it lost the libvirtd '
                f'of {record.destination_host}')
    return 'libvirt gave the migration up'


def cancelled(record: record_.MigrationRecord) -> bool:
    """Whether QEMU was told to cancel, which says nothing of by whom."""
    return any(event['what'] == hypervisor.What.STATUS
               and event['detail'] == 'cancelling'
               for event in record.timeline)
