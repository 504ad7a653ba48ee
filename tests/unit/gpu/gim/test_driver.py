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

"""The driver: AMD SMI stood in for, the kernel's VFIO played."""

import errno
import logging
import os
import sys
import tempfile
import unittest
from unittest import mock

from oslo_config import cfg

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.gim import driver
from nova_vgpu_mig.gpu.gim import events
from nova_vgpu_mig.gpu.gim import inventory
from nova_vgpu_mig.gpu import registry
from nova_vgpu_mig.gpu.vfio import driver as vfio_driver
from nova_vgpu_mig.gpu.vfio import opening
from nova_vgpu_mig.gpu.vfio import rights
from tests import amdsmi_standin
from tests.unit.gpu.vfio import machine as vfio_machine

S = contract.DeviceState
PF = vfio_machine.PF


class Case(unittest.TestCase):

    def setUp(self):
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.kernel = vfio_machine.Machine(made.name)
        self.addresses = [self.kernel.add_vf(index, driver='amd-vfio-pci')
                          for index in range(2)]
        self.amd = amdsmi_standin.install(self)
        self.gpu = self.amd.add_gpu(PF, self.addresses)
        self.vf = self.gpu.vfs[0]
        for where, name, value in (
                (rights, 'open_directly', self.kernel.open_file),
                (events, 'READ_MICROSECONDS', 10_000),
                (events, 'GRACE_SECONDS', 0.5)):
            patched = mock.patch.object(where, name, value)
            patched.start()
            self.addCleanup(patched.stop)
        conf = cfg.ConfigOpts()
        conf([], project='nova-vgpu-mig')
        self.driver = driver.GIMDriver(conf, self.kernel.files, self.kernel)
        self.plain = vfio_driver.VFIODriver(conf, self.kernel.files,
                                            self.kernel)
        self.addCleanup(self.driver.close)

    def state(self, name, vf=None):
        import amdsmi
        (vf or self.vf).state = amdsmi.AmdSmiVfState[name]

    def fails(self, call, code):
        import amdsmi
        self.amd.fails[call] = amdsmi.AmdSmiRetCode[code]

    def refused(self, code, call, *args):
        with self.assertRaises(contract.DeviceError) as caught:
            call(*args)
        self.assertEqual(code, caught.exception.errno, caught.exception)
        return str(caught.exception)


class SupportTest(Case):

    def chosen(self):
        return registry.DRIVERS.best([self.plain, self.driver])

    def test_wins_where_there_are_gpus(self):
        self.assertIs(self.driver, self.chosen())

    def test_leaves_the_machine_alone_elsewhere(self):
        self.amd.gpus.clear()
        with self.assertNoLogs(level=logging.INFO):
            self.assertIs(self.plain, self.chosen())
        self.assertEqual(0, self.amd.initialised)

    def test_without_a_library_or_gim(self):
        self.amd.loaded = False
        with self.assertNoLogs(level=logging.INFO):
            self.assertEqual(0, self.driver.evaluate_support())
            sys.modules['amdsmi'] = None
            self.assertEqual(0, self.driver.evaluate_support())

    def test_closing_lets_the_library_go(self):
        self.driver.evaluate_support()
        self.driver.close()
        self.assertEqual(0, self.amd.initialised)


