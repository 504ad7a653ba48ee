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


"""Who carries a VM's state, from the first check to the source's step."""

from nova import exception
from nova import objects as nova_objects
from oslo_utils.fixture import uuidsentinel as uuids
import testtools

from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record
from nova_vgpu_mig.nova.internals import compute as internals
from nova_vgpu_mig.nova import moves

nova_objects.register_all()

SOURCE_VF, DESTINATION_VF = '0000:83:00.1', '0000:83:00.2'
JOB = {'downtime_limit_ms': 20, 'parallel_connections': 4,
       'switchover_bandwidth': None}
POOL = contract.Pool(
    '0000:83:00.0', identity.VFIdentity(
        vendor_id='1002', device_id='74b5', frame_buffer_mib=16, num_vfs=2,
        migration_version=1 << 16, driver_version='8', vbios_version='1',
        partition='SPX', firmware={'MEC': '1'}),
    (contract.VF(SOURCE_VF, 0, True), contract.VF(DESTINATION_VF, 1, True)))


class Agents:
    """The agents of two hosts; what was asked of them is kept."""

    def __init__(self, plan, **carriers):
        self.plan_says = plan
        self.carriers = carriers
        self.requests = []

    def describe(self, ctxt, host, timeout=None):
        return objects.HostDescription(
            host=host, version='1', rpc_version='1.0', data_host='',
            data_port=0, pools=[objects.PoolDescription.from_pool(POOL)],
            carriers=self.carriers[host])

    def plan(self, ctxt, host, instance_uuid, vf_address, limit_ms):
        assert (host, vf_address) == ('src', SOURCE_VF)
        return {'bytes': 1, 'seconds': 1.0, 'downtime_ms': 1.0,
                'limit_ms': 9.0, 'fits': True, 'reason': 'it fits',
                **self.plan_says}

    def claim(self, ctxt, host, request):
        self.requests.append(('claim', host, request.carrier))

    def prepare_source(self, ctxt, host, request):
        self.requests.append(('prepare_source', host, request.carrier))
        return record.MigrationRecord(
            migration_uuid=request.migration_uuid,
            instance_uuid=request.instance_uuid, role=phases.Role.SOURCE,
            source_host='src', destination_host='dst', source_vf=SOURCE_VF,
            destination_vf=DESTINATION_VF, job=dict(JOB))


class CarrierTest(testtools.TestCase):

    INSTANCE = nova_objects.Instance(
        uuid=uuids.instance, host='src',
        flavor=nova_objects.Flavor(extra_specs={}))
    HELD = [internals.HeldVF(SOURCE_VF, 'gpu')]
    CLAIMED = {SOURCE_VF: DESTINATION_VF}
    NAMES = internals.MoveNames(uuids.migration, 'src', 'dst')

    def hosts(self, plan, src, dst):
        self.agents = Agents(plan, src=src, dst=dst)
        return (moves.VFMoves(self.agents, 'src', 5),
                moves.VFMoves(self.agents, 'dst', 5))

    def go(self, plan, src, dst):
        """Take each step; nothing is kept between them."""
        self.hosts(plan, src, dst)[1].check_destination(
            None, self.INSTANCE, self.HELD)
        self.hosts(plan, src, dst)[0].check_source(
            None, self.INSTANCE, self.HELD)
        source, destination = self.hosts(plan, src, dst)
        destination.claim(None, self.INSTANCE, self.HELD, self.CLAIMED,
                          self.NAMES)
        return source.prepare_source(None, self.INSTANCE, self.HELD,
                                     self.CLAIMED, self.NAMES)

    def refused(self, step, *args):
        return str(self.assertRaises(
            exception.MigrationPreCheckError, step, None, self.INSTANCE,
            self.HELD, *args))

    def test_the_one_that_holds_the_vm_at_each_step(self):
        both = ['agent', 'hypervisor']
        for plan, carriers, expected in (
                ({'carrier': 'hypervisor'}, ['hypervisor'], 'hypervisor'),
                ({'carrier': 'hypervisor'}, both, 'hypervisor'),
                ({'carrier': 'agent'}, both, 'agent'),
                ({}, ['agent'], 'agent')):
            self.assertEqual(JOB, self.go(plan, carriers, carriers))
            self.assertEqual([('claim', 'dst', expected),
                              ('prepare_source', 'src', expected)],
                             self.agents.requests)

    def test_an_end_that_lacks_it_refuses_at_each_step(self):
        plan = {'carrier': 'hypervisor'}
        source, destination = self.hosts(plan, ['hypervisor'], ['agent'])
        for text in (self.refused(destination.check_destination),
                     self.refused(destination.claim, self.CLAIMED,
                                  self.NAMES)):
            self.assertIn('dst lacks the carrier hypervisor', text)
            self.assertIn('it has agent', text)
            self.assertIn('[vgpu_mig_libvirt] uri', text)
            self.assertLessEqual(len(text), 255)
        source, destination = self.hosts(plan, [], ['hypervisor'])
        for text in (self.refused(destination.check_destination),
                     self.refused(source.check_source),
                     self.refused(source.prepare_source, self.CLAIMED,
                                  self.NAMES)):
            self.assertIn('src lacks the carrier hypervisor', text)
            self.assertIn('it has none', text)
        self.assertEqual([], self.agents.requests)

    def test_agents_never_carry_what_a_qemu_holds(self):
        # An agent that is older says nothing, and has no VMM port for it.
        for plan in ({}, {'carrier': 'agent'}):
            _, destination = self.hosts(plan, ['hypervisor'], ['agent'])
            self.assertIn('src lacks the carrier agent',
                          self.refused(destination.check_destination))

    def test_carrier_of_a_newer_agent(self):
        source, _ = self.hosts({'carrier': 'pigeon'}, ['agent'], ['agent'])
        text = self.refused(source.check_source)
        self.assertIn('upgrade nova-vgpu-mig', text)
