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


"""Run the suite on devices of this machine, as root in a node of the lab."""

import argparse
import dataclasses
import sys
import unittest

from nova_vgpu_mig.gpu import contract
from tests.conformance import providers
from tests.conformance import suite


def main() -> int:
    parser = argparse.ArgumentParser(prog='python3 -m tests.conformance')
    parser.add_argument('--driver', choices=['vfio'], required=True)
    parser.add_argument('--type', required=True, help='a type of mediated '
                        'devices, as mtty-2 or vgpu_lab-16')
    parser.add_argument('--flags', type=lambda text: int(text, 0),
                        choices=(0x5, 0x7), metavar='FLAGS', help='have '
                        'vgpu_lab offer these migration flags: 0x5 has no '
                        'P2P, as GIM; 0x7 is its default')
    parser.add_argument('--iommufd', metavar='PATH', help='open the devices '
                        'by their cdev and this iommufd, which is /dev/iommu '
                        'as a rule; without it by their group')
    parser.add_argument('tests', nargs='*', help='names of single tests')
    options = parser.parse_args()
    declared = (providers.MTTY if options.type.startswith('mtty')
                else providers.LAB)
    if options.flags is not None:
        declared = dataclasses.replace(
            declared, flags=contract.MigrationFlag(options.flags))

    class ConformanceTest(suite.Contract, unittest.TestCase):
        provider = providers.MediatedDevices(options.type, options.flags,
                                             options.iommufd)
        traits = declared

    loader = unittest.defaultTestLoader
    tests = unittest.TestSuite(
        ConformanceTest(name) for name in options.tests or
        loader.getTestCaseNames(ConformanceTest))
    for name, why in ConformanceTest.traits.lacks.items():
        print(f'{name}: left out, {why}', file=sys.stderr)
    done = unittest.TextTestRunner(verbosity=2).run(tests)
    return 0 if done.wasSuccessful() and not done.skipped else 1


if __name__ == '__main__':
    sys.exit(main())
