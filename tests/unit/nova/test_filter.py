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
import logging
import os

import fixtures
from hypothesis import given
from hypothesis import strategies as st
from nova import conf as nova_conf
from nova import context as nova_context
from nova.db.main import models
from nova import exception
from nova import objects
from nova.scheduler import host_manager
from oslo_utils import uuidutils
from oslotest import base

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.conf import nova as nova_opts
from nova_vgpu_mig.nova import filter as vf_filter
from nova_vgpu_mig.nova import publication

objects.register_all()

KIND = identity.VFIdentity(
    vendor_id='1002', device_id='74b5', frame_buffer_mib=512, num_vfs=4,
    migration_version=1, driver_version='8.3.0', vbios_version='113-A1',
    partition='SPX', firmware={'MEC': '0x9c'}, engines={'VCN': 3},
    time_slices_us={'GFX': 4000})
OLD = dataclasses.replace(KIND, firmware={'MEC': '0x9b'})

SOURCE_PF = '0000:03:00.0'
SOURCE_VF = '0000:03:02.1'


def pool(pf=SOURCE_PF, kind=KIND, free=True):
    prefix = pf[:8]
    return publication.Pool.of(pf, kind, [
        publication.VF(f'{prefix}02.{n}', n, free) for n in range(4)])


def stats(*pools, **kwargs):
    return {publication.KEY: publication.encode(
        publication.Publication(pools, **kwargs)), 'num_instances': '1'}


class Cell(fixtures.Fixture):
    """A cell with a real database, reached as Nova reaches cells."""

    def _setUp(self):
        path = os.path.join(self.useFixture(fixtures.TempDir()).path, 'db')
        self.mapping = objects.CellMapping(
            uuid=uuidutils.generate_uuid(), name='cell', disabled=False,
            transport_url='fake:///', database_connection=f'sqlite:///{path}')
        with self.context() as context:
            engine = context.db_connection.writer.get_engine()
            models.BASE.metadata.create_all(engine)
            self.addCleanup(engine.dispose)

    def context(self):
        return nova_context.target_cell(nova_context.get_admin_context(),
                                        self.mapping)

    def add_node(self, host, node_stats):
        with self.context() as context:
            node = objects.ComputeNode(
                context, uuid=uuidutils.generate_uuid(), host=host,
                hypervisor_hostname=f'{host}.node', vcpus=8, memory_mb=1024,
                local_gb=10, vcpus_used=0, memory_mb_used=0, local_gb_used=0,
                hypervisor_type='QEMU', hypervisor_version=1, cpu_info='',
                stats=node_stats, mapped=1)
            node.create()
        return node

    def add_instance(self, node, task_state='migrating'):
        with self.context() as context:
            instance = objects.Instance(
                context, uuid=uuidutils.generate_uuid(), host=node.host,
                node=node.hypervisor_hostname, compute_id=node.id,
                task_state=task_state, user_id='user',
                project_id='project')
            instance.create()
        return instance

    def add_device(self, node, address, instance_uuid, request_id,
                   dev_type='type-VF', pf=None, rp_uuid=None):
        with self.context() as context:
            device = objects.PciDevice.create(context, {
                'compute_node_id': node.id, 'address': address,
                'vendor_id': '1002', 'product_id': '74b5', 'numa_node': 0,
                'dev_type': dev_type, 'parent_addr': pf,
                'status': 'allocated', 'dev_id': 'pci_0', 'label': 'label',
                **({'rp_uuid': rp_uuid} if rp_uuid else {})})
            device.instance_uuid = instance_uuid
            device.request_id = request_id
            device.status = 'allocated' if instance_uuid else 'available'
            device.save()


