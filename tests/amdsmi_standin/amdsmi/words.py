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

"""The library's enumerations, as far as they are used.

The numbers are made up: nothing may depend on them.
"""

import enum

AmdSmiRetCode = enum.IntEnum('AmdSmiRetCode', [
    'STATUS_INVAL', 'STATUS_NOT_SUPPORTED', 'STATUS_NOT_YET_IMPLEMENTED',
    'STATUS_API_FAILED', 'STATUS_TIMEOUT', 'STATUS_RETRY', 'STATUS_IO',
    'STATUS_BUSY', 'STATUS_NOT_FOUND', 'STATUS_NOT_INIT',
    'STATUS_DRIVER_NOT_LOADED', 'STATUS_NO_DATA'])
AmdSmiVfState = enum.IntEnum('AmdSmiVfState', [
    'UNAVAILABLE', 'AVAILABLE', 'ACTIVE', 'SUSPENDED', 'FULLACCESS',
    'DEFAULT_AVAILABLE'])
AmdSmiFwBlock = enum.IntEnum('AmdSmiFwBlock', [
    'FW_ID_CP_MEC1', 'FW_ID_SDMA0', 'FW_ID_VCN', 'FW_ID_RLC',
    'FW_ID_TA_RAS', 'FW_ID_RLCV_LX7', 'FW_ID_RLC_P', 'FW_ID_ASD'])
AmdSmiAcceleratorPartitionSetting = enum.IntEnum(
    'AmdSmiAcceleratorPartitionSetting',
    ['INVALID', 'SPX', 'DPX', 'TPX', 'QPX', 'CPX'])
AmdSmiMemoryPartitionSetting = enum.IntEnum(
    'AmdSmiMemoryPartitionSetting',
    ['UNKNOWN', 'NPS1', 'NPS2', 'NPS4', 'NPS8'])
AmdSmiGuardType = enum.IntEnum('AmdSmiGuardType', [
    'FLR', 'EXCLUSIVE_MOD', 'EXCLUSIVE_TIMEOUT', 'ALL_INT'])
AmdSmiGuardState = enum.IntEnum('AmdSmiGuardState', [
    'NORMAL', 'FULL', 'OVERFLOW'])
AmdSmiEventCategory = enum.IntEnum('AmdSmiEventCategory', [
    'DRIVER', 'RESET', 'SCHED', 'FW', 'ECC', 'ALL'])
AmdSmiEventCategoryFw = enum.IntEnum('AmdSmiEventCategoryFw', [
    'FW_CMD_SUBMIT_FAIL', 'FW_MIGRATION_GET_PSP_INFO_FAIL',
    'FW_MIGRATION_EXPORT_FAIL', 'FW_MIGRATION_IMPORT_FAIL'])
AmdSmiEventSeverity = enum.IntEnum('AmdSmiEventSeverity', [
    'HIGH', 'MED', 'LOW', 'WARN', 'INFO', 'ALL'])
