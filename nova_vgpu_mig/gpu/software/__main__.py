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

"""`python -m nova_vgpu_mig.gpu.software`: one PF as a process.

It listens on <runtime dir>/<pf address>.sock, says so on standard output,
and ends at SIGTERM or SIGINT, or, if asked, when its parent does.
"""

import argparse
import ctypes
import json
import logging
import os
import pathlib
import signal
import socket
import sys
import threading
from typing import Any

from nova_vgpu_mig.gpu.software import geometry
from nova_vgpu_mig.gpu.software import gim
from nova_vgpu_mig.gpu.software import profile
from nova_vgpu_mig import unixcall

_MIB = 1024 * 1024
_PR_SET_PDEATHSIG = 1
_FIELDS = ('vendor_id', 'device_id', 'driver_version', 'vbios_version',
           'migration_version', 'partition')


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='python -m nova_vgpu_mig.gpu.software',
        description='An SR-IOV GPU in software: PF, VFs, engines and the '
        'migration interface of its host driver.')
    add = parser.add_argument
    add('--pf', required=True, help='PCI address of the PF, dddd:bb:dd.f')
    add('--runtime-dir', required=True, type=pathlib.Path,
        help='where the socket <pf>.sock is made')
    add('--vfs', type=int, default=4, help='how many VFs, 1 to 16')
    add('--vf-addresses', help='their PCI addresses, with commas; by '
        'default those that follow the PF')
    add('--frame-buffer-mib', type=int, default=512, help='of each VF')
    add('--unit-bytes', type=int, default=2 * _MIB,
        help='dirty unit of the frame buffer')
    add('--work-unit-bytes', type=int, default=256 * 1024,
        help='what an engine does between two chances to be preempted')
    add('--identity', type=pathlib.Path,
        help='JSON file with fields of the identity to replace')
    add('--firmware', action='append', default=[], metavar='NAME=VERSION',
        help='add or replace a firmware version; may be repeated')
    add('--vendor-id', help='PCI vendor, four hexadecimal digits')
    add('--device-id', help='PCI device of a VF, four hexadecimal digits')
    add('--driver-version', help='version of the SR-IOV host driver')
    add('--vbios-version')
    add('--migration-version', type=int)
    add('--partition', help='SPX, DPX, TPX, QPX or CPX')
    add('--die-with-parent', action='store_true',
        help='end when the thread that started this one ends (prctl(2), '
        'PR_SET_PDEATHSIG)')
    return parser


def build(args: argparse.Namespace) -> gim.GIM:
    """Make the GIM that the options describe.

    :raises ValueError: options that make no sense.
    :raises OSError: the identity file cannot be read.
    """
    if not 1 <= args.vfs <= 16:
        raise ValueError(f'a PF has 1 to 16 VFs, not {args.vfs}')
    changes: dict[str, Any] = {}
    if args.identity is not None:
        changes = json.loads(args.identity.read_text())
        if not isinstance(changes, dict):
            raise ValueError(f'{args.identity} is not a JSON object')
    changes.update({name: getattr(args, name) for name in _FIELDS
                    if getattr(args, name) is not None})
    who = profile.build(args.frame_buffer_mib, args.vfs, changes,
                        args.firmware)
    addresses = profile.vf_addresses(args.pf, args.vfs)
    if args.vf_addresses:
        addresses = args.vf_addresses.split(',')
        if len(set(addresses)) != args.vfs:
            raise ValueError(f'--vf-addresses names {len(set(addresses))} '
                             f'VFs, --vfs says {args.vfs}')
    sizes = geometry.Geometry(args.frame_buffer_mib * _MIB, args.unit_bytes,
                              args.work_unit_bytes)
    sizes.check()
    return gim.GIM(args.pf, who, addresses, sizes)


def clear_stale(path: pathlib.Path) -> None:
    """Remove the socket of a dead process.

    :raises ValueError: somebody answers there.
    """
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
    raise ValueError(f'another software GIM serves {path}; end it first')


def main() -> int:
    args = _parser().parse_args()
    logging.basicConfig(
        level=logging.INFO, stream=sys.stderr,
        format=f'%(asctime)s {args.pf} %(levelname)s %(message)s')
    if args.die_with_parent:
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return 0
    # An engine that comes back from numpy must not wait out another
    # thread's whole turn with the interpreter.
    sys.setswitchinterval(0.0005)
    path = args.runtime_dir / f'{args.pf}.sock'
    try:
        device = build(args)
        args.runtime_dir.mkdir(parents=True, exist_ok=True)
        clear_stale(path)
        server = unixcall.Server(str(path), device.methods)
    except (OSError, ValueError) as exc:
        print(f'software GIM {args.pf}: {exc}', file=sys.stderr)
        return 2
    ended = _ended()
    device.start()
    _serve(server, ended)
    print(f'listening on {path}', flush=True)
    ended.recv(1)
    server.close()
    return 0


def _ended() -> socket.socket:
    """Return a socket that can be read once the process is to end.

    A handler of Python's runs once a call has returned; a signal that comes
    as the call is entered, or in another thread, does not make it return.
    """
    ended, told = socket.socketpair()
    told.setblocking(False)
    signal.set_wakeup_fd(told.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    return ended


def _serve(server: unixcall.Server, ended: socket.socket) -> None:
    """Serve in a thread; the process ends if that can not go on."""
    def serve() -> None:
        server.serve_forever()
        ended.shutdown(socket.SHUT_RDWR)
    threading.Thread(target=serve, name='unixcall-accept',
                     daemon=True).start()


if __name__ == '__main__':
    sys.exit(main())
