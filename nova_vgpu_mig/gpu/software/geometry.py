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

"""The sizes that all VFs of a PF share, and what fits what.

Both ends of a move must have the same ones: dirty units are what a package
carries, and the progress of a preempted command is counted in work units.
So they are part of the stream's CTX section.
"""

import dataclasses

from nova_vgpu_mig.gpu.software import abi


@dataclasses.dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes that all VFs of a PF share, bytes."""

    frame_buffer_bytes: int
    unit_bytes: int
    work_unit_bytes: int

    def check(self) -> None:
        """:raises ValueError: sizes that don't fit each other."""
        if (self.unit_bytes < abi.PAGE_BYTES
                or self.unit_bytes % abi.PAGE_BYTES):
            raise ValueError(f'a dirty unit of {self.unit_bytes} bytes is '
                             f'not a multiple of {abi.PAGE_BYTES}')
        if (self.frame_buffer_bytes <= 0
                or self.frame_buffer_bytes % self.unit_bytes):
            raise ValueError(f'a frame buffer of {self.frame_buffer_bytes} '
                             f'bytes is not a multiple of the dirty unit, '
                             f'{self.unit_bytes}')
        if self.work_unit_bytes < 4096 or self.work_unit_bytes % 4096:
            raise ValueError(f'a work unit of {self.work_unit_bytes} bytes '
                             'is not a multiple of 4096')
