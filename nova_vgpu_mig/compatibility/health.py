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

"""The health of a GPU: what speaks against it as a destination.

Not in the identity: it changes while VMs run, and two healthy GPUs are not
told apart by it.
"""

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class Health:
    """Counts of a GPU; None is not exposed."""

    bad_pages: int | None = None
    """Pages of the frame buffer that are retired."""

    uncorrectable_errors: int | None = None
    """ECC errors since the host driver was loaded."""


UNKNOWN = Health()
