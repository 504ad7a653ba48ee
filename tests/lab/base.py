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

"""A test on the two nodes, with what it makes there taken back."""

import unittest
import uuid

from lab import cluster
from lab import errors
from lab import node as node_
from lab import state

DEVICES = '/sys/bus/mdev/devices'


def nodes() -> tuple[node_.Node, node_.Node]:
    """The nodes of the running lab."""
    first, second = cluster.nodes(state.running())
    return first, second


# Guests first: a device that is in use can't be removed.
_CLEAR = f"""
for guest in $(virsh -q list --all --name); do
    virsh -q destroy "$guest" || true
    virsh -q undefine "$guest" || true
done 2>/dev/null
rm -f /run/guest-*.xml
for device in {DEVICES}/*; do
    ! [ -e "$device" ] || echo 1 >"$device/remove"
done
"""


class LabTestCase(unittest.TestCase):
    """`self.one` and `self.two` are the nodes."""

    def setUp(self) -> None:
        self.one, self.two = nodes()
        # What is there now is of a run that was interrupted.
        self._clear()
        self.addCleanup(self._clear)

    def _clear(self) -> None:
        for node in (self.one, self.two):
            node.run(_CLEAR)

    def mdev(self, node: node_.Node, kind: str) -> str:
        """Make a mediated device of this type; return its UUID.

        A fresh one for each test: mtty keeps its state when it is closed.
        """
        made = str(uuid.uuid4())
        node.run('set -- /sys/class/mdev_bus/*/mdev_supported_types/'
                 f'{kind}/create; echo {made} >"$1"')
        return made

    def assert_refused(self, function, *args) -> str:
        """Assert that a command on a node fails; return what it said."""
        with self.assertRaises(errors.LabError) as caught:
            function(*args)
        return str(caught.exception)
