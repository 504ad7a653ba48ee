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

"""The lab's GPU (lab/device) as a test sees it: in its files on a node.

It works while its guest runs, and what its frame buffer holds after so many
words of work is known: so its state is intact if and only if its digest is
the one of the work that it says it has done, and work goes on.
"""

from lab import node as node_

KIND = 'vgpu_lab-16'
FRAME_BUFFER = 16 * 1024 * 1024
UNIT = 2 * 1024 * 1024
STRIDE = 4096
RATE = 1024 * 1024
PATIENCE = 120
DEVICES = '/sys/bus/mdev/devices'

# What lab/device/README.rst says of the frame buffer after so many words.
_EXPECTED = """
import sys, xxhash
count, size, working_set, stride = map(int, sys.argv[1:])
mask = 2 ** 64 - 1
x = 3 * 0x9e3779b97f4a7c15 & mask
memory = bytearray(size)
for number in range(count):
    x ^= x << 13 & mask
    x ^= x >> 7
    x ^= x << 17 & mask
    at = number * stride % working_set
    word = int.from_bytes(memory[at:at + 8], 'little')
    word = ((word << 13 | word >> 51) + x) & mask
    memory[at:at + 8] = word.to_bytes(8, 'little')
print(xxhash.xxh64(bytes(memory)).hexdigest())
"""


class GPU:
    """The device of this UUID on a node."""

    def __init__(self, node: node_.Node, mdev: str) -> None:
        self.node = node
        self.mdev = mdev

    def get(self, name: str) -> str:
        return self.node.run(f'cat {DEVICES}/{self.mdev}/{name}').strip()

    def set(self, name: str, value: object) -> None:
        self.node.run(f'echo {value} >{DEVICES}/{self.mdev}/{name}')

    def remove(self) -> None:
        self.set('remove', 1)

    def work(self, working_set: int = FRAME_BUFFER,
             rate: int = RATE) -> None:
        """Begin to work, and return when it does."""
        self._run(f'cd workload; echo {working_set} >working_set_bytes; '
                  f'echo {STRIDE} >stride_bytes; '
                  f'echo {rate} >bytes_per_second')
        self.await_work(0)

    def done(self) -> int:
        return int(self.get('work_done'))

    def await_work(self, beyond: int) -> None:
        """Return when more words than that are done."""
        # On the node: it is slow to answer, and has to be asked only once.
        self._run(f'until [ "$(cat work_done)" -gt {beyond} ]; do '
                  'sleep 0.1; done')

    def await_more(self) -> None:
        """Return when more is done than now."""
        self._run('was=$(cat work_done); '
                  'until [ "$(cat work_done)" -gt "$was" ]; do sleep 0.1; '
                  'done')

    def digests(self) -> tuple[str, str]:
        """Stop the work; return the digest, and what it should be."""
        digest, expected = self._run(
            'echo 0 >workload/bytes_per_second; set -- $(cat digest); '
            'echo "$1"; PYTHONPATH=/lab/python python3 - "$2" '
            f'{FRAME_BUFFER} "$(cat workload/working_set_bytes)" {STRIDE}',
            _EXPECTED.encode()).split()
        return digest, expected

    def _run(self, script: str, stdin: bytes = b'') -> str:
        return self.node.run(f'set -e; cd {DEVICES}/{self.mdev}; {script}',
                             stdin, PATIENCE)
