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

"""Which of the lab's tests are run again."""

import io
import unittest

from oslotest import base

from tests.lab import __main__ as runner


class TestFailed(base.BaseTestCase):
    def test_names(self):
        class Some(unittest.TestCase):
            def test_fine(self):
                """Passes."""

            def test_wrong(self):
                self.fail()

            def test_broken(self):
                raise OSError

            def test_parts(self):
                for part in range(3):
                    with self.subTest(part):
                        self.assertEqual(1, part)

        loader = unittest.TestLoader()
        result = unittest.TextTestRunner(io.StringIO()).run(
            loader.loadTestsFromTestCase(Some))
        names = runner.failed(result)
        self.assertEqual(['test_broken', 'test_parts', 'test_wrong'],
                         [name.rpartition('.')[2] for name in names])
        self.assertTrue(all(name.startswith(__name__) for name in names))
