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

"""One VM of the demo, seen from behind Nova: its guest and its VF.

A snapshot is taken at a count of retired work, not at a time: the VF's main
engine is told to hold strictly inside a command, the rest comes to rest by
itself because everything waits for a fence in the end, and then the guest's
clock is stopped too, so that its driver does not take the hold for a hang.
"""

from collections.abc import Callable
from collections.abc import Sequence
import dataclasses
import time
from typing import Any

from nova_vgpu_mig.demo import compute as compute_
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm.standin import comparison

PATIENCE = 60.0
"""Seconds after which something that has to happen is given up."""

AHEAD = 300
"""Work units between now and the place of a hold."""

LOOKS = 12
"""In a row, at least 0.1 s apart: the slowest workload has 3 frames a second,
and a vCPU on a busy host comes late."""


@dataclasses.dataclass(slots=True)
class VM:
    """A server of Nova's on a compute, and where its VF is now."""

    name: str
    server_id: str
    compute: compute_.Compute
    vf: str

    def guest(self, method: str, **args: Any) -> Any:
        """Make a call of the guest process (vmm/standin/guest.py)."""
        path = self.compute.guests / f'{self.server_id}.sock'
        client = unixcall.Client(str(path))
        try:
            return client.call(method, **args)
        finally:
            client.close()

    def gpu(self, method: str, **args: Any) -> Any:
        """Make a call of the software GIM for this VM's VF."""
        return self.compute.gim.call(method, vf=self.vf, **args)

    def vf_state(self) -> dict[str, Any]:
        state: dict[str, Any] = self.gpu('vf_state')
        return state

    def retired_units(self, engine: abi.Engine) -> int:
        return int(self.vf_state()['engines'][engine.name]['retired_units'])

    def status(self) -> dict[str, Any]:
        status: dict[str, Any] = self.guest('workload_status')
        return status

    def release(self) -> None:
        """Let a held engine and the guest go on."""
        self.gpu('release')
        self.guest('run')

    def snapshot(self) -> comparison.Snapshot:
        """Return what is compared; the VM is at rest."""
        status = self.status()
        return comparison.Snapshot(
            frame_buffer=self.gpu('digest'), vf_state=self.vf_state(),
            guest_ram=self.guest('ram_digest'),
            received={engine.name: count for engine, count in zip(
                abi.Engine, status['interrupts_received'], strict=True)})


def hold(vms: Sequence[VM], engine: abi.Engine) -> None:
    """Stop all of them inside the same command, at the same work unit.

    The place is ahead of all, and not at the end of a command: where it
    falls on one, all are let on by a unit.

    :raises CloudError: they don't get there.
    """
    target = AHEAD + max(vm.retired_units(engine) for vm in vms)
    for vm in vms:
        vm.gpu('hold', engine=int(engine), work_units=target)
    waiting = list(vms)

    def arrived() -> bool:
        for vm in list(waiting):
            if vm.retired_units(engine) >= target:
                # Its driver must not take waiting for the other for a hang.
                vm.guest('stop')
                waiting.remove(vm)
        return not waiting

    _until(arrived, vms)
    for vm in vms:
        vm.guest('run')
    if vms[0].vf_state()['engines'][engine.name]['in_flight'] is None:
        for vm in vms:
            vm.gpu('hold', engine=int(engine), work_units=target + 1)


def rest(vms: Sequence[VM]) -> None:
    """Return when nothing of them moves any more; the guests are stopped.

    At rest means: the same counts on the VFs and in the guests in several
    looks, which together take longer than a frame does.

    :raises CloudError: they go on for PATIENCE seconds.
    """
    looks: list[Any] = []

    def quiet() -> bool:
        looks.append([(vm.vf_state(), vm.status()) for vm in vms])
        return len(looks) >= LOOKS and all(
            look == looks[-1] for look in looks[-LOOKS:])

    _until(quiet, vms, poll=0.1)
    for vm in vms:
        vm.guest('stop')


def _until(done: Callable[[], bool], vms: Sequence[VM],
           poll: float = 0.01) -> None:
    deadline = time.monotonic() + PATIENCE
    while not done():
        if time.monotonic() > deadline:
            raise compute_.CloudError(
                'the VMs did not get there: '
                + '; '.join(f'{vm.name}: {vm.status()}' for vm in vms))
        time.sleep(poll)
