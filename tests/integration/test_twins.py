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

"""A thousand moves at random moments, each compared with a twin.

    NOVA_VGPU_MIG_TWINS=50      so many moves
    NOVA_VGPU_MIG_SEED=12345    the first one's seed; the next has 12346

A failure prints the seed of its move; with that one and one move it is done
again. The moment itself is the machine's, so it may need some tries.
"""

import collections
import os
import random
import sys
import time

from oslotest import base

from nova_vgpu_mig.gpu import contract
from tests import gpu_lab
from tests.integration import resources
from tests.integration import twins

MOVES = 1000
WARM_UP = 5
SOME_MOVES = 40


def say(text):
    """To whoever waits for it; a test's own output may be captured."""
    sys.__stderr__.write(f'{text}\n')
    sys.__stderr__.flush()


def base_seed():
    given = os.environ.get('NOVA_VGPU_MIG_SEED')
    return int(given) if given else random.SystemRandom().randrange(2**32)


class TwinCase(base.BaseTestCase):

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.lab = twins.Lab(cls)

    def run_trial(self, seed, broken=''):
        try:
            return twins.trial(self.lab, seed, broken)
        except Exception as exc:
            raise AssertionError(
                f'NOVA_VGPU_MIG_SEED={seed} NOVA_VGPU_MIG_TWINS=1: '
                f'{exc}') from exc

    def assert_equal(self, result):
        self.assertEqual(
            {}, result.different, f'NOVA_VGPU_MIG_SEED={result.seed} '
            f'NOVA_VGPU_MIG_TWINS=1: {result}')


class ThousandTest(TwinCase):

    def test_each_one_equals_its_twin(self):
        count = int(os.environ.get('NOVA_VGPU_MIG_TWINS', MOVES))
        first = base_seed()
        say(f'twins: {count} moves from NOVA_VGPU_MIG_SEED={first}')
        began = time.monotonic()
        moves, inside, held = (collections.Counter() for _ in range(3))
        engines = collections.Counter()
        before = None
        for number in range(count):
            result = self.run_trial(first + number)
            self.assert_equal(result)
            moves[result.level] += 1
            inside[result.level] += bool(result.inside)
            held[result.level] += result.held
            engines.update(result.inside)
            if number + 1 == WARM_UP:
                before = resources.of_processes(self.lab.gims())
            if (number + 1) % 100 == 0:
                say(f'twins: {number + 1} moves, {inside.total()} preempted '
                    f'inside a command, {time.monotonic() - began:.0f} s')
        say(f'twins: all equal; {count} moves in '
            f'{time.monotonic() - began:.0f} s, preempted inside a command '
            f'{inside.total()}, compared inside one {held.total()}; '
            + '; '.join(f'level {level}: {moves[level]} moves, '
                        f'{inside[level]} inside' for level in moves)
            + '; engines inside: ' + ', '.join(
                f'{name} {engines[name]}' for name in sorted(engines)))
        if count >= SOME_MOVES:
            self.assertGreaterEqual(inside.total(), count / 2)
            self.assertGreaterEqual(held.total(), count / 2)
        if before is not None:
            gpu_lab.until(
                lambda: not resources.grown(
                    before, resources.of_processes(self.lab.gims())),
                'descriptors, threads and mappings of the GIMs to be no '
                f'more than before: {before}, now '
                f'{resources.of_processes(self.lab.gims())}')


class BrokenTest(TwinCase):
    """A comparison that has never failed proves nothing."""

    def caught(self, knob, *aspects):
        """Each level catches it in some moves; with it off, none differs."""
        seed = base_seed()
        left = set(contract.Level)
        for number in range(SOME_MOVES):
            result = self.run_trial(seed + number, knob)
            if not result.different:
                continue
            say(f'twins: {knob} is caught in move {number + 1}, level '
                f'{result.level}: {", ".join(result.aspects())}')
            for aspect in aspects:
                self.assertIn(aspect, result.aspects(), str(result))
            # The same program and the same draws, on a sound GPU.
            self.assert_equal(self.run_trial(seed + number))
            left.discard(result.level)
            if not left:
                return
        self.fail(f'{knob} was not caught at level {left} in {SOME_MOVES} '
                  f'moves from NOVA_VGPU_MIG_SEED={seed}')

    def test_a_command_restarted_from_its_start(self):
        self.caught('restart_command', 'retired work units')

    def test_work_skipped(self):
        self.caught('skip_work', 'frame buffer (xxh3-128)')

    def test_a_dirty_bit_lost(self):
        self.caught('lose_dirty', 'frame buffer (xxh3-128)')

    def test_a_doorbell_lost(self):
        self.caught('lose_doorbell', 'rings, read/write')

    def test_an_interrupt_lost(self):
        self.caught('lose_interrupt', 'interrupts, raised/handled')
