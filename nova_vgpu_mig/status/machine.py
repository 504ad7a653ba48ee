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

"""What a host says of itself: sysfs, device files, versions of programs.

Only reads; nothing is judged here, and a file that is not there is None.
"""

from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
import subprocess

_AMD = '0x1002'
_GPU_CLASSES = ('0x03', '0x12')
"""Display controllers, and processing accelerators."""

_VERSION = re.compile(r'[0-9]+(?:\.[0-9]+)+')
_PATIENCE = 10
"""Seconds for a program that is asked for its version."""


@dataclasses.dataclass(frozen=True, slots=True)
class IOMMU:
    """An IOMMU of the host, and the register that tells what it can."""

    name: str
    kind: str
    """amd-iommu, intel-iommu, or '' for one that tells nothing in sysfs."""

    register: str = ''


class Machine:
    """The host; another root, release and path are for tests."""

    def __init__(self, root: str = '/', release: str | None = None,
                 path: str | None = None) -> None:
        """
        :param release: of the kernel.
        :param path: where programs are looked for, as $PATH.
        """
        self._root = pathlib.Path(root)
        self.release = os.uname().release if release is None else release
        self._path = path

    def exists(self, path: str) -> bool:
        return (self._root / path).exists()

    def text(self, path: str) -> str | None:
        """The contents of a file; None if it can't be read."""
        try:
            return (self._root / path).read_text(errors='replace').strip()
        except OSError:
            return None

    def gpus(self) -> list[str]:
        """Addresses of AMD's GPUs that have VFs to give."""
        def is_one(device: str) -> bool:
            where = f'sys/bus/pci/devices/{device}'
            return (self.text(f'{where}/vendor') == _AMD
                    and (self.text(f'{where}/class') or '').startswith(
                        _GPU_CLASSES)
                    and (self.text(f'{where}/sriov_totalvfs') or '0') != '0')
        return [device for device in self._names('sys/bus/pci/devices')
                if is_one(device)]

    def vfs(self, gpu: str) -> dict[str, str]:
        """Address of each VF of a GPU -> name of its driver, '' for none."""
        where = self._root / 'sys/bus/pci/devices' / gpu
        found = {}
        for link in sorted(where.glob('virtfn*')):
            vf = link.resolve()
            driver = vf / 'driver'
            found[vf.name] = driver.resolve().name if driver.exists() else ''
        return found

    def iommus(self) -> list[IOMMU]:
        found = []
        for name in self._names('sys/class/iommu'):
            where = f'sys/class/iommu/{name}'
            for kind, file in (('amd-iommu', 'features'),
                               ('intel-iommu', 'ecap')):
                register = self.text(f'{where}/{kind}/{file}')
                if register is not None:
                    found.append(IOMMU(name, kind, register))
                    break
            else:
                found.append(IOMMU(name, ''))
        return found

    def _names(self, path: str) -> list[str]:
        try:
            return sorted(os.listdir(self._root / path))
        except OSError:
            return []

    def version(self, programs: Sequence[str]) -> str | None:
        """Version of the first of these programs that is installed."""
        environment = {**os.environ, 'LC_ALL': 'C'}
        if self._path is not None:
            environment['PATH'] = self._path
        for program in programs:
            try:
                done = subprocess.run(
                    ['/usr/bin/env', program, '--version'],
                    capture_output=True, text=True, check=False,
                    timeout=_PATIENCE, env=environment)
            except (OSError, subprocess.TimeoutExpired):
                continue
            found = _VERSION.search(done.stdout)
            if done.returncode == 0 and found is not None:
                return found.group()
        return None
