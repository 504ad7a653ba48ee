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

"""The extra specs that a flavor may carry, for Nova's API to check.

Nova's API loads this module by the entry point
`nova.api.extra_spec_validators`. To name one key claims its namespace: a
misspelt `vgpu_mig:` key is then refused when the flavor is made, and not
found to be without effect when a VM moves.
"""

from nova_vgpu_mig.nova.internals import controller
from nova_vgpu_mig.planning import limit


def register() -> list[controller.ExtraSpecValidator]:
    """Return every extra spec of ours."""
    return [
        controller.ExtraSpecValidator(
            name=limit.EXTRA_SPEC,
            description=(
                'The longest downtime, in milliseconds, that a live '
                'migration may impose on a VM with a GPU VF. A move that '
                'cannot keep it is given up, and the VM stays where it is. '
                'Without it the option of the host holds.'),
            value={'type': int, 'min': limit.MIN_MS, 'max': limit.MAX_MS}),
    ]
