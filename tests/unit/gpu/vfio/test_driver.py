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


"""The driver, its doors and its devices, on a machine that is played."""

from concurrent import futures
import errno
import os
import pathlib
import re
import socket
import tempfile
import threading
import time
import unittest
from unittest import mock

from oslo_config import cfg

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.vfio import device
from nova_vgpu_mig.gpu.vfio import driver
from nova_vgpu_mig.gpu.vfio import opening
from nova_vgpu_mig.gpu.vfio import privileged
from nova_vgpu_mig.gpu.vfio import rights
from nova_vgpu_mig.gpu.vfio import uapi
from nova_vgpu_mig.migration import custody
from tests.unit.gpu.vfio import machine

S = contract.DeviceState
MDEV = '9fca55f3-0712-4943-a72a-5caa8facd6cd'
BROTHER = 'b0a1c2d3-0712-4943-a72a-5caa8facd6cd'
THIRD = 'c0a1c2d3-0712-4943-a72a-5caa8facd6cd'


class Case(unittest.TestCase):
    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.machine = machine.Machine(made.name)
        self.doors = opening.Doors(self.machine.files,
                                   self.machine.open_file, self.machine)

    def open(self, address):
        found = device.VFIODevice(address, self.doors.open(
            self.machine.files.find(address)))
        self.addCleanup(found.close)
        return found

    def refused(self, code, call, *args):
        with self.assertRaises(contract.DeviceError) as caught:
            call(*args)
        self.assertEqual(code, caught.exception.errno, caught.exception)
        return str(caught.exception)


class DoorsTest(Case):
    def names(self):
        return [pathlib.Path(name).name for name in self.machine.closed]

    def test_by_group(self):
        vf = self.machine.add_vf(0)
        found = self.open(vf)
        self.assertIs(S.RUNNING, found.state())
        self.assertEqual(
            [('10', str(self.machine.root / 'dev/vfio/vfio'))],
            self.machine.calls)
        found.close()
        self.assertEqual([vf, '10', 'vfio'], self.names())

    def test_by_cdev_where_there_is_an_iommufd(self):
        vf = self.machine.add_vf(0)
        iommufd = self.machine.write_file('dev/iommu')
        found = self.open(vf)
        self.assertEqual([('vfio0', str(iommufd))], self.machine.calls)
        found.close()
        self.assertEqual(['vfio0', 'iommu'], self.names())

    def test_by_group_where_the_kernel_has_no_cdevs(self):
        vf = self.machine.add_vf(0)
        self.machine.write_file('dev/iommu')
        (self.machine.root / 'dev/vfio/devices/vfio0').unlink()
        self.open(vf)
        self.assertEqual(
            [('10', str(self.machine.root / 'dev/vfio/vfio'))],
            self.machine.calls)

    def test_a_cdev_that_is_bound_is_busy(self):
        vf = self.machine.add_vf(0)
        self.machine.write_file('dev/iommu')
        self.machine.bound = True
        self.refused(errno.EBUSY, self.open, vf)
        self.assertEqual(['vfio0', 'iommu'], self.names())

    def test_what_fails_leaves_nothing_open(self):
        vf = self.machine.add_vf(0)
        self.machine.viable = False
        self.assertIn('group 10', self.refused(errno.EPERM, self.open, vf))
        self.assertEqual(['10', 'vfio'], self.names())
        self.machine.closed.clear()
        self.machine.viable, self.machine.migrates = True, False
        self.refused(errno.ENOTSUP, self.open, vf)
        self.assertEqual([vf, '10', 'vfio'], self.names())


