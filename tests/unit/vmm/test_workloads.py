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


"""What batches must be, whatever the sizes and the seed."""

import unittest

from hypothesis import given
from hypothesis import strategies

from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.vmm.standin import clock
from nova_vgpu_mig.vmm.standin import layout
from nova_vgpu_mig.vmm.standin import program
from nova_vgpu_mig.vmm.standin import workloads

MIB = 1 << 20

spaces = strategies.builds(
    workloads.Space, strategies.integers(2, 600).map(lambda n: n * 2 * MIB),
    strategies.integers(4, 256).map(lambda n: n * MIB))
parameters = strategies.builds(
    lambda space, percent, **rest: workloads.Parameters(
        space=space, fill_batches=workloads.fill_batches(space, percent),
        **rest),
    space=spaces, percent=strategies.integers(0, 100),
    workload=strategies.sampled_from(
        [w for w in layout.Workload if w is not layout.Workload.IDLE]),
    seed=strategies.integers(0, 2**64 - 1),
    working_set=strategies.integers(0, 1024 * MIB))


def touched(work):
    """Ranges of addresses that a command reads or writes."""
    if work.opcode is abi.Opcode.SPARSE:
        return [(work.va + site * work.arg0, 64)
                for site in range(work.length)]
    ranges = [(work.va, work.length)]
    if work.opcode is abi.Opcode.COPY:
        ranges.append((work.arg0, work.length))
    if work.opcode is abi.Opcode.DECODE:
        ranges.append((work.arg0, work.arg1))
    return ranges


class TestBatches(unittest.TestCase):

    @given(parameters, strategies.integers(0, 500),
           strategies.integers(1, 10000))
    def test_batches_are_sound(self, params, step, serial):
        batch = workloads.batch(params, step, serial)
        self.assertEqual(batch, workloads.batch(params, step, serial))
        space = params.space
        for work in batch.works:
            for start, length in touched(work):
                self.assertGreaterEqual(start, 0)
                self.assertLessEqual(
                    start + length, space.data_bytes + space.ram_bytes)
                self.assertEqual(0, (start | length) % 8)
        self.assertIs(abi.Engine.SDMA, batch.works[-1].engine)
        self.assertLessEqual(
            len(batch.works) * layout.DEPTH, layout.RING_ENTRIES)
        self.assertLessEqual(batch.result_bytes, layout.RESULT_BYTES)

    @given(parameters, strategies.integers(0, 500),
           strategies.integers(1, 10000))
    def test_every_engine_waits_for_the_batch_before(self, params, step,
                                                     serial):
        batch = workloads.batch(params, step, serial)
        submitted = [0] * len(abi.Engine)
        commands = program.number(batch, serial, submitted)
        signalled = set()
        seen = set()
        for command, engine in commands:
            if engine not in seen:
                self.assertTrue(command.flags & abi.Flag.WAIT)
                self.assertGreaterEqual(command.wait_value, serial - 1)
            seen.add(engine)
            if command.flags & abi.Flag.WAIT and (
                    command.wait_value == serial):
                # Or the ring would wait for ever.
                self.assertIn(command.wait_semaphore, signalled)
            if command.flags & abi.Flag.SIGNAL:
                signalled.add(command.signal_semaphore)
        self.assertEqual(workloads.DONE, commands[-1][0].signal_semaphore)
        self.assertEqual(len(commands), sum(submitted))


class TestTimers(unittest.TestCase):

    def test_state_round_trip(self):
        timers = clock.Timers(5, [1, 2, 3, 4], [9, 8, 7, 6])
        state = timers.pack(77, [0, 1, 0, 2])
        other = clock.Timers()
        self.assertEqual((77, [0, 1, 0, 2]), other.unpack(state))
        self.assertEqual(timers, other)
        self.assertRaises(ValueError, other.unpack, state[1:])
