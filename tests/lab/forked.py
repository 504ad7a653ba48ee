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

"""Runs programs of this package on a node, each in a fork of one process.

To import what they need takes five seconds of a node's CPU, and a run of the
tests has dozens of them. So one process on each node has imported it all, and
forks for whoever asks, who hands over what it reads from and writes to.

`python3 -m tests.lab.forked` is that process. Run as a file, without this
package around it, `forked.py PROGRAM ARGUMENT ...` asks it, and ends as the
program does.
"""

from collections.abc import Callable
import json
import os
import signal
import socket
import sys

WHERE = '/opt/nova-vgpu-mig'
COMMAND = f'python3 -IS {WHERE}/tests/lab/forked.py'
"""A shell's, to be followed by the program and its arguments."""

SOCKET = '/run/nova-vgpu-mig/forked.sock'
BEGIN = f"""
kill "$(cat {SOCKET}.pid)" 2>/dev/null || true
rm -f {SOCKET}
cd {WHERE}
setsid python3 -m tests.lab.forked >{SOCKET}.log 2>&1 </dev/null &
echo $! >{SOCKET}.pid
timeout 180 sh -c 'until [ -S {SOCKET} ]; do
    kill -0 "$1" || exit 1
    sleep 0.1
done' sh $! || {{ cat {SOCKET}.log >&2; exit 1; }}
"""
"""A shell's, to begin that process in the place of a former one."""

_DESCRIPTORS = (0, 1, 2)
Program = Callable[[], int | None]


def ask(arguments: list[str]) -> int:
    """Have a program run with our own standard files; return its code."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        socket.send_fds(connection, [json.dumps(arguments).encode()],
                        _DESCRIPTORS)
        # Nothing if it was killed.
        return (connection.recv(1) or b'\x01')[0]


def serve() -> None:
    # Seconds of imports; asking needs none of them.
    from tests.lab import abort
    from tests.lab import carried
    from tests.lab import client
    from tests.lab import journals
    from tests.lab import look

    programs: dict[str, Program] = {
        'abort': abort.main, 'carried': carried.main,
        'client': client.main, 'journals': journals.main,
        'look': look.main}
    # Nobody here waits for a child: it tells its code itself.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f'{SOCKET}.new')
        server.listen()
        os.rename(f'{SOCKET}.new', SOCKET)
        while True:
            connection, _ = server.accept()
            with connection:
                if not os.fork():
                    _run(connection, programs)


def _run(connection: socket.socket, programs: dict[str, Program]) -> None:
    """In the child: be that program; does not return."""
    code = 1
    try:
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        said, descriptors, _, _ = socket.recv_fds(connection, 65536,
                                                  len(_DESCRIPTORS))
        for theirs, ours in zip(descriptors, _DESCRIPTORS, strict=True):
            os.dup2(theirs, ours)
            os.close(theirs)
        sys.argv = json.loads(said)
        code = programs[sys.argv[0]]() or 0
        sys.stdout.flush()
    except BaseException:
        # Whatever it is has to be seen by who has asked.
        sys.excepthook(*sys.exc_info())
    finally:
        connection.sendall(bytes([code]))
        os._exit(code)


if __name__ == '__main__':
    if __package__:
        serve()
    else:
        sys.exit(ask(sys.argv[1:]))