class DeviceTest(Case):
    def test_a_failed_change_says_where_it_ended(self):
        found = self.open(self.machine.add_vf(0))
        for left, words in ((S.RUNNING_P2P, 'RUNNING_P2P now'),
                            (S.ERROR, 'only a reset leaves')):
            self.machine.refuse = {int(S.STOP_COPY): (errno.EIO, int(left))}
            said = self.refused(errno.EIO, found.set_state, S.STOP_COPY)
            self.assertIn('STOP_COPY; it is in', said)
            self.assertIn(words, said)
            self.assertIs(left, found.state())

    def test_the_kernel_is_not_asked_to_leave_error(self):
        vf = self.machine.add_vf(0)
        found = self.open(vf)
        self.machine.states[vf] = int(S.ERROR)
        self.machine.calls.clear()
        self.refused(errno.EINVAL, found.set_state, S.RUNNING)
        self.assertEqual([], self.machine.calls)
        found.reset()
        self.assertIs(S.RUNNING, found.state())

    def test_a_state_that_vfio_does_not_have(self):
        vf = self.machine.add_vf(0)
        found = self.open(vf)
        self.machine.states[vf] = 99
        self.assertIn('99', self.refused(errno.EPROTO, found.state))

    def test_a_closed_one_is_gone(self):
        found = self.open(self.machine.add_vf(0))
        found.close()
        span = contract.IOVARange(0, 4096)
        for call, *args in (
                (found.state,), (found.set_state, S.STOP), (found.data_size,),
                (found.reset,), (found.has, 2, uapi.FEATURE_GET),
                (found.dma_logging_start, 4096, [span]),
                (found.dma_logging_report, span, 4096),
                (found.dma_logging_stop,)):
            self.assertIn('after the device was closed',
                          self.refused(errno.ENODEV, call, *args))
        found.close()

    def test_dma_logging(self):
        found = self.open(self.machine.add_vf(0))
        self.machine.calls.clear()
        span = contract.IOVARange(0x10000, 10 * 4096)
        found.dma_logging_start(4096, [span, span])
        self.assertEqual((4096, 2, 0), self.machine.calls[0][:3])
        self.machine.dirty_word = 0b1000000101
        self.assertEqual(
            [0, 2, 9],
            found.dma_logging_report(span, 4096).nonzero()[0].tolist())
        found.dma_logging_stop()


