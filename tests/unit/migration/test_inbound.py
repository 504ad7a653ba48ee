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


import types

from oslotest import base
import xxhash

from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import inbound
from tests.unit.migration import test_channel

UNIT = 4096


class UnitsTest(base.BaseTestCase):

    def test_a_unit_of_the_rest_that_changed_here(self):
        left, right = test_channel.pair(self)
        right.bounds = frames.Bounds(UNIT, 4)
        memory = memoryview(bytearray(4 * UNIT))
        units = inbound.UnitsIn(right, types.SimpleNamespace(
            unit_size=UNIT, frame_buffer=memory,
            zero_units=lambda first, count: None))
        data = b'\x07' * UNIT
        zero = xxhash.xxh3_64_intdigest(bytes(UNIT))
        table = [zero, zero, xxhash.xxh3_64_intdigest(data), zero]
        verify = frames.Verify(0, b'', '', b''.join(
            value.to_bytes(8, 'little') for value in table))
        units.begin_rest()
        left.send(frames.Kind.UNIT, frames.encode_unit(2), data)
        right.receive(frozenset((frames.Kind.UNIT,)))
        units.take_unit()
        units.verify(verify)
        memory[2 * UNIT + 5] ^= 1
        error = self.assertRaises(inbound.VerifyError, units.verify, verify)
        self.assertIn('1 of 4 units', str(error))
