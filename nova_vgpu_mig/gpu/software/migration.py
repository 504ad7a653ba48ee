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

"""A VF's migration state machine, as the kernel's variant driver has it.

The state belongs to the VF, not to whoever opened it: an agent that dies in
the middle finds it again. Arcs are walked as the kernel walks them
(gpu.arcs); each step either happens or leaves the state as it was, except
for a stream that proves short at RESUMING -> STOP, which is ERROR.
"""

from collections.abc import Callable
import errno
import socket
import threading

from nova_vgpu_mig.gpu import arcs
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import dirty
from nova_vgpu_mig.gpu.software import dynamic
from nova_vgpu_mig.gpu.software import export
from nova_vgpu_mig.gpu.software import knobs
from nova_vgpu_mig.gpu.software import restore
from nova_vgpu_mig.gpu.software import sections
from nova_vgpu_mig.gpu.software import stream
from nova_vgpu_mig.gpu.software import vf as vf_module

_S = contract.DeviceState
FLAGS = contract.MigrationFlag.STOP_COPY | contract.MigrationFlag.PRE_COPY

DRAIN_SECONDS = 1.0
"""How long a VF may take to leave the engines (GIM's bound)."""


class _End:
    """The end of a data socket in the GIM; dead once its states are left."""

    def __init__(self, owner: 'Migration') -> None:
        self._owner = owner

    def read(self, most: int) -> memoryview:
        return self._owner.read(self, most)

    def write(self, data: memoryview) -> None:
        self._owner.write(self, data)


