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

"""The state machine of VFIO migration v2, as a pure function.

A device implements direct arcs only. The kernel's core (and so the software
GIM, which stands for it) walks from one state to any other by asking for the
next state again and again. A driver of a real device needs none of this: the
kernel does it. But the software GIM must refuse and walk exactly as the
kernel, and the tests of every driver need to know what that is.

Rejected: a search for the shortest path. The kernel's choice is not always
the shortest one: it never opens a data stream on the way to another state.
"""

import errno

from nova_vgpu_mig.gpu import contract

_S = contract.DeviceState
_F = contract.MigrationFlag

REQUIRED = {
    _S.STOP: _F.STOP_COPY,
    _S.RUNNING: _F.STOP_COPY,
    _S.STOP_COPY: _F.STOP_COPY,
    _S.RESUMING: _F.STOP_COPY,
    _S.RUNNING_P2P: _F.STOP_COPY | _F.P2P,
    _S.PRE_COPY: _F.STOP_COPY | _F.PRE_COPY,
    _S.PRE_COPY_P2P: _F.STOP_COPY | _F.PRE_COPY | _F.P2P,
}
"""The flags that a device must offer for a state to exist."""

_WAY_OUT: dict[contract.DeviceState,
               tuple[contract.DeviceState,
                     dict[contract.DeviceState, contract.DeviceState]]] = {
    _S.STOP: (_S.RUNNING_P2P, {_S.STOP_COPY: _S.STOP_COPY,
                               _S.RESUMING: _S.RESUMING}),
    _S.RUNNING: (_S.RUNNING_P2P, {_S.PRE_COPY: _S.PRE_COPY}),
    _S.RUNNING_P2P: (_S.STOP, {_S.RUNNING: _S.RUNNING,
                               _S.PRE_COPY: _S.RUNNING,
                               _S.PRE_COPY_P2P: _S.PRE_COPY_P2P}),
    _S.PRE_COPY: (_S.RUNNING, {_S.PRE_COPY_P2P: _S.PRE_COPY_P2P,
                               _S.STOP_COPY: _S.PRE_COPY_P2P}),
    _S.PRE_COPY_P2P: (_S.RUNNING_P2P, {_S.PRE_COPY: _S.PRE_COPY,
                                       _S.STOP_COPY: _S.STOP_COPY}),
    _S.STOP_COPY: (_S.STOP, {_S.PRE_COPY: _S.ERROR,
                             _S.PRE_COPY_P2P: _S.ERROR}),
    _S.RESUMING: (_S.STOP, {}),
}
"""State -> the next one towards everything, and the exceptions by target."""


class NoArc(OSError):
    """EINVAL: the kernel would refuse to go there."""

    def __init__(self, current: contract.DeviceState,
                 target: contract.DeviceState) -> None:
        super().__init__(errno.EINVAL, f'there is no way from {current.name} '
                         f'to {target.name} on this device')


def offered(state: contract.DeviceState,
            flags: contract.MigrationFlag) -> bool:
    """Whether a device with `flags` has `state`. ERROR is nobody's target."""
    return state in REQUIRED and REQUIRED[state] in flags


def next_state(current: contract.DeviceState, target: contract.DeviceState,
               flags: contract.MigrationFlag) -> contract.DeviceState:
    """Return the state to go to next on the way from current to target.

    :raises NoArc: no legal way, or a state that `flags` don't offer.
    """
    if not offered(current, flags) or not offered(target, flags):
        raise NoArc(current, target)
    if current is target:
        return target
    step = _look_up(current, target)
    while step is not contract.DeviceState.ERROR and not offered(step, flags):
        step = _look_up(step, target)
    if step is contract.DeviceState.ERROR:
        raise NoArc(current, target)
    return step


def _look_up(current: contract.DeviceState,
             target: contract.DeviceState) -> contract.DeviceState:
    towards_all, exceptions = _WAY_OUT[current]
    return exceptions.get(target, towards_all)


def path(current: contract.DeviceState, target: contract.DeviceState,
         flags: contract.MigrationFlag) -> tuple[contract.DeviceState, ...]:
    """Return the states after `current`, `target` last; () if there already.

    :raises NoArc: as next_state().
    """
    steps: list[contract.DeviceState] = []
    while not steps or steps[-1] is not target:
        step = next_state(steps[-1] if steps else current, target, flags)
        if step is current and not steps:
            return ()
        steps.append(step)
    return tuple(steps)
