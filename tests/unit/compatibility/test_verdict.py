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

import dataclasses
import json
from unittest import mock

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.compatibility import policy
from nova_vgpu_mig.compatibility import verdict
from tests.unit.compatibility import test_identity

SOURCE = identity.VFIdentity(
    vendor_id='1002', device_id='74b5', frame_buffer_mib=512, num_vfs=4,
    migration_version=1, driver_version='8.3.0', vbios_version='113-A1',
    subsystem='1002:74a1', revision='0x00', psp_migration_version='1',
    partition='SPX', memory_partition='NPS1', xgmi='modes 1, 8',
    xgmi_node=3, compute_units=304,
    firmware={'MEC': '0x9c', 'SDMA': '0x12', 'VCN': '0x7'},
    engines={'VCN': 0x3}, time_slices_us={'GFX': 4000})


WELL = health.Health(0, 0)


def judge(changes=None, source=SOURCE, **kwargs):
    kwargs.setdefault('free_vfs', 1)
    kwargs.setdefault('health', WELL)
    destination = dataclasses.replace(source, **(changes or {}))
    return verdict.judge(source, destination, **kwargs)


class TestRules(base.BaseTestCase):
    def assert_refused(self, result, rule, *words):
        self.assertEqual([rule], [f.rule for f in result.refusals])
        self.assertFalse(result.compatible)
        for word in words:
            self.assertIn(word, result.reason())

    def test_equal_identities(self):
        result = judge()
        self.assertTrue(result.compatible)
        self.assertEqual((), result.warnings)
        self.assertEqual('', result.reason())
        self.assertEqual({finding.Severity.OK},
                         {f.severity for f in result.findings})

    def test_each_scalar(self):
        for changes, rule, source, destination in (
                ({'vendor_id': '10de'}, 'device', '1002:74b5', '10de:74b5'),
                ({'device_id': '74b6'}, 'device', '1002:74b5', '1002:74b6'),
                ({'frame_buffer_mib': 256}, 'frame_buffer', '512 MiB',
                 '256 MiB'),
                ({'driver_version': '8.2.0'}, 'driver_version', '8.3.0',
                 '8.2.0'),
                ({'vbios_version': '113-A2'}, 'vbios_version', '113-A1',
                 '113-A2'),
                ({'partition': 'CPX'}, 'partition', 'SPX', 'CPX'),
                ({'subsystem': '1002:0b36'}, 'subsystem', '1002:74a1',
                 '1002:0b36'),
                ({'revision': '0x01'}, 'revision', '0x00', '0x01'),
                ({'psp_migration_version': '2'}, 'psp_migration_version',
                 '1', '2'),
                ({'engines': {'VCN': 0x1}}, 'engines', 'VCN 0x3',
                 'VCN 0x1')):
            result = judge(changes)
            self.assert_refused(result, rule, source, destination)
            self.assertEqual(source, result.refusals[0].source_value)
            self.assertEqual(destination,
                             result.refusals[0].destination_value)

    def test_migration_version(self):
        self.assert_refused(judge({'migration_version': 2}, source_index=0,
                                  free_indices=frozenset({0})),
                            'migration_version', '1', '2')

    def test_firmware_names_only_what_differs(self):
        result = judge({'firmware': {'MEC': '0x9b', 'SDMA': '0x12',
                                     'RLC_G': '0x1'}})
        self.assert_refused(
            result, 'firmware', 'MEC 0x9c, RLC_G missing, VCN 0x7',
            'MEC 0x9b, RLC_G 0x1, VCN missing')
        self.assertNotIn('SDMA', result.reason())

    def test_ignored_firmware(self):
        for ignored in ('TA_RAS', 'RLCV_LX7', 'RLC_P'):
            result = judge({'firmware': {**SOURCE.firmware, ignored: '1'}})
            self.assertTrue(result.compatible, ignored)
        only_ignored = {'TA_RAS': '1'}
        result = judge({'firmware': only_ignored})
        self.assert_refused(result, 'firmware', 'not exposed')

    def test_not_exposed_is_never_equal(self):
        for field, empty in (
                ('driver_version', None), ('vbios_version', None),
                ('partition', None), ('firmware', {})):
            blind = dataclasses.replace(SOURCE, **{field: empty})
            self.assert_refused(judge(source=blind), field, 'not exposed',
                                'by either host')
            self.assert_refused(judge({field: empty}), field,
                                'not exposed at the destination')
            self.assert_refused(verdict.judge(blind, SOURCE, free_vfs=1),
                                field, 'not exposed at the source')

    def test_a_frame_buffer_that_does_not_show(self):
        blind = dataclasses.replace(SOURCE, frame_buffer_mib=None)
        self.assert_refused(judge(source=blind), 'frame_buffer',
                            'not exposed by either host')
        self.assert_refused(verdict.judge(blind, SOURCE, free_vfs=1),
                            'frame_buffer', 'not exposed at the source')
        plain = dataclasses.replace(blind, migration_version=None,
                                    driver_version='mtty')
        self.assertIn('frame_buffer', [
            f.rule for f in judge(source=plain).warnings])

    def test_not_exposed_by_policy_is_a_warning(self):
        blind = dataclasses.replace(SOURCE, engines={}, time_slices_us={})
        result = judge(source=blind)
        self.assertTrue(result.compatible)
        self.assertEqual(['engines', 'time_slices'],
                         [f.rule for f in result.warnings])
        plain = identity.VFIdentity('1002', '74b5', 512, 4)
        result = judge(source=plain)
        self.assertTrue(result.compatible)
        self.assertEqual(7, len(result.warnings))
        self.assertEqual(7, sum(f.severity is finding.Severity.NOTE
                                for f in result.findings))
        self.assert_refused(judge({'driver_version': '1'}, source=plain),
                            'driver_version', 'not exposed at the source')

    def test_time_slices_only_warn(self):
        result = judge({'time_slices_us': {'GFX': 8000}})
        self.assertTrue(result.compatible)
        self.assertEqual(['time_slices'], [f.rule for f in result.warnings])
        self.assertIn('GFX 4000 us', result.warnings[0].sentence)

    def test_free_vf_and_number_in_the_vm(self):
        self.assert_refused(judge(free_vfs=0), 'free_vf', 'none')
        for number in (0, 2, 5):
            self.assert_refused(judge(vm_vfs=number), 'vm_vfs', str(number))

    def test_version_1_takes_any_index_and_split(self):
        self.assertTrue(judge({'num_vfs': 8}, source_index=3,
                              free_indices=frozenset({0})).compatible)

    def test_version_2_takes_the_same_index_and_split(self):
        source = dataclasses.replace(SOURCE, migration_version=2)
        here, there = frozenset({1, 3}), frozenset({0, 1})
        self.assertTrue(judge(source=source, source_index=3,
                              free_indices=here).compatible)
        self.assert_refused(judge(source=source, source_index=3,
                                  free_indices=there), 'free_vf',
                            'VF index 3', 'free: 0, 1')
        self.assert_refused(judge(source=source, free_indices=here),
                            'free_vf', 'not exposed')
        self.assert_refused(judge(source=source, source_index=3),
                            'free_vf', 'not exposed')
        self.assert_refused(
            judge({'num_vfs': 8}, source=source, source_index=3,
                  free_indices=here), 'num_vfs', '4', '8')

    def test_version_2_compares_more(self):
        for changes, rule in (({'memory_partition': 'NPS4'},
                               'memory_partition'),
                              ({'compute_units': 38}, 'compute_units'),
                              ({'xgmi': 'modes 1'}, 'xgmi'),
                              ({'xgmi_node': 4}, 'xgmi_node')):
            self.assertTrue(judge(changes).compatible, rule)
            at = {'source_index': 0, 'free_indices': frozenset({0})}
            newer = dataclasses.replace(SOURCE, migration_version=2)
            self.assert_refused(judge(changes, source=newer, **at), rule)
            blind = dataclasses.replace(newer, **dict.fromkeys(changes))
            self.assertEqual([rule], [
                f.rule for f in judge(source=blind, **at).warnings])
            blind = dataclasses.replace(blind, migration_version=1)
            self.assertEqual((), judge(source=blind).warnings)

    def test_driver_without_a_version_of_the_stream(self):
        source = dataclasses.replace(
            SOURCE, migration_version=None, driver_version='gim 8.7.0.K',
            psp_migration_version=None, engines={})
        at = {'source_index': 0, 'free_indices': frozenset({0})}
        result = judge(source=source, **at)
        self.assertTrue(result.compatible, result.reason())
        self.assertEqual(
            ['migration_version', 'psp_migration_version', 'engines'],
            [f.rule for f in result.warnings])
        for changes in ({'xgmi_node': 4}, {'num_vfs': 8},
                        {'driver_version': 'gim 8.7.1.K'},
                        {'firmware': {**SOURCE.firmware, 'MEC': '1'}}):
            self.assert_refused(judge(changes, source=source, **at),
                                *changes)
        self.assert_refused(judge(source=source, source_index=1,
                                  free_indices=frozenset({0})), 'free_vf')

    def test_row_of_the_driver_by_its_version(self):
        rows = (('gim', (), policy.GIM), ('gim', (8, 10), policy.V1))
        with mock.patch.object(policy, '_BY_DRIVER', rows):
            for driver, expected in (
                    ('gim 8.9.9.K', policy.GIM), ('gim', policy.GIM),
                    ('gim 8.10.0.K', policy.V1), ('gim 9', policy.V1),
                    ('mlx5_vfio_pci 9.0', policy.UNVERSIONED),
                    (None, policy.UNVERSIONED)):
                self.assertIs(expected, policy.select(dataclasses.replace(
                    SOURCE, migration_version=None,
                    driver_version=driver)), driver)

    def test_bad_pages_refuse_and_counted_errors_warn(self):
        self.assert_refused(judge(health=health.Health(2, 0)), 'bad_pages',
                            '2 at the destination', 'another GPU')
        result = judge(health=health.Health(0, 5))
        self.assertTrue(result.compatible)
        self.assertEqual(['uncorrectable_errors'],
                         [f.rule for f in result.warnings])
        unknown = judge(health=health.UNKNOWN)
        self.assertTrue(unknown.compatible)
        self.assertEqual(2, len(unknown.warnings))

    def test_policy_by_version(self):
        for version, expected in (
                (None, policy.UNVERSIONED), (1, policy.V1), (2, policy.V2),
                (0x10000, policy.V1), (0x20003, policy.V2),
                (3, policy.STRICTEST), (0x30000, policy.STRICTEST)):
            self.assertIs(expected, policy.select(dataclasses.replace(
                SOURCE, migration_version=version)))

    def test_an_unknown_version_takes_nothing_for_granted(self):
        source = dataclasses.replace(
            SOURCE, migration_version=9, engines={},
            firmware={**SOURCE.firmware, 'TA_RAS': '1'})
        result = judge({'firmware': {**SOURCE.firmware, 'TA_RAS': '2'}},
                       source=source, source_index=0,
                       free_indices=frozenset({0}))
        self.assertEqual(['firmware', 'engines'],
                         [f.rule for f in result.refusals])


