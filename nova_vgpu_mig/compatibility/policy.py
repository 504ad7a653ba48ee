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
import re

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import identity

_ERROR = finding.Severity.ERROR
_WARNING = finding.Severity.WARNING
_NOTE = finding.Severity.NOTE


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

    ignored: frozenset[str] = frozenset()
    """Rules whose values the host driver does not compare."""

    def on_difference(self, rule: str) -> finding.Severity:
        return self.differs.get(rule, _ERROR)

    def on_not_exposed(self, rule: str) -> finding.Severity:
        return self.not_exposed.get(rule, _ERROR)


_DIFFERS = {'time_slices': _WARNING, 'uncorrectable_errors': _WARNING}

_SINCE_V2 = frozenset({'num_vfs', 'memory_partition', 'xgmi', 'xgmi_node',
                       'compute_units'})

V1 = Policy(
    name='migration stream version 1',
    differs=_DIFFERS,
    # The host libraries have no call for the first three, and older ones
    # none for the rest; a refusal would end every move on such hosts.
    not_exposed=dict.fromkeys((
        'psp_migration_version', 'engines', 'time_slices', 'subsystem',
        'revision', 'bad_pages', 'uncorrectable_errors', *_SINCE_V2),
        _WARNING),
    ignored=_SINCE_V2,
    # As AMD SMI names them; TA_RAS is RAS_TA inside GIM.
    ignored_firmware=frozenset({'TA_RAS', 'RLCV_LX7', 'RLC_P'}))
"""Any VF index; firmware is compared id by id."""

V2 = dataclasses.replace(
    V1, name='migration stream version 2', same_vf_index=True,
    ignored=frozenset())
"""Compared byte by byte: the VF's index and the GPU's place too."""

GIM = dataclasses.replace(
    V2, name="gim's migration stream",
    not_exposed={**V2.not_exposed, **dict.fromkeys(
        ('migration_version', 'firmware', 'vbios_version', 'partition'),
        _WARNING)})
"""GIM, whose library tells no version of the stream. One published revision
compares byte by byte, so that any difference is refused half-way."""

UNVERSIONED = Policy(
    name='migration stream without a version',
    differs=_DIFFERS,
    not_exposed={**dict.fromkeys(
        ('subsystem', 'revision', 'psp_migration_version',
         'memory_partition', 'xgmi', 'xgmi_node', 'compute_units',
         'bad_pages', 'uncorrectable_errors'), _NOTE), **dict.fromkeys(
        ('frame_buffer', 'migration_version', 'firmware', 'driver_version',
         'vbios_version', 'partition', 'engines', 'time_slices'),
        _WARNING)})
"""A device that tells little about itself, such as a plain VFIO variant
device. What it tells must be equal; the rest is left to the device, which
refuses on its own, and each gap is a warning, or a note where hardly any
device has such a value."""

_BY_VERSION = {1: V1, 2: V2}

_BY_DRIVER: tuple[tuple[str, tuple[int, ...], Policy], ...] = (
    ('gim', (), GIM),
)
"""(name of the host driver, its first version, policy), for identities that
have no version of the stream; the last row that fits holds. A revision that is
known to compare less gets a row of its own."""

STRICTEST = dataclasses.replace(
    V2, name='migration stream of an unknown version',
    not_exposed=dict.fromkeys(('bad_pages', 'uncorrectable_errors'),
                              _WARNING),
    ignored_firmware=frozenset())
"""For a version newer than this release: nothing is taken for granted."""


def select(destination: identity.VFIdentity) -> Policy:
    """Return the policy of the side that compares: the destination.

    A version may be written plainly or as `major << 16 | minor`; the major
    number decides. Without one, name and version of the host driver do.
    """
    version = destination.migration_version
    if version is None:
        return _by_driver(destination.driver_version or '')
    major = version >> 16 if version > 0xffff else version
    return _BY_VERSION.get(major, STRICTEST)


def _by_driver(driver: str) -> Policy:
    """:param driver: `name version`, as a GPU driver publishes it."""
    name, _, rest = driver.partition(' ')
    version = tuple(int(part) for part in
                    re.findall('[0-9]+', rest.split('-')[0])[:4])
    found = UNVERSIONED
    for known, first, policy in _BY_DRIVER:
        if name == known and version >= first:
            found = policy
    return found
