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

"""One connection to libvirtd, kept: its events, and back after a restart.

libvirt has one event loop for a process, and it has to be there before the
first connection is opened. The thread that runs it also calls the
subscribers; it never calls libvirt, because an answer would have to come
through the very loop that waits for it. A second thread, for as long as there
is no connection, opens the next one.
"""

from collections.abc import Callable
import logging
import threading
from typing import Any

from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm.libvirt import binding as binding_

LOG = logging.getLogger(__name__)

_AGAIN_SECONDS = 1.0
_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT = 5, 3

_loop_mutex = threading.Lock()
_loop_runs = False


def _run_loop(libvirt: Any) -> None:
    """Start the process's event loop, once; it ends with the process."""
    global _loop_runs
    with _loop_mutex:
        if _loop_runs:
            return
        libvirt.virEventRegisterDefaultImpl()

        def loop() -> None:
            while True:
                try:
                    libvirt.virEventRunDefaultImpl()
                except Exception:
                    LOG.exception('libvirt\'s event loop goes on after')

        threading.Thread(target=loop, name='libvirt-events',
                         daemon=True).start()
        _loop_runs = True


class Connection:
    """A virConnect that is there again after libvirtd was restarted."""

    def __init__(self, binding: binding_.Binding, uri: str,
                 opened: Callable[[Any], None],
                 lost: Callable[[], None]) -> None:
        """Nothing is opened before the first get().

        :param opened: called with each new virConnect, to register events.
        :param lost: called when one is gone, in the loop's thread.
        """
        self._binding = binding
        self._uri = uri
        self._opened = opened
        self._lost = lost
        self._mutex = threading.Lock()
        self._connection: Any | None = None
        self._closed = threading.Event()

    def get(self) -> Any:
        """Return an open virConnect.

        :raises hypervisor.HypervisorError: libvirtd can't be reached now.
        """
        with self._mutex:
            if self._closed.is_set():
                raise hypervisor.HypervisorError('the agent goes down')
            if self._connection is None:
                self._connection = self._open()
            return self._connection

    def _open(self) -> Any:
        libvirt = self._binding.libvirt
        _run_loop(libvirt)
        try:
            made = libvirt.open(self._uri)
            made.setKeepAlive(_KEEPALIVE_SECONDS, _KEEPALIVE_COUNT)
            made.registerCloseCallback(self._closed_by_peer, None)
            self._opened(made)
        except libvirt.libvirtError as exc:
            raise hypervisor.HypervisorError(
                f'libvirt at {self._uri} can not be reached: {exc}; check '
                f'that libvirtd (or virtqemud) runs and that the agent\'s '
                f'user may use its socket (group libvirt, on most '
                f'distributions)') from exc
        LOG.info('connected to libvirt at %s', self._uri)
        return made

    def _closed_by_peer(self, connection: Any, reason: int,
                        opaque: Any) -> None:
        LOG.warning('the connection to libvirt at %s was lost; it is opened '
                    'again as soon as libvirtd answers', self._uri)
        # First: whoever looks through the next one has to know that there
        # was a gap.
        self._lost()
        threading.Thread(target=self._come_back, args=(connection,),
                         name='libvirt-again', daemon=True).start()

    def _come_back(self, gone: Any) -> None:
        with self._mutex:
            if self._connection is gone:
                self._connection = None
        while not self._closed.wait(_AGAIN_SECONDS):
            try:
                self.get()
                return
            except hypervisor.HypervisorError as exc:
                LOG.debug('%s', exc)
            except Exception:
                LOG.exception('libvirt at %s', self._uri)

    def close(self) -> None:
        self._closed.set()
        with self._mutex:
            made, self._connection = self._connection, None
        if made is not None:
            try:
                made.unregisterCloseCallback()
                made.close()
            except self._binding.libvirt.libvirtError as exc:
                LOG.debug('closing libvirt: %s', exc)
