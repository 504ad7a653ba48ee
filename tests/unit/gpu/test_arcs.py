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

import errno
import itertools
import unittest

import hypothesis
from hypothesis import strategies

from nova_vgpu_mig.gpu import arcs
from nova_vgpu_mig.gpu import contract

S = contract.DeviceState
F = contract.MigrationFlag

DEVICES = {
    'gim, hisi_acc': F.STOP_COPY | F.PRE_COPY,
    'mlx5, qat, mtty': F.STOP_COPY | F.PRE_COPY | F.P2P,
    'pds, xe': F.STOP_COPY | F.P2P,
    'the least': F.STOP_COPY,
}
# facts: the uAPI's direct arcs, in both directions where '<->'.
BOTH_WAYS = [(S.STOP, S.STOP_COPY), (S.STOP, S.RESUMING),
             (S.RUNNING, S.PRE_COPY), (S.RUNNING, S.RUNNING_P2P),
             (S.RUNNING_P2P, S.STOP), (S.RUNNING_P2P, S.PRE_COPY_P2P),
             (S.PRE_COPY, S.PRE_COPY_P2P)]
P2P = {S.RUNNING_P2P, S.PRE_COPY_P2P}
PRE_COPY = {S.PRE_COPY, S.PRE_COPY_P2P}
SAVING = {S.PRE_COPY, S.PRE_COPY_P2P, S.STOP_COPY}


def direct(flags):
    """Every direct arc of a device with these flags."""
    found = {*BOTH_WAYS, *((b, a) for a, b in BOTH_WAYS),
             (S.PRE_COPY_P2P, S.STOP_COPY)}
    if F.P2P not in flags:
        found = {arc for arc in found if not P2P & set(arc)}
        found |= {(S.RUNNING, S.STOP), (S.STOP, S.RUNNING),
                  (S.PRE_COPY, S.STOP_COPY)}
    if F.PRE_COPY not in flags:
        found = {arc for arc in found if not PRE_COPY & set(arc)}
    return found


def states(flags):
    return {state for arc in direct(flags) for state in arc}


devices = strategies.sampled_from(sorted(DEVICES.values()))
every_state = strategies.sampled_from(list(S))


class ArcsTest(unittest.TestCase):
    @hypothesis.given(devices, every_state, every_state)
    def test_a_path_is_direct_arcs_to_the_target(self, flags, current,
                                                 target):
        legal = (current in states(flags) and target in states(flags)
                 and not (current is S.STOP_COPY and target in PRE_COPY))
        if not legal:
            with self.assertRaises(arcs.NoArc) as caught:
                arcs.path(current, target, flags)
            self.assertEqual(errno.EINVAL, caught.exception.errno)
            return
        path = arcs.path(current, target, flags)
        at = current
        for step in path:
            self.assertIn((at, step), direct(flags))
            at = step
        self.assertIs(target, at)
        self.assertEqual(len(path), len(set(path)))

    @hypothesis.given(devices, every_state, every_state)
    def test_no_stream_begins_on_the_way(self, flags, current, target):
        try:
            path = arcs.path(current, target, flags)
        except arcs.NoArc:
            return
        for before, step in itertools.pairwise((current, *path[:-1])):
            self.assertIsNot(S.RESUMING, step)
            self.assertIsNot(S.STOP_COPY, step)
            # Only on the way to a saving state of the same stream.
            if step in PRE_COPY:
                self.assertTrue(before in PRE_COPY or target in SAVING)

    def test_the_kernels_choice_where_two_ways_are_as_long(self):
        flags = DEVICES['mlx5, qat, mtty']
        for current, target, expected in (
                (S.RUNNING, S.PRE_COPY_P2P,
                 (S.RUNNING_P2P, S.PRE_COPY_P2P)),
                (S.RUNNING, S.STOP_COPY,
                 (S.RUNNING_P2P, S.STOP, S.STOP_COPY)),
                (S.PRE_COPY, S.STOP, (S.RUNNING, S.RUNNING_P2P, S.STOP)),
                (S.PRE_COPY, S.STOP_COPY, (S.PRE_COPY_P2P, S.STOP_COPY)),
                (S.PRE_COPY_P2P, S.RUNNING, (S.RUNNING_P2P, S.RUNNING)),
                (S.RUNNING_P2P, S.PRE_COPY, (S.RUNNING, S.PRE_COPY))):
            with self.subTest(current=current.name, target=target.name):
                self.assertEqual(expected,
                                 arcs.path(current, target, flags))

    def test_without_p2p(self):
        flags = DEVICES['gim, hisi_acc']
        self.assertEqual((S.STOP_COPY,),
                         arcs.path(S.PRE_COPY, S.STOP_COPY, flags))
        self.assertEqual((S.RUNNING, S.STOP),
                         arcs.path(S.PRE_COPY, S.STOP, flags))
        self.assertEqual((S.STOP, S.RUNNING, S.PRE_COPY),
                         arcs.path(S.RESUMING, S.PRE_COPY, flags))

    def test_to_where_it_is_already_is_no_step(self):
        for flags in DEVICES.values():
            for state in states(flags):
                self.assertEqual((), arcs.path(state, state, flags))
