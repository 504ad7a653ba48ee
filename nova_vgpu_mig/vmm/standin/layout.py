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


"""Where the guest keeps what, in its RAM.

Everything that the two vCPUs know between two steps lies here, so that
moving guest RAM moves the program, and so that a guest that moved can be
compared with a twin that stayed by one digest. For the same reason no clock
is in here: times belong to the VMM's timer registers (clock.py).

The program page is an array of u64; `Word` numbers them. Each word has one
writer: words up to HANDLER_FIRST belong to vCPU 0, the rest to vCPU 1.
"""

import enum

from nova_vgpu_mig.gpu.software import abi

PAGE = 4096
"""Bytes; the page of the dirty log, as KVM has it."""

MAGIC = 0x31545345_55475647
DEPTH = 3
"""Batches (frames) that may be submitted and not yet consumed."""


class Word(enum.IntEnum):
    MAGIC = 0
    PHASE = 1
    """A `Phase`."""
    FRAME_BUFFER_BYTES = 2
    RAM_BYTES = 3
    SERIAL = 4
    """Batches submitted since boot; also the semaphores' values."""
    SUBMITTED = 5
    """Commands submitted, one word for each engine: 5-8."""
    WORKLOAD = 9
    """A `Workload`."""
    SEED = 10
    WORKING_SET = 11
    FRAMES_PER_1000S = 12
    """0: as fast as the queue depth lets it."""
    FILL_BATCHES = 13
    """Batches that fill the frame buffer before frame 0."""
    STEP = 14
    """Batches of this workload submitted, the fill included."""
    FINISH = 15
    """STEP at which the workload ends."""
    FIRST_SERIAL = 16
    """SERIAL before this workload's first batch."""
    CAUSE = 17
    """Why the phase is FAILED: an `errno`, 0 for a TDR."""
    MARK = 24
    """DEPTH records of MARK_WORDS: which fences end a batch: 24-41."""
    CONSUMED = 64
    """Batches whose result vCPU 1 has read."""
    CHECKSUM = 65
    """Running hash over all results."""
    RECEIVED = 66
    """Interrupts received, one word for each vector: 66-69."""
    TDR_EVENTS = 70
    TDR_ENGINE = 71
    TDR_COMMAND = 72
    """The number of the command that was not retired in time."""


HANDLER_FIRST = Word.CONSUMED

MARK_RESULT = 0
"""Word of a mark: bytes of result in RAM; then one fence an engine."""
MARK_FENCE = 1
MARK_WORDS = 6


class Phase(enum.IntEnum):
    OFF = 0
    BOOT = 1
    READY = 2
    """The guest driver is loaded and nothing is to be submitted."""
    WORKING = 3
    FAILED = 4


class Workload(enum.IntEnum):
    IDLE = 0
    RENDER = 1
    COMPUTE = 2
    VIDEO = 3
    MIXED = 4


FENCES = 0x1000
FENCE_STRIDE = 64
"""The GPU writes the fence of an engine at FENCES + engine * stride."""

RINGS = 0x10000
RING_ENTRIES = 1024
RING_BYTES = RING_ENTRIES * abi.COMMAND_BYTES

LOG = RINGS + len(abi.Engine) * RING_BYTES
LOG_ENTRIES = 8192
"""The checksum after each batch: shows the first one that went wrong."""

SLOTS = LOG + LOG_ENTRIES * 8
RESULT_BYTES = 0x40000
INPUT_BYTES = 0x40000
SLOT_BYTES = RESULT_BYTES + INPUT_BYTES
"""One for each batch in flight: what the GPU reads and what it writes."""

PATTERN = SLOTS + DEPTH * SLOT_BYTES
PATTERN_BYTES = 0x100000
"""What the frame buffer is filled with."""

END = PATTERN + PATTERN_BYTES
MINIMUM_RAM = 4 * 1024 * 1024


def fence(engine: int) -> int:
    """Return the address of an engine's fence."""
    return FENCES + engine * FENCE_STRIDE


def ring(engine: int) -> int:
    """Return the address of an engine's ring."""
    return RINGS + engine * RING_BYTES


def result(serial: int) -> int:
    """Return the address of a batch's result."""
    return SLOTS + serial % DEPTH * SLOT_BYTES


def input_data(serial: int) -> int:
    """Return the address of what a batch makes the GPU read."""
    return result(serial) + RESULT_BYTES
