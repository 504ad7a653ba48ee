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

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

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

# A package that would start its service here is told not to.
_APT = {'DEBIAN_FRONTEND': 'noninteractive', 'LC_ALL': 'C', 'RUNLEVEL': '1'}
_PAUSE = 0.1


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
    log = places.logs() / 'apt.log'
    install(missing, log)
    if still := _missing():
        raise errors.LabError(f'still missing: {", ".join(still)}; see {log}')


def install(packages: list[str], log: pathlib.Path) -> None:
    """Install Debian's packages; `log` gets what is said.

    :raises LabError: it failed.
    """
    progress.say(f'installing {", ".join(packages)}')
    log.parent.mkdir(parents=True, exist_ok=True)
    _apt(log, 'update', killable=True)
    _apt(log, '-y', 'install', '--no-install-recommends', *packages,
         killable=False)


def _apt(log: pathlib.Path, *arguments: str, killable: bool) -> None:
    """Run apt-get; an interrupt kills it, or waits for its end.

    Not in the jail: dpkg works on this machine itself, and one that is killed
    leaves it to its owner to repair. In a session of its own it sees no
    Ctrl-C, and it writes to the log without us, so that it comes to its end
    whatever becomes of us. What runs no dpkg leaves nothing to repair, and
    waits for mirrors, maybe for ever: there is no second interrupt.
    """
    with log.open('ab') as sink, log.open('rb') as said:
        said.seek(0, os.SEEK_END)
        process = subprocess.Popen(
            ['apt-get', '-q', *arguments], env={**os.environ, **_APT},
            stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT,
            start_new_session=True)
        try:
            while process.poll() is None:
                for line in said:
                    progress.murmur('apt', line.decode(errors='replace'))
                time.sleep(_PAUSE)
        except KeyboardInterrupt:
            if killable:
                # With its methods, which are what waits for a mirror.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            else:
                progress.say('apt-get is at work; waiting for it, then ending')
            process.wait()
            raise
    if process.returncode:
        raise errors.LabError(
            f'apt-get {" ".join(arguments)} failed ({process.returncode}); '
            f'see {log}\n{jail.tail(log)}')


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
