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

from nova.network import model
from nova import objects
from nova.objects import migrate_data
from oslo_utils.fixture import uuidsentinel as uuids
import testtools

from nova_vgpu_mig.nova.internals import compute as internals
from nova_vgpu_mig.nova import networks

objects.register_all()


def port(kind, **details):
    """Build a port as Nova's network model has it."""
    return model.VIF(
        id=uuids.port, address='fa:16:3e:00:00:01', type=kind,
        devname='tap0', ovs_interfaceid=uuids.port, active=True,
        vnic_type='normal', details=details, network=model.Network(
            id=uuids.network, bridge='br-int', label='net', subnets=[]))


def moving(source, destination_kind):
    """Build the data of a move whose port was bound to the destination."""
    vif = migrate_data.VIFMigrateData(
        port_id=uuids.port, host='here', vif_type=destination_kind,
        vnic_type='normal', profile={}, source_vif=source,
        vif_details={'bridge_name': 'br-int'})
    return migrate_data.LibvirtLiveMigrateData(vifs=[vif])


class UnpluggableTest(testtools.TestCase):

    def setUp(self):
        super().setUp()
        self.host = internals.vif_plugins()

    def problems(self, source, destination_kind, host=None):
        return networks.unpluggable(
            internals.destination_vifs(None, moving(
                source, destination_kind)), host or self.host)

    def test_what_the_host_has_a_plugin_for(self):
        self.assertEqual([], self.problems(port('ovs'), 'ovs'))

    def test_the_binding_of_the_destination_counts(self):
        without = internals.vif_plugins()
        without.plugin_info = [plugin for plugin in without.plugin_info
                               if plugin.plugin_name != 'ovs']
        self.assertEqual([], self.problems(port('ovs'), 'tap', without))
        problem, = self.problems(port('tap'), 'ovs', without)
        self.assertIn(f'port {uuids.port} needs the os-vif plugin '
                      "'ovs', and there are noop", problem)

    def test_a_plugin_that_does_not_plug_the_kind(self):
        without = internals.vif_plugins()
        for plugin in without.plugin_info:
            plugin.vif_info = []
        problem, = self.problems(port('ovs'), 'ovs', without)
        self.assertIn('which the os-vif plugin', problem)

    def test_what_nova_plugs_without_os_vif_is_left_to_it(self):
        for kind in ('unbound', 'binding_failed', 'hw_veb', 'no such'):
            self.assertEqual([], self.problems(port('ovs'), kind), kind)

    def test_without_multiple_bindings_the_sources_ports_count(self):
        class Instance:
            @staticmethod
            def get_network_info():
                return model.NetworkInfo([port('ovs')])

        found = internals.destination_vifs(
            Instance, migrate_data.LibvirtLiveMigrateData())
        self.assertEqual(['ovs'], [vif.plugin for vif in found])
