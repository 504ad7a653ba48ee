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

"""Did the other VFs go on while one of them was moved?

A sample is a count of slices per VF and a time; between two samples there is
a rate. Nothing is made of it here but that: what is enough is the demo's
promise.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import itertools
import time

from nova_vgpu_mig.demo import compute as compute_


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """Slices granted so far, (host, VF) -> all engines together."""

    at: float
    counts: Mapping[tuple[str, str], int]


def take(computes: Sequence[compute_.Compute]) -> Sample:
    counts = {}
    for compute in computes:
        for vf, engines in compute.gim.call('slices').items():
            counts[compute.host, vf] = sum(engines.values())
    return Sample(time.monotonic(), counts)


def rates(samples: Sequence[Sample], host: str, vf: str) -> list[float]:
    """Return the slices a second between each sample and the next."""
    return [(after.counts[host, vf] - before.counts[host, vf])
            / max(after.at - before.at, 1e-9)
            for before, after in itertools.pairwise(samples)]
