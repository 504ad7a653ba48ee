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


"""What sysfs says of VFIO devices: which there are, and what they are.

Nothing is opened here, and nothing is made up: what the kernel does not say
is left out of an identity, and the rules take it for not exposed.
"""

from collections.abc import Iterator
import dataclasses
import enum
import os
import pathlib
import re

_GROUP = re.compile('[0-9]+')
_CDEV = re.compile('vfio[0-9]+')

PLAIN_DRIVER = 'vfio-pci'
"""Passes any PCI device on and migrates none; variant drivers do."""


class Kind(enum.StrEnum):
    PCI = 'pci'
    MDEV = 'mdev'


@dataclasses.dataclass(frozen=True, slots=True)
class Node:
    """A device that a VFIO driver serves."""

    address: str
    """PCI address, or the uuid of a mediated device."""

    kind: Kind
    path: pathlib.Path
    """Its directory in sysfs."""

    parent: pathlib.Path
    """The PF, or the device that the mediated one is a part of."""

    index: int
    """VF index; of a mediated device its place among its brothers."""

    driver: str
    binding: int = 0
    """Another each time that a driver is bound to the device."""

    type: str | None = None
    """Type of a mediated device."""

    group: str | None = None
    cdev: str | None = None


def text(path: pathlib.Path) -> str | None:
    """The contents of an attribute; None if there are none."""
    try:
        return path.read_text(errors='replace').strip() or None
    except OSError:
        return None


def _link(path: pathlib.Path) -> pathlib.Path | None:
    try:
        return path.resolve(strict=True)
    except OSError:
        return None


def _binding(path: pathlib.Path) -> int:
    """The number of the link, which the kernel makes anew each time."""
    try:
        return os.lstat(path / 'driver').st_ino
    except OSError:
        return 0


def _name(path: pathlib.Path, pattern: re.Pattern[str]) -> str | None:
    found = _link(path)
    return (found.name if found is not None and pattern.fullmatch(found.name)
            else None)


def _cdev(path: pathlib.Path) -> str | None:
    try:
        names = sorted(os.listdir(path / 'vfio-dev'))
    except OSError:
        return None
    return next((name for name in names if _CDEV.fullmatch(name)), None)


def _vf_index(path: pathlib.Path, pf: pathlib.Path) -> int:
    own = path.resolve()
    for link in pf.glob('virtfn*'):
        if _link(link) == own:
            return int(link.name.removeprefix('virtfn'))
    return 0


class Files:
    """Where a machine keeps its devices; its root is for tests."""

    def __init__(self, root: str = '/') -> None:
        self.sys = pathlib.Path(root, 'sys')
        self._dev = pathlib.Path(root, 'dev')

    @property
    def container(self) -> str:
        return str(self._dev / 'vfio/vfio')

    @property
    def iommufd(self) -> str:
        return str(self._dev / 'iommu')

    def has_iommufd(self) -> bool:
        return os.path.exists(self.iommufd)

    def has_vfio(self) -> bool:
        return (self._dev / 'vfio').is_dir()

    def has_mdev_parents(self) -> bool:
        """Whether mediated devices can be made here; there may be none."""
        return any(self.sys.glob('class/mdev_bus/*'))

    def has_group(self, node: Node) -> bool:
        return node.group is not None and os.path.exists(self.group(node))

    def group(self, node: Node) -> str:
        return str(self._dev / 'vfio' / (node.group or 'no-group'))

    def has_cdev(self, node: Node) -> bool:
        return node.cdev is not None and os.path.exists(self.cdev(node))

    def cdev(self, node: Node) -> str:
        return str(self._dev / 'vfio/devices' / (node.cdev or 'no-cdev'))

    def nodes(self) -> list[Node]:
        """Every VF and mediated device that a VFIO driver serves."""
        return [*self._vfs(), *self._mdevs()]

    def find(self, address: str) -> Node | None:
        return next((node for node in self.nodes()
                     if node.address == address), None)

    def _vfs(self) -> Iterator[Node]:
        """PCI VFs; other PCI devices have no PF to be grouped by."""
        for path in sorted(self.sys.glob('bus/pci/devices/*')):
            cdev, pf = _cdev(path), _link(path / 'physfn')
            driver = _link(path / 'driver')
            if cdev is None or pf is None or driver is None:
                continue
            if driver.name == PLAIN_DRIVER:
                continue
            yield Node(path.name, Kind.PCI, path, pf, _vf_index(path, pf),
                       driver.name, _binding(path), None,
                       _name(path / 'iommu_group', _GROUP), cdev)

    def _mdevs(self) -> Iterator[Node]:
        places: dict[tuple[pathlib.Path, str], int] = {}
        for path in sorted(self.sys.glob('bus/mdev/devices/*')):
            cdev, own = _cdev(path), _link(path)
            driver, kind = _link(path / 'driver'), _link(path / 'mdev_type')
            if own is None or driver is None or kind is None:
                continue
            key = own.parent, kind.name
            places[key] = index = places.get(key, -1) + 1
            yield Node(path.name, Kind.MDEV, path, own.parent, index,
                       driver.name, _binding(path), kind.name,
                       _name(path / 'iommu_group', _GROUP), cdev)
