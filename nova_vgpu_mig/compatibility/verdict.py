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

"""The verdict: can this VF's state go on in that VF, and if not, why?

One call for the scheduler's filter, the driver extension's checks and the
agent, so that all of them refuse for the same reason in the same words.
Every rule always runs: an operator who has cured one difference should not
meet the next one on the second try.
"""

import dataclasses
from typing import Any

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import health as health_module
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.compatibility import policy as policy_module
from nova_vgpu_mig.compatibility import rules

MAX_REASON = 220
"""Characters. Nova may cut an event's details at 255, and puts words of its
own in front."""


@dataclasses.dataclass(frozen=True, slots=True)
class Verdict:
    """What every rule found, in the order of the table."""

    findings: tuple[finding.Finding, ...]

    @property
    def compatible(self) -> bool:
        return not self.refusals

    @property
    def refusals(self) -> tuple[finding.Finding, ...]:
        return self._of(finding.Severity.ERROR)

    @property
    def warnings(self) -> tuple[finding.Finding, ...]:
        return self._of(finding.Severity.WARNING)

    def _of(self, severity: finding.Severity) -> tuple[finding.Finding, ...]:
        return tuple(f for f in self.findings if f.severity is severity)

    def reason(self, limit: int = MAX_REASON) -> str:
        """Return the refusals in at most `limit` characters; '' if none.

        Whole sentences as long as they fit, then how many more there are.
        """
        sentences = [refusal.sentence for refusal in self.refusals]
        for shown in range(len(sentences), 0, -1):
            text = '; '.join(sentences[:shown])
            left = len(sentences) - shown
            if left:
                text += f'; and {left} more'
            if len(text) <= limit:
                return text
        if not sentences:
            return ''
        more = f'; and {len(sentences) - 1} more' if sentences[1:] else ''
        end = '...' + more
        return sentences[0][:max(0, limit - len(end))] + end[:limit]

    def as_dict(self) -> dict[str, Any]:
        """Return the verdict as JSON types."""
        return {'compatible': self.compatible, 'reason': self.reason(),
                'findings': [f.as_dict() for f in self.findings]}


def judge(source: identity.VFIdentity, destination: identity.VFIdentity, *,
          free_vfs: int, vm_vfs: int = 1, source_index: int | None = None,
          free_indices: frozenset[int] | None = None,
          health: health_module.Health = health_module.UNKNOWN,
          policy: policy_module.Policy | None = None) -> Verdict:
    """Run every rule.

    :param free_vfs: free VFs at the destination; after the claim, 1 if the
        claimed VF is free, else 0.
    :param vm_vfs: how many GPU VFs the VM holds.
    :param source_index: the VF's index at the source, if known.
    :param free_indices: indices of the free VFs at the destination (after
        the claim, of the claimed one), if known. Some policies need both.
    :param health: of the destination's GPU.
    :param policy: which rules hold; chosen by the destination's migration
        version when left out.
    """
    comparison = rules.Comparison(
        source=source, destination=destination,
        circumstances=rules.Circumstances(
            vm_vfs=vm_vfs, free_vfs=free_vfs, source_index=source_index,
            free_indices=free_indices, health=health),
        policy=policy or policy_module.select(destination))
    return Verdict(tuple(rule(comparison) for rule in rules.RULES))
