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


"""The kernel's VFIO uAPI: the structures and numbers, and nothing else.

Of include/uapi/linux/vfio.h and iommufd's one call, as in Linux 6.12. They
are ctypes here, and not built from the header at install time: the agent's
host need not have a compiler, and the uAPI never changes what it has.
"""

import ctypes

_U32 = ctypes.c_uint32
_S32 = ctypes.c_int32
_U64 = ctypes.c_uint64


def _io(number: int) -> int:
    """_IO(';', 100 + number): no direction and no size in it."""
    return (ord(';') << 8) | (100 + number)


# On the container
GET_API_VERSION = _io(0)
CHECK_EXTENSION = _io(1)
SET_IOMMU = _io(2)
API_VERSION = 0
TYPE1V2_IOMMU = 3

# On the group
GROUP_GET_STATUS = _io(3)
GROUP_SET_CONTAINER = _io(4)
GROUP_GET_DEVICE_FD = _io(6)
GROUP_VIABLE = 1

# On the device
DEVICE_RESET = _io(11)
DEVICE_FEATURE = _io(17)
DEVICE_BIND_IOMMUFD = _io(18)

# On the data fd
MIG_GET_PRECOPY_INFO = _io(21)

FEATURE_MASK = 0xffff
FEATURE_GET = 1 << 16
FEATURE_SET = 1 << 17
FEATURE_PROBE = 1 << 18

FEATURE_MIGRATION = 1
FEATURE_MIG_DEVICE_STATE = 2
FEATURE_DMA_LOGGING_START = 6
FEATURE_DMA_LOGGING_STOP = 7
FEATURE_DMA_LOGGING_REPORT = 8
FEATURE_MIG_DATA_SIZE = 9


class GroupStatus(ctypes.Structure):
    """struct vfio_group_status."""

    _fields_ = [('argsz', _U32), ('flags', _U32)]


class BindIommufd(ctypes.Structure):
    """struct vfio_device_bind_iommufd."""

    _fields_ = [('argsz', _U32), ('flags', _U32), ('iommufd', _S32),
                ('out_devid', _U32)]


class Feature(ctypes.Structure):
    """struct vfio_device_feature, without the data that follows it."""

    _fields_ = [('argsz', _U32), ('flags', _U32)]


class Migration(ctypes.Structure):
    """struct vfio_device_feature_migration."""

    _fields_ = [('flags', _U64)]


class MigState(ctypes.Structure):
    """struct vfio_device_feature_mig_state."""

    _fields_ = [('device_state', _U32), ('data_fd', _S32)]


class DataSize(ctypes.Structure):
    """struct vfio_device_feature_mig_data_size."""

    _fields_ = [('stop_copy_length', _U64)]


class PrecopyInfo(ctypes.Structure):
    """struct vfio_precopy_info."""

    _fields_ = [('argsz', _U32), ('flags', _U32), ('initial_bytes', _U64),
                ('dirty_bytes', _U64)]


class LoggingRange(ctypes.Structure):
    """struct vfio_device_feature_dma_logging_range."""

    _fields_ = [('iova', _U64), ('length', _U64)]


class LoggingControl(ctypes.Structure):
    """struct vfio_device_feature_dma_logging_control."""

    _fields_ = [('page_size', _U64), ('num_ranges', _U32),
                ('reserved', _U32), ('ranges', _U64)]


class LoggingReport(ctypes.Structure):
    """struct vfio_device_feature_dma_logging_report."""

    _fields_ = [('iova', _U64), ('length', _U64), ('page_size', _U64),
                ('bitmap', _U64)]
