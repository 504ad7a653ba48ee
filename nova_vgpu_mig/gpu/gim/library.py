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

"""AMD SMI's host library: finding it, calling it, and what went wrong.

The library is no requirement of ours: it comes with GIM, is built for one
release of it, and is not on any index. So it is imported when it is needed,
and a machine without it is a machine without GIM. AMD's library for guests
and bare metal has the same name and none of the calls about VFs.

Each error names the call and the library's status, since "Invalid
parameters" alone tells nobody which of a dozen calls failed. A call that a
release lacks or a GPU does not support is not an error but an answer.

Rejected: the C library by ctypes. Its structures change with each release;
the Python package is generated from the same release's headers.
"""

import importlib
import logging
import threading
import time
from typing import Any

LOG = logging.getLogger(__name__)

MODULE = 'amdsmi'

_HOST_CALL = 'amdsmi_get_vf_data'
"""Only the host's library has it."""

_NOT_EXPOSED = frozenset({'AMDSMI_STATUS_NOT_SUPPORTED',
                          'AMDSMI_STATUS_NOT_YET_IMPLEMENTED',
                          'AMDSMI_STATUS_NO_DATA'})
BUSY = 'AMDSMI_STATUS_BUSY'
NOT_FOUND = 'AMDSMI_STATUS_NOT_FOUND'
RETRY = 'AMDSMI_STATUS_RETRY'

_TRIES = 3
_PAUSE_SECONDS = 0.1


class NotThere(Exception):
    """This machine has no host library, or no GIM behind it; says why."""


class LibraryError(Exception):
    """A call failed; the message names it, and its status."""

    def __init__(self, call: str, status: str) -> None:
        super().__init__(f'AMD SMI: {call}: {status}')
        self.status = status.split(' ')[0]

    @property
    def not_exposed(self) -> bool:
        """Whether the library only says that it does not know."""
        return self.status in _NOT_EXPOSED


def _status(exc: Exception) -> str:
    """Its status and what that means, or what Python has to say."""
    told = getattr(exc, 'err_info', None)
    return str(told) if told else f'{type(exc).__name__}: {exc}'


class Library:
    """The host library, initialised."""

    def __init__(self, module: Any) -> None:
        self.module = module

    def call(self, name: str, *args: Any) -> Any:
        """Call `amdsmi_<name>`; again, if the library asks for that.

        :raises LibraryError: it failed. Anything that it raises is meant:
            a number that its Python part has no word for, too.
        """
        function = getattr(self.module, f'amdsmi_{name}', None)
        if function is None:
            raise LibraryError(name, 'AMDSMI_STATUS_NOT_SUPPORTED - this '
                               'release has no such call')
        tried = 0
        while True:
            tried += 1
            try:
                return function(*args)
            except Exception as exc:
                failed = LibraryError(name, _status(exc))
                if failed.status != RETRY or tried == _TRIES:
                    raise failed from exc
            time.sleep(_PAUSE_SECONDS)

    def ask(self, name: str, *args: Any) -> Any:
        """As call(), but None where that is not exposed."""
        try:
            return self.call(name, *args)
        except LibraryError as exc:
            if exc.not_exposed:
                return None
            raise

    def close(self) -> None:
        """Let GIM go. Nothing is called after that."""
        try:
            self.call('shut_down')
        except LibraryError as exc:
            LOG.debug('%s', exc)


_lock = threading.Lock()


def find() -> Library:
    """Import the library and connect it to GIM.

    :raises NotThere: there is none, or GIM is not loaded.
    """
    with _lock:
        try:
            module = importlib.import_module(MODULE)
        except Exception as exc:
            # OSError: the package is there, and its libamdsmi.so is not.
            raise NotThere(f'the Python module {MODULE} can not be imported '
                           f'({exc})') from exc
        if not hasattr(module, _HOST_CALL):
            raise NotThere(
                f'the Python module {MODULE} is the one for guests and bare '
                f'metal: it has no {_HOST_CALL}')
        found = Library(module)
        try:
            found.call('init')
        except LibraryError as exc:
            raise NotThere(str(exc)) from exc
        return found
