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

"""GIM's scheduling state of a VF, as a pure function.

It follows from what the guest driver has said, from the migration and from
whether the VF is there at all. Rejected: a state kept beside those three,
which could contradict them.
"""

import enum

from nova_vgpu_mig.gpu.software import dynamic


class SchedulerState(enum.StrEnum):
    """GIM's scheduling states of a VF."""

    AVAIL = 'AVAIL'
    """No guest driver: nothing to schedule, nothing to carry."""
    UNAVAIL = 'UNAVAIL'
    ACTIVE = 'ACTIVE'
    SUSPEND = 'SUSPEND'
    FULLACCESS = 'FULLACCESS'
    """The guest driver is loading; it must not be interrupted."""


def scheduler_state(driver_state: int, scheduled: bool,
                    present: bool) -> SchedulerState:
    if not present:
        return SchedulerState.UNAVAIL
    if driver_state == dynamic.DRIVER_NONE:
        return SchedulerState.AVAIL
    if driver_state == dynamic.DRIVER_LOADING:
        return SchedulerState.FULLACCESS
    return SchedulerState.ACTIVE if scheduled else SchedulerState.SUSPEND
