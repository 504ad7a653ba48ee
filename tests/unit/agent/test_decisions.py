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

"""What an agent concludes from its journal and pools, without I/O."""

import dataclasses
from typing import Any
import unittest

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import requests
from nova_vgpu_mig.agent import views
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration.hypervisor import report
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.planning import downtime
from nova_vgpu_mig.planning import estimate
from nova_vgpu_mig.planning import steering

GIB = 2 ** 30
MIB = 2 ** 20


def record(instance: str, seconds: float, sent: int,
           parts: dict[str, float], rate: float,
           outcome: str = 'completed') -> dict[str, object]:
    return {'instance_uuid': instance, 'outcome': outcome,
            'downtime_parts': parts, 'rounds': [
        {'stop_copy': False, 'seconds': seconds, 'frame_buffer_bytes': sent,
         'sending_seconds': seconds, 'stream_bytes': 0, 'memory_bytes': 0,
         'dirty_bytes_per_second': rate}]}


class TestExperience(unittest.TestCase):

    def test_nothing_yet(self) -> None:
        self.assertEqual(views.Experience(), views.Experience.of([], 'i'))

    def test_the_median_counts_and_dirt_is_the_vms_own(self) -> None:
        slow = record('other', 9.0, 9, {'drain': 0.01, 'run': 31.0}, 7.0)
        usual = record('i', 1.0, 500, {'drain': 0.25, 'run': 0.1}, 3.0)
        known = views.Experience.of([slow, usual, usual], 'i')
        self.assertEqual(500.0, known.bandwidth)
        self.assertEqual((0.25, 0.1), (known.costs.drain, known.costs.run))
        self.assertEqual((3.0, 3), (known.dirty_bytes_per_second,
                                    known.moves))

    def test_only_the_last_completed_moves_count(self) -> None:
        failed = record('x', 1.0, 10, {'drain': 9.0}, 0.0, 'failed')
        new = record('x', 1.0, 500, {'drain': 0.2}, 0.0)
        old = record('x', 1.0, 10, {'drain': 9.0}, 0.0)
        known = views.Experience.of(
            [failed] * 9 + [new] * views.RECENT + [old] * 20, 'i')
        self.assertEqual((500.0, 0.2), (known.bandwidth, known.costs.drain))

    def test_a_move_that_failed_early_teaches_nothing(self) -> None:
        known = views.Experience.of([record('i', 0.0, 0, {}, 0.0)], 'other')
        self.assertEqual(views.Experience(), known)

    def test_a_connection_that_was_lost_teaches_nothing(self) -> None:
        lost = record('x', 9.0, 9, {'drain': 9.0}, 0.0) | {'reconnects': 1}
        whole = record('x', 1.0, 500, {'drain': 0.2}, 0.0)
        known = views.Experience.of([lost, whole], 'i')
        self.assertEqual((1, 500.0, 0.2), (
            known.moves, known.bandwidth, known.costs.drain))

    def test_a_paused_guest_says_nothing_of_downtime(self) -> None:
        paused = record('x', 1.0, 500, {}, 0.0)
        running = record('x', 1.0, 100, {'drain': 0.2}, 0.0)
        known = views.Experience.of([paused, running], 'i')
        self.assertEqual((1, 100.0, 0.2), (
            known.moves, known.bandwidth, known.costs.drain))