class TestVerdict(base.BaseTestCase):
    @hypothesis.given(test_identity.IDENTITIES, test_identity.IDENTITIES,
                      strategies.integers(0, 3), strategies.integers(0, 3))
    def test_any_pair(self, source, destination, free_vfs, vm_vfs):
        result = verdict.judge(source, destination, free_vfs=free_vfs,
                               vm_vfs=vm_vfs)
        self.assertLessEqual(len(result.reason()), verdict.MAX_REASON)
        self.assertEqual(result.compatible, result.reason() == '')
        json.dumps(result.as_dict())
        for found in result.findings:
            if finding.NOT_EXPOSED in (found.source_value,
                                       found.destination_value):
                self.assertNotEqual(finding.Severity.OK, found.severity)

    @hypothesis.given(test_identity.IDENTITIES, test_identity.IDENTITIES)
    def test_symmetric_under_one_policy(self, one, other):
        there, back = (
            [f.severity for f in verdict.judge(
                *pair, free_vfs=1, policy=policy.V1).findings]
            for pair in ((one, other), (other, one)))
        self.assertEqual(there, back)

    def test_reason_is_cut_at_sentences(self):
        result = judge({'device_id': '1111', 'vbios_version': 'X' * 60,
                        'driver_version': 'Y' * 60, 'partition': 'CPX'})
        self.assertEqual(4, len(result.refusals))
        self.assertTrue(result.reason().endswith('; and 2 more'),
                        result.reason())
        self.assertLessEqual(len(result.reason()), 220)

    @hypothesis.given(strategies.integers(0, 300))
    def test_reason_keeps_any_limit(self, limit):
        result = judge({'firmware': {f'FW_{n}': 'v' * 20
                                     for n in range(20)},
                        'device_id': '1111'}, free_vfs=0)
        self.assertLessEqual(len(result.reason(limit)), limit)
