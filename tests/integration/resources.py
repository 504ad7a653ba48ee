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

"""What processes hold that should not grow with the number of moves."""

from collections.abc import Iterable
import os
import pathlib


def of_process(pid: int) -> dict[str, int]:
    """Descriptors, threads and mapped memfds of a process.

    A process that has ended holds nothing.
    """
    proc = pathlib.Path('/proc', str(pid))
    try:
        maps = (proc / 'maps').read_text()
        return {'descriptors': len(os.listdir(proc / 'fd')),
                'threads': len(os.listdir(proc / 'task')),
                'memfds mapped': maps.count('/memfd:')}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def of_processes(pids: Iterable[int]) -> list[dict[str, int]]:
    return [of_process(pid) for pid in pids]


def grown(before: list[dict[str, int]], now: list[dict[str, int]]) -> bool:
    """Whether any process holds more of anything than it did before.

    Less is no fault: a connection may have been about to close before.
    """
    return any(held.get(what, 0) > had.get(what, 0)
               for had, held in zip(before, now, strict=True)
               for what in held)


def anonymous_bytes(pid: int) -> int:
    """RssAnon: memory of the process alone, without what is shared."""
    status = pathlib.Path('/proc', str(pid), 'status').read_text()
    line = next(line for line in status.splitlines()
                if line.startswith('RssAnon:'))
    return int(line.split()[1]) * 1024


def children(pid: int) -> int:
    """Processes that any of its threads has started and not reaped."""
    return sum(len((task / 'children').read_text().split())
               for task in pathlib.Path('/proc', str(pid), 'task').iterdir())
