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

"""Where the lab keeps what it makes: one directory, removed by `clean`."""

import os
import pathlib
import shutil

from lab import errors

VARIABLE = 'NOVA_VGPU_MIG_LAB_CACHE'
CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
FILES = CHECKOUT / 'lab' / 'files'
DEVICE = CHECKOUT / 'lab' / 'device'


def cache() -> pathlib.Path:
    given = os.environ.get(VARIABLE)
    if given:
        return pathlib.Path(given).absolute()
    return pathlib.Path.home() / '.cache' / 'nova-vgpu-mig-lab'


def marker() -> pathlib.Path:
    """What says that the directory is a lab's, and may be removed."""
    return cache() / '.nova-vgpu-mig-lab'


def claim() -> None:
    """Make the directory, and see that it is nobody else's.

    :raises LabError: it was named by somebody, and has things in it that no
        lab has put there.
    """
    where = cache()
    where.mkdir(mode=0o700, parents=True, exist_ok=True)
    if marker().exists():
        return
    if os.environ.get(VARIABLE) and any(path != lock()
                                        for path in where.iterdir()):
        raise errors.LabError(
            f'{where} is not empty and no directory of a lab (it has no '
            f'{marker().name}); nothing was done. Have ${VARIABLE} name '
            'another one, or one that does not exist yet')
    marker().touch()


def lock() -> pathlib.Path:
    return cache() / 'lock'


def unfinished() -> pathlib.Path:
    """What is being built. A killed build leaves its things only here."""
    return cache() / 'unfinished'


def logs() -> pathlib.Path:
    return cache() / 'log'


def run() -> pathlib.Path:
    """State of the running lab: ports, sockets, logs of the nodes."""
    return cache() / 'run'


def failed() -> pathlib.Path:
    """Names of the tests that failed when some were run last."""
    return run() / 'failed'


def remove(tree: pathlib.Path) -> None:
    """Remove a tree, but never through a mount."""
    inside = f'{tree}/'
    with open('/proc/self/mountinfo') as table:
        points = [line.split()[4] for line in table]
    for point in points:
        if point == str(tree) or point.startswith(inside):
            raise errors.LabError(
                f'{point} is mounted; unmount it before {tree} is removed')
    if tree.is_dir() and not tree.is_symlink():
        shutil.rmtree(tree)
    else:
        tree.unlink(missing_ok=True)
