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


"""Each point at which a move is refused, and what the operator reads."""

import os
from unittest import mock

from nova import context as nova_context
from nova import objects

from nova_vgpu_mig.agent import objects as agent_objects
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.nova import publication
from nova_vgpu_mig import unixcall
from tests.functional import base

CHECK = 'compute_check_can_live_migrate_destination'


class RefusalTestCase(base.CloudTestCase):

    def refused(self, server_id, host=None, **kwargs):
        """Live-migrate, expect a refusal, and return its reasons."""
        migration = self.move(server_id, host, **kwargs)
        self.assertEqual('error', migration['status'])
        self.assert_active(server_id, 'compute1')
        reasons = [str(event['details'])
                   for event in self.cloud.events(server_id)
                   if event['event'] == CHECK and event['details']]
        for reason in reasons:
            self.assertLessEqual(len(reason), 255)
        return reasons

    def occupy(self, host, address):
        """Be a guest that nobody in the cloud knows of."""
        client = unixcall.Client(self.cloud.computes[host].gim.path)
        self.addCleanup(client.close)
        ram = os.memfd_create('ram')
        try:
            os.ftruncate(ram, 1 << 20)
            client.call('attach', vf=address, ram_bytes=1 << 20,
                        incoming=False, fds=[ram])
        finally:
            os.close(ram)
        return client


