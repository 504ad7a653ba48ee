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

"""What the hypervisor carrier may ask of a hypervisor: see, steer, abort.

QEMU carries the state and libvirt decides who runs, so there is no call here
that starts or stops a guest, and none that an agent could resume one with
(invariant 1). Everything is a value: what was seen, when, by which clock.
"""

import abc
from collections.abc import Callable
import dataclasses
import enum
from typing import Any

from nova_vgpu_mig.planning import steering


class HypervisorError(Exception):
    """The hypervisor can't be asked now, or refused; says what and why."""


class GuestState(enum.StrEnum):
    """A guest on this host, as its hypervisor sees it."""

    ABSENT = 'absent'
    RUNNING = 'running'
    PAUSED = 'paused'
    SHUT_OFF = 'shut off'
    """Defined, or left behind; it runs nothing."""

    @property
    def here(self) -> bool:
        """Whether there is a process with the guest's state in it."""
        return self in (GuestState.RUNNING, GuestState.PAUSED)


class Job(enum.StrEnum):
    """What is under way with a guest."""

    NONE = ''
    OUT = 'migration out'
    IN = 'migration in'
    OTHER = 'another job'


@dataclasses.dataclass(frozen=True, slots=True)
class View:
    """One look at a guest."""

    state: GuestState
    detail: str = ''
    """The hypervisor's own reason for the state, such as 'migration'."""

    job: Job = Job.NONE

    def as_dict(self) -> dict[str, Any]:
        return {'state': str(self.state), 'detail': self.detail,
                'job': str(self.job)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> 'View':
        """:raises ValueError, KeyError: it is no view."""
        return cls(GuestState(values['state']), str(values['detail']),
                   Job(values['job']))

    def __str__(self) -> str:
        why = f' ({self.detail})' if self.detail else ''
        job = f', {self.job}' if self.job else ''
        return f'{self.state}{why}{job}'


class What(enum.StrEnum):
    """Kinds of events. `detail` is the hypervisor's own word."""

    DEVICE = 'device'
    """A VFIO device has another migration state; `device` is which."""
    STOP = 'stop'
    """The vCPUs stand still and the devices too."""
    RESUME = 'resume'
    STATUS = 'status'
    """QEMU's migration has another status."""
    PASS = 'pass'
    """QEMU has begun to look at what is dirty for the nth time."""
    LIFECYCLE = 'lifecycle'
    JOB_ENDED = 'job ended'
    """`values` has the job's final statistics."""
    LOST = 'connection lost'
    BACK = 'connection back'


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    """Something that the hypervisor has told of one guest."""

    what: What
    at: float
    """Epoch seconds by the clock of this host, when it happened."""

    detail: str = ''
    device: str = ''
    values: dict[str, Any] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For a record's timeline; the final statistics are left out."""
        return {'at': self.at, 'what': str(self.what),
                'detail': self.detail, 'device': self.device}


@dataclasses.dataclass(frozen=True, slots=True)
class JobSample:
    """The statistics of a running job, in bytes."""

    sample: steering.Sample
    remaining_bytes: int
    """Of guest RAM: devices are under-reported, so they are left out."""


@dataclasses.dataclass(frozen=True, slots=True)
class Abilities:
    """What this hypervisor has of what the carrier would use."""

    version: str
    monitor_events: bool = True
    """QEMU's own events are told: how far a move is can be seen."""

    device_events: bool = True
    """A VFIO device can tell its states; it does if it was started so."""

    switchover_bandwidth: bool = True
    parallel: bool = True
    missing: tuple[str, ...] = ()
    """A sentence for each that is not there: what, and what is lost."""


Subscriber = Callable[[Event], None]


class Hypervisor(abc.ABC):
    """The hypervisor of this host. Every method from any thread.

    Each raises HypervisorError when it can't be asked now; it connects
    again by itself.
    """

    @abc.abstractmethod
    def available(self) -> str:
        """'' when it answers; else why not and what to do."""

    @abc.abstractmethod
    def abilities(self) -> Abilities:
        """What it can do, by its versions."""

    @abc.abstractmethod
    def view(self, instance_uuid: str) -> View:
        """Look at a guest; ABSENT if it knows none of that uuid."""

    @abc.abstractmethod
    def subscribe(self, instance_uuid: str,
                  subscriber: Subscriber) -> Callable[[], None]:
        """Have the guest's events told, in order.

        LOST and BACK are told too. The subscriber must be quick.

        :returns: what to call to be told no more.
        """

    @abc.abstractmethod
    def sample(self, instance_uuid: str) -> JobSample | None:
        """Statistics of the guest's job; None without a migration."""

    @abc.abstractmethod
    def ended_job(self, instance_uuid: str) -> dict[str, Any]:
        """Statistics of the guest's last job that ended; {} if unknown."""

    @abc.abstractmethod
    def downtime_limit(self, instance_uuid: str) -> int:
        """The downtime limit of the guest's next job, milliseconds."""

    @abc.abstractmethod
    def limit_downtime(self, instance_uuid: str, milliseconds: int) -> None:
        """Set the downtime limit of a job that runs or is to come."""

    @abc.abstractmethod
    def abort(self, instance_uuid: str) -> None:
        """Abort the guest's migration; it may be too late for it."""

    @abc.abstractmethod
    def blockers(self, instance_uuid: str) -> tuple[str, ...]:
        """Why the guest can't be migrated now, in QEMU's words."""

    @abc.abstractmethod
    def close(self) -> None:
        """End threads and connection."""
