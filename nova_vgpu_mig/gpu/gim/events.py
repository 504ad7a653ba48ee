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

"""What GIM says of migrations that fail, for the text of an error.

The kernel passes on a bare EINVAL; the reason is an event of GIM's. One
thread reads the events of all GPUs from the first look at them until the
driver is closed, so that those of a migration are known when it fails, and
in the agent's log where QEMU has the VF open.

Order counts and no clock: what was read since a VF was opened belongs to
what is done with it.
"""

from collections.abc import Callable
import dataclasses
import logging
import threading
from typing import Any

from nova_vgpu_mig.gpu.gim import library as library_

LOG = logging.getLogger(__name__)

MIGRATION = frozenset({'FW_MIGRATION_EXPORT_FAIL', 'FW_MIGRATION_IMPORT_FAIL',
                       'FW_MIGRATION_GET_PSP_INFO_FAIL'})
KEPT = 256
"""Events that are remembered; a failed migration brings one or two."""

READ_MICROSECONDS = 500_000
"""How long one read waits, and so how long the end of the thread may."""

PAUSE_SECONDS = 5.0
"""Before the events are asked for again after a failure."""

GRACE_SECONDS = 0.5
"""An event may come after the error that it explains."""


@dataclasses.dataclass(frozen=True, slots=True)
class Event:
    number: int
    address: str
    """Of the VF; '' for one of the GPU as a whole."""

    text: str


class Events:
    """The events of GIM, as long as this is open."""

    def __init__(self, library: Callable[[], library_.Library]) -> None:
        """Nothing is read before begin()."""
        self._library = library
        self._changed = threading.Condition()
        self._seen: list[Event] = []
        self._count = 0
        self._reads = False
        self._trouble = ''
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self) -> int:
        """Read from now on; the number that the next event will have.

        Returns when the events are read, or can't be: one that comes from
        then on is not missed.
        """
        with self._changed:
            if self._thread is None and not self._closing.is_set():
                self._thread = threading.Thread(
                    target=self._run, name='gim-events', daemon=True)
                self._thread.start()
                self._changed.wait(GRACE_SECONDS)
            return self._count

    def since(self, number: int, address: str) -> list[str]:
        """What was said of a VF since then; waits a little for the first."""
        def found() -> list[str]:
            return [event.text for event in self._seen
                    if event.number >= number
                    and event.address in (address, '')]

        with self._changed:
            if self._reads:
                self._changed.wait_for(found, GRACE_SECONDS)
            return found()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._closing.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._read_on()
            except Exception as exc:
                # Once: a library without events is asked again for ever.
                if repr(exc) != self._trouble:
                    LOG.exception('The events of GIM can not be read; a '
                                  'failed migration will not say why. Tried '
                                  'again')
                self._trouble = repr(exc)
            with self._changed:
                self._reads = False
                self._changed.notify_all()
            self._closing.wait(PAUSE_SECONDS)

    def _read_on(self) -> None:
        library = self._library()
        words = library.module
        handles = library.call('get_processor_handles')
        gpus = frozenset(
            str(library.call('get_gpu_device_bdf', handle)).lower()
            for handle in handles)
        with words.AmdSmiEventReader(
                handles,
                [words.AmdSmiEventCategory.FW],
                words.AmdSmiEventSeverity.ALL) as reader:
            with self._changed:
                self._reads = True
                self._changed.notify_all()
            while not self._closing.is_set():
                try:
                    told = reader.read(READ_MICROSECONDS)
                except words.AmdSmiTimeoutException:
                    continue
                self._note(library, gpus, told)

    def _note(self, library: library_.Library, gpus: frozenset[str],
              told: Any) -> None:
        subcode = str(getattr(told['subcode'], 'name', told['subcode']))
        if subcode not in MIGRATION:
            return
        try:
            address = str(library.call('get_vf_bdf', told['fcn_id'])).lower()
        except library_.LibraryError:
            address = ''
        text = f'{subcode}: {told["message"]}'
        LOG.warning('GIM, %s: %s', address or 'no VF told', text)
        if address in gpus:
            address, text = '', f'{text} (GPU {address})'
        with self._changed:
            self._seen.append(Event(self._count, address, text))
            del self._seen[:-KEPT]
            self._count += 1
            self._changed.notify_all()
