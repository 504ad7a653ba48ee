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

"""The process itself: options, its socket, its end; and the GPU driver."""

import errno
import pathlib
import signal
import subprocess
import sys
import threading
import unittest

from oslo_config import cfg

from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.gpu.software import driver
from nova_vgpu_mig.gpu.software import profile
from tests import gpu_lab


class ProcessTest(unittest.TestCase):
    def setUp(self):
        self.directory = gpu_lab.directory(self)

    def start(self, *args, **kwargs):
        gim = gpu_lab.GIMProcess(self.directory, *args, **kwargs)
        self.addCleanup(gim.stop)
        return gim

    def test_sigterm_removes_the_socket(self):
        gim = self.start()
        self.assertTrue(gim.ready)
        gim.stop()
        self.assertEqual(0, gim.process.returncode)
        self.assertFalse(pathlib.Path(gim.path).exists())

    def test_a_dead_ones_socket_is_replaced(self):
        first = self.start()
        first.process.send_signal(signal.SIGKILL)
        first.process.wait(gpu_lab.PATIENCE)
        self.assertTrue(pathlib.Path(first.path).is_socket())
        self.assertTrue(self.start().ready)

    def test_a_second_one_is_refused(self):
        first = self.start()
        second = self.start()
        self.assertFalse(second.ready)
        self.assertIn('another software GIM serves', second.stop())
        self.assertEqual(2, second.process.returncode)
        first.connect().close()

    def test_it_ends_with_its_parent(self):
        script = ('import os, sys\n'
                  'from tests import gpu_lab\n'
                  'gim = gpu_lab.GIMProcess(sys.argv[1])\n'
                  'assert gim.ready\n'
                  'os.kill(os.getpid(), 9)\n')
        subprocess.run([sys.executable, '-c', script, self.directory],
                       timeout=gpu_lab.PATIENCE, check=False)
        gpu_lab.until(lambda: not list(pathlib.Path(self.directory).iterdir()),
                      'the socket to go')

    def test_options_that_make_no_sense(self):
        identity = pathlib.Path(self.directory) / 'identity.json'
        identity.write_text('{"colour": "red"}')
        for options, text in (
                (('--vfs', '17'), '1 to 16'),
                (('--unit-bytes', '1000'), 'dirty unit'),
                (('--unit-bytes', str(3 << 16)), 'multiple of the dirty'),
                (('--work-unit-bytes', '100'), 'work unit'),
                (('--firmware', 'MEC'), 'NAME=VERSION'),
                (('--vf-addresses', '0000:01:00.1'), '--vf-addresses'),
                (('--identity', str(identity)), 'no colour'),
                (('--identity', '/nowhere'), '/nowhere')):
            with self.subTest(options=options):
                gim = self.start(options=options)
                self.assertFalse(gim.ready)
                self.assertIn(text, gim.stop())

    def test_identity_from_file_and_options(self):
        identity = pathlib.Path(self.directory) / 'identity.json'
        identity.write_text('{"vbios_version": "V2", "partition": "DPX"}')
        gim = self.start(vfs=3, options=(
            '--identity', str(identity), '--partition', 'CPX',
            '--firmware', 'MEC=0x9d', '--vf-addresses',
            '0000:81:00.5,0000:81:00.6,0000:81:01.0'))
        admin = gim.connect()
        self.addCleanup(admin.close)
        found = admin.call('describe')
        self.assertEqual(
            ['0000:81:00.5', '0000:81:00.6', '0000:81:01.0'],
            [vf['address'] for vf in found['vfs']])
        who = found['identity']
        self.assertEqual(('V2', 'CPX', '0x9d', 4, 3), (
            who['vbios_version'], who['partition'], who['firmware']['MEC'],
            who['frame_buffer_mib'], who['num_vfs']))

    def test_addresses_are_counted_as_sriov_does(self):
        found = profile.vf_addresses('0000:81:00.0', 9)
        self.assertEqual('0000:81:00.1', found[0])
        self.assertEqual(['0000:81:00.7', '0000:81:01.0', '0000:81:01.1'],
                         found[6:])
        for bad in ('', '81:00.0', '0000:81:00', 'x:81:00.0'):
            self.assertRaises(ValueError, profile.vf_addresses, bad, 1)


