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

from importlib import metadata
import unittest

from oslo_config import cfg

from nova_vgpu_mig.conf import software_gim
from nova_vgpu_mig.gpu import registry
from nova_vgpu_mig import plugins
from tests import gpu_lab


class Driver:
    """As much of a GPUDriver as the choice looks at."""

    def __init__(self, name, mark):
        self.name = name
        self._mark = mark

    def evaluate_support(self):
        if isinstance(self._mark, Exception):
            raise self._mark
        return self._mark


class BestTest(unittest.TestCase):
    def test_the_highest_mark_wins(self):
        self.assertEqual('b', registry.DRIVERS.best([
            Driver('a', 1), Driver('b', 20), Driver('c', 0)]).name)

    def test_a_driver_that_fails_takes_no_part(self):
        broken = Driver('broken', RuntimeError('no library'))
        with self.assertLogs(plugins.LOG, 'ERROR'):
            self.assertEqual(
                'a', registry.DRIVERS.best([broken, Driver('a', 1)]).name)

    def test_nothing_fits(self):
        broken = Driver('broken', RuntimeError('no library'))
        with (self.assertRaises(registry.NoGPUDriver) as caught,
              self.assertLogs(plugins.LOG, 'ERROR')):
            registry.DRIVERS.best([broken, Driver('c', 0)])
        self.assertIn('broken failed: no library', str(caught.exception))
        self.assertIn('c does not fit', str(caught.exception))

    def test_each_driver_is_told_what_it_needs(self):
        for entry in metadata.entry_points(
                group=registry.DRIVERS.namespace):
            self.assertIn(f'{entry.name}: ', registry.DRIVERS.advice)

    def test_nothing_installed(self):
        with self.assertRaises(registry.NoGPUDriver) as caught:
            registry.DRIVERS.best([])
        self.assertIn(registry.DRIVERS.namespace, str(caught.exception))


class LoadTest(unittest.TestCase):
    def conf(self, directory):
        conf = cfg.ConfigOpts()
        software_gim.register_opts(conf)
        conf.set_override('runtime_dir', directory, group='software_gim')
        conf([], project='test', default_config_files=[])
        return conf

    def test_software_driver_by_entry_point(self):
        directory = gpu_lab.directory(self)
        gim = gpu_lab.GIMProcess(directory)
        self.addCleanup(gim.stop)
        self.assertEqual('software',
                         registry.DRIVERS.load(self.conf(directory)).name)

    def test_no_gim_no_driver(self):
        self.assertRaises(registry.NoGPUDriver, registry.DRIVERS.load,
                          self.conf(gpu_lab.directory(self)))
