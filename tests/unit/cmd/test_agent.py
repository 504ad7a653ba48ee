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

"""An agent that can't start says so once, and ends."""

import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

from oslo_config import cfg

from nova_vgpu_mig.agent import startup
from nova_vgpu_mig.conf import agent as agent_conf
from tests import gpu_lab
from tests.unit.agent import agents


class TestExamine(unittest.TestCase):

    folder: pathlib.Path

    @classmethod
    def setUpClass(cls) -> None:
        super().setUpClass()
        made = tempfile.TemporaryDirectory(prefix='startup')
        cls.addClassCleanup(made.cleanup)
        cls.folder = pathlib.Path(made.name)
        (cls.folder / 'h' / 'gim').mkdir(parents=True)
        gim = gpu_lab.GIMProcess(cls.folder / 'h' / 'gim')
        cls.addClassCleanup(gim.stop)

    def conf(self, **options: object) -> cfg.ConfigOpts:
        return agents.configuration(self.folder, 'h', **options)

    def refused(self, conf: cfg.ConfigOpts) -> str:
        with self.assertRaises(startup.CannotStart) as caught:
            startup.examine(conf)
        return str(caught.exception)

    def test_nothing_stays_open(self) -> None:
        conf = self.conf()
        startup.examine(conf)
        startup.examine(conf)
        startup.open_journal(conf).close()

    def test_data_host_of_another_machine(self) -> None:
        text = self.refused(self.conf(data_host='192.0.2.1'))
        self.assertIn('data_host = 192.0.2.1', text)

    def test_data_port_that_is_taken(self) -> None:
        with socket.create_server(('127.0.0.1', 0)) as other:
            port = other.getsockname()[1]
            text = self.refused(self.conf(data_port=port))
        self.assertIn(f'data_port = {port}', text)

    def test_journal_where_no_directory_can_be(self) -> None:
        (self.folder / 'file').write_text('')
        text = self.refused(self.conf(journal=f'{self.folder}/file/j'))
        self.assertIn('[vgpu_mig_agent] journal', text)

    def test_journal_that_another_agent_has(self) -> None:
        conf = self.conf()
        book = startup.open_journal(conf)
        self.addCleanup(book.close)
        self.assertIn('in use by another process', self.refused(conf))

    def test_journal_that_is_none(self) -> None:
        (self.folder / 'text').write_text('no database' * 100)
        text = self.refused(self.conf(journal=f'{self.folder}/text'))
        self.assertIn('[vgpu_mig_agent] journal', text)

    def test_no_gpu(self) -> None:
        conf = self.conf()
        conf.set_override('runtime_dir', f'{self.folder}/none',
                          'software_gim')
        self.assertIn('No GPU driver fits', self.refused(conf))

    def test_transport_that_is_not_there(self) -> None:
        conf = self.conf()
        conf.set_override('transport_url', 'pigeon://')
        self.assertIn('transport_url', self.refused(conf))

    def test_value_of_a_wrong_type(self) -> None:
        path = self.folder / 'wrong.conf'
        path.write_text('[vgpu_mig_agent]\nrpc_workers = many\n')
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[str(path)])
        self.assertIn('rpc_workers', self.refused(conf))


class TestCommand(unittest.TestCase):

    def run_with(self, text: str) -> subprocess.CompletedProcess[str]:
        with tempfile.NamedTemporaryFile('w', suffix='.conf') as made:
            made.write(text)
            made.flush()
            return subprocess.run(
                [sys.executable, '-W', 'ignore', '-m',
                 'nova_vgpu_mig.cmd.agent', '--config-file', made.name],
                capture_output=True, text=True, check=False,
                timeout=gpu_lab.PATIENCE)

    def test_one_line_and_a_status(self) -> None:
        done = self.run_with(
            '[DEFAULT]\ntransport_url = fake://\nlog_file = /dev/null\n'
            f'[{agent_conf.GROUP}]\ndata_port = 70000\n')
        self.assertEqual(1, done.returncode, done.stderr)
        self.assertEqual(1, done.stderr.count('\n'), done.stderr)
        self.assertIn('data_port', done.stderr)
        self.assertTrue(done.stderr.startswith('nova-vgpu-mig-agent: '))