class Migration:
    """The VFIO migration feature of one VF."""

    def __init__(self, vf: vf_module.VF, context: bytes, static: bytes,
                 report: Callable[[int, str], None]) -> None:
        """:param report: puts (errno, text) into the error ring."""
        self.vf = vf
        self.knobs = knobs.Knobs()
        self.state = _S.RUNNING
        self.level = contract.Level.STREAM
        self._context = context
        self._static = static
        self._report = report
        self._changing = threading.Lock()
        self._lock = threading.RLock()
        self._end: _End | None = None
        self._exporter: export.Exporter | None = None
        self._importer: restore.Importer | None = None
        self._spoilt: str | None = None
        self._resets = 0

    def error(self, code: int, what: str) -> OSError:
        """Note a failure and return it, to be raised."""
        self._report(code, what)
        return OSError(code, what)

    # States

    def set_state(self, target: contract.DeviceState) -> (
            socket.socket | None):
        """Walk to `target`; return the data socket if one was made.

        :raises OSError: EINVAL no such arc, EBUSY another change runs, the
            guest driver is loading or the VF does not leave its engines,
            EIO a device failure.
        """
        if not self._changing.acquire(blocking=False):
            raise OSError(errno.EBUSY, 'another state change is under way')
        try:
            made: socket.socket | None = None
            resets = self._resets
            for step in arcs.path(self.state, target, FLAGS):
                self.knobs.wait_while('hang_at', step.name)
                with self._lock:
                    if resets != self._resets:
                        raise self.error(errno.EIO, 'the VF was reset on '
                                         f'its way to {target.name}')
                    made = self._step(step)
                    self.state = step
            return made
        finally:
            self._changing.release()

    def _step(self, target: contract.DeviceState) -> socket.socket | None:
        """One direct arc."""
        match (self.state, target):
            case (_S.RUNNING, _S.PRE_COPY):
                self._require_settled()
                self._spoilt = None
                self.vf.units.begin()
                return self._begin_export()
            case (_S.PRE_COPY, _S.RUNNING):
                self._end_stream()
            case (_S.PRE_COPY, _S.STOP_COPY):
                self._require_settled()
                self._quiesce()
                self._finish_export()
            case (_S.RUNNING, _S.STOP):
                self._require_settled()
                self._quiesce()
            case (_S.STOP, _S.RUNNING):
                if self.knobs.take('fail_run_once'):
                    raise self.error(errno.EIO, 'the VF did not enter the '
                                     'schedule (knob fail_run_once)')
                self.vf.run()
            case (_S.STOP, _S.STOP_COPY):
                self.vf.units.begin()
                made = self._begin_export()
                self._finish_export()
                return made
            case (_S.STOP_COPY, _S.STOP):
                self._end_stream()
            case (_S.STOP, _S.RESUMING):
                return self._begin_import()
            case (_S.RESUMING, _S.STOP):
                self._finish_import()
        return None

    def _require_settled(self) -> None:
        state = self.vf.shared.driver_state
        if state == dynamic.DRIVER_LOADING:
            raise self.error(errno.EBUSY, 'the guest driver is loading or '
                             'the VF is in reset (FULLACCESS)')
        if self._spoilt is not None and self.state is _S.PRE_COPY:
            raise self.error(errno.EBUSY, self._spoilt)

    def driver_changed(self) -> None:
        """The guest wrote DRIVER_STATE: a pre-copy has lost its basis."""
        if self.state is _S.PRE_COPY:
            self._spoilt = ('the guest driver was loaded or unloaded during '
                            'pre-copy')

    def _quiesce(self) -> None:
        if self.knobs['refuse_preempt']:
            self.knobs.wait_while('refuse_preempt', True, DRAIN_SECONDS)
            if self.knobs['refuse_preempt']:
                raise self.error(errno.EBUSY, 'the VF did not leave its '
                                 f'engines within {DRAIN_SECONDS} s')
        self.vf.stop()

    # Streams

    def _open_end(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        end = self._end = _End(self)
        threading.Thread(
            target=stream.serve, args=(ours, end), daemon=True,
            name=f'stream-{self.vf.address}').start()
        return theirs

    def _end_stream(self) -> None:
        self._end = None
        self._exporter = None
        self._importer = None

    def query_dirty(self, clear: bool) -> dirty.Flags:
        """Read the dirty flags, and clear them if asked."""
        found = self.vf.units.query(clear=clear)
        if clear and self.knobs['lose_dirty'] and found.any():
            found[int(found.argmax())] = False
        return found

    def _begin_export(self) -> socket.socket:
        self._exporter = export.Exporter(
            self.level, self._context, self._static, self.vf.frame_buffer,
            self.vf.units, lambda: self.query_dirty(clear=True))
        return self._open_end()

    def _finish_export(self) -> None:
        assert self._exporter is not None
        self._exporter.stop_copy(knobs.damage(
            self.vf.save(), self.knobs, self.vf.geometry.work_unit_bytes))

    def _begin_import(self) -> socket.socket:
        self.vf.clear_frame_buffer()
        self._importer = restore.Importer(
            self.level, self._context, self._static, self.vf.frame_buffer,
            self.vf.units, self.vf.geometry.work_unit_bytes,
            self.knobs['import_error'])
        return self._open_end()

    def _finish_import(self) -> None:
        assert self._importer is not None
        importer = self._importer
        self._end_stream()
        try:
            state = importer.finish()
        except sections.BadStream as exc:
            self.state = _S.ERROR
            raise self.error(errno.EINVAL, f'import failed: {exc}') from exc
        self.vf.load(state)

    def read(self, end: _End, most: int) -> memoryview:
        with self._lock:
            self._require_present()
            if end is not self._end or self._exporter is None:
                raise OSError(errno.ENODEV, f'the stream is over: the VF is '
                              f'in {self.state.name}')
            here = ('pre-copy' if self.state is _S.PRE_COPY else 'stop-copy')
            if self.knobs['export_error'] == here:
                raise self.error(errno.EIO, f'export failed in {here} (knob '
                                 'export_error)')
            if self._spoilt is not None and self.state is _S.PRE_COPY:
                raise self.error(errno.EIO, self._spoilt)
            return self._exporter.read(most)

    def write(self, end: _End, data: memoryview) -> None:
        with self._lock:
            self._require_present()
            if end is not self._end or self._importer is None:
                raise OSError(errno.ENODEV, f'the stream is over: the VF is '
                              f'in {self.state.name}')
            try:
                self._importer.write(data)
            except sections.BadStream as exc:
                raise self.error(errno.EINVAL,
                                 f'import failed: {exc}') from exc

    def _require_present(self) -> None:
        if self.knobs['vanish']:
            raise OSError(errno.ENODEV, 'the VF has gone (knob vanish)')

    # The rest

    def precopy_info(self) -> contract.PrecopyInfo:
        """:raises OSError: EINVAL outside of PRE_COPY."""
        with self._lock:
            if self.state is not _S.PRE_COPY or self._exporter is None:
                raise OSError(errno.EINVAL, 'pre-copy info exists in '
                              f'PRE_COPY only, the VF is in '
                              f'{self.state.name}')
            return self._exporter.info()

    def data_size(self) -> int:
        """Estimate of the stop-copy stream, bytes."""
        with self._lock:
            if self._exporter is not None:
                return self._exporter.left()
            count = self.vf.units.count
            size = dynamic.size(-(-count // 8)) + len(self._static)
            if self.level is contract.Level.STREAM:
                size += self.vf.geometry.frame_buffer_bytes
            return size

    def select_level(self, level: contract.Level) -> None:
        """:raises OSError: EBUSY while a migration is under way."""
        with self._lock:
            if self.state not in (_S.RUNNING, _S.STOP):
                raise OSError(errno.EBUSY, 'the level cannot change in '
                              f'{self.state.name}')
            self.level = level

    def reset(self) -> None:
        """Function reset: RUNNING, nothing loaded, whatever was before."""
        with self._lock:
            self._resets += 1
            self._end_stream()
            self._spoilt = None
            self.vf.stop()
            self.vf.clear_state()
            self.vf.run()
            self.state = _S.RUNNING

    def wait_for_migration(self) -> None:
        """An incoming guest came: not scheduled until a migration says."""
        with self._lock:
            if self.state is _S.RUNNING:
                self.vf.stop()
                self.state = _S.STOP
