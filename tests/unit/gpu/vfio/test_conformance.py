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

import dataclasses
import unittest

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu.software import abi
from tests.conformance import providers
from tests.conformance import suite
from tests import gpu_lab

FRAME_BUFFER_MIB = 4


class SoftwareGIM(providers.Provider):
    """Two VFs of one GIM, which is started with the first test.

    The first one has a guest, for whom its engines write.
    """

    def __init__(self, gim):
        self._gim = gim

    def addresses(self, case):
        found = gpu_lab.vf_addresses(self._gim)
        for address in found:
            case.addCleanup(self._scrub, address)
        self._guest = gpu_lab.Guest(self._gim, found[0],
                                    ram_bytes=2 * gpu_lab.MIB)
        case.addCleanup(self._guest.close)
        self._guest.load_driver()
        return tuple(found)

    def _scrub(self, address):
        admin = self._gim.connect()
        admin.call('scrub', vf=address)
        admin.close()

    def open(self, address):
        return self._gim.open(address)

    def fail_at(self, address, state, into_error):
        admin = self._gim.connect()
        admin.call('knob', vf=address, name='fail_run_once',
                   value=state is not None)
        admin.close()

    def dirty(self, address):
        assert address == self._guest.vf
        self._guest.submit(abi.Engine.GFX, abi.Opcode.RMW,
                           va=abi.PAGE_BYTES, length=abi.PAGE_BYTES,
                           arg0=5, arg1=3)
        self._guest.wait(abi.Engine.GFX)


class SoftwareConformanceTest(suite.Contract, unittest.TestCase):
    traits = providers.Traits(
        contract.MigrationFlag.STOP_COPY | contract.MigrationFlag.PRE_COPY,
        keeps_state=True,
        # As GIM, it looks for what is written only once a stream has begun.
        frame_buffer=FRAME_BUFFER_MIB * gpu_lab.MIB,
        # Headers, section tables and bitmaps, of three packages.
        framing=300,
        failures=((contract.DeviceState.RUNNING, False),))

    @classmethod
    def setUpClass(cls):
        gim = gpu_lab.GIMProcess(gpu_lab.class_directory(cls),
                                 frame_buffer_mib=FRAME_BUFFER_MIB)
        cls.addClassCleanup(gim.stop)
        cls.provider = SoftwareGIM(gim)


class LackTest(unittest.TestCase):
    def names(self, **lacks):
        class Lacking(suite.Contract, unittest.TestCase):
            traits = dataclasses.replace(SoftwareConformanceTest.traits,
                                         lacks=lacks)

        return unittest.defaultTestLoader.getTestCaseNames(Lacking)

    def test_what_is_lacking_is_left_out(self):
        self.assertEqual(
            set(self.names()) - {'test_dma_logging'},
            set(self.names(test_dma_logging='it does no DMA')))

    def test_a_test_that_does_not_exist_can_not_be_lacking(self):
        with self.assertRaises(AttributeError):
            self.names(test_dma_lodging='it does no DMA')
