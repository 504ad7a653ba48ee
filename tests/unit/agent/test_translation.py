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

"""Every error of the engine becomes one that a caller can be told."""

import errno
import inspect
import unittest

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import translation
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig import unixcall


class TestTranslation(unittest.TestCase):

    def test_kinds(self) -> None:
        for exc, kind in (
                (journal.NotInJournal('m'), errors.MigrationNotFound),
                (journal.AlreadyMoving('m'), errors.MigrationConflict),
                (journal.IllegalTransition('m'), errors.Refused),
                (journal.JournalError('m'), errors.Unexpected),
                (contract.DeviceError(errno.EBUSY, '0000:03:02.0', 'm'),
                 errors.DeviceFailed),
                (unixcall.CallError(errno.EIO, 'm'), errors.DeviceFailed),
                (ValueError('m'), errors.BadRequest),
                (KeyError('m'), errors.Unexpected)):
            answer = translation.translate('cmp-1', exc)
            self.assertIs(kind, type(answer), repr(exc))
            self.assertIn('cmp-1', answer.message)
            self.assertIn('m', answer.message)

    def test_own_errors_pass(self) -> None:
        error = errors.VFTaken('taken')
        self.assertIs(error, translation.translate('cmp-1', error))

    def test_every_error_can_be_rebuilt_from_its_arguments(self) -> None:
        for _, kind in inspect.getmembers(errors, inspect.isclass):
            made = kind(*kind('text').args)
            self.assertEqual('text', made.message)
