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


"""A move that goes well may take its time, also without a word."""

import dataclasses
import threading
import time

from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import port
from tests.integration import test_guest_move
from tests import two_hosts

SILENCE_SECONDS = 1.0
SLOW_SECONDS = 2.5


class SilenceTest(test_guest_move.GuestCase):
    """The limit of silence is shorter than a round of guest RAM."""

    def silent_move(self):
        self.vm.call('wait', phase='ready')
        self.there.server._silence_seconds = SILENCE_SECONDS
        return self.guest_move(limits=dataclasses.replace(
            two_hosts.LIMITS, silence_seconds=SILENCE_SECONDS))

    def assert_moved(self, move, done):
        self.assertEqual('', done.reason)
        self.assertIs(phases.Outcome.COMPLETED, done.outcome)
        self.assertTrue(move.destination.wait(test_guest_move.PATIENCE))

    def test_guest_ram_that_goes_on_slowly(self):
        move = self.silent_move()
        true, began = move.guest.memory_progress, []

        def slow():
            began[:] = began or [time.monotonic()]
            gone = time.monotonic() - began[0]
            if gone >= SLOW_SECONDS:
                return true()
            return port.MemoryProgress(
                int(gone * 1e8), int((SLOW_SECONDS - gone) * 1e8))

        move.guest.memory_progress = slow
        self.assert_moved(move, move.run())

    def test_a_rest_of_guest_ram_that_takes_long(self):
        move = self.silent_move()
        true = move.guest.finish_memory

        def slow():
            threading.Event().wait(SLOW_SECONDS)
            return true()

        move.guest.finish_memory = slow
        self.assert_moved(move, move.run())