class RefusalTest(RefusalTestCase):

    def test_filter_leaves_out_the_older_firmware(self):
        server = self.boot()
        # The API does not check the host; the scheduler does.
        self.assertEqual([], self.refused(server, 'compute3'))
        self.assert_reserved({server: 'compute1'})

    def test_check_refuses_when_the_scheduler_did_not(self):
        server = self.boot()
        self._publish('compute3', self._published('compute2'))
        [reason] = self.refused(server, 'compute3')
        self.assertIn('firmware: MEC 0x9c', reason)
        self.assertIn('MEC 0x8a', reason)
        self.assert_reserved({server: 'compute1'})

    def test_garbage_published(self):
        server = self.boot()
        for garbage in ('', '{', '[]', '{"v": 1, "pools": 7}'):
            self._publish('compute2', garbage)
            self.assertEqual([], self.refused(server, 'compute2'), garbage)
        self.assert_reserved({server: 'compute1'})

    def test_nothing_old_is_published_without_an_agent(self):
        compute_ = self.cloud.computes['compute2']
        self.addCleanup(self.cloud.nova.report)
        self.addCleanup(compute_.start_agent)
        compute_.stop_agent()
        self.cloud.nova.report()
        found = publication.decode(self._published('compute2'))
        self.assertEqual((), found.pools)
        self.assertIn('did not answer', found.problem)

    def test_agent_of_the_destination_does_not_answer(self):
        server = self.boot()
        compute_ = self.cloud.computes['compute2']
        self.addCleanup(compute_.start_agent)
        compute_.stop_agent()
        [reason] = self.refused(server, 'compute2')
        self.assertIn('agent of host compute2', reason)
        self.assertIn('systemctl status nova-vgpu-mig-agent', reason)

    def test_agent_of_a_newer_release(self):
        server = self.boot()
        answer = agent_objects.HostDescription.obj_to_primitive

        def newer(obj, *args, **kwargs):
            return {**answer(obj, *args, **kwargs),
                    'nova_vgpu_mig_object.version': '1.99'}

        self.addCleanup(self.cloud.nova.report)
        with mock.patch.object(agent_objects.HostDescription,
                               'obj_to_primitive', newer):
            [reason] = self.refused(server, 'compute2')
            # What Nova reports of the host goes on.
            self.cloud.nova.report()
        self.assertIn('is newer', reason)
        found = publication.decode(self._published('compute2'))
        self.assertIn('is newer', found.problem)

    def test_agent_of_the_source_does_not_answer(self):
        server = self.boot()
        compute_ = self.cloud.computes['compute1']
        self.addCleanup(compute_.start_agent)
        compute_.stop_agent()
        [reason] = self.refused(server, 'compute2')
        self.assertIn('agent of host compute1', reason)

    def test_limit_that_can_not_be_kept(self):
        server = self.boot()
        # Once moved, it is known what a switchover costs here.
        for host in ('compute2', 'compute1'):
            self.assertEqual('completed', self.move(server, host)['status'])
        conf = self.cloud.computes['compute1'].conf
        conf.set_override('max_downtime_ms', 1, 'vgpu_mig_migration')
        self.addCleanup(conf.set_override, 'max_downtime_ms',
                        base.LIMIT_MS, 'vgpu_mig_migration')
        # Costs of other moves refuse none in advance; the move itself does.
        self.assertEqual('failed', self.move(server, 'compute2')['status'])
        self.assert_active(server, 'compute1')
        self.assertIn('limit of 1 ms',
                      self.record('compute1', server).reason)
        self.assert_reserved({server: 'compute1'})

    def test_limit_that_is_no_number(self):
        # Nova's API refuses it; an old flavor may have it all the same.
        server = self.boot()
        context = nova_context.get_admin_context()
        instance = objects.Instance.get_by_uuid(context, server, ['flavor'])
        instance.flavor.extra_specs['vgpu_mig:max_downtime_ms'] = 'soon'
        instance.save()
        [reason] = self.refused(server, 'compute2')
        self.assertIn("vgpu_mig:max_downtime_ms='soon'", reason)

    def test_vm_that_is_paused(self):
        server = self.boot()
        post = self.cloud.nova.api.post_server_action
        post(server, {'pause': {}})
        self.cloud.wait_status(server, 'PAUSED')
        self.cloud.live_migrate(server)
        self.cloud.wait_migrated(server)
        self.assertIn('the VM is paused', ' '.join(
            self.cloud.refusals(server)))
        self.assertEqual('PAUSED', self.cloud.server(server)['status'])
        post(server, {'unpause': {}})
        self.cloud.wait_status(server, 'ACTIVE')
        self.assertEqual('completed', self.move(server)['status'])

    def test_vm_with_two_vfs(self):
        server = self.boot(vfs=2)
        # The filter, and the check when nobody asks the scheduler.
        self.assertEqual([], self.refused(server, 'compute2'))
        [reason] = self.refused(server, 'compute2', force=True)
        self.assertIn('GPU VFs in the VM: 2', reason)

    def test_vf_taken_between_verdict_and_prepare(self):
        server = self.boot()
        clients = []

        def take(host, record):
            if (record.role is phases.Role.DESTINATION
                    and record.phase is phases.Phase.PREPARE
                    and not clients):
                clients.append(self.occupy(host, record.destination_vf))

        self.cloud.observers.append(take)
        migration = self.move(server, 'compute2')
        self.assertEqual('failed', migration['status'])
        self.assert_active(server, 'compute1')
        clients[0].close()
        self.assert_reserved({server: 'compute1'})

    def _node(self, host):
        return objects.ComputeNode.get_by_nodename(
            nova_context.get_admin_context(), host)

    def _published(self, host):
        return self._node(host).stats[publication.KEY]

    def _publish(self, host, text):
        node = self._node(host)
        before = self._published(host)
        node.stats = {**node.stats, publication.KEY: text}
        node.save()
        self.addCleanup(self.cloud.nova.report)
        self.assertNotEqual(before, self._published(host))


class TakenVFTest(RefusalTestCase):
    """In a cloud of its own, where it is known which VF Nova takes."""

    def test_vf_taken_behind_novas_back(self):
        server = self.boot()
        # A new nova-compute takes the VF with the highest function first.
        victim = max(self.cloud.computes['compute2'].vfs())
        client = self.occupy('compute2', victim)
        [reason] = self.refused(server, 'compute2')
        self.assertIn(f'VF {victim} of compute2 is in use', reason)
        # Given back at once, not at the next periodic task.
        self.assertEqual((0, 0), self.cloud.nova.pci_devices('compute2'))
        client.close()
