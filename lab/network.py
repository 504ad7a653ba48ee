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

"""Where things listen: loopback only, on ports that were free."""

from collections.abc import Iterator
import contextlib
import socket


def free_ports(count: int) -> list[int]:
    """Return as many different ports of loopback that are free now."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(('127.0.0.1', 0))
        return [int(probe.getsockname()[1]) for probe in probes]


def node_name(number: int) -> str:
    return f'node{number}'


def node_address(number: int) -> str:
    """Return a node's address on the network of the nodes."""
    return f'10.77.0.{number}'


def mac(number: int, card: int) -> str:
    return f'52:54:00:77:0{card}:0{number}'


OUTSIDE = '10.0.2.2'
"""The host's loopback, as a node sees it."""


def numbers() -> Iterator[int]:
    """The nodes there are."""
    return iter((1, 2))


def socket_name(number: int) -> str:
    """Return a node's end of the network of the nodes."""
    return f'lan{number}'


def cards(number: int) -> list[str]:
    """QEMU's options for the way out and the network of the nodes.

    The latter is a pair of sockets with names in the run directory, so
    nobody else is on it and either node may come and go.
    """
    here, there = socket_name(number), socket_name(3 - number)
    return [
        '-device', f'virtio-net-pci,netdev=out,romfile=,mac={mac(number, 0)}',
        '-netdev', f'dgram,id=lab,local.type=unix,local.path={here},'
        f'remote.type=unix,remote.path={there}',
        '-device', f'virtio-net-pci,netdev=lab,romfile=,mac={mac(number, 1)}']


def way_out(ssh_port: int) -> list[str]:
    return ['-netdev',
            f'user,id=out,hostfwd=tcp:127.0.0.1:{ssh_port}-10.0.2.15:22']