class DriverTest(Case):
    def setUp(self):
        super().setUp()
        patched = mock.patch.object(rights, 'open_directly',
                                    self.machine.open_file)
        patched.start()
        self.addCleanup(patched.stop)
        conf = cfg.ConfigOpts()
        conf([], project='nova-vgpu-mig')
        self.driver = driver.VFIODriver(conf, self.machine.files,
                                        self.machine)

    def test_support(self):
        self.assertEqual(0, self.driver.evaluate_support())
        self.machine.add_vf(0, driver='vfio-pci')
        self.assertEqual(0, self.driver.evaluate_support())
        self.machine.add_vf(1)
        self.assertEqual(driver.SUPPORT, self.driver.evaluate_support())

    def test_pools(self):
        vfs = [self.machine.add_vf(index) for index in (0, 3)]
        self.machine.add_mdev(MDEV)
        self.machine.busy.add(str(self.machine.root / 'dev/vfio/13'))
        found, mdevs = self.driver.pools()
        self.assertEqual(machine.PF, found.pf_address)
        self.assertEqual(
            [contract.VF(vfs[0], 0, True), contract.VF(vfs[1], 3, False)],
            list(found.vfs))
        self.assertEqual(
            {'vendor_id': '1002', 'device_id': '74b5',
             'frame_buffer_mib': 1024, 'num_vfs': 8,
             'driver_version': 'mlx5_vfio_pci',
             'revision': '0x02', 'subsystem': '1002:0b36'},
            found.identity.as_dict())
        self.assertEqual(('mtty', 'mtty-2', '0000', None), (
            mdevs.pf_address, mdevs.identity.partition,
            mdevs.identity.vendor_id, mdevs.identity.frame_buffer_mib))
        self.assertEqual([], self.machine.calls)

    def test_an_identity_beside_the_device_is_taken(self):
        self.machine.add_mdev(MDEV)
        for name, value in (('vendor_id', '1af4'), ('firmware', '2.1'),
                            ('frame_buffer_mib', '64'),
                            ('partition', 'CPX')):
            self.machine.write_file(
                f'sys/devices/virtual/mtty/mtty/{MDEV}/identity/{name}',
                value)
        found = self.driver.pools()[0].identity
        self.assertEqual(('1af4', 64, 'CPX', {'firmware': '2.1'}), (
            found.vendor_id, found.frame_buffer_mib, found.partition,
            found.firmware))

    def test_brothers_do_not_change_what_a_device_is(self):
        self.machine.add_mdev(MDEV)
        before = self.driver.pools()[0].identity
        self.machine.add_mdev(BROTHER, group='8')
        found, = self.driver.pools()
        self.assertEqual(2, len(found.vfs))
        self.assertEqual(before, found.identity)

    def test_brothers_with_other_firmware_are_another_pool(self):
        for uuid, group, firmware in (
                (MDEV, '7', '1'), (BROTHER, '8', '2'), (THIRD, '9', '1')):
            self.machine.add_mdev(uuid, group=group)
            self.machine.write_file(
                f'sys/devices/virtual/mtty/mtty/{uuid}/identity/firmware',
                firmware)
        found = self.driver.pools()
        self.assertEqual(
            [('mtty', {'firmware': '1'}, [MDEV, THIRD]),
             ('mtty', {'firmware': '2'}, [BROTHER])],
            [(pool.pf_address, pool.identity.firmware,
              [vf.address for vf in pool.vfs]) for pool in found])

    def test_used_bytes_of_what_is_open_here(self):
        vf = self.machine.add_vf(0)
        found = self.driver.open(vf)
        self.assertEqual((contract.VF(vf, 0, False, 12345),),
                         self.driver.pools()[0].vfs)
        found.close()
        self.assertEqual((contract.VF(vf, 0, True),),
                         self.driver.pools()[0].vfs)

    def test_what_is_open_here_is_held_without_a_look(self):
        vf = self.machine.add_vf(0)
        found = self.driver.open(vf)
        self.addCleanup(found.close)
        self.machine.sizes = False
        with mock.patch.object(opening.Doors, 'is_free',
                               autospec=True) as asked:
            self.assertEqual((contract.VF(vf, 0, False),),
                             self.driver.pools()[0].vfs)
        asked.assert_not_called()

    def test_a_size_is_asked_of_nothing_that_is_closed_meanwhile(self):
        vf = self.machine.add_vf(0)
        found = self.driver.open(vf)
        asked, closed = threading.Event(), threading.Event()
        kernels_own = self.machine.ioctl

        def ioctl(fd, *args):
            asked.set()
            self.assertFalse(closed.wait(0.1), 'closed under the call')
            return kernels_own(fd, *args)

        def close():
            asked.wait()
            found.close()
            closed.set()

        with futures.ThreadPoolExecutor(1) as pool, \
                mock.patch.object(self.machine, 'ioctl', ioctl):
            closing = pool.submit(close)
            seen, = self.driver.pools()[0].vfs
            closing.result()
        self.assertEqual(contract.VF(vf, 0, False, 12345), seen)
        self.assertTrue(self.is_free())

    def test_one_that_is_being_closed_is_free_afterwards(self):
        vf = self.machine.add_vf(0)
        found = self.driver.open(vf)
        closing = threading.Event()
        kernels_own = self.machine.close

        def close(fd):
            closing.set()
            time.sleep(0.02)
            kernels_own(fd)

        with futures.ThreadPoolExecutor(1) as pool, \
                mock.patch.object(self.machine, 'close', close):
            pool.submit(found.close)
            closing.wait()
            self.assertTrue(self.is_free())

    def together(self, *works):
        """What the works return, each 20 times in a thread of its own."""
        self.machine.slow_seconds = 0.002
        with futures.ThreadPoolExecutor(len(works)) as pool:
            begun = [pool.submit(lambda work=work: [work() for _ in range(20)])
                     for work in works]
            return [each.result() for each in begun]

    def is_free(self):
        return self.driver.pools()[0].vfs[0].free

    def test_threads_that_look_see_no_guest_in_one_another(self):
        self.machine.add_vf(0)
        self.assertEqual([[True] * 20] * 2,
                         self.together(self.is_free, self.is_free))

    def test_nor_does_one_that_opens(self):
        vf = self.machine.add_vf(0)
        self.together(self.is_free,
                      lambda: custody.open_free(self.driver, vf).close())

    def test_one_that_does_not_migrate_is_left_out_once_it_was_open(self):
        vf = self.machine.add_vf(0)
        self.machine.migrates = False
        self.assertEqual((1, frozenset()), (
            len(self.driver.pools()), self.driver.unable()))
        self.refused(errno.ENOTSUP, self.driver.open, vf)
        self.assertEqual(((), {vf}), (
            self.driver.pools(), self.driver.unable()))
        self.assertEqual(0, self.driver.evaluate_support())

    def test_until_a_driver_is_bound_to_it_anew(self):
        vf = self.machine.add_vf(0)
        self.machine.migrates = False
        self.refused(errno.ENOTSUP, self.driver.open, vf)
        self.machine.bind_anew(vf)
        self.assertEqual((1, frozenset()), (
            len(self.driver.pools()), self.driver.unable()))
        self.refused(errno.ENOTSUP, self.driver.open, vf)
        self.assertEqual({vf}, self.driver.unable())

    def test_or_it_is_seen_to_migrate(self):
        vf = self.machine.add_vf(0)
        self.machine.migrates = False
        self.refused(errno.ENOTSUP, self.driver.open, vf)
        self.machine.migrates = True
        self.driver.open(vf).close()
        self.assertEqual(frozenset(), self.driver.unable())

    def test_no_such_vf(self):
        self.refused(errno.ENODEV, self.driver.open, '0000:00:00.7')
        self.refused(errno.ENODEV, self.driver.scrub, '../../etc')


