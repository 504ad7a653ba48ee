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


from xml.etree import ElementTree

from nova import objects
from nova.objects import migrate_data
from nova.virt.libvirt import config
from nova.virt.libvirt import migration
from oslo_utils.fixture import uuidsentinel as uuids
import testtools

from nova_vgpu_mig.nova import migration_events

objects.register_all()

QEMU = '{http://libvirt.org/schemas/domain/qemu/1.0}'
GPU, OTHER = '0000:83:00.1', '0000:5e:02.3'


def hostdev(address):
    device = config.LibvirtConfigGuestHostdevPCI()
    device.domain, device.bus, rest = address.split(':')
    device.slot, device.function = rest.split('.')
    return device


def guest_xml(*addresses):
    """A domain as Nova makes it, with these host devices."""
    guest = config.LibvirtConfigGuest()
    guest.name = 'instance-1'
    guest.uuid = uuids.instance
    guest.memory = 1024
    guest.virt_type = 'kvm'
    guest.os_type = 'hvm'
    metadata = config.LibvirtConfigGuestMetaNovaInstance()
    metadata.name = 'a <name>'
    metadata.package = '34'
    guest.metadata = [metadata]
    for address in addresses:
        guest.add_device(hostdev(address))
    return guest.to_xml()


def asked(xml):
    """Return PCI address -> the properties that are set on it."""
    domain = ElementTree.fromstring(xml)
    by_alias = {
        device.get('alias'): [
            dict(each.attrib) for each in
            device.findall(f'{QEMU}frontend/{QEMU}property')]
        for device in domain.findall(f'{QEMU}override/{QEMU}device')}
    found = {}
    for device in domain.findall('./devices/hostdev'):
        parsed = config.LibvirtConfigGuestHostdevPCI()
        # Nova's own parser reads the device, and is not stopped by an alias.
        parsed.parse_str(ElementTree.tostring(device))
        alias = device.find('alias')
        found[':'.join((parsed.domain[2:], parsed.bus[2:],
                        f'{parsed.slot[2:]}.{parsed.function[2:]}'))] = (
            None if alias is None else by_alias.pop(alias.get('name')))
    assert not by_alias
    return found


ON = [{'name': 'migration-events', 'type': 'bool', 'value': 'true'}]


class MigrationEventsTest(testtools.TestCase):

    def test_only_for_the_gpus_vfs(self):
        second = '0000:83:00.2'
        xml = migration_events.ask(
            guest_xml(OTHER, GPU, second), {GPU, second})
        self.assertEqual({OTHER: None, GPU: ON, second: ON}, asked(xml))
        aliases = [each.get('name') for each in ElementTree.fromstring(xml)
                   .findall('./devices/hostdev/alias')]
        self.assertEqual(['ua-vgpu-mig-0', 'ua-vgpu-mig-1'], aliases)

    def test_nothing_changes_without_a_gpu(self):
        xml = guest_xml(OTHER)
        self.assertEqual(xml, migration_events.ask(xml, {GPU}))
        self.assertEqual(xml, migration_events.ask(xml, ()))

    def test_the_rest_stays(self):
        before = guest_xml(GPU)
        after = ElementTree.fromstring(migration_events.ask(before, {GPU}))
        after.remove(after.find(f'{QEMU}override'))
        device = after.find('./devices/hostdev')
        device.remove(device.find('alias'))
        self.assertEqual(
            ElementTree.canonicalize(before, rewrite_prefixes=True,
                                     strip_text=True),
            ElementTree.canonicalize(ElementTree.tostring(after),
                                     rewrite_prefixes=True,
                                     strip_text=True))
        self.assertIn('<nova:name>', migration_events.ask(before, {GPU}))


class LiveMigrationTest(testtools.TestCase):
    """Nova's own rewriting of a domain for its destination."""

    class Guest:
        def get_xml_desc(self, dump_migratable=False):
            return migration_events.ask(guest_xml(OTHER, GPU), {GPU})

    def test_the_destination_gets_it_for_its_vf(self):
        there = '0000:c1:00.4'
        data = migrate_data.LibvirtLiveMigrateData(
            pci_dev_map_src_dst={GPU: there}, bdms=[],
            serial_listen_addr=None, serial_listen_ports=[],
            supported_perf_events=[], image_type='qcow2')
        instance = objects.Instance(
            uuid=uuids.instance, flavor=objects.Flavor(extra_specs={}))
        xml = migration.get_updated_guest_xml(
            instance, self.Guest(), data, get_volume_config=None)
        self.assertEqual({OTHER: None, there: ON}, asked(xml))
