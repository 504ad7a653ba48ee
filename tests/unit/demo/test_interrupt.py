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

"""Ctrl-C, pressed by the kernel as for a terminal."""

import os
import signal
import threading
import unittest

from nova_vgpu_mig.demo import interrupt


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)


class TestInterrupt(unittest.TestCase):

    def setUp(self) -> None:
        self.addCleanup(signal.signal, signal.SIGINT,
                        signal.getsignal(signal.SIGINT))
        self.addCleanup(setattr, threading, 'excepthook',
                        threading.excepthook)

    def test_second_one_does_not_break_the_ending(self) -> None:
        ended = False
        with self.assertRaises(interrupt.Interrupted), interrupt.once():
            try:
                press()
            finally:
                press()
                ended = True
        self.assertTrue(ended)

    def test_one_that_was_swallowed_still_counts(self) -> None:
        with self.assertRaises(interrupt.Interrupted), interrupt.once():
            try:
                press()
            except KeyboardInterrupt:
                pass

    def test_another_error_while_ending_is_not_what_is_told(self) -> None:
        with self.assertRaises(interrupt.Interrupted), interrupt.once():
            try:
                press()
            finally:
                raise RuntimeError('a service that was not up yet')

    def test_nothing_pressed_changes_nothing(self) -> None:
        before = signal.getsignal(signal.SIGINT)
        with interrupt.once():
            pass
        with self.assertRaises(ValueError), interrupt.once():
            raise ValueError
        self.assertIs(before, signal.getsignal(signal.SIGINT))