class PoolsTest(Case):

    def vfs(self):
        pool, = self.driver.pools()
        return list(pool.vfs)

    def test_a_gpu_and_its_vfs(self):
        self.vf.load_guest(300)
        pool, = self.driver.pools()
        self.assertEqual(PF, pool.pf_address)
        self.assertEqual(('gim 8.7.0.K', 'SPX', 3, 2), (
            pool.identity.driver_version, pool.identity.partition,
            pool.identity.xgmi_node, pool.identity.num_vfs))
        self.assertEqual(health.Health(0, 0), pool.health)
        self.assertEqual([
            contract.VF(self.addresses[0], 0, False, 300 << 20,
                        contract.VFState.ACTIVE, '6.12.12'),
            contract.VF(self.addresses[1], 1, True, 0,
                        contract.VFState.EMPTY)], list(pool.vfs))

    def test_two_equal_hosts(self):
        pool, = self.driver.pools()
        judged = verdict.judge(
            pool.identity, pool.identity, free_vfs=1, source_index=1,
            free_indices=frozenset({1}), health=pool.health)
        self.assertEqual('', judged.reason())
        self.assertEqual(
            ['migration_version', 'psp_migration_version', 'engines'],
            [found.rule for found in judged.warnings])

    def test_firmware_that_gim_ignores_may_differ(self):
        import amdsmi
        block = amdsmi.AmdSmiFwBlock
        here, = self.driver.pools()

        def refusals():
            there, = self.driver.pools()
            return [found.rule for found in verdict.judge(
                here.identity, there.identity, free_vfs=1, source_index=1,
                free_indices=frozenset({1}), health=there.health).refusals]

        self.gpu.firmware[block.FW_ID_TA_RAS] += 1
        for ignored in (block.FW_ID_RLCV_LX7, block.FW_ID_RLC_P):
            self.gpu.firmware[ignored] = 1
        self.assertEqual([], refusals())
        self.gpu.firmware[block.FW_ID_CP_MEC1] += 1
        self.assertEqual(['firmware'], refusals())

    def test_free_is_what_both_sides_say(self):
        self.assertEqual([True, True], [vf.free for vf in self.vfs()])
        for name in ('UNAVAILABLE', 'ACTIVE', 'SUSPENDED', 'FULLACCESS'):
            self.state(name)
            self.assertFalse(self.vfs()[0].free, name)
        self.state('DEFAULT_AVAILABLE')
        self.assertTrue(self.vfs()[0].free)
        self.kernel.busy.add(str(self.kernel.root / 'dev/vfio/10'))
        self.assertFalse(self.vfs()[0].free)

    def test_health(self):
        self.gpu.bad_pages = [0x1000, 0x2000]
        self.gpu.uncorrectable = 7
        pool, = self.driver.pools()
        self.assertEqual(health.Health(2, 7), pool.health)

    def test_a_vf_that_no_vfio_driver_has_is_named_once(self):
        os.unlink(self.kernel.root / 'sys/bus/pci/devices'
                  / self.addresses[0])
        with self.assertLogs(driver.LOG, 'WARNING') as logged:
            self.assertEqual([1], [vf.index for vf in self.vfs()])
        self.assertIn(self.addresses[0], logged.output[0])
        self.assertIn('amd-vfio-pci', logged.output[0])
        with self.assertNoLogs(driver.LOG, 'WARNING'):
            self.vfs()

    def test_one_that_is_bound_and_offers_no_migration_is_told_apart(self):
        bound, unbound = self.addresses
        os.unlink(self.kernel.root / 'sys/bus/pci/devices' / unbound)
        self.kernel.migrates = False
        with self.assertLogs(driver.LOG, 'WARNING'):
            self.vfs()
        self.refused(errno.ENOTSUP, self.driver.open, bound)
        with self.assertLogs(driver.LOG, 'WARNING') as logged:
            self.assertEqual([], self.vfs())
        self.assertIn('enable_live_migration=1', logged.output[0])
        self.assertIn(bound, logged.output[0])
        self.assertNotIn(unbound, logged.output[0])
        self.assertEqual(1, len(logged.output))
        self.kernel.migrates = True
        self.kernel.bind_anew(bound)
        with self.assertNoLogs(driver.LOG, 'WARNING'):
            self.assertEqual([0], [vf.index for vf in self.vfs()])

    def test_a_gpu_that_fails_leaves_the_others(self):
        self.amd.add_gpu('0000:c1:00.0', ['0000:c1:00.1']).asic[
            'device_id'] = 'N/A'
        with self.assertLogs(inventory.LOG, 'WARNING') as logged:
            self.assertEqual([PF], [pool.pf_address
                                    for pool in self.driver.pools()])
        self.assertIn('device_id', logged.output[0])

    def test_an_answer_of_another_shape_is_named(self):
        self.gpu.firmware = {7: 1}
        with (self.assertLogs(inventory.LOG, 'WARNING') as logged,
              self.assertRaises(OSError)):
            self.driver.pools()
        self.assertIn('another shape', logged.output[0])

    def test_nothing_stays_open_when_gim_fails_meanwhile(self):
        before = os.listdir('/proc/self/fd')
        with mock.patch.object(self.driver, '_data', autospec=True,
                               side_effect=[
                (self.vf, {'sched': {'state': self.vf.state}}),
                contract.DeviceError(errno.EIO, self.vf.bdf, 'gone')]):
            self.refused(errno.EIO, self.driver.open, self.vf.bdf)
        self.assertEqual(before, os.listdir('/proc/self/fd'))

    def test_gim_that_does_not_answer_is_looked_for_anew(self):
        for call in ('get_vf_data', 'get_processor_handles'):
            self.fails(call, 'STATUS_IO')
            with self.assertRaises(OSError) as caught:
                self.driver.pools()
            self.assertIn(f'gim: AMD SMI: {call}: AMDSMI_STATUS_IO',
                          str(caught.exception))
            self.assertEqual(0, self.amd.initialised)
            self.amd.fails.clear()
            self.assertEqual(1, len(self.driver.pools()))
        self.driver.close()
        self.amd.loaded = False
        with self.assertRaises(OSError) as caught:
            self.driver.pools()
        self.assertIn('DRIVER_NOT_LOADED', str(caught.exception))

    def test_a_gpu_without_vfs_is_no_pool(self):
        self.amd.add_gpu('0000:c1:00.0', [])
        self.assertEqual(1, len(self.driver.pools()))

    def test_a_vf_of_another_size_is_left_out(self):
        self.gpu.vfs[1].fb_size = 1024
        with self.assertLogs(inventory.LOG, 'WARNING') as logged:
            self.assertEqual([0], [vf.index for vf in self.vfs()])
        self.assertIn('1024 MiB', logged.output[0])

    def test_what_an_older_library_lacks(self):
        for call in ('get_gpu_memory_partition_config',
                     'get_xgmi_fb_sharing_caps', 'get_gpu_bad_page_info',
                     'get_gpu_total_ecc_count', 'get_guest_data'):
            self.fails(call, 'STATUS_NOT_SUPPORTED')
        self.vf.load_guest(300)
        pool, = self.driver.pools()
        self.assertEqual((None, None, health.UNKNOWN, None), (
            pool.identity.memory_partition, pool.identity.xgmi, pool.health,
            pool.vfs[0].used_bytes))


