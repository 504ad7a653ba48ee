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

"""Each aspect of the comparison must be able to fail."""

import copy
import dataclasses
import unittest

from nova_vgpu_mig.vmm.standin import comparison

ENGINE = {'ring_base': 4096, 'ring_entries': 64, 'write': 8, 'read': 7,
          'retired_commands': 6, 'retired_units': 300,
          'interrupts_raised': 6,
          'in_flight': {'number': 7, 'done': 3, 'total': 40}}
SNAPSHOT = comparison.Snapshot(
    frame_buffer='ab' * 16, guest_ram='cd' * 16, received={'GFX': 6},
    vf_state={'engines': {'GFX': ENGINE}, 'semaphores': [6, 0],
              'page_table': 'ef' * 16, 'faults': []})


def changed(path, value):
    """SNAPSHOT with one value of the VF's state replaced."""
    state = copy.deepcopy(SNAPSHOT.vf_state)
    where = state
    for key in path[:-1]:
        where = where[key]
    where[path[-1]] = value
    return dataclasses.replace(SNAPSHOT, vf_state=state)


class TestCompare(unittest.TestCase):

    def _different(self, other):
        return [row.what for row in comparison.compare(SNAPSHOT, other)
                if not row.equal]

    def test_a_snapshot_equals_itself(self):
        self.assertEqual([], self._different(copy.deepcopy(SNAPSHOT)))

    def test_each_value_is_compared(self):
        engine = ('engines', 'GFX')
        for path, value, aspect in (
                ((*engine, 'write'), 9, 'rings'),
                ((*engine, 'read'), 8, 'rings'),
                ((*engine, 'retired_units'), 301, 'retired'),
                ((*engine, 'in_flight'), None, 'in-flight'),
                ((*engine, 'in_flight', 'done'), 4, 'in-flight'),
                ((*engine, 'interrupts_raised'), 7, 'interrupts'),
                (('semaphores',), [6, 1], 'semaphores'),
                (('page_table',), '00', 'page tables'),
                (('faults',), [{'kind': 'PAGE'}], 'faults')):
            with self.subTest(path=path):
                found = self._different(changed(path, value))
                self.assertEqual(1, len(found), found)
                self.assertIn(aspect, found[0])

    def test_what_lies_outside_of_the_vf(self):
        for name, value, aspect in (
                ('frame_buffer', '00', 'frame buffer'),
                ('guest_ram', '00', 'guest RAM'),
                ('received', {'GFX': 5}, 'interrupts')):
            with self.subTest(name=name):
                found = self._different(
                    dataclasses.replace(SNAPSHOT, **{name: value}))
                self.assertEqual(1, len(found), found)
                self.assertIn(aspect, found[0])
