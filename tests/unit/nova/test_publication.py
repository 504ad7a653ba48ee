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

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.nova import publication
from tests.unit.compatibility import test_identity

KIND = identity.VFIdentity(
    vendor_id='1002', device_id='74b5', frame_buffer_mib=512, num_vfs=16,
    migration_version=1, driver_version='8.3.0', vbios_version='113-A1',
    firmware={f'FIRMWARE_{n}': f'0x{n:08x}' for n in range(20)})

ADDRESSES = strategies.from_regex(
    r'[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]',
    fullmatch=True) | strategies.uuids().map(str)
PARENTS = ADDRESSES | strategies.just('mtty')
VFS = strategies.builds(publication.VF, ADDRESSES,
                        strategies.integers(0, 255), strategies.booleans())
COUNTS = strategies.none() | strategies.integers(0, 2 ** 53 - 1)
HEALTHS = strategies.builds(health.Health, COUNTS, COUNTS)
POOLS = strategies.builds(
    publication.Pool.of, PARENTS, test_identity.IDENTITIES,
    strategies.lists(VFS, max_size=4), HEALTHS) | strategies.builds(
        publication.Pool, PARENTS, test_identity.IDENTITIES,
        strategies.integers(0, 256), strategies.none(), HEALTHS)
PUBLICATIONS = strategies.builds(
    publication.Publication,
    pools=strategies.lists(POOLS, max_size=3).map(tuple),
    omitted_pools=strategies.integers(0, 64),
    problem=strategies.text(max_size=40))


def pool(number, kind=KIND, num_vfs=16):
    return publication.Pool.of(
        f'0000:{number:02x}:00.0', kind,
        [publication.VF(f'0000:{number:02x}:{2 + vf // 8:02x}.{vf % 8}', vf,
                        vf % 2 == 0) for vf in range(num_vfs)])


