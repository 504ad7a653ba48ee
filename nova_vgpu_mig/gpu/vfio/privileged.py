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


"""The one thing that runs as root: opening a device file for the agent.

privsep's own channel carries msgpack, so the descriptor comes beside it: by
SCM_RIGHTS over a socket of the agent's. The socket has an abstract name,
because a root without capabilities may not enter a directory of the agent's;
a token, which travels over privsep's channel only, tells the helper from
anybody else who finds the name.

No capability is kept: the files are root's, and opening them needs nothing
but to be their owner.
"""

import array
import errno
import os
import re
import secrets
import socket
import threading

from oslo_config import cfg
from oslo_privsep import priv_context

SECTION = 'nova_vgpu_mig_vfio_privileged'
FILES = re.compile('/dev/vfio/(vfio|[0-9]+|devices/vfio[0-9]+)|/dev/iommu')
"""All that may be opened."""

PATIENCE = 10.0
_lock = threading.Lock()

context = priv_context.PrivContext(
    'nova_vgpu_mig.gpu.vfio', cfg_section=SECTION,
    pypath=f'{__name__}.context', capabilities=[])


@context.entrypoint
def hand_over(path: str, name: str, token: str) -> None:
    """Open `path` and send it to the socket `name`; runs as root."""
    if not FILES.fullmatch(path):
        raise PermissionError(errno.EPERM, f'{path} is no VFIO file')
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect(f'\0{name}')
            socket.send_fds(sock, [token.encode()], [fd])
    finally:
        os.close(fd)


def open_file(path: str, helper_command: str) -> int:
    """Have `path` opened by the helper, which is started if need be.

    :raises OSError: what the open failed with, or EACCES no helper.
    """
    name = f'nova-vgpu-mig-{secrets.token_hex(16)}'
    token = secrets.token_hex(16)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening:
        listening.bind(f'\0{name}')
        listening.listen(8)
        listening.settimeout(PATIENCE)
        with _lock:
            cfg.CONF.set_override('helper_command', helper_command,
                                  group=SECTION)
            try:
                hand_over(path, name, token)
            except OSError:
                raise
            except Exception as exc:
                raise PermissionError(
                    errno.EACCES, f'the helper did not open {path}: {exc}; '
                    f'check [vfio] helper_command ({helper_command})'
                ) from exc
        # It has been sent by now: the call returns after it.
        while True:
            fd = _take(listening, token)
            if fd is not None:
                return fd


def _take(listening: socket.socket, token: str) -> int | None:
    """The descriptor of the next who connects, if it knows the token."""
    sock, _ = listening.accept()
    with sock:
        sock.settimeout(PATIENCE)
        try:
            # Not recv_fds(): it drops the flag, and a child would inherit.
            said, ancillary, _, _ = sock.recvmsg(
                len(token), socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
        except OSError:
            return None
    fds = array.array('i', b''.join(
        payload[:len(payload) // 4 * 4] for level, kind, payload in ancillary
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)))
    if len(fds) == 1 and secrets.compare_digest(said, token.encode()):
        return fds[0]
    for fd in fds:
        os.close(fd)
    return None
