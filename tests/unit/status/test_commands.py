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

"""The checks on a host that is played by files, and the command."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from oslo_config import cfg

from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.status import commands
from nova_vgpu_mig.status import machine
from nova_vgpu_mig.status import outcome
from tests import amdsmi_standin
from tests import hypervisor_standin

GPU = '0000:41:00.0'
VFS = ('0000:41:00.1', '0000:41:00.2')


class HostCase(unittest.TestCase):

    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.root = pathlib.Path(made.name)
        self.release = '6.8.0'
        self.libvirt = hypervisor_standin.StandinHypervisor()
        self.conf = cfg.ConfigOpts()
        for module in (agent_conf, libvirt_conf):
            module.register_opts(self.conf)
        self.conf([], default_config_files=[])
        self.set(journal=str(self.root / 'var/journal.sqlite'),
                 data_host='192.0.2.7')

    def set(self, **options):
        for name, value in options.items():
            self.conf.set_override(name, value, agent_conf.GROUP)

    def write(self, path, text=''):
        path = self.root / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def program(self, name, says):
        path = self.write(f'bin/{name}', f'#!/bin/sh\necho "{says}"\n')
        path.chmod(0o700)

    def add_gpu(self, vfs=VFS, **attributes):
        where = f'sys/bus/pci/devices/{GPU}'
        for name, value in {'vendor': '0x1002', 'class': '0x120000',
                            'sriov_totalvfs': '8', **attributes}.items():
            self.write(f'{where}/{name}', value)
        (self.root / 'sys/bus/pci/drivers/amd-vfio-pci').mkdir(parents=True)
        for index, vf in enumerate(vfs):
            own = self.root / 'sys/bus/pci/devices' / vf
            own.mkdir()
            (own / 'driver').symlink_to(
                self.root / 'sys/bus/pci/drivers/amd-vfio-pci')
            (self.root / where / f'virtfn{index}').symlink_to(own)

    def found(self):
        host = machine.Machine(str(self.root), self.release,
                               str(self.root / 'bin'))
        checks = commands.Checks(self.conf, host, self.libvirt)
        return {name: check(checks)
                for name, check in checks._upgrade_checks}

    def codes(self):
        return {name: result.code for name, result in self.found().items()
                if result.code is not outcome.Code.SUCCESS}


class ChecksTest(HostCase):

    def test_what_moves_in_qemu_need_is_missed(self):
        self.libvirt.down = 'no socket'
        self.assertEqual(
            {'libvirt': 1, 'libvirt, for the agent': 1, 'QEMU': 1,
             'Rights to VFIO devices': 1}, self.codes())

    def test_rights_to_each_device(self):
        self.assertEqual({}, machine.Machine(str(self.root)).vfio_files())
        for path in ('vfio/vfio', 'vfio/7', 'vfio/devices/vfio0', 'iommu'):
            self.write(f'dev/{path}')
        files = machine.Machine(str(self.root)).vfio_files()
        self.assertEqual({'/dev/vfio/7', '/dev/vfio/devices/vfio0',
                          '/dev/iommu'}, set(files))
        self.assertEqual({True}, set(files.values()))

    def test_a_helper_that_opens_nothing(self):
        self.assertIn('helper_command (false)',
                      machine.Machine.helper('false'))

    def test_host_without_amd_gpus_and_libvirt(self):
        self.conf.set_override('uri', '', libvirt_conf.GROUP)
        found = self.found()
        self.assertEqual({outcome.Code.SUCCESS},
                         {result.code for result in found.values()})
        for name, result in found.items():
            self.assertEqual(name.startswith('AMD:'),
                             'no AMD GPU' in result.details, name)

    def test_what_is_no_gpu_with_sr_iov(self):
        for attributes in ({'vendor': '0x15b3'}, {'class': '0x020000'},
                           {'sriov_totalvfs': '0'}):
            with self.subTest(attributes):
                self.setUp()
                self.add_gpu(**attributes)
                self.conf.set_override('uri', '', libvirt_conf.GROUP)
                self.assertEqual({}, self.codes())

    def test_a_host_that_is_fit(self):
        self.make_fit()
        self.assertEqual({}, self.codes())
        self.assertEqual(0, self.amd.initialised)

    def make_fit(self):
        self.amd = amdsmi_standin.install(self)
        self.amd.add_gpu(GPU, VFS)
        self.add_gpu()
        self.write('dev/iommu')
        self.write('dev/vfio/7')
        self.write('sys/class/iommu/ivhd0/amd-iommu/features',
                   f'{1 << 52:x}:0\n')
        self.write('sys/module/gim/parameters/enable_live_migration', 'Y\n')
        self.program('libvirtd', 'libvirtd (libvirt) 12.1.0')
        self.program('qemu-system-x86_64', 'QEMU emulator version 10.1.0 (x)')

    def test_each_lack_alone(self):
        def unlink(path):
            (self.root / path).unlink()

        def release():
            self.release = '6.1.0-40-amd64'

        def unbind():
            unlink(f'sys/bus/pci/devices/{VFS[0]}/driver')

        for name, break_it, code in (
                ('AMD: kernel', release, 2),
                ('AMD: iommufd', lambda: unlink('dev/iommu'), 2),
                ('AMD: dirty tracking of the IOMMU', lambda: self.write(
                    'sys/class/iommu/ivhd0/amd-iommu/features', '0:0'), 2),
                ('AMD: GIM', lambda: self.write(
                    'sys/module/gim/parameters/enable_live_migration',
                    'N'), 2),
                ('AMD: VFIO driver', unbind, 1),
                ('AMD: AMD SMI',
                 lambda: setattr(self.amd, 'loaded', False), 2),
                ('libvirt', lambda: self.program(
                    'libvirtd', 'libvirtd (libvirt) 11.3.0'), 1),
                ('QEMU', lambda: self.program(
                    'qemu-system-x86_64', 'QEMU emulator version 7.2.1'), 2),
                ('libvirt, for the agent',
                 lambda: setattr(self.libvirt, 'down', 'no socket'), 1),
                ('Rights to VFIO devices', lambda: unlink('dev/vfio/7'), 1),
                ('Address of the agent',
                 lambda: self.set(data_host='127.0.0.1'), 1),
                ('Journal of the agent', lambda: self.set(
                    journal=f'{self.write("file")}/j'), 2)):
            with self.subTest(name):
                self.setUp()
                self.make_fit()
                break_it()
                self.assertEqual({name: code}, self.codes())

    def test_a_program_that_fails_is_no_version(self):
        host = machine.Machine(str(self.root), path=str(self.root / 'bin'))
        self.program('virsh', '1.2.3')
        self.write('bin/libvirtd', '#!/bin/sh\necho 9.9.9; exit 1\n').chmod(
            0o700)
        self.assertEqual('1.2.3', host.version(('libvirtd', 'virsh')))
        self.assertIsNone(host.version(('nothing',)))


class CommandTest(unittest.TestCase):

    def run_with(self, *args, **options):
        with tempfile.NamedTemporaryFile('w', suffix='.conf') as made:
            lines = [f'{name} = {value}' for name, value in options.items()]
            made.write('\n'.join([f'[{agent_conf.GROUP}]', *lines]))
            made.flush()
            return subprocess.run(
                [sys.executable, '-W', 'ignore', '-m',
                 'nova_vgpu_mig.cmd.status', '--config-file', made.name,
                 *args], capture_output=True, text=True, check=False,
                env={**os.environ, 'PATH': '/nowhere'}, timeout=60)

    def test_json_and_the_worst_code(self):
        done = self.run_with('upgrade', 'check', '--json',
                             data_host='127.0.0.1', journal='/nowhere/j')
        checks = {check['check']: check for check
                  in json.loads(done.stdout)['checks']}
        self.assertEqual(1, checks['Address of the agent']['result'])
        self.assertEqual(max(c['result'] for c in checks.values()),
                         done.returncode, done.stderr)

    def test_options_that_make_no_sense(self):
        done = self.run_with('upgrade', 'check', data_host='a b')
        self.assertEqual(255, done.returncode, done.stdout)
