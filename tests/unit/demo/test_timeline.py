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

"""Where the time of a move went."""

import unittest

from nova_vgpu_mig.demo import timeline

ASKED = 1795532400.0
"""2026-11-24 15:00 UTC."""


class TestTimeline(unittest.TestCase):

    def test_a_phase_lasts_until_the_next_of_the_same_side(self) -> None:
        spans = timeline.phases_of(
            'source', {'prepare': 12.0, 'claimed': 11.5, 'returned': 14.0},
            asked=10.0)
        self.assertEqual(
            [('claimed', 1500.0, 500.0), ('prepare', 2000.0, 2000.0),
             ('returned', 4000.0, None)],
            [(s.what, s.at_ms, s.lasts_ms) for s in spans])

    def test_events_are_utc_and_may_not_have_ended(self) -> None:
        spans = timeline.events_of([
            {'event': 'e', 'start_time': '2026-11-24T15:00:01.500000',
             'finish_time': '2026-11-24T15:00:02.000000'},
            {'event': 'open', 'start_time': '2026-11-24T15:00:01.000000',
             'finish_time': None},
            {'event': 'none', 'start_time': None}], ASKED)
        self.assertEqual([('e', 1500.0, 500.0), ('open', 1000.0, None)],
                         [(s.what, s.at_ms, s.lasts_ms) for s in spans])

    def test_what_is_neither_agents_is_novas(self) -> None:
        spans = timeline.tell(
            {'source a': {'claimed': ASKED + 3, 'completed': ASKED + 7},
             'destination b': {'claimed': ASKED + 2,
                               'completed': ASKED + 6}},
            [], ASKED, ASKED + 9)
        own = {s.what: (s.at_ms, s.lasts_ms) for s in spans
               if s.who == timeline.NOVA}
        self.assertEqual({timeline.BEFORE: (0.0, 2000.0),
                          timeline.AFTER: (7000.0, 2000.0),
                          'in all': (0.0, 9000.0)}, own)
        times = [s.at_ms for s in spans[:-1]]
        self.assertEqual(sorted(times), times)

    def test_no_agent_had_to_do_with_it(self) -> None:
        (whole,) = timeline.tell({}, [], ASKED, ASKED + 1)
        self.assertEqual(('in all', 1000.0), (whole.what, whole.lasts_ms))
