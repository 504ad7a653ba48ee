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

"""What the software GPU says it is: the identity of its VFs.

By default the VF of an MI300X in SPX mode, so that what an operator sees in
the demo has the fields and the look of the real thing. The versions are
made up.
"""

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

from nova_vgpu_mig.compatibility import identity

FIRMWARE = {
    'CP_MEC1': '0x9c',
    'MEC': '0x9c',
    'PSP_SOSDRV': '0x36031e',
    'RLC': '0x63',
    'RLCV_LX7': '0x11',
    'RLC_P': '0x40',
    'SDMA': '0x18',
    'SMU': '0x557500',
    'TA_RAS': '0x1b00010a',
    'VCN': '0x9110024',
}


def default(frame_buffer_mib: int, num_vfs: int) -> identity.VFIdentity:
    return identity.VFIdentity(
        vendor_id='1002', device_id='74b5',
        frame_buffer_mib=frame_buffer_mib, num_vfs=num_vfs,
        migration_version=(2 << 16) | 1, driver_version='8.3.0.K',
        vbios_version='113-M3000100-103', subsystem='1002:74a1',
        revision='0x00', psp_migration_version='1', partition='SPX',
        memory_partition='NPS1', xgmi='modes 1', xgmi_node=0,
        compute_units=304,
        firmware=dict(FIRMWARE),
        engines={'GFX': 0xff, 'SDMA': 0xff, 'VCN': 0xf, 'JPEG': 0xf},
        time_slices_us={'GFX': 4000, 'COMPUTE': 4000, 'SDMA': 2000,
                        'VCN': 8000})


def build(frame_buffer_mib: int, num_vfs: int, changes: Mapping[str, Any],
          firmware: Sequence[str]) -> identity.VFIdentity:
    """The default with fields replaced.

    :param changes: field -> value; None values are left out.
    :param firmware: `NAME=VERSION` each, added or replaced.
    :raises ValueError: a field that does not exist, or not NAME=VERSION.
    """
    who = default(frame_buffer_mib, num_vfs)
    names = {field.name for field in dataclasses.fields(who)}
    unknown = sorted(set(changes) - names)
    if unknown:
        raise ValueError('an identity has no ' + ', '.join(unknown)
                         + '; it has ' + ', '.join(sorted(names)))
    who = dataclasses.replace(who, **{
        name: value for name, value in changes.items() if value is not None})
    versions = dict(who.firmware)
    for item in firmware:
        name, equals, version = item.partition('=')
        if not (name and equals and version) or len(name) > 32:
            raise ValueError(f'firmware {item!r} is not NAME=VERSION')
        versions[name] = version
    return dataclasses.replace(who, firmware=versions)


def vf_addresses(pf_address: str, count: int) -> list[str]:
    """VF addresses as SR-IOV counts them: routing offset 1, stride 1.

    Nova's libvirt test fixture names its VFs in the same way.

    :raises ValueError: not a PCI address, or no room on the bus.
    """
    try:
        domain, bus, rest = pf_address.split(':')
        slot, function = rest.split('.')
        first = (int(bus, 16) << 8 | int(slot, 16) << 3
                 | int(function, 16)) + 1
        int(domain, 16)
    except ValueError as exc:
        raise ValueError(f'{pf_address!r} is not a PCI address '
                         '(dddd:bb:dd.f)') from exc
    if first + count > 0x10000:
        raise ValueError(f'{count} VFs after {pf_address} do not fit')
    return [f'{domain}:{number >> 8:02x}:{number >> 3 & 0x1f:02x}.'
            f'{number & 7}' for number in range(first, first + count)]
