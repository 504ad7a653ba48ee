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

"""A compute node: a QEMU process, and a shell on it."""

from collections.abc import Sequence
import pathlib
import subprocess

from lab import errors
from lab import image as image_
from lab import jail
from lab import network
from lab import places
from lab import processes
from lab import wait

# With software emulation only, wherever the lab runs: what a host can do
# makes no difference. numpy's wheels want x86-64-v2.
_CPU = 'qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt'
_QUICK = 'mitigations=off init_on_alloc=0'
"""Nobody is to be kept out of a node, and under emulation it counts."""
BOOT_PATIENCE = 300
CONNECT_SECONDS = 60


class Node:
    """One of the two; `number` is 1 or 2."""

    def __init__(self, number: int, ssh_port: int,
                 keys: pathlib.Path) -> None:
        self.number = number
        self.name = network.node_name(number)
        self.console = places.run() / f'{self.name}.console'
        self.log = places.run() / f'{self.name}.qemu.log'
        self._ssh_port = ssh_port
        self._keys = keys
        self._socket = f'{self.name}.ssh'
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, image: image_.Image) -> None:
        """Start it; await_event() says how far it has come."""
        self._process = processes.start([
            'qemu-system-x86_64', '-name', f'lab-{self.name}',
            '-nodefaults', '-no-user-config', '-display', 'none',
            '-machine', 'q35,accel=tcg', '-cpu', _CPU, '-smp', '2',
            '-m', '1536', '-kernel', image.kernel,
            '-initrd', image.initramfs, '-append',
            f'console=ttyS0 quiet net.ifnames=0 panic=-1 {_QUICK} '
            f'lab.node={self.number}',
            *_disk('root', image.root), *_disk('extras', image.extras),
            *network.way_out(self._ssh_port), *network.cards(self.number),
            '-device', 'virtio-rng-pci',
            '-serial', f'file:{self.console.name}',
            '-qmp', f'unix:{self.name}.qmp,server=on,wait=off',
        ], self.log, {'TMPDIR': str(places.run())})

    def await_event(self, event: str) -> None:
        """Wait for what the node's init says on the console."""
        process = self._process
        assert process is not None
        try:
            wait.for_line(f'{self.name}: {event}', f'lab-event: {event}',
                          self.console, BOOT_PATIENCE,
                          lambda: process.poll() is None)
        except errors.LabError as exc:
            raise errors.LabError(f'{exc}\n{jail.tail(self.log)}') from exc

    def open(self) -> None:
        """Keep a connection open, through which run() and the others go.

        A new one for each command is a second of the node's CPU.
        """
        processes.start([*self.ssh('-M', '-S', self._socket, '-N')],
                        self.log)

    def ssh(self, *options: str) -> list[str]:
        """Return the command line of an ssh to the node."""
        return [
            'ssh', '-F', 'none', '-p', str(self._ssh_port), '-l', 'root',
            '-i', str(self._keys / 'user'), '-o', 'IdentitiesOnly=yes',
            '-o', 'BatchMode=yes', '-o', 'LogLevel=ERROR',
            '-o', 'StrictHostKeyChecking=yes',
            '-o', f'UserKnownHostsFile={self._keys / "known_hosts"}',
            '-o', f'HostKeyAlias={self.name}',
            '-o', 'KexAlgorithms=curve25519-sha256',
            '-o', 'Ciphers=chacha20-poly1305@openssh.com',
            '-o', f'ConnectTimeout={CONNECT_SECONDS}',
            '-o', 'ServerAliveInterval=20', '-o', 'ServerAliveCountMax=6',
            *options, '127.0.0.1']

    def _command(self, script: str) -> list[str]:
        # By a relative name: that of a socket must be short.
        return [*self.ssh('-S', self._socket), script]

    def begin(self, script: str, stdin: bytes = b''
              ) -> subprocess.Popen[bytes]:
        """Begin to run a shell script on the node, and return at once.

        Whoever kills what is returned ends the script only when it writes.
        """
        process = subprocess.Popen(
            self._command(script), cwd=places.run(), stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdin is not None
        # A pipe takes this much at once.
        process.stdin.write(stdin)
        process.stdin.close()
        process.stdin = None
        return process

    def run(self, script: str, stdin: bytes = b'',
            seconds: float = 300) -> str:
        """Run a shell script on the node and return what it prints.

        :raises LabError: it failed; with what it said.
        """
        done = self.attempt(script, stdin, seconds)
        if done.returncode:
            raise errors.LabError(
                f'{self.name}: {script}\nended with {done.returncode}: '
                f'{done.stdout.decode()}{done.stderr.decode()}')
        return done.stdout.decode()

    def attempt(self, script: str, stdin: bytes = b'',
                seconds: float = 300) -> subprocess.CompletedProcess[bytes]:
        """As run(), but what comes of it is returned."""
        try:
            return subprocess.run(
                self._command(script), cwd=places.run(), input=stdin,
                capture_output=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise errors.LabError(
                f'{self.name}: {script}\ntook more than {seconds:.0f} s; '
                f'see {self.console}') from None


def _disk(name: str, path: pathlib.Path) -> Sequence[str]:
    """Return a disk whose changes go to a file without a name."""
    return ('-drive', f'if=none,id={name},file={path},format=raw,'
            'snapshot=on', '-device', f'virtio-blk-pci,drive={name}')
