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

"""The VMM port: what the agent carrier asks of a virtual machine monitor.

The agent carrier decides when the last guest instruction runs at the source
and the first at the destination, so it needs acknowledged calls: when
`stop()` has returned no vCPU of the guest executes anything. Guest RAM is
not part of a VFIO stream; the VMM moves it over a stream of its own, and the
carrier only says when (begin, finish after the VF is quiet) and compares the
digests of both ends before the commit.

A VM in QEMU never comes here: libvirt starts and stops those (hypervisor
carrier).
"""

import abc
import dataclasses
import enum


class GuestState(enum.StrEnum):
    RUNNING = 'running'
    PAUSED = 'paused'


class GuestNotFound(LookupError):
    """No VM with that instance UUID runs under this VMM on this host."""


class VMMError(Exception):
    """The VMM refused or failed; the message says what and which VM."""


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryEndpoint:
    """Where a paused destination listens for guest RAM."""

    host: str
    port: int
    token: str


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryProgress:
    """Guest RAM so far: bytes sent, and bytes known to be dirty still."""

    sent_bytes: int
    dirty_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class MemoryReport:
    """The end of the guest RAM stream."""

    sent_bytes: int
    digest: str
    """xxh3-128 over guest RAM and vCPU state, hexadecimal."""


class Guest(abc.ABC):
    """One VM on this host. Every call is acknowledged by the VMM.

    A call that fails (VMMError) leaves the handle usable: the next one
    reaches the VMM again as soon as there is a way to it.
    """

    instance_uuid: str

    @abc.abstractmethod
    def state(self) -> GuestState:
        """The vCPUs' state now."""

    @abc.abstractmethod
    def stop(self) -> None:
        """Stop the vCPUs; no guest instruction runs after it returns."""

    @abc.abstractmethod
    def run(self) -> None:
        """Start the vCPUs; idempotent."""

    @abc.abstractmethod
    def take_over(self) -> None:
        """Destination: what has arrived is this guest's from now on.

        It stays paused until somebody runs it, and may be moved again;
        idempotent. run() does it too.
        """

    @abc.abstractmethod
    def listen_memory(self) -> MemoryEndpoint:
        """Destination: accept one guest RAM stream; guest is paused."""

    @abc.abstractmethod
    def begin_memory(self, endpoint: MemoryEndpoint) -> None:
        """Source: start to send guest RAM in the background, in rounds.

        GPU writes are found through DMA logging of the VM's VF.
        """

    @abc.abstractmethod
    def memory_progress(self) -> MemoryProgress:
        """Source: how far the background stream is."""

    @abc.abstractmethod
    def finish_memory(self) -> MemoryReport:
        """Source: the last round. vCPUs are stopped and the VF is quiet."""

    @abc.abstractmethod
    def cancel_memory(self) -> None:
        """End the stream at either side and forget it; idempotent."""

    @abc.abstractmethod
    def memory_digest(self) -> str:
        """Destination: digest of what has arrived, as in MemoryReport."""

    @abc.abstractmethod
    def first_fence_seconds(self) -> float | None:
        """Seconds from the last run() to the first fence that retired.

        None while none has, or where the VMM can't see it.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Drop the connection to the VMM; the guest is not touched."""


class VMMPort(abc.ABC):
    """A plugin for one VMM (`nova_vgpu_mig.vmm_ports`): `port(conf)`."""

    name: str

    @abc.abstractmethod
    def evaluate_support(self) -> int:
        """How well the port fits this machine; 0 is not at all."""

    @abc.abstractmethod
    def guest(self, instance_uuid: str) -> Guest:
        """
        :raises GuestNotFound: no such VM here, for certain.
        :raises VMMError: it can't be told now.
        """
