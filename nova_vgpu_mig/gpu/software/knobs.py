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

"""Failures on demand: what tests and the demo may make a VF do wrong.

All of them in one table, one set for each VF, unknown names refused. The
first half are failures that a migration must survive; the second half are
broken GPUs, which the twin comparison must catch: a comparison that has
never failed proves nothing.
"""

from collections.abc import Callable
import dataclasses
import errno
import threading
from typing import Any

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import execute


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError('true or false')
    return value


def _state(value: Any) -> str:
    names = [state.name for state in contract.DeviceState]
    if value not in ('', *names):
        raise ValueError("'' or one of " + ', '.join(names))
    return str(value)


def _export(value: Any) -> str:
    if value not in ('', 'pre-copy', 'stop-copy'):
        raise ValueError("'', 'pre-copy' or 'stop-copy'")
    return str(value)


def _phase(value: Any) -> int:
    if isinstance(value, bool) or value not in (0, 1, 2, 3):
        raise ValueError('0 (none), 1, 2 or 3')
    return int(value)


KNOBS: dict[str, tuple[Any, Callable[[Any], Any], str]] = {
    'hang_at': ('', _state, 'the change to this state waits until the knob '
                'is set to something else'),
    'refuse_preempt': (False, _boolean, 'engines go on: leaving RUNNING or '
                       'PRE_COPY for a stopped state times out with EBUSY'),
    'export_error': ('', _export, 'reading the stream fails with EIO there'),
    'import_error': (0, _phase, 'the import fails with EINVAL in phase 1 '
                     '(context), 2 (static) or 3 (dynamic)'),
    'fail_run_once': (False, _boolean, 'the next STOP -> RUNNING fails with '
                      'EIO'),
    'vanish': (False, _boolean, 'the host reaches the VF no more: a '
               "migration's calls and streams, attach and scrub give "
               'ENODEV'),
    'restart_command': (False, _boolean, 'broken: an exported preempted '
                        'command begins again'),
    'skip_work': (False, _boolean, 'broken: an exported preempted command '
                  'leaves out a work unit'),
    'lose_dirty': (False, _boolean, 'broken: each dirty query forgets its '
                   'lowest dirty unit'),
    'lose_doorbell': (False, _boolean, 'broken: an export forgets what is '
                      'submitted and not fetched'),
    'lose_interrupt': (False, _boolean, 'broken: an export forgets the last '
                       'interrupt of each engine'),
}
"""Name -> default, check of a value, what it does."""


class Knobs:
    """The knobs of one VF, and waiting for them."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._values = {name: default
                        for name, (default, _, _) in KNOBS.items()}

    def set(self, name: str, value: Any) -> None:
        """:raises OSError: EINVAL for a name or a value that is unknown."""
        if name not in KNOBS:
            raise OSError(errno.EINVAL, f'no knob {name!r}; there are '
                          + ', '.join(KNOBS))
        try:
            checked = KNOBS[name][1](value)
        except (ValueError, TypeError) as exc:
            raise OSError(errno.EINVAL, f'knob {name}: {value!r} is not '
                          f'{exc}') from exc
        with self._changed:
            self._values[name] = checked
            self._changed.notify_all()

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    def take(self, name: str) -> Any:
        """Read a knob and set it back to its default: it acts once."""
        with self._changed:
            value = self._values[name]
            self._values[name] = KNOBS[name][0]
        return value

    def wait_while(self, name: str, value: Any,
                   timeout: float | None = None) -> None:
        """Return when the knob differs from `value`, or after `timeout`."""
        with self._changed:
            self._changed.wait_for(lambda: self._values[name] != value,
                                   timeout)


def damage(state: dynamic.DynamicState, knobs: Knobs,
           work_unit_bytes: int) -> dynamic.DynamicState:
    """Break an exported state in the ways the knobs ask for."""
    return dataclasses.replace(state, engines=tuple(
        _damage_engine(engine, knobs, work_unit_bytes)
        for engine in state.engines))


def _damage_engine(engine: dynamic.EngineState, knobs: Knobs,
                   work_unit_bytes: int) -> dynamic.EngineState:
    none = dynamic.EngineState().preempted
    if knobs['restart_command'] and engine.done:
        engine = dataclasses.replace(engine, done=0, preempted=none)
    if knobs['skip_work'] and engine.done:
        command = abi.Command.unpack(engine.preempted)
        done = engine.done + 1
        engine = dataclasses.replace(engine, done=done,
                                     retired_units=engine.retired_units + 1)
        if done == execute.unit_count(command, work_unit_bytes):
            engine = dataclasses.replace(
                engine, done=0, preempted=none,
                retired_commands=engine.retired_commands + 1)
    if knobs['lose_doorbell']:
        fetched = engine.retired_commands + bool(engine.done)
        engine = dataclasses.replace(engine, doorbell=fetched)
    if knobs['lose_interrupt'] and engine.interrupts_raised:
        engine = dataclasses.replace(
            engine, interrupts_raised=engine.interrupts_raised - 1,
            interrupts_pending=max(0, engine.interrupts_pending - 1))
    return engine
