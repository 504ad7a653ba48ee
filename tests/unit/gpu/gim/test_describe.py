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

"""From the library's answers to identity, state and health."""

import dataclasses
import enum
import unittest

import hypothesis
from hypothesis import strategies

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.gim import describe

Word = enum.IntEnum('Word', ['SPX', 'INVALID', 'NPS4', 'UNKNOWN',
                             'FW_ID_VCN', 'RLC', 'NOT_LOADED'])

ASIC = {'vendor_id': '0x1002', 'device_id': '0x74a1', 'rev_id': '0x0',
        'subvendor_id': '0x1002', 'subsystem_id': '0xb36', 'oam_id': 0,
        'num_of_compute_units': 304}

FULL = describe.Answers(
    asic=ASIC, driver={'driver_version': '8.7.0.K'}, num_vfs=4,
    vf={'fb': {'fb_size': 49152, 'fb_offset': 0}, 'gfx_timeslice': 6000},
    vbios={'version': '113-A1'},
    firmware={'fw_info_list': [
        {'fw_id': Word.FW_ID_VCN, 'fw_version': 0x9110024},
        {'fw_id': Word.RLC, 'fw_version': 0x63},
        {'fw_id': Word.NOT_LOADED, 'fw_version': 0}]},
    accelerator={'profile': {'profile_type': Word.SPX}},
    memory={'mp_mode': Word.NPS4},
    xgmi={'mode_1_cap': 1, 'mode_2_cap': 0, 'mode_4_cap': 0,
          'mode_8_cap': 1, 'mode_custom_cap': 1})

NOTHING = {'vbios': None, 'firmware': None, 'profile': None,
           'accelerator': None, 'memory': None, 'xgmi': None}


def told(**changes):
    return describe.identity_of(dataclasses.replace(FULL, **changes))


class IdentityTest(unittest.TestCase):

    def test_every_field_that_the_library_has(self):
        self.assertEqual({
            'vendor_id': '1002', 'device_id': '74a1',
            'frame_buffer_mib': 49152, 'num_vfs': 4,
            'driver_version': 'gim 8.7.0.K', 'vbios_version': '113-A1',
            'subsystem': '1002:0b36', 'revision': '0x00',
            'partition': 'SPX', 'memory_partition': 'NPS4',
            'xgmi': 'modes 1, 8', 'xgmi_node': 0, 'compute_units': 304,
            'firmware': {'VCN': '0x9110024', 'RLC': '0x63'},
            'time_slices_us': {'GFX': 6000}}, told().as_dict())

    def test_what_is_not_exposed_is_left_out(self):
        asic = {**ASIC, 'subsystem_id': 'N/A', 'oam_id': 'N/A',
                'num_of_compute_units': 0}
        del asic['rev_id']
        self.assertEqual(
            {'vendor_id', 'device_id', 'frame_buffer_mib', 'num_vfs',
             'driver_version', 'time_slices_us'},
            set(told(asic=asic, **NOTHING).as_dict()))

    def test_words_for_nothing(self):
        found = told(accelerator={'profile': {'profile_type': Word.INVALID}},
                     memory={'mp_mode': Word.UNKNOWN},
                     xgmi=dict.fromkeys(FULL.xgmi, 0))
        self.assertEqual((None, None, 'none'), (
            found.partition, found.memory_partition, found.xgmi))

    def test_split_of_the_vfs_where_there_is_no_compute_partition(self):
        found = told(accelerator=None, profile={
            'current_profile_index': {'vf_count': 4, 'profile_caps': {}}})
        self.assertEqual('profile of 4 VFs', found.partition)

    def test_impossible_answers_are_named(self):
        for changes, words in (
                ({'asic': {**ASIC, 'device_id': 'N/A'}}, 'device_id'),
                ({'asic': {**ASIC, 'vendor_id': ''}}, 'vendor_id'),
                ({'vf': {'fb': {'fb_size': 0}, 'gfx_timeslice': 1}},
                 'frame_buffer_mib'),
                ({'driver': {'driver_version': 'a\nb'}}, 'driver_version')):
            with self.assertRaises(identity.IdentityError) as caught:
                told(**changes)
            self.assertIn(words, str(caught.exception))

    @hypothesis.given(strategies.fixed_dictionaries({
        name: strategies.none() | strategies.just(getattr(FULL, name))
        for name in NOTHING}))
    def test_any_gap_leaves_a_publishable_identity(self, answers):
        found = told(**answers)
        self.assertEqual(
            found, identity.VFIdentity.from_dict(found.as_dict()))
        self.assertIsNone(found.migration_version)


State = enum.IntEnum('State', ['UNAVAILABLE', 'AVAILABLE', 'ACTIVE',
                               'SUSPENDED', 'FULLACCESS',
                               'DEFAULT_AVAILABLE', 'OF_A_NEWER_RELEASE'])
S = contract.VFState


def data(state, flr_count=0):
    return {'sched': {'state': state, 'flr_count': flr_count}}


class StateTest(unittest.TestCase):

    def test_each_state(self):
        for state, expected, usable in (
                (State.UNAVAILABLE, S.EMPTY, False),
                (State.AVAILABLE, S.EMPTY, True),
                (State.DEFAULT_AVAILABLE, S.EMPTY, True),
                (State.ACTIVE, S.ACTIVE, True),
                (State.SUSPENDED, S.ACTIVE, True),
                (State.FULLACCESS, S.LOADING, True),
                (State.OF_A_NEWER_RELEASE, None, True)):
            self.assertIs(expected, describe.state_of(data(state)), state)
            self.assertIs(usable, describe.is_usable(data(state)), state)

    def test_resets(self):
        self.assertEqual(3, describe.resets_of(data(State.ACTIVE, 3)))

    def test_frame_buffer_in_use(self):
        for state, guest, expected in (
                (S.EMPTY, None, 0), (S.ACTIVE, {'fb_usage': 3}, 3 << 20),
                (S.ACTIVE, None, None), (None, {'fb_usage': 1}, 1 << 20)):
            self.assertEqual(expected, describe.used_bytes_of(state, guest))

    def test_guest_driver(self):
        self.assertEqual('6.12', describe.guest_driver_of(
            {'driver_version': '6.12', 'fb_usage': 0}))
        for nothing in (None, {'driver_version': ''}):
            self.assertIsNone(describe.guest_driver_of(nothing))


class HealthTest(unittest.TestCase):

    def test_counts(self):
        self.assertEqual(health.Health(2, 1), describe.health_of(
            [{}, {}], {'uncorrectable_count': 1}))
        self.assertEqual(health.UNKNOWN, describe.health_of(None, None))
