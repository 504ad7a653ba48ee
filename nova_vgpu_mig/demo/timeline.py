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

"""Where the time of a move went, phase by phase, on whom.

The agents' records have the beginning of each of their phases, Nova's
instance events beginning and end of its steps. All of it happens in one
process here, so all times are of one clock.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import datetime
import itertools
from typing import Any

from nova_vgpu_mig.migration import phases

NOVA = 'Nova'
BEFORE = 'before the agents have to do with it'
AFTER = 'after the agents, until it shows the end'


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """Something that went on for a time; both in ms, since the request."""

    who: str
    what: str
    at_ms: float
    lasts_ms: float | None
    """None for the last phase, which is an end and takes no time."""


def phases_of(who: str, times: Mapping[str, float],
              asked: float) -> list[Span]:
    """Return the phases of one side. Pure.

    :param times: phase -> epoch seconds, MigrationRecord.phase_times.
    """
    begun = sorted(times.items(), key=lambda item: item[1])
    spans = []
    for (name, at), following in itertools.zip_longest(begun, begun[1:]):
        lasts = None if following is None else (following[1] - at) * 1000
        spans.append(Span(who, name, (at - asked) * 1000, lasts))
    return spans


def events_of(events: Iterable[Mapping[str, Any]],
              asked: float) -> list[Span]:
    """Return Nova's steps from the events of a server's action. Pure."""
    spans = []
    for event in events:
        began, ended = (_epoch(event.get(key))
                        for key in ('start_time', 'finish_time'))
        if began is not None:
            lasts = None if ended is None else (ended - began) * 1000
            spans.append(Span(NOVA, str(event['event']),
                              (began - asked) * 1000, lasts))
    return spans


def _epoch(text: str | None) -> float | None:
    """Nova's times are UTC and do not say so."""
    if not text:
        return None
    return datetime.datetime.fromisoformat(text).replace(
        tzinfo=datetime.UTC).timestamp()


def tell(sides: Mapping[str, Mapping[str, float]],
         events: Iterable[Mapping[str, Any]], asked: float,
         ended: float) -> list[Span]:
    """Return everything of a move in the order in which it began. Pure.

    :param sides: who -> MigrationRecord.phase_times.
    :param asked: epoch seconds of the request.
    :param ended: epoch seconds at which Nova showed the migration's end.
    """
    spans = events_of(events, asked)
    own = [span for who, times in sides.items()
           for span in phases_of(who, times, asked)]
    whole = (ended - asked) * 1000
    if own:
        first = min(span.at_ms for span in own)
        last = max((span.at_ms for span in own
                    if phases.Phase(span.what).terminal), default=None)
        spans.append(Span(NOVA, BEFORE, 0.0, first))
        if last is not None:
            spans.append(Span(NOVA, AFTER, last, whole - last))
    return [*sorted(spans + own, key=lambda span: span.at_ms),
            Span(NOVA, 'in all', 0.0, whole)]