class RightsTest(unittest.TestCase):
    def setUp(self):
        fd, self.path = tempfile.mkstemp()
        os.close(fd)
        self.addCleanup(os.unlink, self.path)

    def opened(self, code, helper='sudo privsep-helper'):
        """Whether the helper was asked, when we get `code` ourselves."""
        failure = OSError(code, os.strerror(code))
        with mock.patch.object(rights, 'open_directly', autospec=True,
                               side_effect=failure), \
                mock.patch.object(privileged, 'open_file', autospec=True,
                                  return_value=77) as asked:
            try:
                self.assertEqual(77, rights.Rights(helper)(self.path))
            except OSError as exc:
                self.assertEqual(code, exc.errno)
            return asked.called

    def test_the_helper_is_for_rights_alone(self):
        self.assertTrue(self.opened(errno.EACCES))
        self.assertFalse(self.opened(errno.EBUSY))
        self.assertFalse(self.opened(errno.EACCES, helper=''))

    def by_helper(self, pattern):
        """open_file() with the helper's part in this process."""
        privileged.context.set_client_mode(False)
        self.addCleanup(privileged.context.set_client_mode, True)
        with mock.patch.object(privileged, 'FILES', re.compile(pattern)):
            return privileged.open_file(self.path, 'unused')

    def test_a_descriptor_is_handed_over(self):
        fd = self.by_helper(re.escape(self.path))
        self.addCleanup(os.close, fd)
        self.assertEqual(self.path, os.readlink(f'/proc/self/fd/{fd}'))
        self.assertFalse(os.get_inheritable(fd))

    def test_nothing_else_is_opened(self):
        with self.assertRaises(PermissionError):
            self.by_helper('/dev/vfio/.*')

    def test_who_does_not_know_the_token_is_not_believed(self):
        with socket.socket(socket.AF_UNIX) as listening, \
                socket.socket(socket.AF_UNIX) as stranger:
            listening.bind('\0' + os.urandom(8).hex())
            listening.listen()
            stranger.connect(listening.getsockname())
            socket.send_fds(stranger, [b'guess'], [0])
            self.assertIsNone(privileged._take(listening, 'token'))
