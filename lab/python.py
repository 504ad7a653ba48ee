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

"""What the agent imports, for the nodes' Python.

Fetched by the host's pip, so it comes from wherever this host gets its
packages from; wheels only, since nothing is to be compiled for a Python that
the host does not have.
"""

import pathlib
import sys

from lab import cache
from lab import debian
from lab import jail
from lab import places

VERSION = '3.13'
"""Of Debian trixie."""

TESTS = ('testtools', 'fixtures')
"""What the conformance suite imports, beside the agent's requirements."""

PLATFORMS = ('manylinux_2_28_x86_64', 'manylinux_2_27_x86_64',
             'manylinux_2_17_x86_64', 'manylinux2014_x86_64',
             'linux_x86_64')


def packages() -> pathlib.Path:
    """Return the directory with `python`, to be put on sys.path."""
    requirements = places.CHECKOUT / 'requirements.txt'
    key = cache.digest(pathlib.Path(__file__), requirements)
    return cache.entry('wheels', key, _install)


def _install(where: pathlib.Path) -> None:
    command: list[str | pathlib.Path] = [
        sys.executable, '-m', 'pip', 'install',
        '--disable-pip-version-check', '--root-user-action', 'ignore',
        '--no-compile', '--only-binary', ':all:', '--implementation', 'cp',
        '--python-version', VERSION, '--target', where / 'python',
        '-r', places.CHECKOUT / 'requirements.txt', *TESTS]
    for platform in PLATFORMS:
        command += ['--platform', platform]
    jail.run('wheels', cache.log('wheels'), command)


def compiled() -> pathlib.Path:
    """Return the same with byte code, which the nodes are too slow for."""
    wheels = packages()
    root = debian.build_root()
    key = cache.digest(pathlib.Path(__file__), wheels.name, root.parent.name)
    return cache.entry('python', key,
                       lambda where: _compile(wheels, root, where))


def _compile(wheels: pathlib.Path, root: pathlib.Path,
             where: pathlib.Path) -> None:
    log = cache.log('python')
    jail.run('python', log, ['cp', '-a', wheels / 'python', where])
    # The sources don't change on the node, so nothing has to be compared.
    jail.chroot('python', log, root, """\
python3 -m compileall -q -j 2 -s /work -p /lab \\
    --invalidation-mode unchecked-hash /work/python || true
""", work=where)
