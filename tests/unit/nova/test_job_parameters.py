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


import types

import hypothesis
from hypothesis import strategies as st
from nova.tests.fixtures import libvirt as fakelibvirt
import testtools

from nova_vgpu_mig.nova import job_parameters

OLD = types.SimpleNamespace(**{
    name: getattr(fakelibvirt, name) for name in dir(fakelibvirt)
    if name.startswith('VIR_MIGRATE')})
NEW = types.SimpleNamespace(
    VIR_MIGRATE_PARAM_BANDWIDTH_AVAIL_SWITCHOVER=(
        'bandwidth.avail.switchover'),
    **vars(OLD))
LIVE = OLD.VIR_MIGRATE_LIVE
MIB = 1024 ** 2


class MergeTest(testtools.TestCase):

    def merge(self, job, params=(), flags=LIVE, libvirt=NEW):
        return job_parameters.merge(job, dict(params), flags, libvirt)

    def test_no_settings_leave_it_to_the_caller(self):
        unset = {'downtime_limit_ms': 5, 'parallel_connections': None,
                 'switchover_bandwidth': None}
        for job in ({}, unset):
            self.assertEqual(
                ({'bandwidth': 0}, LIVE),
                self.merge(job, {'bandwidth': 0}))

    def test_parallel_connections_win_over_novas(self):
        self.assertEqual(
            ({'bandwidth': 7, 'parallel.connections': 8},
             LIVE | OLD.VIR_MIGRATE_PARALLEL),
            self.merge({'parallel_connections': 8},
                       {'bandwidth': 7, 'parallel.connections': 3}))

    def test_a_tunnel_has_one_connection(self):
        tunnelled = LIVE | OLD.VIR_MIGRATE_TUNNELLED
        self.assertEqual(({}, tunnelled), self.merge(
            {'parallel_connections': 8}, flags=tunnelled))

    def test_bandwidth_in_libvirts_unit(self):
        for given, expected in ((3 * MIB, 3), (4 * MIB - 1, 3), (1, 1)):
            self.assertEqual(
                ({'bandwidth.avail.switchover': expected}, LIVE),
                self.merge({'switchover_bandwidth': given}))

    def test_bandwidth_is_not_for_an_older_libvirt(self):
        self.assertEqual(({}, LIVE), self.merge(
            {'switchover_bandwidth': MIB}, libvirt=OLD))

    @hypothesis.given(
        st.integers(0, 2 ** 21 - 1),
        st.fixed_dictionaries({}, optional={
            'parallel_connections': st.none() | st.integers(1, 255),
            'switchover_bandwidth': st.none() | st.integers(1, 2 ** 50)}))
    def test_never_post_copy_and_nothing_lost(self, flags, job):
        before = {'bandwidth': 1, 'migrate_uri': 'tcp://other'}
        params, merged = self.merge(job, before, flags)
        self.assertFalse(merged & OLD.VIR_MIGRATE_POSTCOPY)
        self.assertEqual(flags & ~OLD.VIR_MIGRATE_POSTCOPY,
                         merged & flags)
        self.assertEqual(before, {key: params[key] for key in before})
        self.assertEqual(2, len(before))