class TestWatchedExperience(unittest.TestCase):
    """What is learnt where QEMU carried the state."""

    def moved(self, *samples: steering.Sample) -> dict[str, Any]:
        return {
            'carrier': 'hypervisor', 'instance_uuid': 'i',
            'outcome': 'completed', 'reconnects': 0,
            'downtime_parts': {'drain': 0.01, 'pre_switchover': 0.005,
                               'stop_copy': 0.05, 'handover': 0.05},
            'rounds': [dataclasses.asdict(made)
                       for made in report.rounds(samples)]}

    def known(self, *records: dict[str, object]) -> views.Experience:
        return views.Experience.of(records, 'i', phases.Carrier.HYPERVISOR)

    def large(self) -> dict[str, Any]:
        """64 GiB of guest RAM, 1 GiB of VRAM, and a way of 1 GiB/s.

        Then 20 MiB of VRAM and 40 of RAM are dirty a look, and the limit is
        held.
        """
        first = steering.Sample(65, 2, 65 * GIB, GIB)
        return self.moved(steering.Sample(0, 1, 0, 0), first, *(
            dataclasses.replace(
                first, at=65 + 1.1 * look, passes=2 + look,
                sent_bytes=65 * GIB + 60 * MIB * look,
                device_bytes=GIB + 20 * MIB * look) for look in (1, 2)))

    def test_much_ram_is_no_slow_way(self) -> None:
        known = self.known(self.large())
        self.assertAlmostEqual(GIB, known.bandwidth)
        workload = estimate.Workload(GIB, known.dirty_bytes_per_second)
        made = estimate.plan(
            workload, bandwidth=known.bandwidth, limit_seconds=0.5,
            costs=known.costs)
        self.assertTrue(made.converges, made.reason)
        self.assertIs(True, views.fits(
            workload, limits.Limits(downtime_seconds=0.5), known, made))

    def stopped(self, moved: dict[str, Any], seconds: float, vf: int,
                ram: int) -> dict[str, Any]:
        """The move with what its stop-copy took and sent."""
        last = record_.Round(9, stream_bytes=vf, memory_bytes=ram,
                             seconds=seconds, stop_copy=True)
        return {**moved,
                'downtime_parts': {**moved['downtime_parts'],
                                   'stop_copy': seconds},
                'rounds': [*moved['rounds'], dataclasses.asdict(last)]}

    def assert_converges(self, known: views.Experience, dirty: float,
                         limit_seconds: float) -> None:
        """Assert that a plan for 1 GiB with so much dirty a second does."""
        made = estimate.plan(
            estimate.Workload(GIB, dirty), bandwidth=known.bandwidth,
            limit_seconds=limit_seconds, costs=known.costs)
        self.assertTrue(made.converges, made.reason)

    def test_what_a_stop_copy_takes_beside_the_copying(self) -> None:
        way = self.moved(steering.Sample(0, 1, 0, 0),
                         steering.Sample(1, 4, 100 * MIB, 80 * MIB))
        moves = [self.stopped(way, seconds, 18 * MIB, 2 * MIB)
                 for seconds in (9.0, 0.6, 0.1)]
        # The least of several: each is an upper bound.
        for some, state in ((moves[:1], 0.0), (moves[:2], 0.4),
                            (moves, 0.0)):
            costs = self.known(*some).costs
            self.assertAlmostEqual(state, costs.state)
            self.assertAlmostEqual(state + 0.065, costs.total)

    def test_a_stop_copy_that_is_slow_refuses_no_move(self) -> None:
        """A VF that gives its state half as fast once it has stopped."""
        way = self.moved(steering.Sample(0, 1, 0, 0),
                         steering.Sample(1, 4, 1000 * MIB, 800 * MIB))
        known = self.known(*(
            self.stopped(way, 0.05 + vf * MIB / (500 * MIB), vf * MIB, 1)
            for vf in (100, 1000, 8000)))
        self.assert_converges(known, 500 * MIB, 1.5)

    def test_what_was_not_measured_stays_assumed(self) -> None:
        move = self.moved(steering.Sample(0, 1, 0, 0),
                          steering.Sample(1, 4, 100 * MIB, 80 * MIB))
        del move['downtime_parts']['drain']
        self.assertEqual(downtime.FixedCosts().drain,
                         self.known(move).costs.drain)

    def test_it_is_not_learnt_where_ram_was_not_measured(self) -> None:
        older = self.stopped(self.large(), 0.4, 20 * MIB, 0)
        self.assertEqual(0.0, self.known(older, older).costs.state)

    def test_rams_part_of_a_stop_copy_refuses_no_plan(self) -> None:
        """0.42 s, of which 0.02 are no copying."""
        known = self.known(*[self.stopped(
            self.large(), 0.42, 20 * MIB, GIB * 2 // 5 - 20 * MIB)] * 2)
        self.assertAlmostEqual(0.02, known.costs.state, places=5)
        self.assert_converges(known, 300 * MIB, 0.5)

    def test_a_small_guest_says_little_of_the_way(self) -> None:
        small = self.moved(steering.Sample(0, 1, 0, 0),
                           steering.Sample(1, 4, 16 * MIB, 8 * MIB))
        known = self.known(small, small, self.large())
        self.assertAlmostEqual(GIB, known.bandwidth)

    def test_without_word_of_the_device_ram_tells_the_way(self) -> None:
        known = self.known(self.moved(steering.Sample(0, 1, 0),
                                      steering.Sample(2, 2, 2 * GIB)))
        self.assertAlmostEqual(GIB, known.bandwidth)


class TestFits(unittest.TestCase):

    def fits(self, rate: float, **costs: float) -> bool | None:
        limit = limits.Limits(downtime_seconds=0.5)
        known = views.Experience(costs=downtime.FixedCosts(**costs))
        workload = estimate.Workload(2 ** 30, rate)
        return views.fits(workload, limit, known, estimate.plan(
            workload, bandwidth=known.bandwidth, limit_seconds=0.5,
            costs=known.costs))

    def test_costs_alone_refuse_nothing(self) -> None:
        self.assertIs(True, self.fits(0.0))
        self.assertIsNone(self.fits(0.0, run=31.0))

    def test_bytes_do(self) -> None:
        self.assertIs(False, self.fits(9e9))
        self.assertIs(False, self.fits(9e9, run=31.0))

    def test_says_what_is_assumed(self) -> None:
        self.assertIn('assumed', str(views.Experience()))
        self.assertIn('last 3', str(views.Experience(moves=3)))


def vf(state: contract.VFState | None,
       used: int | None = None) -> contract.VF:
    return contract.VF('0000:03:02.0', 0, False, used, state)


class TestVFState(unittest.TestCase):

    def test_a_loading_vf_waits(self) -> None:
        with self.assertRaises(errors.Refused) as caught:
            requests.refuse_now('h', vf(contract.VFState.LOADING))
        for word in ('0000:03:02.0 of h', 'try again when the guest'):
            self.assertIn(word, str(caught.exception))

    def test_every_other_one_goes(self) -> None:
        for state in {*contract.VFState, None} - {contract.VFState.LOADING}:
            requests.refuse_now('h', vf(state))

    def test_what_the_first_round_sends(self) -> None:
        pool = contract.Pool(
            'pf', identity.VFIdentity('1002', '74b5', 512, 2), ())
        for state, used, expected in (
                (contract.VFState.EMPTY, None, 0),
                (contract.VFState.EMPTY, 7, 0),
                (contract.VFState.ACTIVE, 7, 7), (None, 7, 7),
                (contract.VFState.ACTIVE, None, 512 << 20)):
            self.assertEqual(expected,
                             views.used_bytes(pool, vf(state, used)))

    def test_no_frame_buffer_shows(self) -> None:
        pool = contract.Pool(
            'pf', identity.VFIdentity('0000', '0000', None, 1), ())
        self.assertIsNone(views.used_bytes(pool, vf(None)))
        self.assertEqual(7, views.used_bytes(pool, vf(None, 7)))
        self.assertEqual(0, views.used_bytes(
            pool, vf(contract.VFState.EMPTY)))

    def test_a_plan_of_nobody_knows_what(self) -> None:
        made = estimate.plan(
            estimate.Workload(None, 5.0), bandwidth=1e9, limit_seconds=0.5,
            costs=downtime.FixedCosts())
        self.assertEqual((None, None, None), (
            made.total_bytes, made.worst_downtime_seconds, made.converges))
        self.assertIn('is exposed', made.reason)

    def test_a_plan_of_nothing(self) -> None:
        made = estimate.plan(
            estimate.Workload(0, 0.0), bandwidth=1e9, limit_seconds=0.5,
            costs=downtime.FixedCosts())
        self.assertEqual((0, True), (made.total_bytes, made.converges))


class TestWithout(unittest.TestCase):

    def test_reserved_is_not_free(self) -> None:
        pool = contract.Pool(
            'pf', identity.VFIdentity('1002', '74b5', 512, 2),
            (contract.VF('a', 0, True), contract.VF('b', 1, True)))
        (marked,) = views.without([pool], frozenset('b'))
        self.assertEqual([True, False], [vf.free for vf in marked.vfs])
