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

import json

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.compatibility import identity

TEXTS = strategies.from_regex(r'[ -~]{1,16}', fullmatch=True)
NUMBERS = strategies.integers(0, 2 ** 53 - 1)
HEX_IDS = strategies.from_regex(r'[0-9a-f]{4}', fullmatch=True)

IDENTITIES = strategies.builds(
    identity.VFIdentity,
    vendor_id=HEX_IDS, device_id=HEX_IDS,
    frame_buffer_mib=strategies.none() | strategies.integers(1, 1 << 20),
    num_vfs=strategies.integers(1, 64),
    migration_version=strategies.none() | NUMBERS,
    driver_version=strategies.none() | TEXTS,
    vbios_version=strategies.none() | TEXTS,
    partition=strategies.none() | TEXTS,
    subsystem=strategies.none() | TEXTS,
    revision=strategies.none() | TEXTS,
    psp_migration_version=strategies.none() | TEXTS,
    memory_partition=strategies.none() | TEXTS,
    xgmi=strategies.none() | TEXTS,
    xgmi_node=strategies.none() | NUMBERS,
    compute_units=strategies.none() | NUMBERS,
    firmware=strategies.dictionaries(TEXTS, TEXTS, max_size=4),
    engines=strategies.dictionaries(TEXTS, NUMBERS, max_size=4),
    time_slices_us=strategies.dictionaries(TEXTS, NUMBERS, max_size=4))

GOOD = {'vendor_id': '1002', 'device_id': '74b5', 'frame_buffer_mib': 512,
        'num_vfs': 4}

JSON_VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers()
    | strategies.text(max_size=8),
    lambda inner: strategies.lists(inner, max_size=3)
    | strategies.dictionaries(strategies.text(max_size=8), inner,
                              max_size=3), max_leaves=6)


class TestIdentity(base.BaseTestCase):
    @hypothesis.given(IDENTITIES)
    def test_survives_json(self, value):
        wire = json.loads(json.dumps(value.as_dict()))
        again = identity.VFIdentity.from_dict(wire)
        self.assertEqual(value, again)
        self.assertEqual(value.digest(), again.digest())

    @hypothesis.given(IDENTITIES, IDENTITIES)
    def test_digest_tells_identities_apart(self, one, other):
        self.assertEqual(one == other, one.digest() == other.digest())

    @hypothesis.given(
        strategies.sampled_from(
            [*GOOD, 'migration_version', 'driver_version', 'firmware',
             'xgmi_node', 'memory_partition', 'engines', 'time_slices_us',
             'surprise']), JSON_VALUES)
    def test_garbage_in_a_field_is_taken_or_named(self, name, garbage):
        try:
            value = identity.VFIdentity.from_dict({**GOOD, name: garbage})
        except identity.IdentityError as exc:
            self.assertIn(name, str(exc))
        else:
            self.assertEqual(
                value, identity.VFIdentity.from_dict(value.as_dict()))

    @hypothesis.given(JSON_VALUES)
    def test_garbage_is_never_an_identity(self, garbage):
        self.assertRaises(identity.IdentityError,
                          identity.VFIdentity.from_dict, garbage)

    def test_refusals_name_field_and_value(self):
        for name, bad, words in (
                ('vendor_id', '0x1002', 'four hexadecimal'),
                ('frame_buffer_mib', '512', 'whole number'),
                ('frame_buffer_mib', True, 'whole number'),
                ('num_vfs', 0, 'at least 1'),
                ('driver_version', 'a\nb', 'printable'),
                ('firmware', {'MEC': 7}, 'firmware.MEC'),
                ('engines', {'VCN': -1}, 'engines.VCN'),
                ('firmware', dict.fromkeys(map(str, range(65)), '1'),
                 'at most 64')):
            exc = self.assertRaises(
                identity.IdentityError, identity.VFIdentity.from_dict,
                {**GOOD, name: bad})
            self.assertIn(name, str(exc))
            self.assertIn(words, str(exc))
            self.assertLess(len(str(exc)), 250)

    def test_missing_and_unknown_fields(self):
        for name in ('vendor_id', 'device_id', 'num_vfs'):
            values = dict(GOOD)
            del values[name]
            exc = self.assertRaises(
                identity.IdentityError, identity.VFIdentity.from_dict,
                values)
            self.assertIn(f'{name}: missing', str(exc))
        exc = self.assertRaises(
            identity.IdentityError, identity.VFIdentity.from_dict,
            {**GOOD, 'nps_mode': 1})
        self.assertIn('nps_mode', str(exc))

    def test_hexadecimal_ids_are_compared_without_case(self):
        value = identity.VFIdentity.from_dict({**GOOD, 'device_id': '74B5'})
        self.assertEqual('74b5', value.device_id)
