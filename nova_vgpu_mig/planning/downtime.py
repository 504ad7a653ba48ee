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

"""The model of the downtime that plan and convergence share.

Downtime is the time to send what is dirty once nothing runs any more, plus
parts that do not depend on volume. Plan and decision use this one function,
so that a plan that fits cannot meet a decision that says it does not.

Rejected: a model of each part by volume (hashing grows with bytes too). The
hash is hidden behind the sending, and a part that is measured anew in every
move needs no model.
"""

from collections.abc import Mapping
import dataclasses
import math


@dataclasses.dataclass(frozen=True, slots=True)
class FixedCosts:
    """Parts of the downtime that do not grow with the dirty bytes, seconds.

    The defaults are for a host that has not measured any move yet; `drain`
    is the time a preemption may take.
    """

    vcpus: float = 0.005
    drain: float = 0.1
    state: float = 0.01
    verify: float = 0.01
    commit: float = 0.01
    run: float = 0.01

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check(f'fixed cost {field.name}', getattr(self, field.name))

    @property
    def total(self) -> float:
        return math.fsum(getattr(self, field.name)
                         for field in dataclasses.fields(self))

    @classmethod
    def from_parts(cls, parts: Mapping[str, float]) -> 'FixedCosts':
        """Take over what an earlier move measured.

        :param parts: a record's downtime parts, seconds; what is missing
            keeps its default, and `dirty_units` is not a fixed cost.
        """
        return cls(**{field.name: parts[field.name]
                      for field in dataclasses.fields(cls)
                      if field.name in parts})


def check(name: str, value: float) -> float:
    """Return a finite number that is not negative.

    :raises ValueError: naming it; NaN would make every comparison false.
    """
    if not math.isfinite(value) or value < 0:
        raise ValueError(f'{name}: {value!r} is not a finite number of at '
                         'least 0')
    return value


NO_COSTS = FixedCosts(*[0.0] * len(dataclasses.fields(FixedCosts)))
"""Nothing but the copying counts."""


def parts(dirty_bytes: float, bandwidth: float,
          costs: FixedCosts) -> dict[str, float]:
    """Return the predicted downtime by part, seconds, in their order.

    :param dirty_bytes: frame buffer and guest memory still to be sent.
    :param bandwidth: bytes a second; 0 makes the sending infinite.
    """
    check('dirty bytes', dirty_bytes)
    check('bandwidth', bandwidth)
    if not dirty_bytes:
        sending = 0.0
    elif not bandwidth:
        sending = math.inf
    else:
        sending = dirty_bytes / bandwidth
    return {'vcpus': costs.vcpus, 'drain': costs.drain,
            'dirty_units': sending, 'state': costs.state,
            'verify': costs.verify, 'commit': costs.commit,
            'run': costs.run}


def seconds(dirty_bytes: float, bandwidth: float,
            costs: FixedCosts) -> float:
    """Return the predicted downtime, seconds; see parts()."""
    return math.fsum(parts(dirty_bytes, bandwidth, costs).values())
