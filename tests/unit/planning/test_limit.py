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

import hypothesis
from hypothesis import strategies
from oslotest import base

from nova_vgpu_mig.planning import limit


class TestLimit(base.BaseTestCase):
    def test_flavor_before_host(self):
        found = limit.downtime_limit({limit.EXTRA_SPEC: '250'}, 500, 'host')
        self.assertEqual(0.25, found.seconds)
        self.assertIn(limit.EXTRA_SPEC, found.origin)
        found = limit.downtime_limit({'hw:other': '1'}, 500, 'host')
        self.assertEqual((0.5, 'host'), (found.seconds, found.origin))

    def test_a_bad_flavor_limit_is_never_replaced(self):
        for bad in ('', '0', '-1', '1.5', '1e3', '500ms', '2000001', None,
                    True, 300.0, 'x' * 5000):
            exc = self.assertRaises(
                limit.LimitError, limit.downtime_limit,
                {limit.EXTRA_SPEC: bad}, 500, 'host')
            self.assertIn(limit.EXTRA_SPEC, str(exc))
            self.assertIn(repr(bad)[:40], str(exc))
            self.assertLess(len(str(exc)), 200)

    def test_a_bad_host_limit_names_its_option(self):
        exc = self.assertRaises(limit.LimitError, limit.downtime_limit, {},
                                0, '[agent] some_option')
        self.assertIn('[agent] some_option=0', str(exc))

    @hypothesis.given(strategies.integers(limit.MIN_MS, limit.MAX_MS))
    def test_every_number_in_range(self, number):
        self.assertEqual(number, limit.parse_ms('key', str(number)))
        self.assertEqual(number, limit.parse_ms('key', number))
