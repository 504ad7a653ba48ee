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


"""The suite of the VFIO contract, on the software GIM at level stream."""

import unittest

from nova_vgpu_mig.gpu import contract
from tests.conformance import providers
from tests.conformance import suite
from tests import gpu_lab


class SoftwareGIM(providers.Provider):
    """Two VFs of one GIM, which is started with the first test."""

    # It logs what its engines write to a guest's memory; there is no guest.
    traits = providers.Traits(
        contract.MigrationFlag.STOP_COPY | contract.MigrationFlag.PRE_COPY,
        keeps_state=True, logs_dma=False,
        failures=((contract.DeviceState.RUNNING, False),))

    def __init__(self, gim):
        self._gim = gim

    def addresses(self, case):
        found = gpu_lab.vf_addresses(self._gim)
        for address in found:
            case.addCleanup(self._fresh, address)
        return tuple(found)

    def _fresh(self, address):
        device = self.open(address)
        device.reset()
        device.close()

    def open(self, address):
        return self._gim.open(address)

    def fail_at(self, address, state, into_error):
        admin = self._gim.connect()
        admin.call('knob', vf=address, name='fail_run_once',
                   value=state is not None)
        admin.close()


class SoftwareConformanceTest(suite.Contract, unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        gim = gpu_lab.GIMProcess(gpu_lab.class_directory(cls))
        cls.addClassCleanup(gim.stop)
        cls.provider = SoftwareGIM(gim)
