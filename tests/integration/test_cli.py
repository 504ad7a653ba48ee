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

"""The operator's program, as a process, where the source is gone for good."""

import json
import os
import subprocess
import sys
import uuid

from nova_vgpu_mig.migration import phases
from tests.integration import cluster


class TestInDoubt(cluster.ClusterCase):

    def cli(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        # An agent asks a source that is gone up to three times over before
        # it has resolved a move: the operator's patience is the product's.
        patient = self.b.folder / 'operator.conf'
        patient.write_text('[vgpu_mig_agent]\nstep_timeout = 120\n')
        return subprocess.run(
            [sys.executable, '-W', 'ignore', '-m',
             'nova_vgpu_mig.cmd.operator',
             '--config-file', str(self.b.config),
             '--config-file', str(patient),
             '--host', self.b.name, *arguments],
            capture_output=True, text=True, timeout=150,
            check=False, env={**os.environ, 'HOME': str(self.b.folder)})

    def test_destination_left_prepared(self) -> None:
        self.up(die_a=f'{phases.Role.SOURCE}:{phases.Phase.COMMIT}')
        request = self.request()
        migration = request.migration_uuid
        self.api.claim(self.ctxt, self.b.name, request)
        self.api.prepare_source(self.ctxt, self.a.name, request)
        self.api.start(self.ctxt, self.a.name, request.instance_uuid)
        self.a.await_death()
        self.until_states(migration, '', 'PREPARED')

        listed = self.cli('list', '--open', '-f', 'json')
        self.assertEqual(0, listed.returncode, listed.stderr)
        self.assertIn(migration, listed.stdout)
        self.assertIn('PREPARED', listed.stdout)

        shown = self.cli('show', request.instance_uuid, '-f', 'json')
        self.assertEqual(0, shown.returncode, shown.stderr)
        values = json.loads(shown.stdout)
        self.assertEqual(
            (migration, 'PREPARED', self.b.name),
            (values['migration_uuid'], values['journal'], values['host']))

        dry = self.cli('resolve', migration, '--role', 'destination',
                       '--action', 'drop')
        self.assertEqual(0, dry.returncode, dry.stderr)
        self.assertIn('Nothing was done', dry.stdout)
        self.assertIn('--yes', dry.stdout)
        self.assertEqual('PREPARED', self.state(self.b, migration))

        dropped = self.cli('resolve', migration, '--role', 'destination',
                           '--action', 'drop', '--yes')
        self.assertEqual(0, dropped.returncode,
                         dropped.stdout + dropped.stderr)
        self.until_states(migration, '', 'DROPPED')
        self.guest.close()

    def test_unknown_uuid(self) -> None:
        self.up()
        unknown = str(uuid.uuid4())
        for words in (('show', unknown),
                      ('resolve', unknown, '--role', 'destination')):
            done = self.cli(*words)
            self.assertNotEqual(0, done.returncode, done.stdout)
            self.assertIn(unknown, done.stderr)
            self.assertNotIn('Traceback', done.stderr)
        self.guest.close()
