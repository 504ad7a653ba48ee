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


"""Starting and ending a guest process.

Whoever plays the VMM's host uses it: the demo's libvirt double, the bench,
the tests. The agent does not: it only talks to guests that run.
"""

import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any

from nova_vgpu_mig import unixcall

START_SECONDS = 20.0
END_SECONDS = 10.0
_POLL = 0.01


class GuestStartError(Exception):
    """The guest process did not come up; the message says why."""


class GuestLauncher:
    """One guest process, from its start to its end."""

    def __init__(self, uuid: str, runtime_dir: str | os.PathLike[str], *,
                 gim_socket: str, vf: str, ram_mib: int = 64,
                 incoming: bool = False, seed: int = 1) -> None:
        """Start it and wait until it answers.

        It ends when this process does.

        :raises GuestStartError: it ended, or did not answer in time.
        """
        self.uuid = uuid
        self.path = str(pathlib.Path(runtime_dir) / f'{uuid}.sock')
        command = [
            sys.executable, '-m', 'nova_vgpu_mig.vmm.standin',
            '--uuid', uuid, '--runtime-dir', os.fspath(runtime_dir),
            '--gim-socket', gim_socket, '--vf', vf,
            '--ram-mib', str(ram_mib), '--seed', str(seed),
            '--die-with-parent']
        if incoming:
            command.append('--incoming')
        self._text: str | None = None
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
            stderr=self._errors)
        try:
            self.client = self._wait()
        except GuestStartError:
            self._end()
            raise

    @property
    def pid(self) -> int:
        return self.process.pid

    def call(self, method: str, **args: Any) -> Any:
        """Call the guest (guest.py); see unixcall.Client.call()."""
        return self.client.call(method, **args)

    def close(self) -> None:
        """End the guest; its VF is free and its socket gone. Idempotent."""
        self.client.close()
        self._end()

    def errors(self) -> str:
        """Return what the process has written to standard error."""
        if self._text is not None:
            return self._text
        self._errors.seek(0)
        return self._errors.read().decode(errors='replace')

    def _wait(self) -> unixcall.Client:
        deadline = time.monotonic() + START_SECONDS
        while self.process.poll() is None:
            try:
                client = unixcall.Client(self.path)
                # A guest with that UUID may be there before this one.
                if client.call('pid') == self.pid:
                    return client
                client.close()
                time.sleep(_POLL)
            except OSError as exc:
                if time.monotonic() > deadline:
                    raise GuestStartError(
                        f'guest {self.uuid} does not answer at {self.path} '
                        f'after {START_SECONDS:.0f} s: {exc}') from exc
                time.sleep(_POLL)
        raise GuestStartError(f'guest {self.uuid} ended with status '
                              f'{self.process.returncode}: '
                              f'{self.errors().strip()}')

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        self._text = self.errors()
        self._errors.close()
