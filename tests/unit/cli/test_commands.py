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

"""The commands as an operator runs them, with agents that are values."""

import io
from typing import Any
import unittest
from unittest import mock
import uuid

from nova_vgpu_mig.cli import app
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record

MIGRATION = str(uuid.uuid4())
INSTANCE = str(uuid.uuid4())
REASON = ('in doubt: the connection was lost; waiting, paused, for the '
          'journal of compute-source.example (now: no answer)')


class Agents:

    def records(self, ctxt: Any, host: str) -> list[dict[str, Any]]:
        return [{'record': record.MigrationRecord(
            migration_uuid=MIGRATION, instance_uuid=INSTANCE,
            role=phases.Role.DESTINATION, reason=REASON,
            source_host='compute-source.example', destination_host=host,
            source_vf='0000:41:02.0', destination_vf='0000:81:02.1',
            ).as_dict(), 'state': 'PREPARED', 'settled': False,
            'deadline': None, 'changed_at': 0.0}]

    def resolve(self, *args: Any, **options: Any) -> dict[str, Any]:
        return {'done': False, 'explanation': 'what would be done'}

    def close(self) -> None:
        pass


class TestCommands(unittest.TestCase):

    def run_one(self, *words: str) -> tuple[int, str]:
        said, status = io.StringIO(), 1
        with mock.patch.object(app.OperatorApp, 'api', Agents()):
            status = app.main(['--config-file', '/dev/null', '--host', 'c2',
                               *words], stdout=said, stderr=said)
        return status, said.getvalue()

    def test_nothing_is_cut_on_a_terminal_of_80_columns(self) -> None:
        for command in (['list'], ['show', MIGRATION]):
            status, text = self.run_one(*command, '--max-width', '80')
            self.assertEqual(0, status, text)
            self.assertLessEqual(max(map(len, text.splitlines())), 80)
            for value in (MIGRATION, INSTANCE, 'compute-source.example'):
                self.assertIn(value, text)
            self.assertIn(REASON, ' '.join(text.split()))

    def test_into_a_pipe_a_reason_is_one_line(self) -> None:
        self.assertIn(REASON, self.run_one('list')[1])

    def test_resolve_tells_the_command_that_does_it(self) -> None:
        told = ('resolve', MIGRATION, '--role', 'destination', '--action',
                'drop')
        status, text = self.run_one(*told)
        self.assertEqual(0, status, text)
        self.assertIn(f'nova-vgpu-mig --config-file /dev/null --host c2 '
                      f'{" ".join(told)} --yes', text)

    def test_an_unknown_move_says_where_to_look(self) -> None:
        for command in ('show', 'watch'):
            status, text = self.run_one(command, 'unknown')
            self.assertNotEqual(0, status)
            self.assertIn('--host c2 list', text)
