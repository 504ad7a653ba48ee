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


"""`python -m nova_vgpu_mig.vmm.standin`: one VM as a process.

It listens on <runtime dir>/<uuid>.sock as soon as its VF is attached, and
ends at SIGTERM, SIGINT or the call `destroy`; with --die-with-parent also
when its standard input ends, which a pipe does when its other end's process
is gone (prctl(2)'s PDEATHSIG would go by the thread that started it).
"""

import argparse
import errno
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
import uuid

from nova_vgpu_mig import unixcall
from nova_vgpu_mig.vmm.standin import guest


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m nova_vgpu_mig.vmm.standin',
        description='A VM with a VF of the software GPU, as a process.')
    add = parser.add_argument
    add('--uuid', required=True, type=uuid.UUID, help='of the instance')
    add('--runtime-dir', required=True, type=pathlib.Path,
        help='where the socket <uuid>.sock is made')
    add('--gim-socket', required=True, help='socket of the VF\'s GIM')
    add('--vf', required=True, help='PCI address of the VF')
    add('--ram-mib', type=int, default=64, help='guest RAM')
    add('--incoming', action='store_true',
        help='wait, paused, for a guest that is moved in')
    add('--seed', type=int, default=1,
        help='of the workloads that are given none')
    add('--die-with-parent', action='store_true',
        help='end when standard input does')
    return parser


def _listen(path: str, machine: guest.GuestProcess) -> unixcall.Server:
    """Serve the guest's calls; replace the socket of one that was killed.

    :raises OSError: a guest with that UUID runs already.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)
        except FileNotFoundError:
            pass
        else:
            raise FileExistsError(errno.EEXIST, 'a guest runs here', path)
    server = unixcall.Server(path, machine.methods)
    server.start()
    return server


def _end_with_input(ended: threading.Event) -> None:
    while os.read(0, 4096):
        pass
    ended.set()


def main() -> int:
    logging.basicConfig(level=logging.INFO)
    args = _parser().parse_args()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    path = args.runtime_dir / f'{args.uuid}.sock'
    try:
        machine = guest.GuestProcess(
            args.gim_socket, args.vf, args.ram_mib, incoming=args.incoming,
            seed=args.seed)
    except (OSError, ValueError) as exc:
        print(f'guest {args.uuid}: {exc}', file=sys.stderr)
        return 1
    machine.ended = ended
    try:
        server = _listen(str(path), machine)
    except OSError as exc:
        print(f'guest {args.uuid}: {exc}', file=sys.stderr)
        machine.close()
        return 1
    if args.die_with_parent:
        threading.Thread(target=_end_with_input, args=(ended,),
                         daemon=True).start()
    ended.wait()
    server.close()
    machine.close()
    return 0


if __name__ == '__main__':
    sys.exit(main())
