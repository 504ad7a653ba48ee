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
import sys

_AMD = '0x1002'
_GPU_CLASSES = ('0x03', '0x12')
"""Display controllers, and processing accelerators."""

_VERSION = re.compile(r'[0-9]+(?:\.[0-9]+)+')
_PATIENCE = 10
"""Seconds for a program that is asked for its version, or to open a file."""

_HARMLESS = ('/dev/vfio/vfio', '/dev/iommu')
"""Of all that a helper opens, these take nothing from anybody."""

_TRY_HELPER = """
import os, sys
from nova_vgpu_mig.gpu.vfio import privileged
command, *paths = sys.argv[1:]
privileged.open_file(next(filter(os.path.exists, paths), paths[0]), command)
"""


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

    def vfio_files(self) -> dict[str, bool]:
        """Each VFIO device file -> whether this user may open it.

        They are not opened: while one has a group open, no VM can start
        with its devices.
        """
        found = [path for pattern in ('[0-9]*', 'devices/vfio*')
                 for path in sorted((self._root / 'dev/vfio').glob(pattern))]
        if found and self.exists('dev/iommu'):
            found.append(self._root / 'dev/iommu')
        return {f'/{path.relative_to(self._root)}':
                os.access(path, os.R_OK | os.W_OK) for path in found}

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

    @staticmethod
    def helper(command: str) -> str:
        """Why a helper command does not open VFIO files; '' if it does.

        Without a terminal, as the agent has none: sudo would ask there for
        a password.
        """
        try:
            done = subprocess.run(
                [sys.executable, '-W', 'ignore', '-c', _TRY_HELPER,
                 command, *_HARMLESS], stdin=subprocess.DEVNULL,
                capture_output=True, text=True, check=False,
                timeout=_PATIENCE, start_new_session=True)
        except (OSError, subprocess.TimeoutExpired) as exc:
            return str(exc)
        return '' if done.returncode == 0 else (
            done.stderr.strip() or 'it says nothing').splitlines()[-1]

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
