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

"""What the stand-in tells of: GPUs, VFs, events; tests change it."""

import queue

from amdsmi.exceptions import AmdSmiLibraryException
from amdsmi.words import AmdSmiAcceleratorPartitionSetting
from amdsmi.words import AmdSmiEventCategory
from amdsmi.words import AmdSmiEventCategoryFw
from amdsmi.words import AmdSmiEventSeverity
from amdsmi.words import AmdSmiFwBlock
from amdsmi.words import AmdSmiMemoryPartitionSetting
from amdsmi.words import AmdSmiRetCode
from amdsmi.words import AmdSmiVfState


class VF:
    """Also its own handle."""

    def __init__(self, bdf, fb_mb):
        self.bdf = bdf
        self.fb_size = fb_mb
        self.gfx_timeslice = 6000
        self.state = AmdSmiVfState.AVAILABLE
        self.flr_count = 0
        self.used_mb = 0
        self.guest_driver = ''
        self.cleared = 0

    def load_guest(self, used_mb, version='6.12.12'):
        self.state = AmdSmiVfState.ACTIVE
        self.used_mb = used_mb
        self.guest_driver = version


class GPU:
    """Also its own handle."""

    def __init__(self, bdf, vfs):
        self.bdf = bdf
        self.vfs = vfs
        self.asic = {
            'market_name': 'AMD Instinct MI300X', 'vendor_id': '0x1002',
            'vendor_name': 'Advanced Micro Devices Inc.',
            'subvendor_id': '0x1002', 'device_id': '0x74a1',
            'rev_id': '0x0', 'asic_serial': '0x1', 'oam_id': 3,
            'num_of_compute_units': 304, 'target_graphics_version': 0,
            'subsystem_id': '0x74a1'}
        self.driver = '8.7.0.K'
        self.vbios = '113-M3000100-103'
        self.firmware = {AmdSmiFwBlock.FW_ID_CP_MEC1: 0x9c,
                         AmdSmiFwBlock.FW_ID_TA_RAS: 0x1b00010a,
                         AmdSmiFwBlock.FW_ID_ASD: 0}
        self.partition = AmdSmiAcceleratorPartitionSetting.SPX
        self.memory = AmdSmiMemoryPartitionSetting.NPS1
        self.xgmi = {'mode_custom_cap': 0, 'mode_1_cap': 1, 'mode_2_cap': 0,
                     'mode_4_cap': 1, 'mode_8_cap': 0}
        self.bad_pages = []
        self.uncorrectable = 0


class Machine:
    """One of them; `fails` makes a call fail with a status."""

    def __init__(self):
        self.gpus = []
        self.loaded = True
        self.initialised = 0
        self.fails = {}
        self.called = []
        self.events = queue.Queue()
        self.readers = 0

    def add_gpu(self, bdf, vf_bdfs, fb_mb=24576):
        gpu = GPU(bdf, [VF(vf, fb_mb) for vf in vf_bdfs])
        self.gpus.append(gpu)
        return gpu

    def vf(self, bdf):
        for gpu in self.gpus:
            for vf in gpu.vfs:
                if vf.bdf == bdf:
                    return vf
        raise AmdSmiLibraryException(AmdSmiRetCode.STATUS_NOT_FOUND)

    def check(self, call):
        self.called.append(call)
        if call in self.fails:
            raise AmdSmiLibraryException(self.fails[call])
        if not self.initialised:
            raise AmdSmiLibraryException(AmdSmiRetCode.STATUS_NOT_INIT)

    def emit(self, handle, subcode, message):
        """Have GIM say something; `handle` is a VF, or None for the PF."""
        self.events.put({
            'fcn_id': handle, 'dev_id': '0x1', 'timestamp': 1, 'data': 0,
            'category': AmdSmiEventCategory.FW,
            'subcode': AmdSmiEventCategoryFw[subcode],
            'level': AmdSmiEventSeverity.HIGH, 'date': '2026-01-01',
            'message': message})


MACHINE = Machine()