class MoveTest(Case):

    def open(self):
        found = self.driver.open(self.vf.bdf)
        self.addCleanup(found.close)
        return found

    def test_loading_is_not_now(self):
        self.state('FULLACCESS')
        text = self.refused(errno.EAGAIN, self.driver.open, self.vf.bdf)
        for word in (self.vf.bdf, 'FULLACCESS', 'wait until'):
            self.assertIn(word, text)
        self.assertEqual([], self.kernel.calls)

    def test_the_other_states_open(self):
        for name in ('ACTIVE', 'SUSPENDED', 'AVAILABLE'):
            self.state(name)
            self.driver.open(self.vf.bdf).close()

    def test_no_such_vf(self):
        self.refused(errno.ENODEV, self.driver.open, '0000:99:00.1')

    def test_a_failure_says_what_gim_says(self):
        found = self.open()
        self.kernel.refuse[S.RESUMING] = errno.EINVAL, S.STOP
        self.amd.emit(self.vf, 'FW_MIGRATION_IMPORT_FAIL', 'PSP version')
        text = self.refused(errno.EINVAL, found.set_state, S.RESUMING)
        for word in ('RUNNING -> RESUMING', 'it is in STOP now',
                     'GIM: FW_MIGRATION_IMPORT_FAIL: PSP version'):
            self.assertIn(word, text)

    def test_a_failed_write_too(self):
        found = self.open()
        fd = os.open('/dev/null', os.O_RDONLY | os.O_CLOEXEC)
        with mock.patch.object(self.kernel, '_set_state', lambda name, a:
                               a.__setitem__(slice(12, 16),
                                             fd.to_bytes(4, 'little'))):
            into = found.set_state(S.RESUMING)
        self.addCleanup(into.close)
        self.amd.emit(self.vf, 'FW_MIGRATION_IMPORT_FAIL', 'context')
        text = self.refused(errno.ENODEV, into.write, memoryview(b'x'))
        self.assertIn('GIM: FW_MIGRATION_IMPORT_FAIL: context', text)

    def test_a_reset_meanwhile_is_told(self):
        found = self.open()
        self.vf.flr_count += 1
        self.kernel.refuse[S.PRE_COPY] = errno.EINVAL, S.RUNNING
        self.assertIn('FLR count 0 -> 1', self.refused(
            errno.EINVAL, found.set_state, S.PRE_COPY))

    def test_of_a_vf_that_qemu_opens_no_reset_is_told(self):
        explain = self.driver.explanation(self.vf.bdf, resets=False)
        self.vf.flr_count += 1
        self.assertEqual('', explain())
        self.amd.emit(self.vf, 'FW_MIGRATION_IMPORT_FAIL', 'PSP version')
        self.assertEqual('; GIM: FW_MIGRATION_IMPORT_FAIL: PSP version',
                         explain())

    def test_opening_it_here_is_no_news_either(self):
        kernels_own = opening.Doors.open

        def reset(doors, node):
            self.vf.flr_count += 1
            return kernels_own(doors, node)

        with mock.patch.object(opening.Doors, 'open', reset):
            found = self.open()
        self.kernel.refuse[S.PRE_COPY] = errno.EINVAL, S.RUNNING
        self.assertNotIn('FLR', self.refused(
            errno.EINVAL, found.set_state, S.PRE_COPY))

    def test_events_are_read_from_the_first_look(self):
        self.driver.pools()
        self.assertEqual(1, self.amd.readers)
        self.driver.close()
        self.assertEqual(0, self.amd.readers)

    def test_nothing_to_say(self):
        found = self.open()
        self.kernel.refuse[S.PRE_COPY] = errno.EINVAL, S.RUNNING
        self.assertNotIn('GIM:', self.refused(
            errno.EINVAL, found.set_state, S.PRE_COPY))

    def test_rate_is_known_in_precopy_only(self):
        self.assertIsNone(self.driver.dirty_rate(self.vf.bdf, 0.1))


class ScrubTest(Case):

    def test_resets_and_clears(self):
        self.vf.used_mb = 5
        self.driver.scrub(self.vf.bdf)
        self.assertEqual((1, 0), (self.vf.cleared, self.vf.used_mb))

    def test_a_guest_keeps_its_memory(self):
        for name in ('ACTIVE', 'SUSPENDED', 'FULLACCESS'):
            self.state(name)
            self.refused(errno.EBUSY, self.driver.scrub, self.vf.bdf)
        self.assertEqual([], self.kernel.calls)
        self.assertEqual(0, self.vf.cleared)

    def test_a_failed_clear_is_told(self):
        for code, number in (('STATUS_BUSY', errno.EBUSY),
                             ('STATUS_API_FAILED', errno.EIO)):
            self.fails('clear_vf_fb', code)
            text = self.refused(number, self.driver.scrub, self.vf.bdf)
            self.assertIn(f'clear_vf_fb: AMDSMI_{code}', text)
