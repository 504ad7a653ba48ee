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

import subprocess
import sys

from oslotest import base

_SCRIPT = '''
import sys
from nova_vgpu_mig.nova import filter
from nova_vgpu_mig.nova import publication
from nova_vgpu_mig.nova import validators
print(len(validators.register()))
for name in ('nova.virt.libvirt.driver', 'nova_vgpu_mig.agent',
             'nova_vgpu_mig.gpu', 'numpy'):
    assert name not in sys.modules, name
'''


class TestWhatControllersLoad(base.BaseTestCase):
    def test_no_driver_no_agent_no_gpu(self):
        done = subprocess.run([sys.executable, '-c', _SCRIPT],
                              capture_output=True, text=True, check=False)
        self.assertEqual((0, '1\n'), (done.returncode, done.stdout),
                         done.stderr)
