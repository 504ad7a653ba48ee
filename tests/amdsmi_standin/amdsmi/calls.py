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

"""The calls, each with the shape that AMD documents for its result."""

from amdsmi.exceptions import AmdSmiLibraryException
from amdsmi.exceptions import AmdSmiParameterException
from amdsmi.machine import GPU
from amdsmi.machine import MACHINE
from amdsmi.machine import VF
from amdsmi.words import AmdSmiGuardState
from amdsmi.words import AmdSmiGuardType
from amdsmi.words import AmdSmiRetCode
from amdsmi.words import AmdSmiVfState


def _require(handle, kind, call):
    if not isinstance(handle, kind):
        raise AmdSmiParameterException(handle, kind)
    MACHINE.check(call)
    return handle


def amdsmi_init(init_flags=0):
    if not MACHINE.loaded:
        raise AmdSmiLibraryException(AmdSmiRetCode.STATUS_DRIVER_NOT_LOADED)
    MACHINE.initialised += 1


def amdsmi_shut_down():
    MACHINE.check('shut_down')
    MACHINE.initialised -= 1


def amdsmi_get_processor_handles():
    MACHINE.check('get_processor_handles')
    return list(MACHINE.gpus)


def amdsmi_get_gpu_device_bdf(processor_handle):
    return _require(processor_handle, GPU, 'get_gpu_device_bdf').bdf


def amdsmi_get_num_vf(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_num_vf')
    return {'num_vf_enabled': len(gpu.vfs), 'num_vf_supported': 8}


def amdsmi_get_vf_handle_from_vf_index(processor_handle, index):
    gpu = _require(processor_handle, GPU, 'get_vf_handle_from_vf_index')
    return gpu.vfs[index]


def amdsmi_get_vf_handle_from_bdf(bdf):
    MACHINE.check('get_vf_handle_from_bdf')
    return MACHINE.vf(bdf)


def amdsmi_get_vf_bdf(vf_handle):
    return _require(vf_handle, VF, 'get_vf_bdf').bdf


def amdsmi_get_vf_info(vf_handle):
    vf = _require(vf_handle, VF, 'get_vf_info')
    return {'fb': {'fb_offset': 256, 'fb_size': vf.fb_size},
            'gfx_timeslice': vf.gfx_timeslice}


def amdsmi_get_vf_data(vf_handle):
    vf = _require(vf_handle, VF, 'get_vf_data')
    guard = {kind.name: {
        'state': AmdSmiGuardState.NORMAL, 'amount': 0, 'interval': 60,
        'threshold': 5, 'active': 0} for kind in AmdSmiGuardType}
    return {'sched': {'flr_count': vf.flr_count, 'boot_up_time': 0,
                      'shutdown_time': 0, 'reset_time': 0,
                      'state': vf.state, 'last_boot_start': ''},
            'guard': {'enabled': 1, 'guard': guard}}


def amdsmi_get_guest_data(vf_handle):
    vf = _require(vf_handle, VF, 'get_guest_data')
    return {'driver_version': vf.guest_driver, 'fb_usage': vf.used_mb}


def amdsmi_clear_vf_fb(vf_handle):
    vf = _require(vf_handle, VF, 'clear_vf_fb')
    if vf.state not in (AmdSmiVfState.AVAILABLE,
                        AmdSmiVfState.DEFAULT_AVAILABLE):
        raise AmdSmiLibraryException(AmdSmiRetCode.STATUS_BUSY)
    vf.used_mb = 0
    vf.cleared += 1


def amdsmi_get_gpu_asic_info(processor_handle):
    return dict(_require(processor_handle, GPU, 'get_gpu_asic_info').asic)


def amdsmi_get_gpu_driver_info(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_gpu_driver_info')
    return {'driver_version': gpu.driver, 'driver_date': '2026/01/01',
            'driver_name': 'gim'}


def amdsmi_get_gpu_vbios_info(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_gpu_vbios_info')
    return {'name': 'MI300X', 'build_date': '2025/01/01',
            'part_number': gpu.vbios, 'version': gpu.vbios,
            'boot_firmware': ''}


def amdsmi_get_fw_info(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_fw_info')
    return {'fw_info_list': [
        {'fw_id': name, 'fw_version': version}
        for name, version in gpu.firmware.items()]}


def amdsmi_get_partition_profile_info(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_partition_profile_info')
    profile = {'vf_count': len(gpu.vfs), 'profile_caps': {}}
    return {'current_profile_index': profile, 'profiles': [profile]}


def amdsmi_get_gpu_accelerator_partition_profile(processor_handle):
    gpu = _require(processor_handle, GPU,
                   'get_gpu_accelerator_partition_profile')
    return {'profile': {'profile_type': gpu.partition, 'num_partitions': 1,
                        'memory_caps': [], 'profile_index': 0,
                        'resources': []},
            'partition_id': [0]}


def amdsmi_get_gpu_memory_partition_config(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_gpu_memory_partition_config')
    return {'partition_caps': [], 'mp_mode': gpu.memory, 'numa_range': []}


def amdsmi_get_xgmi_fb_sharing_caps(processor_handle):
    return dict(_require(processor_handle, GPU,
                         'get_xgmi_fb_sharing_caps').xgmi)


def amdsmi_get_gpu_bad_page_info(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_gpu_bad_page_info')
    return [{'retired_page': page, 'ts': 0, 'mem_channel': 0, 'mcumc_id': 0}
            for page in gpu.bad_pages]


def amdsmi_get_gpu_total_ecc_count(processor_handle):
    gpu = _require(processor_handle, GPU, 'get_gpu_total_ecc_count')
    return {'correctable_count': 9, 'uncorrectable_count': gpu.uncorrectable,
            'deferred_count': 0}