class TestVFCompatibilityFilter(base.BaseTestCase):
    def setUp(self):
        super().setUp()
        self.log = self.useFixture(fixtures.FakeLogger(
            level=logging.INFO))
        self.cell = self.useFixture(Cell())
        self.filter = vf_filter.VFCompatibilityFilter()
        self.request_id = uuidutils.generate_uuid()

    def build(self, node_stats=None, task_state='migrating', devices=None,
              alias='gpu'):
        """Return the request of a move from a source so described."""
        node = self.cell.add_node(
            'source', stats(pool()) if node_stats is None else node_stats)
        instance = self.cell.add_instance(node, task_state)
        for address in [SOURCE_VF] if devices is None else devices:
            self.cell.add_device(node, address, instance.uuid,
                                 self.request_id, pf=f'{address[:8]}00.0')
        request = objects.InstancePCIRequest(
            count=1, spec=[{'vendor_id': '1002'}], alias_name=alias,
            request_id=self.request_id)
        return objects.RequestSpec(
            instance_uuid=instance.uuid, ignore_hosts=['source'],
            requested_destination=objects.Destination(
                cell=self.cell.mapping),
            pci_requests=objects.InstancePCIRequests(
                instance_uuid=instance.uuid, requests=[request]))

    def host(self, name='dest', host_stats=None):
        state = host_manager.HostState(name, f'{name}.node',
                                       self.cell.mapping.uuid)
        if host_stats is not None:
            state.stats = host_stats
        return state

    def refused(self, spec, *hosts):
        """Run the filter on hosts that it leaves out; return its reason."""
        refusal = self.assertRaises(exception.NoValidHost, self.run_filter,
                                    spec, *hosts)
        return refusal.format_message()

    def run_filter(self, spec, *hosts):
        passed = self.filter.filter_all(iter(hosts), spec)
        return [host.host for host in passed]

    def test_only_compatible_hosts_pass(self):
        spec = self.build()
        self.assertEqual(['good'], self.run_filter(
            spec, self.host('good', stats(pool('0000:81:00.0'))),
            self.host('old', stats(pool(kind=OLD))),
            self.host('full', stats(pool(free=False))),
            self.host('none', stats())))
        self.assertIn(
            f'Host old, PF 0000:03:00.0 cannot take VM {spec.instance_uuid}: '
            'firmware: MEC 0x9c at the source, MEC 0x9b at the destination '
            '[rule firmware; source: MEC 0x9c; destination: MEC 0x9b]',
            self.log.output)
        self.assertIn('Host full, PF 0000:03:00.0 cannot take VM',
                      self.log.output)
        self.assertIn('[rule free_vf;', self.log.output)
        self.assertIn('Host none cannot take', self.log.output)

    def test_a_gpu_with_bad_pages_is_left_out(self):
        bad = dataclasses.replace(pool(), health=health.Health(3, 0))
        spec = self.build()
        self.refused(spec, self.host('bad', stats(bad)))
        self.assertIn('[rule bad_pages;', self.log.output)
        worn = dataclasses.replace(pool(), health=health.Health(0, 9))
        self.assertEqual(['worn'], self.run_filter(
            spec, self.host('worn', stats(worn))))

    def test_hosts_that_publish_garbage_or_nothing(self):
        spec = self.build()
        self.refused(
            spec, self.host('silent'), self.host('empty', {}),
            self.host('foreign', {'num_instances': '1'}),
            self.host('garbage', {publication.KEY: '{"v":1'}),
            self.host('newer', {publication.KEY: '{"v":2}'}),
            self.host('number', {publication.KEY: 7}),
            self.host('broken', stats(problem='agent does not answer')))
        for words in ('Host silent cannot take VM', 'Host empty cannot',
                      'Host foreign cannot', 'VgpuMigLibvirtDriver',
                      'Host garbage cannot', 'is not JSON',
                      'Host newer cannot', 'schema version 2',
                      'Host number cannot', 'agent does not answer'):
            self.assertIn(words, self.log.output)

    def test_requests_that_are_no_live_migration_read_nothing(self):
        hosts = [self.host('silent')]
        spec = self.build()
        # A cell that cannot be read: any look-up would raise.
        spec.requested_destination.cell = objects.CellMapping(
            uuid=uuidutils.generate_uuid(), transport_url='fake:///',
            database_connection='sqlite:////nowhere/at/all')
        boot = objects.RequestSpec(
            instance_uuid=spec.instance_uuid, ignore_hosts=None,
            requested_destination=None, pci_requests=spec.pci_requests)
        self.assertEqual(['silent'], self.run_filter(boot, *hosts))
        self.assertEqual(['silent'],
                         self.run_filter(objects.RequestSpec(), *hosts))
        spec.pci_requests = objects.InstancePCIRequests(requests=[])
        self.assertEqual(['silent'], self.run_filter(spec, *hosts))

    def test_another_task_is_left_alone(self):
        spec = self.build(task_state='resize_prep')
        self.assertEqual(['silent'],
                         self.run_filter(spec, self.host('silent')))

    def test_vms_without_a_gpu_vf_are_left_alone(self):
        silent = self.host('silent')
        for number, (node_stats, devices) in enumerate((
                (stats(pool()), ['0000:99:02.1']),
                (stats(pool()), []),
                ({'num_instances': '1'}, [SOURCE_VF]))):
            cell = self.useFixture(Cell())
            self.cell = cell
            spec = self.build(node_stats, devices=devices)
            self.assertEqual(['silent'], self.run_filter(spec, silent),
                             number)

    def test_two_vfs_are_refused_by_rule(self):
        spec = self.build(devices=[SOURCE_VF, '0000:03:02.2'])
        self.refused(spec, self.host('good', stats(pool())))
        self.assertIn('[rule vm_vfs; source: 2; destination: 1]',
                      self.log.output)

    def test_a_claim_elsewhere_is_not_a_second_vf(self):
        spec = self.build()
        refused = self.cell.add_node('refused', stats(pool()))
        self.cell.add_device(refused, '0000:03:02.3', spec.instance_uuid,
                             self.request_id, pf=SOURCE_PF)
        self.assertEqual(['good'], self.run_filter(
            spec, self.host('good', stats(pool()))))

    def test_a_source_that_cannot_tell(self):
        for node_stats, words in (
                ({publication.KEY: 'garbage'}, 'is not JSON'),
                (stats(problem='agent down'), 'agent down'),
                (stats(omitted_pools=3), '3 of its PFs found no room')):
            self.cell = self.useFixture(Cell())
            spec = self.build(node_stats)
            self.refused(spec, self.host('good', stats(pool())))
            self.assertIn(words, self.log.output)
            self.assertIn('because of its host source', self.log.output)

    def test_a_source_that_does_not_tell_pools_of_a_pf_apart(self):
        unlisted = [dataclasses.replace(pool(kind=kind), vfs=None)
                    for kind in (KIND, OLD)]
        reason = self.refused(self.build(stats(*unlisted)),
                              self.host('good', stats(pool())))
        self.assertEqual(
            'No valid host was found. GPU VF: nothing is known of its VF, '
            'because of its host source: PF 0000:03:00.0 has 2 pools, and '
            'which of them VF 0000:03:02.1 belongs to is not published: '
            'the lists of their VFs found no room', reason)

    def build_with_aliases_of_gpus(self, alias):
        nova_opts.register_opts(nova_conf.CONF)
        self.addCleanup(nova_conf.CONF.clear_override, 'pci_aliases',
                        nova_opts.GROUP)
        nova_conf.CONF.set_override('pci_aliases', ['gpu'], nova_opts.GROUP)
        return self.build(stats(problem='agent does not answer'),
                          alias=alias)

    def test_alias_of_another_device_is_left_alone(self):
        self.assertEqual(['dest'], self.run_filter(
            self.build_with_aliases_of_gpus('qat'), self.host()))

    def test_alias_of_a_gpu_is_not(self):
        self.refused(self.build_with_aliases_of_gpus('gpu'), self.host())

    def test_a_network_vf_moves_although_the_source_cannot_tell(self):
        spec = self.build({publication.KEY: 'garbage'}, alias=None)
        self.assertEqual(['silent'],
                         self.run_filter(spec, self.host('silent')))

    def test_the_operator_reads_the_reasons(self):
        old = pool(kind=OLD)
        reason = self.refused(self.build(), self.host('one', stats(old)),
                              self.host('two', {}))
        self.assertIn('one: firmware: MEC', reason)
        self.assertIn('two: it publishes no GPU VFs', reason)

    def test_no_hosts_are_nobody_to_refuse(self):
        self.assertEqual([], self.run_filter(self.build()))

    def test_a_database_that_fails(self):
        spec = self.build()
        with self.cell.context() as context:
            engine = context.db_connection.writer.get_engine()
            models.PciDevice.__table__.drop(engine)
        self.assertIn('its source cannot be looked up: ',
                      self.refused(spec, self.host()))

    def test_a_host_that_fails_spoils_no_other(self):
        class Broken:
            host = 'broken'

            @property
            def stats(self):
                raise OSError('no stats')

        spec = self.build()
        self.assertEqual(['good'], self.run_filter(
            spec, Broken(), self.host('good', stats(pool('0000:81:00.0')))))
        self.assertIn('it cannot be judged: OSError: no stats',
                      self.refused(spec, Broken()))

    def test_a_vm_that_is_gone(self):
        spec = self.build()
        spec.instance_uuid = uuidutils.generate_uuid()
        self.refused(spec, self.host('good', stats(pool())))
        self.assertIn('its source is gone', self.log.output)

    def mixed_host(self):
        """Return a host with a suitable and an unsuitable PF."""
        node_stats = stats(pool('0000:41:00.0', OLD), pool('0000:81:00.0'))
        state = self.host('mixed', node_stats)
        node = self.cell.add_node('mixed', node_stats)
        state.uuid = node.uuid
        providers = {}
        for pf in ('0000:41:00.0', '0000:81:00.0'):
            providers[pf] = uuidutils.generate_uuid()
            self.cell.add_device(node, f'{pf[:8]}02.0', None, None, pf=pf,
                                 rp_uuid=providers[pf])
        return state, providers

    def candidate(self, provider):
        return {'mappings': {'': ['root'],
                             f'{self.request_id}-0': [provider]}}

    def test_candidates_of_unsuitable_pfs_are_pruned(self):
        spec = self.build()
        state, providers = self.mixed_host()
        bad, good = map(self.candidate, providers.values())
        state.allocation_candidates = [bad, good]
        self.assertEqual(['mixed'], self.run_filter(spec, state))
        self.assertEqual([good], state.allocation_candidates)

    def test_a_host_without_a_suitable_candidate(self):
        spec = self.build()
        state, providers = self.mixed_host()
        state.allocation_candidates = [
            self.candidate(providers['0000:41:00.0'])]
        self.refused(spec, state)
        self.assertIn('no candidate on a suitable PF', self.log.output)

    def test_without_pci_in_placement_a_mixed_host_passes(self):
        spec = self.build()
        state, _providers = self.mixed_host()
        candidates = [{'mappings': {'': ['root']}}]
        state.allocation_candidates = candidates
        self.assertEqual(['mixed'], self.run_filter(spec, state))
        self.assertIs(candidates, state.allocation_candidates)
        self.assertIn('may claim the wrong one', self.log.output)

    def test_a_pf_with_suitable_and_unsuitable_vfs_passes(self):
        spec = self.build()
        pf = '0000:81:00.0'
        state = self.host('dest', stats(pool(pf, OLD), pool(pf)))
        candidates = [self.candidate('provider')]
        state.allocation_candidates = candidates
        self.assertEqual(['dest'], self.run_filter(spec, state))
        self.assertIs(candidates, state.allocation_candidates)
        self.assertIn(
            f'Host dest, PF {pf} has suitable and unsuitable VFs for VM '
            f'{spec.instance_uuid} and Placement does not know them apart: '
            'Nova may claim the wrong one, which is then refused\n',
            self.log.output)

    def test_a_pf_with_two_suitable_pools_is_no_mixed_one(self):
        other = dataclasses.replace(KIND, time_slices_us={'GFX': 5000})
        state = self.host('dest', stats(pool(), pool(kind=other)))
        self.assertEqual(['dest'], self.run_filter(self.build(), state))
        self.assertEqual('', self.log.output)

    def test_nova_finds_the_filter(self):
        handler = host_manager.filters.HostFilterHandler()
        classes = handler.get_matching_classes(
            ['nova_vgpu_mig.nova.filter.VFCompatibilityFilter'])
        self.assertEqual([vf_filter.VFCompatibilityFilter], classes)
        spec = self.build()
        passed = handler.get_filtered_objects(
            [self.filter], [self.host('good', stats(pool()))], spec)
        self.assertEqual(['good'], [host.host for host in passed])


class TestShortened(base.BaseTestCase):

    @given(reasons=st.dictionaries(st.text(min_size=1, max_size=60),
                                   st.text(max_size=400), max_size=40))
    def test_reasons_are_shortened_to_what_nova_keeps(self, reasons):
        text = vf_filter.shortened(reasons)
        self.assertLessEqual(len(text), 220)
        if sum(len(h) + len(r) + 4 for h, r in reasons.items()) < 40:
            for host, reason in reasons.items():
                self.assertIn(f'{host}: {reason}', text)
