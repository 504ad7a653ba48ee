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

"""The cable between the nodes: cut, and mended.

A datagram for a socket whose name is gone is dropped by QEMU without a word.
That is what a dead switch looks like from either end: silence, with the
carrier still there. Taking a link down would tell the node at once, and a
rule in its kernel would answer in the other one's place; Debian's smallest
image has no packet filter either.
"""

import pathlib

from lab import network
from lab import places


def _ends() -> list[tuple[pathlib.Path, pathlib.Path]]:
    """Return each socket's name, and its name while the cable is cut."""
    sockets = [places.run() / network.socket_name(number)
               for number in network.numbers()]
    return [(path, path.with_suffix('.cut')) for path in sockets]


def cut() -> None:
    """Let nothing through, either way; nobody is told."""
    for there, away in _ends():
        if there.exists():
            there.rename(away)


def mend() -> None:
    """Undo cut(), if it was done."""
    for there, away in _ends():
        if away.exists():
            away.rename(there)
