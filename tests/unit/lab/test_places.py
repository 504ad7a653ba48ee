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

"""Whose directory it is, before anything in it is removed."""

import os
import pathlib
import tempfile
import unittest
from unittest import mock

from lab import errors
from lab import places


class TestClaim(unittest.TestCase):

    def setUp(self) -> None:
        made = tempfile.TemporaryDirectory()
        self.addCleanup(made.cleanup)
        self.where = pathlib.Path(made.name) / 'cache'
        patched = mock.patch.dict(os.environ,
                                  {places.VARIABLE: str(self.where)})
        patched.start()
        self.addCleanup(patched.stop)

    def test_what_is_not_there_is_made(self) -> None:
        places.claim()
        self.assertTrue(places.marker().exists())

    def test_a_labs_own(self) -> None:
        places.claim()
        (self.where / 'log').mkdir()
        places.claim()

    def test_what_a_clean_that_was_interrupted_has_left(self) -> None:
        self.where.mkdir()
        places.lock().touch()
        places.claim()

    def test_somebody_elses(self) -> None:
        self.where.mkdir()
        (self.where / 'thesis').touch()
        with self.assertRaises(errors.LabError) as caught:
            places.claim()
        for word in (str(self.where), places.VARIABLE, 'nothing was done'):
            self.assertIn(word, str(caught.exception))
        self.assertEqual(['thesis'], os.listdir(self.where))
