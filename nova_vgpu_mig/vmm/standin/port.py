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


"""The VMM port for the stand-in: guests are processes with a socket."""

import errno
import os
import pathlib
import threading
from typing import Any
import uuid

from oslo_config import cfg

from nova_vgpu_mig.conf import vmm_standin as vmm_standin_conf
from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm import port

_TIMEOUT = 60.0
"""Seconds for a call; the last round of guest RAM is the longest."""


_NOBODY = frozenset((errno.ENOENT, errno.ECONNREFUSED))
"""No socket, or one on which no process listens any more."""


class StandinGuest(port.Guest):
    """One guest process."""

    def __init__(self, instance_uuid: str, path: str,
                 memory_host: str) -> None:
        """:raises OSError: no process listens at `path`."""
        self.instance_uuid = instance_uuid
        self._path = path
        self._memory_host = memory_host
        self._mutex = threading.Lock()
        self._client: unixcall.Client = self._connect()

    def _connect(self) -> unixcall.Client:
        return unixcall.Client(self._path, timeout=_TIMEOUT)

    def _call(self, method: str, **args: Any) -> Any:
        try:
            with self._mutex:
                # A call that had no answer has closed its connection.
                if self._client.closed:
                    self._client = self._connect()
                client = self._client
            return client.call(method, **args)
        except OSError as exc:
            raise port.VMMError(
                f'instance {self.instance_uuid}: {method}: '
                f'{exc.strerror or exc}') from exc

    def state(self) -> port.GuestState:
        return port.GuestState(self._call('state'))

    def stop(self) -> None:
        self._call('stop')

    def run(self) -> None:
        self._call('run')

    def take_over(self) -> None:
        self._call('take_over')

    def listen_memory(self) -> port.MemoryEndpoint:
        return port.MemoryEndpoint(
            **self._call('listen_memory', host=self._memory_host))

    def begin_memory(self, endpoint: port.MemoryEndpoint) -> None:
        self._call('begin_memory', host=endpoint.host,
                   port_number=endpoint.port, token=endpoint.token)

    def memory_progress(self) -> port.MemoryProgress:
        return port.MemoryProgress(**self._call('memory_progress'))

    def finish_memory(self) -> port.MemoryReport:
        return port.MemoryReport(**self._call('finish_memory'))

    def cancel_memory(self) -> None:
        self._call('cancel_memory')

    def memory_digest(self) -> str:
        return str(self._call('memory_digest'))

    def first_fence_seconds(self) -> float | None:
        seconds = self._call('first_fence')
        return None if seconds is None else float(seconds)

    def close(self) -> None:
        with self._mutex:
            self._client.close()


class StandinPort(port.VMMPort):
    """Guests under `[vmm_standin] runtime_dir`."""

    name = 'standin'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        vmm_standin_conf.register_opts(conf)
        self._conf = conf.vmm_standin

    def evaluate_support(self) -> int:
        """1 where the directory of guests is there: any real VMM wins."""
        return int(pathlib.Path(self._conf.runtime_dir).is_dir())

    def guest(self, instance_uuid: str) -> StandinGuest:
        try:
            name = str(uuid.UUID(instance_uuid))
        except ValueError:
            raise port.GuestNotFound(
                f'{instance_uuid!r} is not an instance UUID') from None
        path = os.path.join(self._conf.runtime_dir, f'{name}.sock')
        try:
            return StandinGuest(name, path, self._conf.memory_host)
        except OSError as exc:
            if exc.errno not in _NOBODY:
                # It may be there: what is unknown must not look settled.
                raise port.VMMError(
                    f'instance {name} can not be reached under the VMM '
                    f'stand-in of this host: {exc.strerror or exc}') from exc
            raise port.GuestNotFound(
                f'instance {name} does not run under the VMM stand-in of '
                f'this host: {exc.strerror or exc}') from exc
