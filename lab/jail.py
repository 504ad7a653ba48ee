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

"""Commands of the build, each in namespaces of its own.

What a command mounts and starts lives in a mount and a PID namespace, so the
kernel removes all of it when the command ends, however it ends; and the
command is killed when we are, even by SIGKILL.

Everything a command writes comes through one pipe. All its processes hold
that pipe, so its end says that the last of them has gone and that what they
worked on can be removed.
"""

from collections.abc import Sequence
import os
import pathlib
import subprocess
import threading

from lab import errors
from lab import progress

_PREFIX = ('setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount', '--pid',
           '--fork', '--kill-child=KILL', '--mount-proc', '--')
_lock = threading.Lock()
_running: set[subprocess.Popen[bytes]] = set()
_stopping = False


def stop() -> None:
    """Kill what runs, and let nothing be started any more."""
    global _stopping
    with _lock:
        _stopping = True
        for process in _running:
            process.kill()


def _start(command: Sequence[str | os.PathLike[str]],
           env: dict[str, str]) -> subprocess.Popen[bytes]:
    with _lock:
        if _stopping:
            raise errors.Interrupted('interrupted')
        # In a session of its own, a command does not see Ctrl-C itself.
        process = subprocess.Popen(
            [*_PREFIX, *command], env={**os.environ, 'LC_ALL': 'C', **env},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, start_new_session=True)
        _running.add(process)
        return process


def run(step: str, log: pathlib.Path,
        command: Sequence[str | os.PathLike[str]],
        **env: str) -> None:
    """Run a command to its end; `log` gets what it says.

    :raises LabError: it failed.
    :raises Interrupted: stop() was called.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    process = _start(command, env)
    try:
        _follow(step, log, process)
    except BaseException:
        process.kill()
        _follow(step, log, process)
        raise
    finally:
        with _lock:
            _running.discard(process)
    code = process.returncode
    if _stopping:
        raise errors.Interrupted('interrupted')
    if code:
        raise errors.LabError(f'{step}: {command[0]} failed ({code}); see '
                              f'{log}\n{tail(log)}')


def _follow(step: str, log: pathlib.Path,
            process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    with log.open('ab') as sink:
        for line in process.stdout:
            sink.write(line)
            progress.murmur(step, line.decode(errors='replace'))
    process.wait()


def chroot(step: str, log: pathlib.Path, root: pathlib.Path, script: str,
           work: pathlib.Path | None = None, **env: str) -> None:
    """Run a shell script below `root`, with `work` as its /work."""
    bind = 'mount --bind "$2" "$1/work"; ' if work else ''
    prepare = f'{bind}mount -t proc proc "$1/proc"; exec chroot "$1" ' \
        '/bin/sh -exc "$3"'
    run(step, log, ['sh', '-ec', prepare, 'sh', root, work or '', script],
        DEBIAN_FRONTEND='noninteractive',
        PATH='/usr/sbin:/usr/bin:/sbin:/bin', **env)


def tail(log: pathlib.Path, lines: int = 15) -> str:
    try:
        text = log.read_text(errors='replace')
    except OSError:
        return ''
    return '\n'.join(f'    {line}' for line in text.splitlines()[-lines:])
