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

"""What the host has to have; installed where it is missing."""

import os
import shutil
import subprocess
import sys

from lab import broker
from lab import errors
from lab import jail
from lab import places
from lab import progress

COMMANDS = {
    'debootstrap': 'debootstrap', 'mkfs.ext4': 'e2fsprogs',
    'qemu-system-x86_64': 'qemu-system-x86', 'setpriv': 'util-linux',
    'setsid': 'util-linux', 'ssh': 'openssh-client',
    'ssh-keygen': 'openssh-client', 'unshare': 'util-linux'}


def require_root() -> None:
    if os.geteuid():
        raise errors.LabError(
            'the lab needs root: it unpacks Debian with chroot and '
            'namespaces; start it with sudo')


def prepare() -> None:
    """Install the packages whose commands are missing."""
    missing = _missing()
    if not missing:
        return
    progress.say(f'installing {", ".join(missing)}')
    log = places.logs() / 'apt.log'
    # A package that would start its service here is told not to.
    environment = {'DEBIAN_FRONTEND': 'noninteractive', 'RUNLEVEL': '1'}
    jail.run('apt', log, ['apt-get', '-q', 'update'], **environment)
    jail.run('apt', log, ['apt-get', '-q', '-y', 'install',
                          '--no-install-recommends', *missing],
             **environment)
    if still := _missing():
        raise errors.LabError(f'still missing: {", ".join(still)}; see {log}')


def _missing() -> list[str]:
    path = f'{os.environ.get("PATH", "")}:/usr/sbin:/sbin'
    found = {package for command, package in COMMANDS.items()
             if shutil.which(command, path=path) is None}
    if not broker.SERVER.exists():
        found.add('rabbitmq-server')
    if subprocess.run([sys.executable, '-c', 'import pip'],
                      capture_output=True, check=False).returncode:
        found.add('python3-pip')
    return sorted(found)