class DriverTest(unittest.TestCase):
    def setUp(self):
        self.directory = gpu_lab.directory(self)
        conf = cfg.ConfigOpts()
        software_gim.register_opts(conf)
        conf.set_override('runtime_dir', self.directory,
                          group='software_gim')
        conf([], project='test', default_config_files=[])
        self.driver = driver.SoftwareGPUDriver(conf)

    def start(self, *args):
        gim = gpu_lab.GIMProcess(self.directory, *args)
        self.addCleanup(gim.stop)
        return gim

    def refused(self, code, call, *args):
        with self.assertRaises(contract.DeviceError) as caught:
            call(*args)
        self.assertEqual(errno.errorcode[code],
                         gpu_lab.code(caught.exception))

    def test_nothing_there(self):
        self.assertEqual(0, self.driver.evaluate_support())
        self.assertEqual((), self.driver.pools())
        self.refused(errno.ENODEV, self.driver.open, '0000:81:00.1')

    def test_two_gpus_and_a_dead_one(self):
        self.start()
        self.start('0000:03:00.0')
        dead = self.start('0000:04:00.0')
        dead.process.send_signal(signal.SIGKILL)
        dead.process.wait(gpu_lab.PATIENCE)
        with self.assertLogs(driver.LOG, 'WARNING'):
            pools = self.driver.pools()
        self.assertEqual(['0000:03:00.0', '0000:81:00.0'],
                         [pool.pf_address for pool in pools])
        self.assertEqual('74b5', pools[0].identity.device_id)
        self.assertTrue(all(vf.free for vf in pools[0].vfs))
        with self.assertLogs(driver.LOG, 'WARNING'):
            self.assertGreater(self.driver.evaluate_support(), 0)

    def test_open_use_and_scrub(self):
        gim = self.start()
        address = '0000:81:00.2'
        device = self.driver.open(address)
        self.addCleanup(device.close)
        self.assertEqual((4 << 20, 65536), (len(device.frame_buffer),
                                            device.unit_size))
        self.refused(errno.EBUSY, self.driver.open, address)
        self.refused(errno.EBUSY, self.driver.scrub, address)
        self.refused(errno.ENODEV, self.driver.open, '0000:81:07.7')
        self.assertFalse(self.driver.pools()[0].vfs[1].free)
        device.close()
        guest = gpu_lab.Guest(gim, address)
        self.addCleanup(guest.close)
        guest.load_driver()
        vf = self.driver.pools()[0].vfs[1]
        self.assertEqual((False, 65536), (vf.free, vf.used_bytes))
        self.refused(errno.EBUSY, self.driver.scrub, address)
        before = guest.call('digest')
        guest.call('detach')
        self.driver.scrub(address)
        vf = self.driver.pools()[0].vfs[1]
        self.assertEqual((True, 0), (vf.free, vf.used_bytes))
        self.assertNotEqual(before, guest.call('digest'))

    def test_what_a_vf_dirties_is_watched_without_a_move(self):
        gim = self.start()
        guest = gpu_lab.Guest(gim, gpu_lab.vf_addresses(gim)[0])
        self.addCleanup(guest.close)
        guest.load_driver()
        seconds = 0.5
        self.assertEqual(0, self.driver.dirty_rate(guest.vf, seconds))
        found = []
        watch = threading.Thread(target=lambda: found.append(
            self.driver.dirty_rate(guest.vf, seconds)))
        watch.start()
        while watch.is_alive():
            guest.submit(abi.Engine.GFX, abi.Opcode.RMW, va=gpu_lab.MIB,
                         length=abi.PAGE_BYTES, arg0=3, arg1=1)
            guest.wait(abi.Engine.GFX)
        watch.join()
        # One unit is all that this guest writes to, however often.
        # The other one in use has the page table.
        used = self.driver.pools()[0].vfs[0].used_bytes
        self.assertEqual([used / 2 / seconds], found)
        self.refused(errno.EINVAL, self.driver.dirty_rate, guest.vf, -1.0)
        self.refused(errno.ENODEV, self.driver.dirty_rate, '0000:00:00.0',
                     seconds)

    def test_a_gim_that_dies_is_enodev(self):
        gim = self.start()
        device = self.driver.open('0000:81:00.1')
        self.addCleanup(device.close)
        stream = device.set_state(contract.DeviceState.PRE_COPY)
        self.addCleanup(stream.close)
        gim.process.send_signal(signal.SIGKILL)
        gim.process.wait(gpu_lab.PATIENCE)
        self.refused(errno.ENODEV, stream.read_into,
                     memoryview(bytearray(10)))
        self.assertRaises(contract.DeviceError, device.state)
