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


"""Every structure and number, by value and against the compiler."""

import ctypes
import pathlib
import shutil
import subprocess
import tempfile
import unittest

from nova_vgpu_mig.gpu.vfio import uapi

# uapi's name, the kernel's, size, offset of each field.
STRUCTURES = [
    (uapi.GroupStatus, 'vfio_group_status', 8,
     {'argsz': 0, 'flags': 4}),
    (uapi.BindIommufd, 'vfio_device_bind_iommufd', 16,
     {'argsz': 0, 'flags': 4, 'iommufd': 8, 'out_devid': 12}),
    (uapi.Feature, 'vfio_device_feature', 8, {'argsz': 0, 'flags': 4}),
    (uapi.Migration, 'vfio_device_feature_migration', 8, {'flags': 0}),
    (uapi.MigState, 'vfio_device_feature_mig_state', 8,
     {'device_state': 0, 'data_fd': 4}),
    (uapi.DataSize, 'vfio_device_feature_mig_data_size', 8,
     {'stop_copy_length': 0}),
    (uapi.PrecopyInfo, 'vfio_precopy_info', 24,
     {'argsz': 0, 'flags': 4, 'initial_bytes': 8, 'dirty_bytes': 16}),
    (uapi.LoggingRange, 'vfio_device_feature_dma_logging_range', 16,
     {'iova': 0, 'length': 8}),
    (uapi.LoggingControl, 'vfio_device_feature_dma_logging_control', 24,
     {'page_size': 0, 'num_ranges': 8, 'reserved': 12, 'ranges': 16}),
    (uapi.LoggingReport, 'vfio_device_feature_dma_logging_report', 32,
     {'iova': 0, 'length': 8, 'page_size': 16, 'bitmap': 24}),
]
NUMBERS = {
    'VFIO_GET_API_VERSION': (uapi.GET_API_VERSION, 0x3b64),
    'VFIO_CHECK_EXTENSION': (uapi.CHECK_EXTENSION, 0x3b65),
    'VFIO_SET_IOMMU': (uapi.SET_IOMMU, 0x3b66),
    'VFIO_API_VERSION': (uapi.API_VERSION, 0),
    'VFIO_TYPE1v2_IOMMU': (uapi.TYPE1V2_IOMMU, 3),
    'VFIO_GROUP_GET_STATUS': (uapi.GROUP_GET_STATUS, 0x3b67),
    'VFIO_GROUP_SET_CONTAINER': (uapi.GROUP_SET_CONTAINER, 0x3b68),
    'VFIO_GROUP_GET_DEVICE_FD': (uapi.GROUP_GET_DEVICE_FD, 0x3b6a),
    'VFIO_GROUP_FLAGS_VIABLE': (uapi.GROUP_VIABLE, 1),
    'VFIO_DEVICE_RESET': (uapi.DEVICE_RESET, 0x3b6f),
    'VFIO_DEVICE_FEATURE': (uapi.DEVICE_FEATURE, 0x3b75),
    'VFIO_DEVICE_BIND_IOMMUFD': (uapi.DEVICE_BIND_IOMMUFD, 0x3b76),
    'VFIO_MIG_GET_PRECOPY_INFO': (uapi.MIG_GET_PRECOPY_INFO, 0x3b79),
    'VFIO_DEVICE_FEATURE_MASK': (uapi.FEATURE_MASK, 0xffff),
    'VFIO_DEVICE_FEATURE_GET': (uapi.FEATURE_GET, 0x10000),
    'VFIO_DEVICE_FEATURE_SET': (uapi.FEATURE_SET, 0x20000),
    'VFIO_DEVICE_FEATURE_PROBE': (uapi.FEATURE_PROBE, 0x40000),
    'VFIO_DEVICE_FEATURE_MIGRATION': (uapi.FEATURE_MIGRATION, 1),
    'VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE': (
        uapi.FEATURE_MIG_DEVICE_STATE, 2),
    'VFIO_DEVICE_FEATURE_DMA_LOGGING_START': (
        uapi.FEATURE_DMA_LOGGING_START, 6),
    'VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP': (
        uapi.FEATURE_DMA_LOGGING_STOP, 7),
    'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT': (
        uapi.FEATURE_DMA_LOGGING_REPORT, 8),
    'VFIO_DEVICE_FEATURE_MIG_DATA_SIZE': (uapi.FEATURE_MIG_DATA_SIZE, 9),
}
NEWER = {
    'vfio_device_bind_iommufd': 'VFIO_DEVICE_BIND_IOMMUFD',
    'vfio_precopy_info': 'VFIO_MIG_GET_PRECOPY_INFO',
    'vfio_device_feature_mig_data_size': 'VFIO_DEVICE_FEATURE_MIG_DATA_SIZE',
    'vfio_device_feature_dma_logging_control':
        'VFIO_DEVICE_FEATURE_DMA_LOGGING_START',
    'vfio_device_feature_dma_logging_range':
        'VFIO_DEVICE_FEATURE_DMA_LOGGING_START',
    'vfio_device_feature_dma_logging_report':
        'VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT',
}
"""Structures that older headers lack, and a macro that comes with each."""

HEADER = pathlib.Path('/usr/include/linux/vfio.h')


class UAPITest(unittest.TestCase):
    def test_sizes_and_offsets(self):
        for structure, name, size, offsets in STRUCTURES:
            with self.subTest(name):
                self.assertEqual(size, ctypes.sizeof(structure))
                self.assertEqual(offsets, {
                    field: getattr(structure, field).offset
                    for field, _ in structure._fields_})

    def test_numbers(self):
        for name, (ours, kernels) in NUMBERS.items():
            with self.subTest(name):
                self.assertEqual(kernels, ours)

    @unittest.skipUnless(
        HEADER.exists() and shutil.which('cc'),
        "to run it: apt-get install gcc linux-libc-dev")
    def test_against_the_compiler(self):
        lines = ['#include <stddef.h>', '#include <linux/vfio.h>']
        for name, (ours, _) in NUMBERS.items():
            # An enumerator is no macro, so that it is asked for plainly.
            lines += [f'#ifdef {name}',
                      f'_Static_assert({name} == {ours}u, "{name}");',
                      '#endif']
        for _, name, size, offsets in STRUCTURES:
            guard = NEWER.get(name, 'VFIO_DEVICE_FEATURE')
            lines += [f'#ifdef {guard}',
                      f'_Static_assert(sizeof(struct {name}) == {size}, '
                      f'"{name}");']
            lines += [f'_Static_assert(offsetof(struct {name}, {field}) == '
                      f'{offset}, "{name}.{field}");'
                      for field, offset in offsets.items()
                      if field != 'reserved']
            lines += ['#endif']
        with tempfile.NamedTemporaryFile('w', suffix='.c') as source:
            source.write('\n'.join(lines) + '\n')
            source.flush()
            done = subprocess.run(
                ['cc', '-fsyntax-only', source.name],
                capture_output=True, text=True)
        self.assertEqual(0, done.returncode, done.stderr)
