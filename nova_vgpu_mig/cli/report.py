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

"""One move as an operator reads it: lines of a name and a text.

For a table only. JSON and the like keep the record as the agents sent it, so
that a program gets numbers and no sentences. Pure.
"""

import datetime
import json
from typing import Any

MEANING = {
    'ACTIVE': 'the VF is this host\'s; a move is under way',
    'GIVEN_UP': 'the VF belongs to the destination and never runs here again',
    'RETURNED': 'the move failed; the VF runs on here',
    'RESERVED': 'the VF is kept for the move until its deadline',
    'LOADING': 'state is coming in',
    'PREPARED': 'verified and complete; it waits, paused, for the word of '
                'the source\'s journal',
    'OWNED': 'the VF belongs to this host and is run here',
    'DROPPED': 'what had come was thrown away',
    'FINISHED': 'nothing is left to do',
}

Line = tuple[str, str]


def mib(count: float) -> str:
    return f'{count / 2 ** 20:,.1f} MiB'


def ms(seconds: float | None) -> str:
    return '' if seconds is None else f'{seconds * 1000:,.1f} ms'


def clock(epoch: float) -> str:
    """UTC, as the agents' logs can be set to."""
    moment = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    return moment.strftime('%Y-%m-%d %H:%M:%S.%f')[:-3] + ' UTC'


def lines(host: str, entry: dict[str, Any]) -> list[Line]:
    """Return all of a move's side; what is not known is left out.

    :param entry: one of AgentAPI.records().
    """
    record = entry['record']
    state = entry['state']
    made = [
        ('Migration', record['migration_uuid']),
        ('Instance', record['instance_uuid']),
        ('Request', record['request_id'] or ''),
        ('Seen from', f'{host} ({record["role"]})'),
        ('Source', f'{record["source_host"]}, VF {record["source_vf"]}'),
        ('Destination',
         f'{record["destination_host"]}, VF {record["destination_vf"]}'),
        ('Phase', record['phase']),
        ('Journal', f'{state}: {MEANING.get(state, "unknown here")}'),
        ('Outcome', record['outcome'] or ''),
        ('Reason', record['reason']),
        ('Carried by', record.get('carrier', '')),
        *(('Note', note) for note in record.get('notes', ())),
        ('Copied by', record['level']),
        ('Sent', _sent(record)),
        ('Reconnected', _reconnects(record)),
        *_downtime(record),
        *_plan(record['plan']),
        *(_round(values) for values in record['rounds']),
        *_phases(record['phase_times']),
        *(_event(values) for values in sorted(
            record.get('timeline', ()), key=lambda event: event['at'])),
    ]
    return [line for line in made if line[1]]


def _sent(record: dict[str, Any]) -> str:
    # QEMU has no total: a device tells only what it has sent.
    total = (f' of {mib(record["total_bytes"])}' if record['total_bytes']
             else '')
    return (f'{mib(record["transferred_bytes"])}{total}, '
            f'{mib(record["remaining_bytes"])} left')


def _reconnects(record: dict[str, Any]) -> str:
    # An agent of an earlier release does not count them.
    count = record.get('reconnects', 0)
    return (f'{count} times, {mib(record["resent_bytes"])} sent again'
            if count else '')


def _downtime(record: dict[str, Any]) -> list[Line]:
    return [
        ('Downtime limit', ms(record['limit_seconds'])),
        ('Downtime predicted', ms(record['predicted_downtime_seconds'])),
        ('Downtime measured', _measured(record)),
        *((f'- {part}', ms(seconds))
          for part, seconds in record['downtime_parts'].items()),
        ('First GPU command after', ms(record['first_fence_seconds'])),
        *((f'Stop-copy of the VF {when}', mib(record[key]))
          for key, when in (('predicted_stop_copy_bytes', 'predicted'),
                            ('stop_copy_bytes', 'measured'))
          if record.get(key) is not None),
    ]


def _measured(record: dict[str, Any]) -> str:
    error = record.get('downtime_error_seconds')
    return ms(record['downtime_seconds']) + (
        f' (by two clocks, {ms(error)} apart at most)' if error else '')


def _plan(plan: dict[str, Any]) -> list[Line]:
    """The plan has no fixed form between releases: names as they came.

    But without the units in them: a value tells its own. What is there twice
    in two units is told once.
    """
    made: dict[str, str] = {}
    for name, value in plan.items():
        if value not in (None, '', {}):
            made.setdefault(_label(name), _value(name, value))
    return [(f'Plan: {label}', text) for label, text in made.items()]


def _label(name: str) -> str:
    for suffix in ('_bytes_per_second', '_ms'):
        name = name.removesuffix(suffix)
    if name.endswith(('downtime_seconds', 'limit_seconds')):
        name = name.removesuffix('_seconds')
    elif name.endswith('seconds'):
        name = f'{name.removesuffix("seconds")}time'
    return name.replace('_', ' ')


def _value(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return 'yes' if value else 'no'
    if isinstance(value, int | float):
        return _number(name, value)
    if isinstance(value, dict):
        return ', '.join(f'{key} {_value(name, inner)}'
                         for key, inner in value.items())
    return value if isinstance(value, str) else json.dumps(value)


def _number(name: str, value: float) -> str:
    if name.endswith('bytes_per_second'):
        return f'{mib(value)}/s'
    if name.endswith('bytes'):
        return mib(value)
    if name.endswith(('seconds', 'downtime_parts')):
        return ms(value)
    if name.endswith('_ms'):
        return ms(value / 1000)
    return f'{value:,.3f}'.rstrip('0').rstrip('.')


def _round(values: dict[str, Any]) -> Line:
    name = ('Stop-copy' if values['stop_copy']
            else f'Round {values["number"]}')
    parts = [f'{mib(values[key])} {what}' for key, what in (
        ('frame_buffer_bytes', 'frame buffer'), ('zero_bytes', 'zeros'),
        ('memory_bytes', 'guest RAM'), ('stream_bytes', 'stream'))
        if values[key]]
    text = f'{", ".join(parts) or "nothing"} in {ms(values["seconds"])}'
    if values['dirty_bytes_per_second']:
        text += f', dirtied at least {mib(values["dirty_bytes_per_second"])}/s'
    return name, text


def _event(values: dict[str, Any]) -> Line:
    """One of libvirt's or QEMU's events."""
    what = ' '.join(values[key] for key in ('what', 'device', 'detail')
                    if values[key])
    return 'Event', f'{clock(values["at"])}: {what}'


def _phases(times: dict[str, float]) -> list[Line]:
    if not times:
        return []
    first = min(times.values())
    return [(f'Phase {phase}', clock(begun) if begun == first else
             f'{clock(begun)}, after {begun - first:.3f} s')
            for phase, begun in sorted(times.items(), key=lambda t: t[1])]
