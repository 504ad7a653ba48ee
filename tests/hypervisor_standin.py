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

"""Hypervisors of two hosts that share one guest, moved step by step.

Not a libvirt: the lab has the real one. This is what tests of the agents
need to stand still at any point: nothing happens but what a test asks for,
and an event is told at once.
"""

from collections.abc import Callable
import time
from typing import Any

from nova_vgpu_mig.vmm import hypervisor
from tests import qemu_model

Event = hypervisor.Event
Job = hypervisor.Job
State = hypervisor.GuestState
View = hypervisor.View
What = hypervisor.What

ABSENT = View(State.ABSENT)


class StandinHypervisor(hypervisor.Hypervisor):
    """One host; `views` is what it has of each guest."""

    def __init__(self) -> None:
        self.views: dict[str, View] = {}
        self.qemu: qemu_model.Qemu | None = None
        self.limits: list[int] = []
        self.aborted = False
        self.blocked: tuple[str, ...] = ()
        self.final: dict[str, Any] = {}
        self.has = hypervisor.Abilities('stand-in')
        self.down = ''
        self._subscribers: list[tuple[str, hypervisor.Subscriber]] = []

    def _answer(self) -> None:
        if self.down:
            raise hypervisor.HypervisorError(self.down)

    def available(self) -> str:
        return self.down

    def abilities(self) -> hypervisor.Abilities:
        self._answer()
        return self.has

    def view(self, instance_uuid: str) -> View:
        self._answer()
        return self.views.get(instance_uuid, ABSENT)

    def subscribe(self, instance_uuid: str,
                  subscriber: hypervisor.Subscriber) -> Callable[[], None]:
        self._answer()
        mine = instance_uuid, subscriber
        self._subscribers.append(mine)
        return lambda: self._subscribers.remove(mine)

    def sample(self, instance_uuid: str) -> hypervisor.JobSample | None:
        self._answer()
        if self.qemu is None or not self.qemu.sent:
            return None
        return hypervisor.JobSample(self.qemu.sample(), 0)

    def ended_job(self, instance_uuid: str) -> dict[str, Any]:
        return self.final

    def downtime_limit(self, instance_uuid: str) -> int:
        self._answer()
        return self.limits[-1] if self.limits else 300

    def limit_downtime(self, instance_uuid: str, milliseconds: int) -> None:
        self._answer()
        self.limits.append(milliseconds)
        if self.qemu is not None:
            self.qemu.limit_ms = milliseconds

    def abort(self, instance_uuid: str) -> None:
        self._answer()
        if self.qemu is None:
            raise hypervisor.HypervisorError('no job is active')
        self.aborted = True

    def blockers(self, instance_uuid: str) -> tuple[str, ...]:
        self._answer()
        return self.blocked

    def close(self) -> None:
        self._subscribers.clear()

    def tell(self, instance_uuid: str, what: What, detail: str = '',
             at: float | None = None, **values: Any) -> None:
        """Tell whoever has subscribed."""
        event = Event(what, time.time() if at is None else at, detail,
                      values=values)
        for uuid, subscriber in list(self._subscribers):
            if uuid == instance_uuid:
                subscriber(event)


class Pair:
    """Source and destination, and one guest that goes from one to other."""

    def __init__(self, instance_uuid: str) -> None:
        self.uuid = instance_uuid
        self.source = StandinHypervisor()
        self.destination = StandinHypervisor()
        self.source.views[instance_uuid] = View(State.RUNNING, 'booted')

    def begin(self, qemu: qemu_model.Qemu) -> None:
        """libvirt begins the job, with the limit that was set before."""
        self.source.qemu = qemu
        if self.source.limits:
            qemu.limit_ms = self.source.limits[-1]
        self.source.views[self.uuid] = View(State.RUNNING, 'booted', Job.OUT)
        self.destination.views[self.uuid] = View(
            State.PAUSED, 'migration', Job.IN)
        self.source.tell(self.uuid, What.DEVICE, 'pre-copy')
        self.destination.tell(self.uuid, What.DEVICE, 'resuming')

    def switch_over(self, at: float) -> None:
        """All stands still at `at`, and is saved 0.3 s later."""
        for what, after, detail in (
                (What.DEVICE, 0.0, 'pre-copy-p2p'),
                (What.DEVICE, 0.01, 'stop-copy'), (What.STOP, 0.02, ''),
                (What.STATUS, 0.05, 'device'),
                (What.STATUS, 0.3, 'completed')):
            self.source.tell(self.uuid, what, detail, at=at + after)

    def arrive(self, at: float) -> None:
        """The guest runs at the destination from `at` on."""
        self.destination.views[self.uuid] = View(State.RUNNING, 'migrated')
        self.destination.tell(self.uuid, What.RESUME, at=at)
        self.source.views[self.uuid] = ABSENT
        self.source.qemu = None
        self.source.tell(self.uuid, What.JOB_ENDED, **self.source.final)
        self.source.tell(self.uuid, What.LIFECYCLE, 'stopped/migrated')

    def go_back(self, why: str) -> None:
        """libvirt gives it up; the guest runs on at the source."""
        self.source.final = {'errmsg': why}
        self.source.qemu = None
        self.source.views[self.uuid] = View(State.RUNNING, 'booted')
        self.destination.views.pop(self.uuid, None)
        self.source.tell(self.uuid, What.JOB_ENDED, errmsg=why)
