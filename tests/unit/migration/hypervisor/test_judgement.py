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

import itertools

from oslotest import base

from nova_vgpu_mig.migration.hypervisor import judgement
from nova_vgpu_mig.vmm import hypervisor

Ending = judgement.Ending
Job = hypervisor.Job
State = hypervisor.GuestState

RUNNING = hypervisor.View(State.RUNNING, 'booted')
PAUSED = hypervisor.View(State.PAUSED, 'migration')
ABSENT = hypervisor.View(State.ABSENT)
SHUT_OFF = hypervisor.View(State.SHUT_OFF, 'shutdown')
LEAVING = hypervisor.View(State.RUNNING, 'booted', Job.OUT)
COMING = hypervisor.View(State.PAUSED, 'migration', Job.IN)

VIEWS = [None, *(hypervisor.View(state, '', job)
                 for state in State for job in Job)]


def judge(source, destination, *, paused=False, begun=True, overdue=False,
          handed_over=False, abandoned=False):
    return judgement.judge(judgement.Sight(
        source, destination, 'a', 'b', 'uuid', handed_over=handed_over,
        paused=paused, abandoned=abandoned), begun=begun, overdue=overdue)


class TestJudge(base.BaseTestCase):
    def test_what_is_plain(self):
        for source, destination, ending in (
                (LEAVING, COMING, Ending.OPEN),
                (LEAVING, None, Ending.OPEN),
                (PAUSED, COMING, Ending.OPEN),
                (ABSENT, RUNNING, Ending.MOVED),
                (None, RUNNING, Ending.MOVED),
                (RUNNING, ABSENT, Ending.STAYED),
                (RUNNING, None, Ending.STAYED)):
            self.assertEqual(ending, judge(source, destination).ending,
                             (source, destination))

    def test_what_has_not_begun(self):
        self.assertEqual(Ending.OPEN, judge(
            RUNNING, ABSENT, begun=False).ending)
        self.assertEqual(Ending.STAYED, judge(
            RUNNING, ABSENT, begun=False, overdue=True).ending)

    def test_what_only_a_person_can_decide(self):
        for source, destination, says in (
                (RUNNING, RUNNING, 'runs on both'),
                (RUNNING, PAUSED, 'to be removed there'),
                (PAUSED, RUNNING, 'must never run again'),
                (PAUSED, None, 'look there before it is resumed'),
                (PAUSED, PAUSED, 'paused on both'),
                (PAUSED, ABSENT, 'virsh resume uuid'),
                (ABSENT, None, 'has to say whether it came'),
                (ABSENT, PAUSED, 'virsh resume uuid'),
                (ABSENT, ABSENT, 'runs nowhere')):
            found = judge(source, destination)
            self.assertEqual(Ending.DOUBT, found.ending,
                             (source, destination))
            self.assertIn(says, found.sentence)
            self.assertIn('a: ', found.sentence)
            self.assertIn('b: ', found.sentence)

    def test_all_was_sent_and_nobody_there_to_ask(self):
        found = judge(RUNNING, None, handed_over=True)
        self.assertEqual(Ending.DOUBT, found.ending)
        self.assertIn('may run on b as well', found.sentence)
        self.assertEqual(Ending.STAYED, judge(
            RUNNING, ABSENT, handed_over=True).ending)

    def test_a_guest_that_was_shut_off_does_not_move(self):
        for there in (ABSENT, SHUT_OFF):
            found = judge(SHUT_OFF, there)
            self.assertEqual(Ending.NOWHERE, found.ending)
            self.assertIn('shut off during the move', found.sentence)
            self.assertIn('a: shut off (shutdown)', found.sentence)
        for there, ending in ((RUNNING, Ending.MOVED), (COMING, Ending.OPEN),
                              (PAUSED, Ending.DOUBT), (None, Ending.DOUBT)):
            self.assertEqual(ending, judge(
                SHUT_OFF, there, abandoned=True).ending)

    def test_a_guest_that_is_gone_ends_when_nobody_waits_for_it(self):
        for there in (ABSENT, SHUT_OFF):
            self.assertEqual(Ending.DOUBT, judge(ABSENT, there).ending)
            found = judge(ABSENT, there, abandoned=True)
            self.assertEqual(Ending.NOWHERE, found.ending)
            self.assertIn('reboot --hard', found.sentence)
        for there, ending in ((RUNNING, Ending.MOVED), (COMING, Ending.OPEN),
                              (PAUSED, Ending.DOUBT), (None, Ending.DOUBT)):
            self.assertEqual(ending, judge(
                ABSENT, there, abandoned=True).ending)

    def test_a_guest_that_was_paused_stays_so(self):
        self.assertEqual(Ending.MOVED, judge(
            ABSENT, PAUSED, paused=True).ending)
        self.assertEqual(Ending.STAYED, judge(
            PAUSED, ABSENT, paused=True).ending)
        self.assertEqual(Ending.OPEN, judge(
            PAUSED, COMING, paused=True).ending)
        self.assertEqual(Ending.OPEN, judge(
            PAUSED, None, paused=True, begun=False).ending)

    def test_a_guest_that_was_paused_and_is_cut_in_libvirts_finish(self):
        for destination, says in (
                (None, 'look there before it is resumed'),
                (PAUSED, 'paused on both'),
                (RUNNING, 'must never run again')):
            found = judge(PAUSED, destination, paused=True)
            self.assertEqual(Ending.DOUBT, found.ending)
            self.assertIn(says, found.sentence)
            self.assertNotIn('virsh resume', found.sentence)

    def test_never_moved_without_a_guest_there_and_never_while_one_is_here(
            self):
        flags = ('paused', 'begun', 'overdue', 'abandoned', 'handed_over')
        for source, destination, *on in (
                itertools.product(VIEWS, VIEWS,
                                  *[(False, True)] * len(flags))):
            found = judge(source, destination,
                          **dict(zip(flags, on, strict=True)))
            said = (source, destination, on, found)
            if found.ending is Ending.MOVED:
                self.assertTrue(destination.state.here, said)
                self.assertFalse(source is not None and source.state.here,
                                 said)
            elif found.ending is Ending.STAYED:
                self.assertTrue(source.state.here, said)
            elif found.ending is Ending.NOWHERE:
                for view in (source, destination):
                    self.assertFalse(view is None or view.state.here, said)
            elif found.ending is Ending.DOUBT:
                self.assertIn('uuid', found.sentence, said)
