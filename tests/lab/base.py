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


class LabTestCase(unittest.TestCase):
    """`self.one` and `self.two` are the nodes."""

    def setUp(self) -> None:
        self.one, self.two = nodes()

    def mdev(self, node: node_.Node, kind: str) -> str:
        """Make a mediated device of this type; return its UUID.

        A fresh one for each test: mtty keeps its state when it is closed.
        """
        made = str(uuid.uuid4())
        self.addCleanup(
            node.run, f'! [ -e {DEVICES}/{made} ] || '
            f'echo 1 >{DEVICES}/{made}/remove')
        node.run('set -- /sys/class/mdev_bus/*/mdev_supported_types/'
                 f'{kind}/create; echo {made} >"$1"')
        return made

    def assert_refused(self, function, *args) -> str:
        """Assert that a command on a node fails; return what it said."""
        with self.assertRaises(errors.LabError) as caught:
            function(*args)
        return str(caught.exception)
