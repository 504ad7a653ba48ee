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


"""The helper as a process of its own, which the other tests do without.

It opens what it is told to under /dev/vfio only, and nobody outside of it can
change that. So it is the files that are played: in a mount namespace that has
a /dev of its own, and ends with the test.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import unittest

import nova_vgpu_mig
from tests.unit import mounts

NAMESPACE = """
mkdir "$1/dev"
mount --rbind /dev "$1/dev"
mount -t tmpfs none /dev
ln -s "$1"/dev/* /dev
rm -f /dev/vfio /dev/iommu
mkdir /dev/vfio
printf container >/dev/vfio/vfio
chmod 600 /dev/vfio/vfio
ln -s vfio/vfio /dev/iommu
shift
exec "$@"
"""

CLIENT = """
import errno, json, sys
from nova_vgpu_mig.gpu.vfio import privileged

def contents(path):
    try:
        with open(privileged.open_file(path, sys.argv[1])) as opened:
            return opened.read()
    except OSError as exc:
        return errno.errorcode[exc.errno]

print(json.dumps([contents(path) for path in sys.argv[2:]]), flush=True)
sys.stdin.read()
"""
"""The agent's side; it keeps its helper until its input ends."""


class HelperTest(unittest.TestCase):

    def setUp(self):
        mounts.require(self)
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.directory = pathlib.Path(made.name)

    def begin(self, *paths):
        """Start a client that has these opened."""
        helper = pathlib.Path(sys.executable).with_name('privsep-helper')
        with open(self.directory / 'log', 'wb') as log:
            client = subprocess.Popen(
                ['unshare', '--mount', 'sh', '-euc', NAMESPACE, 'sh',
                 self.directory, sys.executable, '-c', CLIENT, helper,
                 *paths],
                env={**os.environ, 'TMPDIR': str(self.directory),
                     'PYTHONPATH': str(pathlib.Path(
                         nova_vgpu_mig.__file__).parents[1])},
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        self.addCleanup(client.communicate)
        self.addCleanup(client.kill)
        return client

    def helpers(self):
        """Directories in /proc of the helpers whose socket is in ours."""
        found = []
        for path in pathlib.Path('/proc').glob('[0-9]*'):
            try:
                arguments = (path / 'cmdline').read_text().split('\0')
            except OSError:
                continue
            if '--privsep_sock_path' in arguments and any(
                    argument.startswith(f'{self.directory}/')
                    for argument in arguments):
                found.append(path)
        return found

    def test_opens_vfio_files_and_no_others(self):
        expected = {'/dev/vfio/vfio': 'container', '/dev/vfio/17': 'ENOENT',
                    '/dev/iommu': 'ELOOP', '/etc/passwd': 'EPERM',
                    '/dev/vfio/../null': 'EPERM'}
        client = self.begin(*expected)
        said = client.stdout.readline()
        log = (self.directory / 'log').read_text()
        self.assertTrue(said, log)
        self.assertEqual(expected, dict(
            zip(expected, json.loads(said), strict=True)), log)
        helper, = self.helpers()
        self.assertIn('CapEff:\t0000000000000000',
                      (helper / 'status').read_text())
        client.communicate()
        self.assertEqual(0, client.returncode, log)
        deadline = time.monotonic() + 10
        while self.helpers() and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual([], self.helpers())
