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

"""Each check, by value: what is well, what is not, and what to do then."""

import unittest

import hypothesis
from hypothesis import strategies

from nova_vgpu_mig.status import agent
from nova_vgpu_mig.status import amd
from nova_vgpu_mig.status import hypervisor
from nova_vgpu_mig.status import kernel
from nova_vgpu_mig.status import machine
from nova_vgpu_mig.status import outcome

SUCCESS = outcome.Code.SUCCESS
WARNING = outcome.Code.WARNING
FAILURE = outcome.Code.FAILURE


class Case(unittest.TestCase):

    def ends(self, code, found, *words):
        self.assertEqual(code, found.code, found.details)
        for word in words:
            self.assertIn(word, found.details)


class VersionTest(unittest.TestCase):

    @hypothesis.given(*[strategies.tuples(*[strategies.integers(0, 99)] * 3)
                        ] * 2)
    def test_as_tuples_are(self, one, other):
        text = '.'.join(map(str, one))
        for written in (text, f'{text}-31-generic', f'{text}+dfsg'):
            self.assertEqual(one < other, outcome.older(written, other))

    def test_short_ones(self):
        self.assertFalse(outcome.older('7', (6, 8)))
        self.assertTrue(outcome.older('6', (6, 8)))
        self.assertFalse(outcome.older('8.2', (8, 2, 0)))
        self.assertTrue(outcome.older('no number', (1,)))


class KernelTest(Case):

    def test_release(self):
        self.ends(FAILURE, kernel.release('6.7.12-amd64'), '6.7.12', 'boot')
        for fine in ('6.8.0-31-generic', '6.12.1', '7.0'):
            self.ends(SUCCESS, kernel.release(fine))

    def test_iommufd(self):
        self.ends(FAILURE, kernel.iommufd(False), 'modprobe iommufd')
        self.ends(SUCCESS, kernel.iommufd(True))

    def test_vfio_rights(self):
        def ends(code, files, command, problem, *words):
            for expected in (True, False):
                self.ends(code, kernel.vfio_rights(
                    files, command, problem, expected), *words)

        ends(SUCCESS, {'/dev/vfio/7': True}, '', '', '/dev/vfio/7')
        mixed = {'/dev/vfio/7': True, '/dev/vfio/8': False}
        ends(FAILURE, mixed, '', '', '/dev/vfio/8', 'is empty', 'udev')
        ends(FAILURE, mixed, 'doas x', 'no doas', 'doas x', 'no doas',
             'sudoers')
        ends(SUCCESS, mixed, 'doas x', '', 'doas x')

    def test_vfio_without_devices(self):
        self.ends(WARNING, kernel.vfio_rights({}, 'doas x', '', True),
                  'Bind a VF')
        self.ends(SUCCESS, kernel.vfio_rights({}, 'doas x', '', False))

    def tracks(self, *registers):
        return kernel.dirty_tracking([
            machine.IOMMU(f'unit{n}', kind, register)
            for n, (kind, register) in enumerate(registers)])

    def test_dirty_tracking(self):
        with_it = ('amd-iommu', f'{1 << 52:x}:0')
        without = ('amd-iommu', f'{(1 << 64) - 1 - (1 << 52):x}:{1 << 52:x}')
        intel = ('intel-iommu', f'{1 << 45 | 1 << 43:x}')
        self.ends(SUCCESS, self.tracks(with_it, with_it), 'unit0, unit1')
        self.ends(SUCCESS, self.tracks(intel), 'sm_on')
        self.ends(FAILURE, self.tracks(with_it, without), 'in unit1:')
        for bit in (45, 43):
            self.ends(FAILURE, self.tracks(('intel-iommu', f'{1 << bit:x}')),
                      'scalable mode')

    def test_what_can_not_be_told(self):
        self.ends(WARNING, self.tracks(('', '')), 'can not be told')
        self.ends(WARNING, self.tracks(('amd-iommu', 'nonsense')), 'unit0')
        self.ends(FAILURE, self.tracks(('', ''), ('amd-iommu', '0')))

    def test_no_iommu(self):
        self.ends(FAILURE, self.tracks(), 'firmware')


class AMDTest(Case):

    def test_host_driver(self):
        self.ends(FAILURE, amd.host_driver(False, None), 'modprobe gim')
        self.ends(FAILURE, amd.host_driver(True, None), 'newer')
        self.ends(FAILURE, amd.host_driver(True, 'N'), '=N',
                  'options gim enable_live_migration=1')
        for on in ('Y', '1'):
            self.ends(SUCCESS, amd.host_driver(True, on))

    def test_vfio_driver(self):
        self.ends(FAILURE, amd.vfio_driver(False, {'a': 'vfio-pci'}),
                  'modprobe amd_vfio_pci')
        self.ends(WARNING, amd.vfio_driver(True, {}), 'No AMD GPU has a VF')
        found = amd.vfio_driver(True, {
            'a': 'amd-vfio-pci', 'b': 'vfio-pci', 'c': ''})
        self.ends(WARNING, found, 'b (vfio-pci), c (no driver).',
                  'driver_override')
        self.assertNotIn('a (', found.details)
        many = amd.vfio_driver(True, dict.fromkeys('abcdefghij', ''))
        self.ends(WARNING, many, 'and 2 more')
        self.ends(SUCCESS, amd.vfio_driver(True, {'a': 'amd-vfio-pci'}), '1')

    def test_library(self):
        self.ends(FAILURE, amd.library('no module'), 'no module',
                  'PYTHONPATH')
        self.ends(WARNING, amd.library('', 0), 'sees no GPU')
        self.ends(SUCCESS, amd.library('', 8), 'sees 8')


class HypervisorTest(Case):

    def test_libvirt(self):
        for version, with_amd, code in (
                ('9.10.0', False, FAILURE),
                ('10.0.0', False, SUCCESS), ('10.0.0', True, WARNING),
                ('12.0.9', True, WARNING), ('12.1.0', True, SUCCESS)):
            for expected in (True, False):
                self.ends(code, hypervisor.libvirt(version, with_amd,
                                                   expected))

    def test_qemu(self):
        for version, code in (('8.2.1', FAILURE), ('8.2.2', SUCCESS),
                              ('10.0.2', SUCCESS)):
            self.ends(code, hypervisor.qemu(version, True))

    def test_not_checked_is_well_only_where_it_is_not_needed(self):
        for found in (hypervisor.libvirt(None, True, True),
                      hypervisor.qemu(None, True)):
            self.ends(WARNING, found, 'Not checked', 'Install it',
                      '[vgpu_mig_libvirt] uri')
        for found in (hypervisor.libvirt(None, True, False),
                      hypervisor.qemu(None, False),
                      hypervisor.reached('', 'uri is empty')):
            self.ends(SUCCESS, found, 'Not checked', 'uri is empty')

    def test_reached(self):
        self.ends(SUCCESS, hypervisor.reached('qemu:///x', ''), 'qemu:///x')
        self.ends(WARNING, hypervisor.reached('qemu:///x', 'no socket'),
                  'no socket', 'as the agent\'s user')


class AgentTest(Case):

    def test_journal(self):
        self.ends(SUCCESS, agent.journal('/v/j', '/v', True), '/v')
        self.ends(FAILURE, agent.journal('/v/n/j', '/v', False), '/v/n/j',
                  'in /v.')

    def test_data_host(self):
        for local in ('127.0.0.1', '127.1.2.3', '::1', 'localhost'):
            self.ends(WARNING, agent.data_host(local), local)
        for other in ('192.0.2.7', 'compute1', '2001:db8::1'):
            self.ends(SUCCESS, agent.data_host(other), other)
