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

"""Pairs of measurements, and what may be said of their ratios.

This machine's speed drifts by tens of per cent within minutes, so two
things are only ever compared within a pair: A B A B ..., one ratio for each
pair, the median of those, and a distribution-free interval for it. The
interval comes from order statistics (the sign test): it assumes nothing
about the noise but that pairs are independent, and it is the same for the
same numbers, which a bootstrap is not.
"""

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import enum
import math
import statistics

LEAST_PAIRS = 9
"""Of every ratio with a bound."""

FEWEST_PAIRS = 6
"""Of the others: the interval is then from the least to the greatest."""

Progress = Callable[[str], None]


class Aim(enum.StrEnum):
    AT_LEAST = 'at least'
    AT_MOST = 'at most'


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One line of the benchmark's report."""

    name: str
    ratio: float
    low: float
    high: float
    bound: float | None
    aim: Aim | None

    @property
    def met(self) -> bool | None:
        """Whether the whole interval keeps the bound; None without one."""
        if self.bound is None:
            return None
        if self.aim is Aim.AT_LEAST:
            return self.low >= self.bound
        return self.high <= self.bound

    def as_dict(self) -> dict[str, str | float | bool | None]:
        return {'name': self.name, 'ratio': self.ratio, 'low': self.low,
                'high': self.high, 'bound': self.bound, 'met': self.met}


def median_interval(ratios: Sequence[float],
                    confidence: float = 0.95) -> tuple[float, float]:
    """Return an interval that holds the true median.

    :param ratios: at least six, or no interval reaches 95 %.
    :raises ValueError: too few ratios for the confidence.
    """
    ordered = sorted(ratios)
    n = len(ordered)
    best: int | None = None
    for k in range(n // 2):
        outside = 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2 ** n
        if 1 - outside >= confidence:
            best = k
    if best is None:
        raise ValueError(f'{n} ratios are too few for an interval of '
                         f'{confidence:.0%}')
    return ordered[best], ordered[n - 1 - best]


def interleave(measures: Mapping[str, Callable[[], float]], *,
               rounds: int = LEAST_PAIRS, warm_up: int = 1,
               progress: Progress = lambda text: None,
               ) -> dict[str, list[float]]:
    """Measure each in turn, A B C A B C ..., and return the values.

    Each callable runs once and returns its own measure (a rate, seconds,
    bytes).

    :param warm_up: rounds before the counted ones, for caches and
        allocators.
    """
    values: dict[str, list[float]] = {name: [] for name in measures}
    for number in range(1 - warm_up, rounds + 1):
        seen = {name: measure() for name, measure in measures.items()}
        progress(f'{number} of {rounds}: ' + ', '.join(
            f'{name} {value:.4g}' for name, value in seen.items())
            + ('' if number > 0 else ' (warming up, not counted)'))
        if number > 0:
            for name, value in seen.items():
                values[name].append(value)
    return values


def compare(name: str, first: Sequence[float], second: Sequence[float], *,
            bound: float | None = None, aim: Aim | None = None) -> Result:
    """Return what may be said of first / second, pair by pair.

    :raises ValueError: not as many of the one as of the other, or too few.
    """
    ratios = [a / b for a, b in zip(first, second, strict=True)]
    low, high = median_interval(ratios)
    return Result(name, statistics.median(ratios), low, high, bound, aim)
