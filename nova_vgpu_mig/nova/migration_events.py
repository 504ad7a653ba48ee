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

"""Asks QEMU, in a domain's XML, to tell each step of a GPU's migration.

With its property migration-events a VFIO device tells when it enters
pre-copy, stop-copy and the rest: that is how an agent measures the parts of
a downtime. libvirt does not model the property; its `qemu:override` sets it,
on a device that is found by an alias of ours.

The XML is edited with minidom because that leaves prefixes alone: Nova's own
metadata in it keep the name by which they are looked for. Rejected: to
change Nova's configuration objects, whose classes for it differ by release.
"""

from collections.abc import Collection
from xml.dom import minidom

LIBVIRT = (8, 2, 0)
"""The first with `qemu:override`."""

QEMU = (9, 1, 0)
"""The first with migration-events."""

ALIAS = 'ua-vgpu-mig-%d'
"""Of a GPU's host device; libvirt keeps aliases that begin with `ua-`."""

_NAMESPACE = 'http://libvirt.org/schemas/domain/qemu/1.0'


def ask(xml: str, addresses: Collection[str]) -> str:
    """Return a domain's XML that has migration-events on.

    :param addresses: PCI addresses of GPU VFs, such as 0000:83:00.1; host
        devices at other addresses stay as they are.
    """
    document = minidom.parseString(xml)
    domain = document.documentElement
    assert domain is not None
    override = document.createElement('qemu:override')
    found = [device for device in domain.getElementsByTagName('hostdev')
             if _address(device) in addresses]
    for number, device in enumerate(found):
        alias = document.createElement('alias')
        alias.setAttribute('name', ALIAS % number)
        device.appendChild(alias)
        override.appendChild(_property(document, ALIAS % number))
    if not found:
        return xml
    domain.setAttribute('xmlns:qemu', _NAMESPACE)
    domain.appendChild(override)
    return domain.toxml()


def _address(device: minidom.Element) -> str | None:
    """Return where a host device is on the host, if that is a PCI one."""
    for source in device.getElementsByTagName('source'):
        for address in source.getElementsByTagName('address'):
            if address.hasAttribute('bus'):
                domain, bus, slot, function = (
                    int(address.getAttribute(name), 16)
                    for name in ('domain', 'bus', 'slot', 'function'))
                return f'{domain:04x}:{bus:02x}:{slot:02x}.{function:x}'
    return None


def _property(document: minidom.Document, alias: str) -> minidom.Element:
    device = document.createElement('qemu:device')
    device.setAttribute('alias', alias)
    frontend = document.createElement('qemu:frontend')
    device.appendChild(frontend)
    wanted = document.createElement('qemu:property')
    for name, value in {'name': 'migration-events', 'type': 'bool',
                        'value': 'true'}.items():
        wanted.setAttribute(name, value)
    frontend.appendChild(wanted)
    return device
