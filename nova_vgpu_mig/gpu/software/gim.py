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

"""The PF: its VFs, its engines, and the calls of abi.py on its socket.

What a call does is in vf.py, migration.py and engines.py; here is who may
make it. A guest has its VF as long as its connection lasts. A migration has
it open as long as its connection lasts, and its state outlives that.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses
import errno
import functools
import os
import select
import threading
import time
from typing import Any

from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import engines
from nova_vgpu_mig.gpu.software import geometry as geometry_module
from nova_vgpu_mig.gpu.software import migration
from nova_vgpu_mig.gpu.software import scheduling
from nova_vgpu_mig.gpu.software import sections
from nova_vgpu_mig.gpu.software import vf as vf_module
from nova_vgpu_mig import unixcall

ERROR_RING = 64


class _Function:
    """A VF, its migration feature, and who holds them."""

    def __init__(self, vf: vf_module.VF,
                 feature: migration.Migration) -> None:
        self.vf = vf
        self.migration = feature
        self.guest: unixcall.Connection | None = None
        self.opener: unixcall.Connection | None = None

    @property
    def free(self) -> bool:
        return (self.guest is None and self.opener is None
                and self.migration.state is contract.DeviceState.RUNNING)


class GIM:
    """One PF. `methods` is the table that its socket serves."""

    def __init__(self, pf_address: str, who: identity.VFIdentity,
                 addresses: Sequence[str],
                 geometry: geometry_module.Geometry) -> None:
        self.pf_address = pf_address
        self.identity = who
        self._lock = threading.RLock()
        self._errors: collections.deque[dict[str, Any]] = collections.deque(
            maxlen=ERROR_RING)
        self._switch = engines.WorldSwitch(who.time_slices_us)
        self._functions: dict[str, _Function] = {}
        context = sections.context(who, dataclasses.asdict(geometry))
        static = sections.static_data(who)
        for index, address in enumerate(addresses):
            vf = vf_module.VF(address, index, geometry, self._switch.wake)
            self._functions[address] = _Function(vf, migration.Migration(
                vf, context, static,
                functools.partial(self._report, address)))
        self.methods: dict[str, Callable[..., Any]] = {
            method.__name__: method for method in (
                self.attach, self.detach, self.mmio_write, self.mmio_read,
                self.dma_logging_start, self.dma_logging_report,
                self.dma_logging_stop, self.migration_open,
                self.migration_close, self.get_state,
                self.set_state, self.precopy_info, self.data_size,
                self.reset, self.select_level, self.dirty_units,
                self.describe, self.dirtied, self.scrub, self.vf_state,
                self.slices, self.digest, self.hold, self.release,
                self.held, self.knob, self.errors)}

    def start(self) -> None:
        """Start the engines and listen for kicks."""
        self._switch.start(
            context for function in self._functions.values()
            for context in function.vf.contexts.values())
        threading.Thread(target=self._watch_kicks, name='kicks',
                         daemon=True).start()

    def _watch_kicks(self) -> None:
        by_fd = {function.vf.kick: function.vf
                 for function in self._functions.values()}
        with select.epoll() as poll:
            for fd in by_fd:
                poll.register(fd, select.EPOLLIN)
            while True:
                for fd, _ in poll.poll():
                    by_fd[fd].kicked()

    def _report(self, address: str, code: int, what: str) -> None:
        self._errors.append({
            'vf': address, 'code': errno.errorcode.get(code, str(code)),
            'what': what, 'time': time.time()})

    def _find(self, address: str) -> _Function:
        try:
            return self._functions[address]
        except (KeyError, TypeError):
            raise OSError(errno.ENODEV, f'PF {self.pf_address} has no VF '
                          f'{address!r}') from None

    def _present(self, address: str) -> _Function:
        function = self._find(address)
        if function.migration.knobs['vanish']:
            raise OSError(errno.ENODEV, f'VF {address} has gone (knob '
                          'vanish)')
        return function

    def _opened(self, connection: unixcall.Connection,
                address: str) -> _Function:
        function = self._present(address)
        if function.opener is not connection:
            raise OSError(errno.EBADF, f'VF {address} is not open for '
                          'migration on this connection')
        return function

    # A guest's calls

    def attach(self, connection: unixcall.Connection, fds: list[int],
               vf: str, ram_bytes: int,
               incoming: bool = False) -> unixcall.WithFds:
        try:
            function = self._present(vf)
            if len(fds) != 1:
                raise OSError(errno.EINVAL, 'attach needs one descriptor, '
                              'guest RAM')
            with self._lock:
                out = self._attach(function, connection, fds[0], ram_bytes,
                                   incoming)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return unixcall.WithFds(self._shape(function), out)

    def _attach(self, function: _Function, connection: unixcall.Connection,
                fd: int, ram_bytes: int, incoming: bool) -> list[int]:
        held = function.guest is not None or (
            function.opener is not None and not incoming)
        if held:
            raise OSError(errno.EBUSY, f'VF {function.vf.address} is taken')
        fresh = (not incoming or function.migration.state
                 is contract.DeviceState.RUNNING)
        out = function.vf.attach(fd, ram_bytes)
        if fresh:
            function.migration.reset()
            function.vf.clear_frame_buffer()
        if incoming:
            function.migration.wait_for_migration()
        function.guest = connection
        connection.on_close.append(
            lambda: self._detach(function, connection))
        return out

    def _detach(self, function: _Function,
                connection: unixcall.Connection) -> None:
        with self._lock:
            if function.guest is not connection:
                return
            function.guest = None
            function.vf.detach()
            function.migration.driver_changed()
            if function.opener is None:
                function.migration.reset()

    def detach(self, connection: unixcall.Connection, fds: list[int],
               vf: str) -> None:
        self._detach(self._find(vf), connection)

    @staticmethod
    def _shape(function: _Function) -> dict[str, Any]:
        geometry = function.vf.geometry
        return {'frame_buffer_bytes': geometry.frame_buffer_bytes,
                'unit_size': geometry.unit_bytes}

    def mmio_write(self, connection: unixcall.Connection, fds: list[int],
                   vf: str, register: int, value: int) -> None:
        function = self._find(vf)
        function.vf.mmio_write(register, value)
        if register == abi.Register.DRIVER_STATE:
            function.migration.driver_changed()

    def mmio_read(self, connection: unixcall.Connection, fds: list[int],
                  vf: str, register: int) -> int:
        return self._find(vf).vf.mmio_read(register)

    def dma_logging_start(self, connection: unixcall.Connection,
                          fds: list[int], vf: str, page_size: int,
                          ranges: list[list[int]]) -> None:
        found = self._present(vf).vf
        if found.ram is None:
            raise OSError(errno.EINVAL, f'VF {vf} has no guest whose memory '
                          'could be logged')
        found.log.start(page_size, [(iova, length)
                                    for iova, length in ranges],
                        found.ram.length)

    def dma_logging_report(self, connection: unixcall.Connection,
                           fds: list[int], vf: str, iova: int, length: int,
                           page_size: int) -> str:
        if length > abi.REPORT_PAGES * page_size:
            raise OSError(errno.EINVAL, f'a report of {length} bytes is '
                          f'over {abi.REPORT_PAGES} pages')
        return dirty.to_hex(self._present(vf).vf.log.report(
            iova, length, page_size))

    def dma_logging_stop(self, connection: unixcall.Connection,
                         fds: list[int], vf: str) -> None:
        self._present(vf).vf.log.stop()

    # A migration's calls

    def migration_open(self, connection: unixcall.Connection,
                       fds: list[int], vf: str) -> unixcall.WithFds:
        function = self._present(vf)
        with self._lock:
            if function.opener is not None:
                raise OSError(errno.EBUSY, f'VF {vf} is open for migration '
                              'already')
            function.opener = connection
            if function.migration.state is contract.DeviceState.RUNNING:
                function.migration.select_level(contract.Level.STREAM)
        connection.on_close.append(
            lambda: self._close(function, connection))
        return unixcall.WithFds(
            self._shape(function) | {
                'flags': int(migration.FLAGS),
                'level': function.migration.level.value},
            [function.vf.frame_buffer.fd])

    def _close(self, function: _Function,
               connection: unixcall.Connection) -> None:
        with self._lock:
            if function.opener is connection:
                function.opener = None

    def migration_close(self, connection: unixcall.Connection,
                        fds: list[int], vf: str) -> None:
        self._close(self._find(vf), connection)

    def get_state(self, connection: unixcall.Connection, fds: list[int],
                  vf: str) -> int:
        return int(self._present(vf).migration.state)

    def set_state(self, connection: unixcall.Connection, fds: list[int],
                  vf: str, state: int) -> unixcall.WithFds:
        function = self._opened(connection, vf)
        made = function.migration.set_state(contract.DeviceState(state))
        if made is None:
            return unixcall.WithFds({'stream': False}, [])
        return unixcall.WithFds({'stream': True}, [made.detach()],
                                transfer=True)

    def precopy_info(self, connection: unixcall.Connection, fds: list[int],
                     vf: str) -> dict[str, int]:
        return dataclasses.asdict(
            self._present(vf).migration.precopy_info())

    def data_size(self, connection: unixcall.Connection, fds: list[int],
                  vf: str) -> int:
        return self._present(vf).migration.data_size()

    def reset(self, connection: unixcall.Connection, fds: list[int],
              vf: str) -> None:
        self._present(vf).migration.reset()

    def select_level(self, connection: unixcall.Connection, fds: list[int],
                     vf: str, level: str) -> None:
        self._opened(connection, vf).migration.select_level(
            contract.Level(level))

    def dirty_units(self, connection: unixcall.Connection, fds: list[int],
                    vf: str, clear: bool) -> str:
        return dirty.to_hex(
            self._present(vf).migration.query_dirty(clear))

    # An administrator's calls

    def describe(self, connection: unixcall.Connection,
                 fds: list[int]) -> dict[str, Any]:
        return {'pf': self.pf_address,
                'identity': dataclasses.asdict(self.identity),
                'vfs': [self._describe(function)
                        for function in self._functions.values()]}

    @staticmethod
    def _describe(function: _Function) -> dict[str, Any]:
        vf, feature = function.vf, function.migration
        state = scheduling.scheduler_state(
            vf.shared.driver_state, vf.shared.scheduled,
            not feature.knobs['vanish'])
        touched = int(vf.units.touched().sum())
        return {'address': vf.address, 'index': vf.index,
                'state': state.value, 'free': function.free,
                'migration_state': feature.state.name,
                'guest': function.guest is not None,
                'used_bytes': touched * vf.geometry.unit_bytes}

    def dirtied(self, connection: unixcall.Connection, fds: list[int],
                vf: str, seconds: float) -> int:
        if not 0 < seconds <= 10:
            raise OSError(errno.EINVAL, f'{seconds} s: more than 0, and at '
                          'most 10')
        units = self._present(vf).vf.units
        units.begin_sample()
        try:
            time.sleep(seconds)
        finally:
            found = units.end_sample()
        return found * units.unit_bytes

    def scrub(self, connection: unixcall.Connection, fds: list[int],
              vf: str) -> None:
        function = self._present(vf)
        with self._lock:
            if function.guest is not None or function.opener is not None:
                who = ('a guest' if function.guest is not None
                       else 'a migration')
                raise OSError(errno.EBUSY, f'VF {vf} is held by {who}')
            function.migration.reset()
            function.vf.clear_frame_buffer()

    def vf_state(self, connection: unixcall.Connection, fds: list[int],
                 vf: str) -> dict[str, Any]:
        return self._find(vf).vf.describe_state()

    def slices(self, connection: unixcall.Connection,
               fds: list[int]) -> dict[str, dict[str, int]]:
        return {address: {engine.name: context.slices for engine, context
                          in function.vf.contexts.items()}
                for address, function in self._functions.items()}

    def digest(self, connection: unixcall.Connection, fds: list[int],
               vf: str) -> str:
        return self._find(vf).vf.digest()

    def hold(self, connection: unixcall.Connection, fds: list[int], vf: str,
             engine: int, work_units: int) -> None:
        self._find(vf).vf.set_hold(abi.Engine(engine), work_units)

    def release(self, connection: unixcall.Connection, fds: list[int],
                vf: str) -> None:
        for engine in abi.Engine:
            self._find(vf).vf.set_hold(engine, None)

    def held(self, connection: unixcall.Connection, fds: list[int],
             vf: str) -> dict[str, bool]:
        return {engine.name: context.held for engine, context
                in self._find(vf).vf.contexts.items()}

    def knob(self, connection: unixcall.Connection, fds: list[int], vf: str,
             name: str, value: Any) -> None:
        self._find(vf).migration.knobs.set(name, value)

    def errors(self, connection: unixcall.Connection,
               fds: list[int]) -> list[dict[str, Any]]:
        return list(self._errors)
