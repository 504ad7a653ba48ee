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


"""What the kernel says of other processes: CPU time, and memory."""

import os
import pathlib
import threading
from typing import Self

_TICKS = os.sysconf('SC_CLK_TCK')
_SAMPLE_SECONDS = 0.005


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads; 10 ms steps."""
    text = pathlib.Path('/proc', str(pid), 'stat').read_text()
    fields = text.rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def rss_anon(pid: int) -> int:
    """RssAnon of a process, bytes: what it holds itself.

    Mapped frame buffers are RssShmem: they belong to the GPU.
    """
    for line in pathlib.Path('/proc', str(pid),
                             'status').read_text().splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    raise LookupError(f'process {pid} has no RssAnon')


class Peaks:
    """The highest RssAnon of each process while the block runs.

    The kernel keeps a high-water mark of RSS only with mapped memory in it,
    so this one is sampled; the buffers that count live for a whole move.
    """

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.bytes = dict.fromkeys(pids, 0)

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_SECONDS):
            for name, pid in self._pids.items():
                self.bytes[name] = max(self.bytes[name], rss_anon(pid))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._ended.set()
        self._thread.join()
