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

"""GIM's events, and the thread that reads them."""

import unittest
from unittest import mock

from nova_vgpu_mig.gpu.gim import events
from nova_vgpu_mig.gpu.gim import library
from tests import amdsmi_standin

VF = '0000:41:00.1'
OTHER = '0000:41:00.2'
IMPORT = 'FW_MIGRATION_IMPORT_FAIL'


class EventsTest(unittest.TestCase):

    def setUp(self):
        self.machine = amdsmi_standin.install(self)
        self.gpu = self.machine.add_gpu('0000:41:00.0', [VF, OTHER])
        found = library.find()
        for name, value in (('READ_MICROSECONDS', 10_000),
                            ('PAUSE_SECONDS', 0.01), ('GRACE_SECONDS', 5.0)):
            patched = mock.patch.object(events, name, value)
            patched.start()
            self.addCleanup(patched.stop)
        self.events = events.Events(lambda: found)
        self.addCleanup(self.events.close)

    def say(self, vf, subcode=IMPORT, message='context differs'):
        self.machine.emit(vf, subcode, message)

    def test_what_is_said_of_a_vf_since_it_was_opened(self):
        first = self.events.begin()
        self.say(self.gpu.vfs[1], message='of another')
        self.say(self.gpu.vfs[0])
        self.assertEqual([f'{IMPORT}: context differs'],
                         self.events.since(first, VF))
        second = self.events.begin()
        self.say(self.gpu.vfs[0], 'FW_MIGRATION_EXPORT_FAIL', 'PSP')
        self.assertEqual(['FW_MIGRATION_EXPORT_FAIL: PSP'],
                         self.events.since(second, VF))

    def test_one_of_the_gpu_counts_for_each_vf(self):
        number = self.events.begin()
        self.say(None, 'FW_MIGRATION_GET_PSP_INFO_FAIL', 'no answer')
        for address in (VF, OTHER):
            self.assertEqual(
                ['FW_MIGRATION_GET_PSP_INFO_FAIL: no answer'],
                self.events.since(number, address))

    def test_one_of_a_pf_by_its_address_names_the_gpu(self):
        from amdsmi import machine
        number = self.events.begin()
        self.say(machine.VF(self.gpu.bdf, 1), message='no answer')
        self.assertEqual([f'{IMPORT}: no answer (GPU {self.gpu.bdf})'],
                         self.events.since(number, VF))

    def test_other_events_are_not_of_a_migration(self):
        number = self.events.begin()
        self.say(self.gpu.vfs[0], 'FW_CMD_SUBMIT_FAIL')
        self.say(self.gpu.vfs[0])
        self.assertEqual([f'{IMPORT}: context differs'],
                         self.events.since(number, VF))

    def test_no_exception_ends_the_thread(self):
        number = self.events.begin()
        for broken in (OSError('gone'), {'subcode': None}):
            self.machine.events.put(broken)
        with self.assertLogs(events.LOG, 'ERROR'):
            self.say(self.gpu.vfs[0])
            # The reads begin anew before it is found.
            while not self.events.since(number, VF):
                pass
        self.assertEqual(1, self.machine.readers)

    def test_without_a_reader_nobody_waits(self):
        import amdsmi
        self.machine.fails['event_create'] = \
            amdsmi.AmdSmiRetCode.STATUS_NOT_SUPPORTED
        with self.assertLogs(events.LOG, 'ERROR') as logged:
            number = self.events.begin()
            while self.machine.called.count('event_create') < 3:
                self.events.since(number, VF)
        self.assertEqual([], self.events.since(number, VF))
        self.assertEqual(1, len(logged.output))

    def test_the_end(self):
        self.events.begin()
        thread = self.events._thread
        self.events.close()
        self.assertFalse(thread.is_alive())
        self.assertEqual(0, self.machine.readers)
        self.events.begin()
        self.assertIsNone(self.events._thread)

    def test_only_so_many_are_kept(self):
        with mock.patch.object(events, 'KEPT', 3):
            number = self.events.begin()
            for count in range(10):
                self.say(self.gpu.vfs[0], message=str(count))
            self.say(None, message='last')
            while not (said := self.events.since(number, VF)) or \
                    'last' not in said[-1]:
                pass
        self.assertEqual([f'{IMPORT}: {text}' for text in (8, 9, 'last')],
                         said)
