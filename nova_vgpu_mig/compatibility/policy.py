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

"""Which rules hold, for each version of the host driver's migration stream.

What a host driver compares changes with its version: one published revision
demands the same VF index, another takes any. So a rule never knows how
strict to be; it asks the policy. The scheduler has to judge without any GPU
driver loaded, which is why the table is data here and not a method there.

Rejected: a policy in the configuration. Each host could then hold another
one, and a refusal would depend on who was asked.
"""

from collections.abc import Mapping
import dataclasses

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import identity

_ERROR = finding.Severity.ERROR
_WARNING = finding.Severity.WARNING


@dataclasses.dataclass(frozen=True, slots=True)
class Policy:
    """How severe each rule is under one version of the host driver."""

    name: str

    differs: Mapping[str, finding.Severity]
    """Rule -> severity of a difference; ERROR for a rule not named."""

    not_exposed: Mapping[str, finding.Severity]
    """Rule -> severity when neither side tells; ERROR if not named."""

    ignored_firmware: frozenset[str] = frozenset()
    """Firmware ids that the host driver does not compare."""

    same_vf_index: bool = False
    """The state goes only into the VF with the same index."""

    same_num_vfs: bool = False
    """Both PFs have to be split into the same number of VFs."""

    def on_difference(self, rule: str) -> finding.Severity:
        return self.differs.get(rule, _ERROR)

    def on_not_exposed(self, rule: str) -> finding.Severity:
        return self.not_exposed.get(rule, _ERROR)


V1 = Policy(
    name='migration stream version 1',
    differs={'time_slices': _WARNING},
    # The host libraries have no call for these two; a refusal would end
    # every move on such hosts.
    not_exposed={'engines': _WARNING, 'time_slices': _WARNING},
    ignored_firmware=frozenset({'RAS_TA', 'RLCV_LX7', 'RLC_P'}))
"""Any VF index; firmware is compared id by id."""

V2 = dataclasses.replace(
    V1, name='migration stream version 2', same_vf_index=True,
    same_num_vfs=True)
"""Compared byte by byte: the VF index and the split count too."""

UNVERSIONED = Policy(
    name='migration stream without a version',
    differs={'time_slices': _WARNING},
    not_exposed={rule: _WARNING for rule in (
        'migration_version', 'firmware', 'driver_version', 'vbios_version',
        'partition', 'engines', 'time_slices')})
"""A device that tells little about itself, such as a plain VFIO variant
device. What it tells must be equal; the rest is left to the device, which
refuses on its own, and each gap is a warning."""

_BY_VERSION = {1: V1, 2: V2}

STRICTEST = dataclasses.replace(
    V2, name='migration stream of an unknown version', not_exposed={},
    ignored_firmware=frozenset())
"""For a version newer than this release: nothing is taken for granted."""


def select(destination: identity.VFIdentity) -> Policy:
    """Return the policy of the side that compares: the destination.

    A version may be written plainly or as `major << 16 | minor`; the major
    number decides.
    """
    version = destination.migration_version
    if version is None:
        return UNVERSIONED
    major = version >> 16 if version > 0xffff else version
    return _BY_VERSION.get(major, STRICTEST)
