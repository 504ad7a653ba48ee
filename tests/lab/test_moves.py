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

"""Guests with the lab's GPU move, or are refused, and lose nothing."""

from collections.abc import Callable
import sys
from typing import Any

from lab import node as node_
from tests.lab import base
from tests.lab import gpu as gpu_
from tests.lab import guest as guest_
from tests.lab import moves
from tests.lab import phases

TRIPS = 10
"""There and back."""

WATCHED = 2
"""Of these, with the agents, whose part takes a node seconds."""


class MovesTestCase(base.LabTestCase):

    def _gpu(self, node: node_.Node, kind: str = gpu_.KIND) -> gpu_.GPU:
        return gpu_.GPU(node, self.mdev(node, kind))

    def _at_work(self, *gpus: gpu_.GPU) -> guest_.Guest:
        guest = guest_.Guest(gpus[0].node, *(gpu.mdev for gpu in gpus))
        for gpu in gpus:
            gpu.work()
        return guest

    def _assert_intact(self, gpu: gpu_.GPU, beyond: int = 0) -> None:
        gpu.await_work(beyond)
        gpu.await_more()
        digest, expected = gpu.digests()
        self.assertEqual(expected, digest)

    def _trip(self, guest: guest_.Guest, here: gpu_.GPU, there: gpu_.GPU,
              watched: bool) -> dict[str, Any]:
        """Move it there; return the client's Result."""
        if not watched:
            return self.assert_moves(guest, there.node, there.mdev)
        result = self.assert_moves(guest, there.node, there.mdev,
                                   agents=True, limit_ms=base.PATIENT_MS)
        self.assert_nothing_open(result['source_record']['migration_uuid'],
                                 free=[here])
        return result

    def test_ten_times_there_and_back(self) -> None:
        here = self._gpu(self.one)
        guest = self._at_work(here)
        print('\nmove  seconds  downtime ms  device bytes', file=sys.stderr)
        for number in range(2 * TRIPS):
            to = self.one if number % 2 else self.two
            # A device whose state has left is in STOP: each way needs a
            # fresh one.
            there = self._gpu(to)
            result = self._trip(guest, here, there,
                                watched=number < 2 * WATCHED)
            job = result['job']
            print(f'{number + 1:4}  {result["seconds"]:7.1f}'
                  f'  {job["downtime"]:11}'
                  f'  {job["vfio_data_transferred"]:12}', file=sys.stderr)
            there.await_work(here.done())
            here.remove()
            here = there
        self._assert_intact(here)

    def test_two_guests_at_once(self) -> None:
        gpus = [(self._gpu(self.one), self._gpu(self.two)) for _ in range(2)]
        guests = [self._at_work(here) for here, _ in gpus]
        begun = [self.begin_watched(guest, self.two, there.mdev)
                 for guest, (_, there) in zip(guests, gpus, strict=True)]
        for move in begun:
            result = move.result()
            self.assertEqual('completed', result['outcome'], result)
        for guest, (here, there) in zip(guests, gpus, strict=True):
            self.assert_only_at(guest, self.two)
            self._assert_intact(there, here.done())
        self.assert_nothing_open(*(move.uuid for move in begun),
                                 free=[here for here, _ in gpus])

    def test_two_devices(self) -> None:
        here = [self._gpu(self.one) for _ in range(2)]
        there = [self._gpu(self.two) for _ in range(2)]
        guest = self._at_work(*here)
        self.assert_moves(guest, self.two, *(gpu.mdev for gpu in there))
        for old, new in zip(here, there, strict=True):
            self._assert_intact(new, old.done())

    def test_two_devices_need_p2p(self) -> None:
        here = [self._gpu(self.one) for _ in range(2)]
        there = [self._gpu(self.two) for _ in range(2)]
        for gpu in (here[1], there[1]):
            gpu.set('migration/flags', '0x5')
        guest = self._at_work(*here)
        self.assert_refused(guest, self.two, *(gpu.mdev for gpu in there))
        for gpu in here:
            self._assert_intact(gpu)

    def test_another_type_is_refused(self) -> None:
        here, there = self._gpu(self.one), self._gpu(self.two, 'vgpu_lab-64')
        guest = self._at_work(here)
        # Before anything is claimed; and where Nova let it pass, by the
        # destination's agent.
        for judge in (True, False):
            with self.subTest(judge=judge):
                self._assert_refused_by_us(guest, there, judge)
        # And by the device, where nobody asks us.
        self.assert_refused(guest, self.two, there.mdev)
        self._assert_intact(here)

    def _assert_refused_by_us(self, guest: guest_.Guest, there: gpu_.GPU,
                              judge: bool) -> None:
        move = self.begin_watched(guest, there.node, there.mdev, judge=judge)
        result = move.result()
        self.assertEqual('refused', result['outcome'], result)
        self.assertIn('frame buffer: 16 MiB at the source, 64 MiB at the '
                      'destination', result['error'])
        self.assert_only_at(guest, guest.node)
        self.assert_nothing_open(move.uuid, entries=0, free=[there])

    def test_the_operator_aborts(self) -> None:
        here = self._gpu(self.one)
        guest = self._at_work(here)
        # As Nova's driver does, and as our agent does when it hears of it
        # from Nova; either may come first.
        record = self._abort_in_pre_copy(guest, lambda move: self.one.run(
            f'virsh -q domjobabort {guest.name}'))
        # libvirt does not say who it was, and nobody else has here.
        self.assertIn(record['outcome'], ('aborted', 'failed'), record)
        record = self._abort_in_pre_copy(guest, moves.Move.abort)
        self.assertEqual(('aborted', 'aborted by the operator'),
                         (record['outcome'], record['reason']), record)
        self._assert_intact(here)

    def test_somebody_pauses_the_guest_meanwhile(self) -> None:
        here, there = self._gpu(self.one), self._gpu(self.two)
        guest = self._at_work(here)
        held = phases.Held(phases.PRE_COPY, there)
        move = self.begin_watched(guest, self.two, there.mdev)
        held.reached(move)
        self.one.run(f'virsh -q suspend {guest.name}')
        self.assertEqual('stop_copy', here.get('state'))
        # All of the device is left for the end, and no limit is in its way.
        self.one.run(
            f'until virsh -q migrate-getmaxdowntime {guest.name} | '
            'grep -qx 2000000; do sleep 0.5; done', seconds=gpu_.PATIENCE)
        held.release()
        result = move.result()
        self.assertEqual('completed', result['outcome'], result)
        self.assertIn('paused during its migration',
                      ' '.join(result['source_record']['notes']))
        self.assert_only_at(guest, self.two)
        self._assert_intact(there)

    def _abort_in_pre_copy(self, guest: guest_.Guest,
                           abort: Callable[[moves.Move], object]
                           ) -> dict[str, Any]:
        """Return the source's record of a move that was aborted there."""
        there = self._gpu(self.two)
        # Of what the source sends in pre-copy, nothing is read.
        held = phases.Held(phases.PRE_COPY, there)
        move = self.begin_watched(guest, self.two, there.mdev)
        held.reached(move)
        abort(move)
        held.release()
        result = move.result()
        self.assertEqual('failed', result['outcome'], result)
        # In what words is libvirt's affair: the end that is cancelled may
        # be told first that the other one has gone.
        self.assert_only_at(guest, self.one)
        self.assert_nothing_open(move.uuid, free=[there])
        record: dict[str, Any] = result['source_record']
        return record
