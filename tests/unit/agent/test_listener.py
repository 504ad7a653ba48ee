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

"""Which notification triggers which step; late, foreign and garbled ones."""

from typing import Any
import unittest

from hypothesis import given
from hypothesis import strategies

from nova_vgpu_mig.agent import listener
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION


def entry(role: phases.Role, instance: str = 'i', request: str = 'req-1',
          peer: str = 'peer', migration: str = 'm') -> journal.Entry:
    return journal.Entry(
        migration, role, ownership.FIRST[role], instance, 'vf', peer, None,
        False, 0.0, {'request_id': request})


def notice(event: str, host: str, request: str = 'req-1',
           instance: str = 'i') -> listener.Notification:
    return listener.Notification(f'instance.live_migration_{event}', host,
                                 instance, request)


def asked(found: list[tuple[str, journal.Entry]]) -> list[str]:
    return [step for step, _ in found]


class TestTriggers(unittest.TestCase):

    def test_table(self) -> None:
        for event, host, role, steps in (
                ('pre.end', 'me', DESTINATION, ['prepare']),
                ('pre.end', 'peer', SOURCE, []),
                ('pre.start', 'me', DESTINATION, []),
                ('abort.end', 'me', SOURCE, ['abort']),
                ('abort.end', 'peer', DESTINATION, []),
                ('post.end', 'me', SOURCE, ['finish']),
                ('post.end', 'peer', DESTINATION, []),
                ('post_dest.end', 'me', DESTINATION, ['finish']),
                ('post_dest.end', 'peer', SOURCE, ['finish']),
                ('rollback.end', 'me', SOURCE, ['rollback']),
                ('rollback.end', 'peer', DESTINATION, ['rollback']),
                ('rollback_dest.end', 'me', DESTINATION, ['rollback']),
                ('rollback_dest.end', 'peer', SOURCE, []),
        ):
            self.assertEqual(steps, asked(listener.triggers(
                notice(event, host), 'me', [entry(role)])), (event, host))

    def test_late_one_of_an_earlier_move_touches_nothing(self) -> None:
        newer = entry(SOURCE, request='req-2', migration='newer')
        self.assertEqual([], listener.triggers(
            notice('rollback.end', 'me'), 'me', [newer]))

    def test_other_hosts_instances_and_senders(self) -> None:
        self.assertEqual([], listener.triggers(
            notice('rollback.end', 'third'), 'me', [entry(SOURCE)]))
        self.assertEqual([], listener.triggers(
            notice('rollback.end', 'me', instance='j'), 'me',
            [entry(SOURCE)]))

    def test_entry_without_request_is_never_matched(self) -> None:
        self.assertEqual([], listener.triggers(
            notice('rollback.end', 'me', request='None'), 'me',
            [entry(SOURCE, request=None)]))  # type: ignore[arg-type]

    @given(strategies.recursive(
        strategies.none() | strategies.integers() | strategies.text(),
        lambda inner: strategies.lists(inner)
        | strategies.dictionaries(strategies.sampled_from(
            ['nova_object.data', 'uuid', 'request_id']), inner)))
    def test_garbage_is_ignored(self, payload: Any) -> None:
        read = listener.read('nova-compute:h', 'instance.x', payload)
        if read is not None:
            self.assertIsInstance(read.instance_uuid, str)
            self.assertIsInstance(read.request_id, str)

    def test_read(self) -> None:
        data = {'nova_object.data': {'uuid': 'i', 'request_id': 'r'}}
        self.assertEqual(
            listener.Notification('e', 'cmp-1', 'i', 'r'),
            listener.read('nova-compute:cmp-1', 'e', data))
        self.assertIsNone(listener.read('nova-api:cmp-1', 'e', data))

    def test_every_step_has_its_call(self) -> None:
        self.assertLessEqual({rule.step for rule in listener.RULES},
                             {'prepare', 'abort', 'finish', 'rollback'})
