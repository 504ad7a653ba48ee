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

"""What a row of events says: the phase, and where the downtime went. Pure.

The vCPUs have stopped when the first VFIO device comes to rest, as QEMU
stops them first and no event of its own says so. Where no device tells its
states the first that is known is QEMU's STOP, which comes when the devices
stand still too: how long they took for it is in no part then, and not in the
downtime. The vCPUs run again at the destination's RESUME.
"""

from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses

from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import hypervisor

Event = hypervisor.Event
Phase = phases.Phase
What = hypervisor.What

PARTS = ('drain', 'pre_switchover', 'stop_copy', 'handover')
"""In order; they add up to the downtime.

drain: the devices come to rest. pre_switchover: QEMU waits for libvirt to go
on. stop_copy: the rest is saved and sent. handover: from there to the first
guest instruction at the destination, which loads the rest in it.
"""

PAUSE_SECONDS = 2.0
"""Between a stop and the status that follows, of QEMU's own stops at most:
recorded were 7 ms, and never more than some tenths."""

_PRECOPY = {(What.DEVICE, 'pre-copy'), (What.STATUS, 'active'),
            (What.DEVICE, 'resuming')}
_SWITCHOVER = {(What.DEVICE, 'pre-copy-p2p'), (What.DEVICE, 'stop-copy'),
               (What.DEVICE, 'pre-copy-p2p-prepare'),
               (What.STATUS, 'pre-switchover'), (What.STATUS, 'device')}
_COMES_TO_REST = {'pre-copy-p2p', 'running-p2p', 'stop-copy'}


@dataclasses.dataclass(frozen=True, slots=True)
class Marks:
    """When a source's switchover got where, epoch seconds; None: not yet."""

    still: float | None = None
    """The vCPUs have stopped: a device has told that it comes to rest."""

    stopped: float | None = None
    """The devices stand still, too."""

    saving: float | None = None
    saved: float | None = None


def phase(event: Event, role: phases.Role) -> Phase | None:
    """Return the phase that an event begins; None if it begins none."""
    key = event.what, event.detail
    if key in _PRECOPY:
        return Phase.PRECOPY
    if role is phases.Role.DESTINATION:
        return Phase.RUN if event.what is What.RESUME else None
    if key in _SWITCHOVER or event.what is What.STOP:
        return Phase.SWITCHOVER
    if key == (What.STATUS, 'completed'):
        return Phase.LOAD
    if key == (What.LIFECYCLE, 'stopped/migrated'):
        return Phase.RUN
    return None


def marks(events: Iterable[Event]) -> Marks:
    """Return the marks of the last switchover that a source has tried.

    What comes late or twice changes nothing: the first of each counts.
    """
    found = Marks()
    for event in events:
        if event.what is What.RESUME:
            found = Marks()
        elif (event.what is What.DEVICE and event.detail in _COMES_TO_REST
                and found.stopped is None):
            found = _first(found, still=event.at)
        elif event.what is What.STOP:
            found = _first(found, stopped=event.at)
        elif event.what is What.STATUS and event.detail == 'device':
            found = _first(found, saving=event.at)
        elif event.what is What.STATUS and event.detail == 'completed':
            found = _first(found, saved=event.at)
    return found


def switches_over(event: Event) -> bool:
    """Whether QEMU says that it goes on from a stop to save the devices.

    A stop need not be its own: somebody may pause the guest while it is
    copied, and libvirt lets nobody resume it before the move is over.
    """
    return (event.what is What.STATUS
            and event.detail in ('pre-switchover', 'device'))


def paused(events: Sequence[Event], now: float) -> bool:
    """Whether the guest stands still because somebody has paused it.

    QEMU goes on at once from a stop of its own.
    """
    for event in reversed(events):
        if event.what is What.STOP:
            return now - event.at > PAUSE_SECONDS
        if event.what in (What.STATUS, What.RESUME):
            return False
    return False


def _first(found: Marks, **times: float) -> Marks:
    return dataclasses.replace(found, **{
        name: at for name, at in times.items()
        if getattr(found, name) is None})


def resumed(events: Iterable[Event]) -> float | None:
    """Return when a destination's vCPUs began to run; its own clock."""
    return next((event.at for event in events
                 if event.what is What.RESUME), None)


def downtime(source: Marks,
             resumed_at: float | None) -> tuple[float | None,
                                                dict[str, float]]:
    """Return the downtime in seconds, and its parts that are known.

    :param resumed_at: of the destination, by the source's clock.
    """
    known = [at for at in (source.still, source.stopped) if at is not None]
    if not known:
        return None, {}
    first = began = min(known)
    ends = dict(zip(PARTS, (source.stopped, source.saving, source.saved,
                            resumed_at), strict=True))
    found: dict[str, float] = {}
    if source.still is None:
        del ends['drain']
    for part, end in ends.items():
        if end is not None:
            # Two clocks, or events of two threads: never less than nothing.
            found[part] = max(0.0, end - began)
            began = max(began, end)
    if resumed_at is None:
        return None, found
    return max(0.0, resumed_at - first), found
