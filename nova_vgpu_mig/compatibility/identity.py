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

"""The identity of a VF: all that the compatibility of its state depends on.

One value type for every vendor. A GPU driver fills in what its host library
exposes and leaves the rest None: None means "not exposed", and the rules say
what follows from that, so that an absent fact is never taken for an equal
one.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import json
import re
from typing import Any

_HEX_ID = re.compile('[0-9a-fA-F]{4}')
_TEXT = re.compile('[ -~]{1,64}')
_MAX_ENTRIES = 64
"""Firmware ids or engines of one GPU; a GPU has about twenty."""

_TEXTS = ('driver_version', 'vbios_version', 'subsystem', 'revision',
          'psp_migration_version', 'partition', 'memory_partition', 'xgmi')
_COUNTS = ('migration_version', 'xgmi_node', 'compute_units')
"""The fields that may be missing, by kind."""

_MAX_NUMBER = 2 ** 53 - 1
"""What every JSON reader keeps exactly."""


class IdentityError(ValueError):
    """A host published something that is not an identity."""


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not _TEXT.fullmatch(value):
        raise IdentityError(
            f'identity field {name}: {value!r:.80} is not a text of 1 to 64 '
            'printable ASCII characters')
    return value


def _hex_id(name: str, value: object) -> str:
    if not isinstance(value, str) or not _HEX_ID.fullmatch(value):
        raise IdentityError(f'identity field {name}: {value!r:.80} is not '
                            'four hexadecimal digits')
    return value.lower()


def _number(name: str, value: object, least: int) -> int:
    if (not isinstance(value, int) or isinstance(value, bool)
            or not least <= value <= _MAX_NUMBER):
        raise IdentityError(f'identity field {name}: {value!r:.80} is not a '
                            f'whole number of at least {least}')
    return value


def _optional(values: Mapping[str, object], name: str) -> str | None:
    value = values.get(name)
    return None if value is None else _text(name, value)


def _count(values: Mapping[str, object], name: str,
           least: int = 0) -> int | None:
    value = values.get(name)
    return None if value is None else _number(name, value, least)


def _entries(values: Mapping[str, object],
             name: str) -> list[tuple[str, object]]:
    value = values.get(name, {})
    if not isinstance(value, Mapping) or len(value) > _MAX_ENTRIES:
        raise IdentityError(
            f'identity field {name}: {value!r:.80} is not an object with at '
            f'most {_MAX_ENTRIES} entries')
    return [(_text(f'{name} (a key)', key), entry)
            for key, entry in value.items()]


@dataclasses.dataclass(frozen=True, slots=True)
class VFIdentity:
    """What a destination compares before it takes a VF's state.

    Source of the fields: the CTX section of GIM's migration stream.
    """

    vendor_id: str
    """PCI vendor, four hexadecimal digits."""

    device_id: str
    """PCI device, four hexadecimal digits: the VF's, or the GPU's where the
    host driver compares that."""

    frame_buffer_mib: int | None
    """Frame buffer of one VF, MiB."""

    num_vfs: int
    """How many VFs the PF is split into."""

    migration_version: int | None = None
    """Version of the host driver's migration stream (libgv)."""

    driver_version: str | None = None
    """Version of the SR-IOV host driver."""

    vbios_version: str | None = None

    subsystem: str | None = None
    """PCI subsystem, `vendor:device`, hexadecimal."""

    revision: str | None = None
    """PCI revision, as `0x00`."""

    psp_migration_version: str | None = None
    """Version of the migration of the GPU's security processor."""

    partition: str | None = None
    """Compute partition: SPX, DPX, TPX, QPX or CPX."""

    memory_partition: str | None = None
    """Memory partition: NPS1, NPS2, NPS4 or NPS8."""

    xgmi: str | None = None
    """How frame buffers may be shared over XGMI."""

    xgmi_node: int | None = None
    """The GPU's place in its XGMI hive."""

    compute_units: int | None = None

    firmware: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Firmware id -> version, e.g. {'MEC': '0x9c'}."""

    engines: Mapping[str, int] = dataclasses.field(default_factory=dict)
    """Engine -> bit mask of its instances, e.g. {'VCN': 0x3}."""

    time_slices_us: Mapping[str, int] = dataclasses.field(
        default_factory=dict)
    """Engine -> time slice of a VF, microseconds."""

    def as_dict(self) -> dict[str, Any]:
        """Return what is exposed, as JSON types."""
        values = {field.name: getattr(self, field.name)
                  for field in dataclasses.fields(self)}
        return {name: dict(value) if isinstance(value, Mapping) else value
                for name, value in values.items()
                if value is not None and value != {}}

    @classmethod
    def from_dict(cls, values: object) -> 'VFIdentity':
        """Inverse of as_dict(), for values that another host sent.

        :raises IdentityError: something is missing, unknown or of the wrong
            kind; the message names the field and the value.
        """
        if not isinstance(values, Mapping):
            raise IdentityError(f'{values!r:.80} is not an identity')
        known = {field.name for field in dataclasses.fields(cls)}
        unknown = sorted(str(name) for name in values if name not in known)
        if unknown:
            raise IdentityError(f'identity field {unknown[0]:.80}: not '
                                'known; is that host of a newer release?')
        for name in ('vendor_id', 'device_id', 'num_vfs'):
            if name not in values:
                raise IdentityError(f'identity field {name}: missing')
        optional: dict[str, Any] = {
            **{name: _count(values, name) for name in _COUNTS},
            **{name: _optional(values, name) for name in _TEXTS}}
        return cls(
            vendor_id=_hex_id('vendor_id', values['vendor_id']),
            device_id=_hex_id('device_id', values['device_id']),
            frame_buffer_mib=_count(values, 'frame_buffer_mib', 1),
            num_vfs=_number('num_vfs', values['num_vfs'], 1),
            **optional,
            firmware={key: _text(f'firmware.{key}', value)
                      for key, value in _entries(values, 'firmware')},
            engines={key: _number(f'engines.{key}', value, 0)
                     for key, value in _entries(values, 'engines')},
            time_slices_us={
                key: _number(f'time_slices_us.{key}', value, 0)
                for key, value in _entries(values, 'time_slices_us')})

    def digest(self) -> str:
        """Return 16 hexadecimal digits; equal for equal identities.

        A short name for "the same kind of VF": a key for tables and logs,
        where the mappings cannot be hashed. Not a proof against people.
        """
        text = json.dumps(self.as_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]
