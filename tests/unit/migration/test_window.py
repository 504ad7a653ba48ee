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

from hypothesis import stateful
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.migration import frames
from nova_vgpu_mig.migration import window

LIMIT = 8192
SIZE = 1024


class Machine(stateful.RuleBasedStateMachine):
    """A window beside a plain list of all that was ever sent."""

    def __init__(self):
        super().__init__()
        self.window = window.Window(LIMIT)
        self.sent = []
        self.acknowledged = 0
        self.buffers = {}

    def fits(self, length):
        return self.window.has_room(length)

    @stateful.rule(data=strategies.binary(max_size=64))
    def send_small(self, data):
        if self.fits(len(data)):
            changing = bytearray(data)
            self.window.hold((b'head', memoryview(changing)))
            changing[:] = bytes(len(data))
            self.sent.append(b'head' + data)

    @stateful.rule(length=strategies.integers(1, SIZE))
    def send_from_a_buffer(self, length):
        if self.fits(length):
            lent = self.window.buffer(SIZE)
            self.buffers[id(lent.obj)] = lent.obj
            data = bytes([len(self.sent) % 255 + 1]) * length
            lent[:length] = data
            self.window.hold((b'head', lent[:length]))
            self.sent.append(b'head' + data)

    @stateful.rule(share=strategies.floats(0, 1))
    def acknowledge(self, share):
        held = len(self.sent) - self.acknowledged
        self.acknowledged += round(held * share)
        self.window.acknowledge(self.acknowledged)

    @stateful.rule(beyond=strategies.integers(1, 1 << 40))
    def refuse(self, beyond):
        before = self.window.lacking()
        for wrong in (self.acknowledged - beyond, len(self.sent) + beyond):
            try:
                self.window.acknowledge(wrong)
            except frames.FrameError as exc:
                assert str(wrong) in str(exc)
            else:
                raise AssertionError(f'{wrong} was taken')
        assert before == self.window.lacking()

    @stateful.invariant()
    def what_is_lacking_is_there_as_it_was_sent(self):
        assert self.window.first == self.acknowledged
        assert self.window.next == len(self.sent)
        assert self.sent[self.acknowledged:] == [
            b''.join(parts) for parts in self.window.lacking()]

    @stateful.invariant()
    def it_is_bounded(self):
        most = max(LIMIT, window.FEW * (SIZE + 4)) + window.LEAST_WEIGHT
        assert self.window.weight <= most
        assert len(self.window.lacking()) <= most // window.LEAST_WEIGHT
        assert len(self.buffers) <= most // window.LEAST_WEIGHT


class WindowPropertyTest(Machine.TestCase, base.BaseTestCase):
    pass


class WindowTest(base.BaseTestCase):

    def test_a_buffer_is_not_copied_and_comes_back(self):
        made = window.Window()
        lent = made.buffer(SIZE)
        made.hold((b'head', lent[:10]))
        self.assertIs(lent.obj, made.lacking()[0][1].obj)
        self.assertIsNot(lent.obj, made.buffer(SIZE).obj)
        made.acknowledge(1)
        self.assertIs(lent.obj, made.buffer(SIZE).obj)

    def test_a_few_that_are_larger_than_the_window(self):
        made = window.Window(LIMIT)
        for _ in range(window.FEW):
            self.assertTrue(made.has_room(2 * LIMIT))
            made.hold((bytes(2 * LIMIT),))
        self.assertFalse(made.has_room(1))
        made.acknowledge(1)
        self.assertTrue(made.has_room(2 * LIMIT))

    def test_what_was_let_go_is_refused(self):
        made = window.Window()
        for _ in range(3):
            made.hold((b'',))
        made.acknowledge(2)
        error = self.assertRaises(frames.FrameError, made.acknowledge, 1)
        self.assertIn('nothing before 2', str(error))
