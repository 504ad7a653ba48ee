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


"""Taking a VF to where the journal says it belongs.

Four ends, used by a live migration and by recovery after a crash alike, so
that both do the same: it runs on at the source, it runs at the destination,
it is thrown away at the destination, it is released at the source. The
caller has written the journal before.
"""

import errno
import logging
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)


class MoveFailed(Exception):
    """An ordinary reason for a move to fail; its text says it all."""


EXPECTED = (OSError, MoveFailed, vmm_port.VMMError, vmm_port.GuestNotFound)
"""What a device, a VMM or a connection may fail with at any time."""

_SERVED = frozenset((contract.DeviceState.RUNNING,
                     contract.DeviceState.RUNNING_P2P))


def explain(exc: BaseException) -> str:
    """What went wrong, for people; without an error's number in front."""
    if isinstance(exc, OSError) and exc.strerror:
        return str(exc.strerror)
    return str(exc) or type(exc).__name__


def open_free(driver: contract.GPUDriver,
              address: str) -> contract.MigrationDevice:
    """Open a VF for what comes in: free, or with a guest that waits.

    :raises contract.DeviceError: EBUSY when a guest runs on it: somebody
        took it since it was chosen.
    """
    free = any(vf.free for pool in driver.pools() for vf in pool.vfs
               if vf.address == address)
    device = driver.open(address)
    if not free and device.state() in _SERVED:
        device.close()
        raise contract.DeviceError(
            errno.EBUSY, address, 'a guest runs on the VF: it was taken '
            'after it had been chosen for the migration')
    return device


def require_stream(device: contract.MigrationDevice,
                   state: contract.DeviceState) -> contract.DataStream:
    """Take a device to a state that begins a stream, and return it.

    :raises contract.DeviceError: refused, or no stream came.
    """
    stream = device.set_state(state)
    if stream is None:
        raise contract.DeviceError(errno.EIO, device.address,
                                   f'no data stream in {state.name}')
    return stream


def serves(device: contract.MigrationDevice) -> bool:
    """Whether a guest is served: it was run, or reset.

    :raises contract.DeviceError: the device does not answer.
    """
    return device.state() in _SERVED


def run_device(device: contract.MigrationDevice) -> None:
    """Take a device from wherever a migration left it to RUNNING.

    :raises contract.DeviceError: it does not get there; ERROR is not left,
        because the reset that leaves it would cost the guest its state.
    """
    if not serves(device):
        device.set_state(contract.DeviceState.RUNNING)


def cancel_memory(guest: vmm_port.Guest | None) -> None:
    """End a stream of guest RAM; a guest that is gone has none."""
    if guest is None:
        return
    try:
        guest.cancel_memory()
    except EXPECTED as exc:
        LOG.warning('guest RAM of instance %s: %s', guest.instance_uuid,
                    explain(exc))


def reset_before_run(device: contract.MigrationDevice) -> str:
    """What is lost when a VF was reset before it was first run here.

    A reset ends in RUNNING, and nothing else but a run leads there from the
    STOP in which a VF is verified.

    :returns: '' when it is as it was left.
    :raises contract.DeviceError: the device does not answer.
    """
    if not serves(device):
        return ''
    lost = (f'VF {device.address} was reset between PREPARED and its first '
            f'run: its GPU state is lost')
    LOG.error('%s; the guest gets it all the same', lost)
    return lost


def return_to_source(device: contract.MigrationDevice | None,
                     guest: vmm_port.Guest | None, *, run: bool,
                     left_running: bool = False) -> str:
    """Let VF and guest go on at the source, whatever it takes.

    A VF that can't go on is reset: the guest's driver then sees a GPU that
    was reset, as after a hang, which is better than a VM that stands still.

    :param run: whether the guest ran before the move; a paused one is left
        as it is.
    :param left_running: whether this handle has taken the VF out of RUNNING;
        one that is RUNNING then was reset. A reset before that leaves no
        trace in the contract, nor does one before the handle was opened: a
        VF whose handle was closed may be RUNNING again by that alone.
    :returns: what could not be kept, '' when all is as before.
    :raises contract.DeviceError, vmm_port.VMMError: not even that; try
        again later.
    """
    lost = ''
    if device is not None:
        try:
            if left_running and serves(device):
                lost = (f'VF {device.address} was reset during the move: its '
                        f'GPU state is lost')
            run_device(device)
        except contract.DeviceError as exc:
            lost = (f'the VF had to be reset, its GPU state is lost: '
                    f'{explain(exc)}')
            device.reset()
            run_device(device)
    if lost:
        LOG.error('%s; the guest goes on all the same', lost)
    if guest is not None and run:
        guest.run()
    return lost


def run_at_destination(device: contract.MigrationDevice | None,
                       guest: vmm_port.Guest | None, *, run: bool) -> None:
    """Serve the VF, then start the vCPUs; idempotent.

    :param run: as in return_to_source(); a paused guest has its VF, its RAM
        and its vCPUs' state here, and waits for whoever paused it.
    :raises contract.DeviceError, vmm_port.VMMError: try again, here.
    """
    if device is not None:
        run_device(device)
    if guest is None:
        return
    if run:
        guest.run()
    else:
        guest.take_over()


def discard(driver: contract.GPUDriver, address: str,
            device: contract.MigrationDevice | None) -> None:
    """Throw away what came: reset, close, and scrub if nobody holds it.

    A device that is RUNNING has nothing of ours (a reset ends there) and may
    be somebody else's by now: it is left alone. A paused guest may hold the
    VF until Nova removes it; its frame buffer is cleared when it is taken
    next.

    :raises contract.DeviceError: the VF still has what came.
    """
    if device is None:
        device = driver.open(address)
    try:
        if device.state() not in _SERVED:
            device.reset()
    finally:
        device.close()
    for pause in (0.0, 0.02, 0.1):
        # A host driver may learn of the close a moment later.
        time.sleep(pause)
        try:
            driver.scrub(address)
        except contract.DeviceError as exc:
            if exc.errno != errno.EBUSY:
                raise
        else:
            return
