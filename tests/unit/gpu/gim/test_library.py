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

"""Finding AMD SMI, and what its failures are called."""

import sys
import types
import unittest

from nova_vgpu_mig.gpu.gim import library
from tests import amdsmi_standin


class FindTest(unittest.TestCase):

    def setUp(self):
        self.machine = amdsmi_standin.install(self)

    def missing(self):
        with self.assertRaises(library.NotThere) as caught:
            library.find()
        return str(caught.exception)

    def test_found_and_connected(self):
        found = library.find()
        self.assertEqual([], found.call('get_processor_handles'))
        self.assertEqual(1, self.machine.initialised)

    def test_no_library(self):
        sys.modules['amdsmi'] = None
        self.assertIn('module amdsmi can not be imported', self.missing())

    def test_library_for_guests(self):
        other = types.ModuleType('amdsmi')
        other.amdsmi_init = self.fail
        sys.modules['amdsmi'] = other
        self.assertIn('for guests and bare metal', self.missing())

    def test_gim_is_not_loaded(self):
        self.machine.loaded = False
        text = self.missing()
        self.assertIn('init', text)
        self.assertIn('AMDSMI_STATUS_DRIVER_NOT_LOADED', text)


class CallTest(unittest.TestCase):

    def setUp(self):
        self.machine = amdsmi_standin.install(self)
        self.gpu = self.machine.add_gpu('0000:41:00.0', ['0000:41:00.1'])
        self.library = library.find()

    def failed(self, name, *args):
        with self.assertRaises(library.LibraryError) as caught:
            self.library.call(name, *args)
        return caught.exception

    def test_an_error_names_call_and_status(self):
        import amdsmi
        self.machine.fails['get_num_vf'] = amdsmi.AmdSmiRetCode.STATUS_IO
        exc = self.failed('get_num_vf', self.gpu)
        self.assertIn('get_num_vf', str(exc))
        self.assertIn('AMDSMI_STATUS_IO', str(exc))
        self.assertFalse(exc.not_exposed)

    def test_a_wrong_parameter(self):
        exc = self.failed('get_num_vf', self.gpu.vfs[0])
        self.assertIn('get_num_vf: AmdSmiParameterException', str(exc))

    def test_not_exposed(self):
        import amdsmi
        for code in ('STATUS_NOT_SUPPORTED', 'STATUS_NOT_YET_IMPLEMENTED',
                     'STATUS_NO_DATA'):
            self.machine.fails['get_fw_info'] = amdsmi.AmdSmiRetCode[code]
            self.assertIsNone(self.library.ask('get_fw_info', self.gpu))
        self.assertIsNone(self.library.ask('get_of_a_newer_release'))
        self.machine.fails['get_fw_info'] = amdsmi.AmdSmiRetCode.STATUS_IO
        with self.assertRaises(library.LibraryError):
            self.library.ask('get_fw_info', self.gpu)

    def test_asked_again_where_the_library_wants_it(self):
        import amdsmi
        self.machine.fails['get_num_vf'] = amdsmi.AmdSmiRetCode.STATUS_RETRY
        self.failed('get_num_vf', self.gpu)
        self.assertEqual(3, self.machine.called.count('get_num_vf'))
