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
from nova.api.validation.extra_specs import validators
from nova import exception
from oslotest import base

from nova_vgpu_mig.planning import limit


class TestValidators(base.BaseTestCase):
    """Through Nova's own registry, which found us by our entry point."""

    def test_a_limit_in_range(self):
        for good in ('1', '300', '2000000'):
            validators.validate('vgpu_mig:max_downtime_ms', good)

    def test_a_limit_out_of_range(self):
        for bad in ('0', '-5', '2000001', '1.5', '300ms', ''):
            self.assertRaises(exception.ValidationError, validators.validate,
                              'vgpu_mig:max_downtime_ms', bad)

    def test_misspelt_keys_are_refused(self):
        for name in ('vgpu_mig:max_downtime', 'vgpu_mig:Max_downtime_ms',
                     'vgpu_mig:', 'vgpu_mig:max_downtime_ms2'):
            exc = self.assertRaises(exception.ValidationError,
                                    validators.validate, name, '300')
            self.assertIn(name, str(exc))

    def test_other_namespaces_are_left_alone(self):
        validators.validate('vgpu_migration:anything', 'goes')

    @hypothesis.given(strategies.text(max_size=8)
                      | strategies.integers().map(str))
    def test_the_api_and_the_agent_accept_the_same(self, value):
        try:
            limit.parse_ms(limit.EXTRA_SPEC, value)
            expected = True
        except limit.LimitError:
            expected = False
        try:
            validators.validate(limit.EXTRA_SPEC, value)
            accepted = True
        except exception.ValidationError:
            accepted = False
        self.assertEqual(expected, accepted)