class TestPublication(base.BaseTestCase):
    @hypothesis.given(PUBLICATIONS)
    def test_roundtrip(self, value):
        text = publication.encode(value)
        self.assertTrue(text.isascii())
        self.assertEqual(value, publication.decode(text))

    def test_a_big_host_fits_whole_and_names_identities_once(self):
        value = publication.Publication(tuple(map(pool, range(8))))
        text = publication.encode(value)
        self.assertEqual(1, text.count('FIRMWARE_19'))
        self.assertLess(len(text), 6000)
        self.assertEqual(value, publication.decode(text))

    def test_places_in_a_hive_fit_too(self):
        """Eight GPUs that differ in their XGMI node, and in nothing else."""
        value = publication.Publication(tuple(
            dataclasses.replace(pool(n, dataclasses.replace(
                KIND, subsystem='1002:74a1', revision='0x00',
                psp_migration_version='1', memory_partition='NPS4',
                xgmi='modes 1, 2, 4, 8', xgmi_node=n, compute_units=304), 8),
                health=health.Health(0, 0)) for n in range(8)))
        self.assertEqual(value, publication.decode(
            publication.encode(value)))

    def test_without_room_the_addresses_go_first(self):
        value = publication.Publication(tuple(
            pool(n, dataclasses.replace(KIND, driver_version=f'8.{n}'))
            for n in range(16)))
        read = publication.decode(publication.encode(value))
        self.assertEqual(16, len(read.pools))
        self.assertEqual(0, read.omitted_pools)
        for found in read.pools:
            self.assertEqual(8, found.free_vfs)
            self.assertIsNone(found.free_indices)
        self.assertEqual(value.pools[3].pf_address, read.pool_of(
            '0000:03:00.0', 'not known').pf_address)

    def test_then_pools_are_omitted_and_counted(self):
        value = publication.Publication(tuple(
            pool(n, dataclasses.replace(KIND, driver_version=f'8.{n}'))
            for n in range(60)))
        text = publication.encode(value)
        self.assertLessEqual(len(text), publication.MAX_BYTES)
        read = publication.decode(text)
        self.assertGreater(read.omitted_pools, 0)
        self.assertEqual(60, len(read.pools) + read.omitted_pools)

    def test_pools_of_one_pf_are_omitted_together(self):
        value = publication.Publication(tuple(
            pool(n // 3, dataclasses.replace(KIND, driver_version=f'8.{n}'))
            for n in range(60)))
        read = publication.decode(publication.encode(value))
        self.assertGreater(read.omitted_pools, 0)
        self.assertEqual(60, len(read.pools) + read.omitted_pools)
        self.assertEqual(0, len(read.pools) % 3)

    def test_pool_of(self):
        value = publication.Publication((pool(1), pool(2)))
        self.assertEqual(value.pools[1],
                         value.pool_of(None, '0000:02:02.3'))
        self.assertEqual(value.pools[0],
                         value.pool_of('0000:01:00.0', '0000:01:1f.7'))
        self.assertIsNone(value.pool_of(None, '0000:03:02.3'))
        self.assertEqual(3, value.pools[1].index_of('0000:02:02.3'))

    def test_pool_of_a_parent_with_two_types(self):
        uuids = ('6f314289-8d62-486c-b1b5-25e0177906f1',
                 '53b30af8-24b7-4965-a6d4-c84c7720170b')
        value = publication.Publication(tuple(
            publication.Pool.of('mtty', dataclasses.replace(
                KIND, partition=kind), [publication.VF(uuid, 0, True)])
            for kind, uuid in zip(('mtty-1', 'mtty-2'), uuids, strict=True)))
        self.assertEqual(value.pools[1], value.pool_of('mtty', uuids[1]))

    def test_pool_of_a_pf_with_two_identities(self):
        vfs = ['0000:01:02.0'], ['0000:01:02.1']
        listed = publication.Publication(tuple(
            publication.Pool.of(
                '0000:01:00.0', dataclasses.replace(
                    KIND, driver_version=f'8.{number}'),
                [publication.VF(vf, number, True) for vf in addresses])
            for number, addresses in enumerate(vfs)))
        for pool_, (address,) in zip(listed.pools, vfs, strict=True):
            self.assertEqual(pool_, listed.pool_of('0000:01:00.0', address))
        unlisted = publication.Publication(tuple(
            dataclasses.replace(pool_, vfs=None) for pool_ in listed.pools))
        for value, address, why in (
                (listed, '0000:01:02.2', 'none of them lists it'),
                (unlisted, '0000:01:02.1',
                 'the lists of their VFs found no room')):
            exc = self.assertRaises(publication.PublicationError,
                                    value.pool_of, '0000:01:00.0', address)
            self.assertEqual(
                'PF 0000:01:00.0 has 2 pools, and which of them VF '
                f'{address} belongs to is not published: {why}', str(exc))

    def test_garbage_is_refused_where_it_is(self):
        good = json.loads(publication.encode(
            publication.Publication((pool(1),))))
        for change, words in (
                ({'v': 2}, 'schema version 2'),
                ({'v': True}, 'schema version True'),
                ({'v': None}, 'schema version None'),
                ({'pools': {}}, 'vgpu_mig.pools'),
                ({'identities': None}, 'vgpu_mig.identities'),
                ({'identities': [{'vendor_id': 1}]}, 'identities[0]'),
                ({'identities': []}, 'pools[0].id'),
                ({'omitted': -1}, 'vgpu_mig.omitted'),
                ({'problem': 7}, 'vgpu_mig.problem'),
                ({'pools': ['x']}, 'pools[0]'),
                ({'pools': [{**good['pools'][0], 'pf': '03:00.0'}]},
                 'pools[0].pf'),
                ({'pools': [{**good['pools'][0], 'free': 9}]},
                 'pools[0].free'),
                ({'pools': [{**good['pools'][0], 'vfs': [[1, 2]]}]},
                 'vfs[0]'),
                ({'pools': [{**good['pools'][0], 'health': [1]}]},
                 'pools[0].health'),
                ({'pools': [{**good['pools'][0], 'health': [-1, 0]}]},
                 'pools[0].health'),
                ({'pools': [{**good['pools'][0],
                             'vfs': [['0000:01:02.0', 0, 2]]}]}, 'vfs[0]')):
            exc = self.assertRaises(publication.PublicationError,
                                    publication.decode,
                                    json.dumps({**good, **change}))
            self.assertIn(words, str(exc))

    def test_what_is_no_text_of_json(self):
        for bad in (None, 7, b'{}', '', 'x', '[]', '"x"', '{"v":1',
                    '[' * 16000, 'x' * 20000, '{"v":1}'):
            exc = self.assertRaises(publication.PublicationError,
                                    publication.decode, bad)
            self.assertIn('vgpu_mig', str(exc))
            self.assertLess(len(str(exc)), 300)

    @hypothesis.given(test_identity.JSON_VALUES, strategies.sampled_from(
        ['v', 'identities', 'pools', 'omitted', 'problem']))
    def test_any_garbage_is_read_or_refused(self, garbage, name):
        good = json.loads(publication.encode(
            publication.Publication((pool(1),))))
        for value in (garbage, {**good, name: garbage},
                      {**good, 'pools': [garbage]},
                      {**good, 'pools': [{**good['pools'][0],
                                          'vfs': [garbage]}]}):
            try:
                publication.decode(json.dumps(value))
            except publication.PublicationError:
                pass
