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

"""From the library's answers to values of ours. Pure.

An answer is what the library's Python package returns for a call, or None
where that is not exposed. A text "N/A", an enumeration's INVALID or UNKNOWN,
and 0 compute units are its ways of saying the same.

What GIM compares and the library has no call for stays None: the version of
the stream, the PSP's, the masks of the VCN and JPEG engines, and the time
slices of the multimedia engines.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from nova_vgpu_mig.compatibility import health
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract

DRIVER = 'gim'
"""In front of the host driver's version; policies go by it."""

_SHARING_MODES = (1, 2, 4, 8)

_STATES = {
    'UNAVAILABLE': contract.VFState.EMPTY,
    'AVAILABLE': contract.VFState.EMPTY,
    'DEFAULT_AVAILABLE': contract.VFState.EMPTY,
    'ACTIVE': contract.VFState.ACTIVE,
    'SUSPENDED': contract.VFState.ACTIVE,
    'FULLACCESS': contract.VFState.LOADING,
}


@dataclasses.dataclass(frozen=True, slots=True)
class Answers:
    """What the library says of a GPU and of the size of its VFs."""

    asic: Mapping[str, Any]
    driver: Mapping[str, Any]
    num_vfs: int
    vf: Mapping[str, Any]
    """Configuration of one of its VFs; all have the same."""

    vbios: Mapping[str, Any] | None = None
    firmware: Mapping[str, Any] | None = None
    profile: Mapping[str, Any] | None = None
    accelerator: Mapping[str, Any] | None = None
    memory: Mapping[str, Any] | None = None
    xgmi: Mapping[str, Any] | None = None


def identity_of(told: Answers) -> identity.VFIdentity:
    """Describe the VFs of a GPU.

    :raises identity.IdentityError: the library says something that is not
        possible, or leaves out what each GPU has; names the field.
    """
    asic = told.asic
    subsystem = (_hexadecimal(asic.get('subvendor_id'), 4),
                 _hexadecimal(asic.get('subsystem_id'), 4))
    revision = _hexadecimal(asic.get('rev_id'), 2)
    values = {
        'vendor_id': _hexadecimal(asic.get('vendor_id'), 4),
        'device_id': _hexadecimal(asic.get('device_id'), 4),
        'frame_buffer_mib': told.vf['fb']['fb_size'],
        'num_vfs': told.num_vfs,
        'driver_version': f'{DRIVER} {told.driver["driver_version"]}',
        'vbios_version': _text((told.vbios or {}).get('version')),
        'subsystem': None if None in subsystem else '{}:{}'.format(
            *subsystem),
        'revision': None if revision is None else f'0x{revision}',
        'partition': _partition(told),
        'memory_partition': _word((told.memory or {}).get('mp_mode')),
        'xgmi': None if told.xgmi is None else _sharing(told.xgmi),
        'xgmi_node': _number(asic.get('oam_id')),
        'compute_units': _number(asic.get('num_of_compute_units')) or None,
        'firmware': _firmware(told.firmware or {}),
        'time_slices_us': {'GFX': told.vf['gfx_timeslice']},
    }
    # As if another host had sent it: what is published has to be readable.
    return identity.VFIdentity.from_dict(values)


def _text(value: object) -> str | None:
    text = '' if value is None else str(value).strip()
    return None if text in ('', 'N/A') else text


def _hexadecimal(value: object, digits: int) -> str | None:
    """A number, or its text in hexadecimal, with so many digits."""
    try:
        number = (value if isinstance(value, int)
                  else int(_text(value) or '', 16))
    except ValueError:
        return None
    return f'{number:0{digits}x}'


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _word(value: Any) -> str | None:
    """The name of a member of one of the library's enumerations."""
    name = getattr(value, 'name', None)
    return None if name in (None, 'INVALID', 'UNKNOWN') else str(name)


def _partition(told: Answers) -> str | None:
    """The compute partition; where a GPU has none, the split of its VFs."""
    found = _word(((told.accelerator or {}).get('profile') or {}).get(
        'profile_type'))
    if found is None and told.profile is not None:
        count = told.profile['current_profile_index'].get('vf_count')
        found = f'profile of {count} VFs'
    return found


def _sharing(caps: Mapping[str, Any]) -> str:
    modes = [str(mode) for mode in _SHARING_MODES
             if caps.get(f'mode_{mode}_cap')]
    return f'modes {", ".join(modes)}' if modes else 'none'


def _firmware(told: Mapping[str, Any]) -> dict[str, str]:
    """Firmware id -> version; 0 is the library's word for not loaded."""
    return {str(entry['fw_id'].name).removeprefix('FW_ID_'):
            f'{entry["fw_version"]:#x}'
            for entry in told.get('fw_info_list', ()) if entry['fw_version']}


def health_of(bad_pages: list[Any] | None,
              errors: Mapping[str, Any] | None) -> health.Health:
    return health.Health(
        None if bad_pages is None else len(bad_pages),
        _number((errors or {}).get('uncorrectable_count')))


def state_of(data: Mapping[str, Any]) -> contract.VFState | None:
    """:param data: of get_vf_data; None for a state of a newer library."""
    return _STATES.get(str(_word(data['sched']['state'])))


def is_usable(data: Mapping[str, Any]) -> bool:
    """Whether GIM has given the VF what a guest needs."""
    return _word(data['sched']['state']) != 'UNAVAILABLE'


def resets_of(data: Mapping[str, Any]) -> int:
    """How often the VF was reset (FLR) since GIM was loaded."""
    return int(data['sched']['flr_count'])


def used_bytes_of(state: contract.VFState | None,
                  guest: Mapping[str, Any] | None) -> int | None:
    """:param guest: of get_guest_data."""
    if state is contract.VFState.EMPTY:
        return 0
    used = _number((guest or {}).get('fb_usage'))
    return None if used is None else used * 2 ** 20


def guest_driver_of(guest: Mapping[str, Any] | None) -> str | None:
    return _text((guest or {}).get('driver_version'))
