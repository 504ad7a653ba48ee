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

"""Ctrl-C, once: what has been started is ended, and a line says so.

A terminal and timeout(1) may send SIGINT twice, and the second one would
fall into the ending of processes and leave some of them behind. So only the
first one raises; Ctrl-\\ is still there for who does not want to wait.
"""

from collections.abc import Iterator
import contextlib
import signal
import threading
import types

STATUS = 128 + signal.SIGINT
"""A shell's for a program that SIGINT has ended."""


class Interrupted(Exception):
    """Ctrl-C; all that was started is ended."""


@contextlib.contextmanager
def once() -> Iterator[None]:
    """Turn Ctrl-C into one Interrupted, whatever it broke on its way.

    :raises Interrupted: at the end of the block, when it was pressed in it.
    """
    pressed = threading.Event()

    def handle(number: int, frame: types.FrameType | None) -> None:
        if not pressed.is_set():
            pressed.set()
            # Threads that lose what they talk to have nothing to tell.
            threading.excepthook = lambda args: None
            raise KeyboardInterrupt

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield
    except BaseException as exc:
        if pressed.is_set():
            raise Interrupted from exc
        signal.signal(signal.SIGINT, previous)
        raise
    if pressed.is_set():
        # Something on the way has swallowed it, and went on.
        raise Interrupted
    signal.signal(signal.SIGINT, previous)
