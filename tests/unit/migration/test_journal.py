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


import concurrent.futures
import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from unittest import mock
import uuid

from oslotest import base

from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record

SOURCE, DESTINATION = phases.Role.SOURCE, phases.Role.DESTINATION
State = ownership.State


def values(role=SOURCE, **changes):
    """A record with its own migration, instance and VFs."""
    number = uuid.uuid4()
    return record.MigrationRecord(**{
        'migration_uuid': str(number), 'instance_uuid': str(uuid.uuid4()),
        'role': role, 'source_host': 'one', 'destination_host': 'two',
        'source_vf': f's{number}', 'destination_vf': f'd{number}',
        **changes}).as_dict()


class JournalTest(base.BaseTestCase):

    def setUp(self):
        super().setUp()
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, 'journal')
        self.journal = self.open()

    def open(self):
        made = journal.Journal(self.path)
        self.addCleanup(made.close)
        return made

    def begin(self, role=SOURCE, **changes):
        return self.journal.begin(role, values(role, **changes))

    def reach(self, role, state):
        """A new entry, taken to `state` by legal steps."""
        ways = {role: [first]
                for role, first in ownership.FIRST.items()}[role]
        paths = [[ways[0]]]
        while paths[0][-1] is not state:
            path = paths.pop(0)
            paths += [[*path, to] for to in
                      ownership.TRANSITIONS[role][path[-1]]]
        entry = self.begin(role)
        for to in paths[0][1:]:
            entry = self.journal.move(entry.migration_uuid, role, to)
        return entry

    def test_only_legal_transitions(self):
        for role, table in ownership.TRANSITIONS.items():
            for state, to in itertools.product(table, State):
                entry = self.reach(role, state)
                if to in table[state]:
                    self.assertEqual(to, self.journal.move(
                        entry.migration_uuid, role, to).state)
                    continue
                error = self.assertRaises(
                    journal.IllegalTransition, self.journal.move,
                    entry.migration_uuid, role, to)
                self.assertIn(f'{to} may not follow {state}', str(error))
                self.assertEqual(state, self.journal.get(
                    entry.migration_uuid, role).state)

    def test_expected_state(self):
        entry = self.reach(DESTINATION, State.PREPARED)
        self.assertRaises(
            journal.IllegalTransition, self.journal.move,
            entry.migration_uuid, DESTINATION, State.DROPPED,
            expected=State.LOADING)

    def test_entry_has_what_the_record_says(self):
        wanted = values(DESTINATION)
        entry = self.journal.begin(DESTINATION, wanted, deadline=5.0)
        self.assertEqual(
            (wanted['destination_vf'], 'one', State.RESERVED, 5.0),
            (entry.vf_address, entry.peer_host, entry.state,
             entry.deadline))
        self.assertEqual(wanted, entry.record)
        self.assertTrue(entry.overdue(5.0))
        self.assertFalse(entry.overdue(4.9))

    def test_prepared_has_no_deadline(self):
        uuid_ = self.journal.begin(DESTINATION, values(DESTINATION),
                                   deadline=5.0).migration_uuid
        entry = self.journal.move(uuid_, DESTINATION, State.LOADING,
                                  deadline=7.0)
        self.assertTrue(entry.overdue(7.0))
        entry = self.journal.move(uuid_, DESTINATION, State.PREPARED)
        self.assertFalse(entry.overdue(1e12))

    def test_a_second_move_of_a_vf_names_the_first(self):
        first = self.begin(source_vf='0000:81:00.1')
        error = self.assertRaises(journal.AlreadyMoving, self.begin,
                                  source_vf='0000:81:00.1')
        self.assertIn(first.migration_uuid, str(error))
        self.assertIn('VF 0000:81:00.1', str(error))
        self.assertIn(f'"nova-vgpu-mig --host one show '
                      f'{first.migration_uuid}"', str(error))
        # Nor as a destination.
        self.assertRaises(journal.AlreadyMoving, self.begin, DESTINATION,
                          destination_vf='0000:81:00.1')

    def test_a_second_move_of_an_instance(self):
        first = self.begin()
        error = self.assertRaises(journal.AlreadyMoving, self.begin,
                                  instance_uuid=first.instance_uuid)
        self.assertIn(f'instance {first.instance_uuid}', str(error))

    def test_a_vf_is_free_only_when_settled(self):
        first = self.begin(source_vf='v')
        self.journal.move(first.migration_uuid, SOURCE, State.RETURNED)
        self.assertRaises(journal.AlreadyMoving, self.begin, source_vf='v')
        self.journal.settle(first.migration_uuid, SOURCE)
        self.begin(source_vf='v')

    def test_finished_is_settled(self):
        entry = self.reach(SOURCE, State.FINISHED)
        self.assertTrue(entry.settled)
        self.assertEqual([], self.journal.entries(unsettled=True))
        self.assertEqual(1, len(self.journal.entries()))

    def test_only_a_last_state_is_settled(self):
        for role, table in ownership.TRANSITIONS.items():
            for state in table:
                entry = self.reach(role, state)
                if ownership.is_last(role, state):
                    self.journal.settle(entry.migration_uuid, role)
                    self.journal.settle(entry.migration_uuid, role)
                else:
                    self.assertRaises(
                        journal.IllegalTransition, self.journal.settle,
                        entry.migration_uuid, role)

    def test_the_same_request_again(self):
        wanted = values()
        first = self.journal.begin(SOURCE, wanted)
        self.assertEqual(first, self.journal.begin(SOURCE, wanted))
        self.journal.move(first.migration_uuid, SOURCE, State.RETURNED)
        self.assertEqual(State.RETURNED,
                         self.journal.begin(SOURCE, wanted).state)
        self.assertRaises(journal.AlreadyMoving, self.journal.begin, SOURCE,
                          wanted | {'source_vf': 'another'})

    def test_unknown(self):
        error = self.assertRaises(journal.NotInJournal, self.journal.get,
                                  'nobody', SOURCE)
        self.assertIn('nobody', str(error))
        for call in (self.journal.settle,
                     lambda *a: self.journal.save_record(*a, {})):
            self.assertRaises(journal.NotInJournal, call, 'nobody', SOURCE)

    def test_record_is_kept(self):
        entry = self.begin()
        changed = entry.record | {'reason': 'because'}
        self.journal.save_record(entry.migration_uuid, SOURCE, changed)
        self.journal.move(entry.migration_uuid, SOURCE, State.GIVEN_UP)
        self.journal.close()
        self.journal = self.open()
        self.assertEqual('because', self.journal.get(
            entry.migration_uuid, SOURCE).record['reason'])

    def test_one_process_at_a_time(self):
        error = self.assertRaises(journal.JournalError, journal.Journal,
                                  self.path)
        self.assertIn('in use', str(error))

    def test_a_damaged_file(self):
        path = self.path + '2'
        with open(path, 'wb') as file:
            file.write(b'no journal at all' * 100)
        error = self.assertRaises(journal.JournalError, journal.Journal,
                                  path)
        self.assertIn(path, str(error))

    def test_a_newer_journal(self):
        self.journal.close()
        db = sqlite3.connect(self.path)
        db.execute('PRAGMA user_version=99')
        db.close()
        error = self.assertRaises(journal.JournalError, journal.Journal,
                                  self.path)
        self.assertIn('99', str(error))

    def test_a_former_journal(self):
        self.journal.close()
        db = sqlite3.connect(self.path)
        db.execute('PRAGMA user_version=1')
        db.close()
        error = self.assertRaises(journal.JournalError, journal.Journal,
                                  self.path)
        self.assertIn('version 1', str(error))
        self.assertIn('move the file away', str(error))

    def test_the_newest_is_not_told_by_the_clock(self):
        first = self.begin()
        self.journal.move(first.migration_uuid, SOURCE, State.RETURNED)
        self.journal.settle(first.migration_uuid, SOURCE)
        wanted = {'instance_uuid': first.instance_uuid, 'role': SOURCE}
        with mock.patch.object(time, 'time', autospec=True,
                               return_value=1e9):
            second = self.begin(instance_uuid=first.instance_uuid)
            self.assertEqual(second, self.journal.newest(**wanted))
            self.journal.move(second.migration_uuid, SOURCE, State.RETURNED)
            self.journal.settle(second.migration_uuid, SOURCE)
        self.assertEqual([second.migration_uuid, first.migration_uuid],
                         [e.migration_uuid for e in self.journal.entries()])
        self.assertEqual(second.migration_uuid,
                         self.journal.newest(**wanted).migration_uuid)
        self.assertEqual(first.migration_uuid, self.journal.newest(
            migration_uuid=first.migration_uuid).migration_uuid)
        self.assertIsNone(self.journal.newest(instance_uuid='nobody'))

    def test_what_is_under_way_before_what_has_ended(self):
        here = self.begin()
        away = self.begin(DESTINATION, instance_uuid=here.instance_uuid)
        self.journal.move(away.migration_uuid, DESTINATION, State.DROPPED)
        self.journal.settle(away.migration_uuid, DESTINATION)
        self.assertEqual(here, self.journal.newest(
            instance_uuid=here.instance_uuid))

    def test_settled_entries_are_kept_for_a_while(self):
        held = self.begin()
        ended = [self.reach(SOURCE, State.FINISHED) for _ in range(4)]
        with mock.patch.object(journal, 'KEPT', 2):
            last = self.begin(DESTINATION)
        self.assertEqual(
            [last.migration_uuid, ended[3].migration_uuid,
             ended[2].migration_uuid, held.migration_uuid],
            [entry.migration_uuid for entry in self.journal.entries()])
        self.assertRaises(journal.NotInJournal, self.journal.get,
                          ended[1].migration_uuid, SOURCE)
        self.assertEqual([held], self.journal.entries(
            unsettled=True, role=SOURCE))
        self.assertEqual([last], self.journal.entries(limit=1))

    def test_a_look_up_reads_one_row_and_takes_no_lock(self):
        for _ in range(50):
            self.reach(SOURCE, State.FINISHED)
        entry = self.begin()
        steps, said = [], []
        self.journal._db.set_progress_handler(lambda: steps.append(1), 1)
        self.journal._db.set_trace_callback(said.append)
        self.assertEqual(entry, self.journal.get(entry.migration_uuid,
                                                 SOURCE))
        self.assertEqual(entry, self.journal.newest(
            instance_uuid=entry.instance_uuid, role=SOURCE))
        self.assertLess(len(steps), 300)
        self.assertEqual([], [one for one in said if 'BEGIN' in one])

    def test_a_row_that_can_not_be_read(self):
        for column, value in (('record', "'{'"), ('record', "'[]'"),
                              ('record', "CAST(x'ff7b' AS TEXT)"),
                              ('record', 'x\'ff\''), ('state', "'NONE'"),
                              ('role', "'nobody'")):
            good, bad = self.begin(), self.begin()
            self.journal._db.execute(
                f'UPDATE moves SET {column} = {value} '
                'WHERE migration_uuid = ?', (bad.migration_uuid,))
            self.assertEqual([good], self.journal.entries(unsettled=True))
            self.assertEqual([good], self.journal.entries())
            error = self.assertRaises(journal.Unreadable,
                                      self.journal.newest,
                                      migration_uuid=bad.migration_uuid)
            for word in (bad.migration_uuid, bad.vf_address, self.path):
                self.assertIn(word, str(error))
            # Nobody gets its VF meanwhile.
            self.assertEqual({good.vf_address, bad.vf_address},
                             self.journal.reserved())
            self.assertRaises(journal.AlreadyMoving, self.begin,
                              source_vf=bad.vf_address)
            self.journal._db.execute('DELETE FROM moves')

    def test_only_one_thread_gets_it(self):
        entry = self.reach(DESTINATION, State.PREPARED)

        def try_(to):
            try:
                self.journal.move(entry.migration_uuid, DESTINATION, to)
            except journal.IllegalTransition:
                return 0
            return 1

        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            done = sum(pool.map(try_, [State.OWNED, State.DROPPED] * 8))
        self.assertEqual(1, done)

    def test_survives_a_kill(self):
        program = (
            'import json, sys, time\n'
            'from nova_vgpu_mig.migration import journal, ownership, phases\n'
            'j = journal.Journal(sys.argv[1])\n'
            'role = phases.Role.SOURCE\n'
            'values = json.loads(sys.argv[2])\n'
            'j.begin(role, values)\n'
            'j.move(values["migration_uuid"], role,\n'
            '       ownership.State.GIVEN_UP)\n'
            'print("written", flush=True)\n'
            'time.sleep(600)\n')
        self.journal.close()
        wanted = values()
        with subprocess.Popen(
                [sys.executable, '-c', program, self.path,
                 json.dumps(wanted)],
                stdout=subprocess.PIPE, text=True) as process:
            self.assertEqual('written\n', process.stdout.readline())
            process.send_signal(signal.SIGKILL)
        self.journal = self.open()
        self.assertEqual(State.GIVEN_UP, self.journal.get(
            wanted['migration_uuid'], SOURCE).state)
