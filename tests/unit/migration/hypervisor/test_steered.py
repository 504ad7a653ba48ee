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

"""What a source's watch does in pre-copy, look by look and without agents."""

from collections.abc import Callable
import pathlib
import tempfile
import threading
import time
import unittest
from unittest import mock

from nova_vgpu_mig.migration.hypervisor import source
from nova_vgpu_mig.migration.hypervisor import watch
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import downtime
from nova_vgpu_mig.vmm import hypervisor
from tests import hypervisor_standin
from tests import qemu_model

MIB = 1 << 20
State = ownership.State
UUID = 'instance'


class Other(watch.Peer):
    """The agent of the other end; away as long as it has no view."""

    def __init__(self) -> None:
        self.view: hypervisor.View | None = None
        self.told: Callable[[], object] = int
        """Called when it is asked."""

    def guest(self) -> watch.PeerAnswer:
        self.told()
        return watch.PeerAnswer(self.view)

    def record(self) -> record_.MigrationRecord | None:
        return None


class SteeredCase(unittest.TestCase):

    def setUp(self) -> None:
        super().setUp()
        made = tempfile.TemporaryDirectory(prefix='steered')
        self.addCleanup(made.cleanup)
        self.journal = journal.Journal(
            str(pathlib.Path(made.name) / 'journal'))
        self.addCleanup(self.journal.close)
        self.pair = hypervisor_standin.Pair(UUID)
        self.host = self.pair.source
        self.over = threading.Event()
        self.peer = Other()

    def watched(self, **changes: float | downtime.FixedCosts
                ) -> source.SourceWatch:
        """A move that libvirt may begin, with its watch not started."""
        record = record_.MigrationRecord(
            'm', UUID, phases.Role.SOURCE, 'a', 'b', 'va', 'vb',
            carrier=phases.Carrier.HYPERVISOR, phase=phases.Phase.PREPARE)
        self.journal.begin(phases.Role.SOURCE, record.as_dict(),
                           deadline=time.time() + 60)
        return source.SourceWatch(
            watch.Scene(self.host, self.journal, record, self.peer, 0.01,
                        lambda one: self.over.set()),
            limits.Limits(**changes),  # type: ignore[arg-type]
            steer=True)

    def look(self, watched: source.SourceWatch, looks: int) -> None:
        """Let QEMU copy for half a second before each look."""
        for _ in range(looks):
            one = self.host.qemu
            assert one is not None
            if one.stopped is None:
                one.run(0.5)
            self.assertFalse(watched._go_round())


class TestCosts(SteeredCase):

    def test_costs_that_reach_the_limit_are_tried_and_noted_once(
            self) -> None:
        watched = self.watched(downtime_seconds=0.1)
        watched.hold()
        one = qemu_model.Qemu(used=16 * MIB, working_set=4 * MIB,
                              dirty_rate=400 * MIB, bandwidth=100 * MIB)
        self.pair.begin(one)
        self.look(watched, 8)
        self.assertFalse(self.host.aborted)
        self.assertIsNotNone(one.stopped)
        self.assertEqual(1, len(watched.record.notes))
        self.assertIn('145 ms', watched.record.notes[0])
        self.assertIn('limit is 100 ms', watched.record.notes[0])
        self.assertGreater(watched.record.predicted_downtime_seconds or 0,
                           0.145)

    def test_a_limit_above_them_needs_no_note(self) -> None:
        watched = self.watched(downtime_seconds=0.5)
        watched.hold()
        self.pair.begin(qemu_model.Qemu(
            used=16 * MIB, working_set=4 * MIB, dirty_rate=400 * MIB,
            bandwidth=100 * MIB))
        self.look(watched, 8)
        self.assertEqual([], watched.record.notes)


class TestLimit(SteeredCase):

    def test_opened_no_further_than_what_is_dirty_takes(self) -> None:
        watched = self.watched(downtime_seconds=2.0)
        watched.hold()
        one = qemu_model.Qemu(used=64 * MIB, working_set=40 * MIB,
                              dirty_rate=400 * MIB, bandwidth=100 * MIB)
        self.pair.begin(one)
        self.look(watched, 10)
        self.assertIsNotNone(one.stopped)
        held, opened = self.host.limits
        self.assertEqual(1, held)
        self.assertLess(400, opened)
        self.assertLess(opened, 800)
        self.assertLess(one.stopped or 0, 60 * MIB)


class TestClock(SteeredCase):

    def looks(self) -> list[int]:
        """What had been sent, by the record, when the peer was asked."""
        watched = self.watched()
        watched.hold()
        self.pair.begin(qemu_model.Qemu(
            used=100 * MIB, working_set=100 * MIB, dirty_rate=400 * MIB,
            bandwidth=100 * MIB))
        seen: list[int] = []
        self.peer.told = lambda: seen.append(watched.record.transferred_bytes)
        self.look(watched, source.CLOCK_LOOKS + 3)
        return seen

    def test_steered_first_and_an_agent_that_is_away_asked_once(
            self) -> None:
        (sent,) = self.looks()
        self.assertGreater(sent, 0)

    def test_one_that_answers_is_asked_some_times(self) -> None:
        self.peer.view = hypervisor.View(hypervisor.GuestState.PAUSED)
        self.assertEqual(source.CLOCK_LOOKS, len(self.looks()))


class TestOver(SteeredCase):
    """The journal has an end that this watch did not write."""

    def test_it_is_watched_no_more(self) -> None:
        watched = self.watched()
        watched._begun = True
        self.journal.move('m', phases.Role.SOURCE, State.RETURNED,
                          settle=True)
        ended = {**self.journal.get('m', phases.Role.SOURCE).record,
                 'reason': 'as somebody else has written'}
        self.journal.save_record('m', phases.Role.SOURCE, ended)
        watched.start()
        self.addCleanup(watched.stop)
        self.assertTrue(self.over.wait(5))
        entry = self.journal.get('m', phases.Role.SOURCE)
        self.assertEqual(ended, entry.record)
        self.assertTrue(entry.settled)

    def test_one_that_may_end_yet_is_looked_at_again(self) -> None:
        watched = self.watched()
        watched._begun = True
        with mock.patch.object(
                self.journal, 'move', autospec=True,
                side_effect=journal.IllegalTransition('not now')):
            self.assertFalse(watched._go_round())
        self.assertTrue(watched._go_round())
