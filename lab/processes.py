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

"""Processes that outlive the command that started them.

Each carries the lab's run directory in its environment, and so do the
processes it starts. That is how they are found again: also when whoever
started them was killed before it could write anything down, and without ever
taking a process of somebody else's that got a PID again.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import os
import pathlib
import select
import signal
import subprocess

from lab import errors
from lab import places

MARK = 'NOVA_VGPU_MIG_LAB_RUN'
PATIENCE = 20


def start(command: Sequence[str | os.PathLike[str]], log: pathlib.Path,
          env: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """Start it in a session of its own, in the run directory."""
    marked = {**os.environ, **(env or {}), MARK: str(places.run())}
    with log.open('ab') as sink:
        return subprocess.Popen(
            command, env=marked, cwd=places.run(), stdin=subprocess.DEVNULL,
            stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)


def found(setting: str = '') -> list[int]:
    """Return the PIDs of this lab's processes.

    :param setting: `NAME=VALUE`: only those with it in their environment.
    """
    marks = {f'{MARK}={places.run()}'.encode()}
    if setting:
        marks.add(setting.encode())
    pids = []
    for entry in pathlib.Path('/proc').iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / 'environ').read_bytes()
        except OSError:
            continue
        if marks <= set(environment.split(b'\0')):
            pids.append(int(entry.name))
    return pids


def end(setting: str = '') -> int:
    """End those of found(); return when they are gone: how many it were."""
    ended = 0
    # One that was starting another is followed by that other.
    while pids := found(setting):
        handles = {}
        for pid in pids:
            try:
                handles[pid] = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
        ended += len(handles)
        for handle in handles.values():
            _kill(handle)
        _gone(handles)
    return ended


def _kill(handle: int) -> None:
    try:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _gone(handles: dict[int, int]) -> None:
    for pid, handle in handles.items():
        with os.fdopen(handle, 'rb', buffering=0):
            # Readable when the process has ended.
            if not select.select([handle], [], [], PATIENCE)[0]:
                raise errors.LabError(f'process {pid} does not end')
