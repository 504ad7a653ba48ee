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


import unittest

from benchmarks import plain


class TestCopy(unittest.TestCase):

    def test_copies_in_both_ways(self):
        with plain.Memory(2 * plain.PIECE) as memory:
            for hashed in (True, False):
                done = plain.copy(memory, hashed=hashed)
                self.assertGreater(done.seconds, 0)
                self.assertGreater(done.cpu_seconds, 0)
