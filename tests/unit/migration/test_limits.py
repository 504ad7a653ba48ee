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


from oslo_config import cfg
from oslotest import base

from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import limits
from nova_vgpu_mig.migration import offer
from nova_vgpu_mig.planning import downtime
from nova_vgpu_mig.vmm import port


class LimitsTest(base.BaseTestCase):

    def conf(self, **options):
        conf = cfg.ConfigOpts()
        conf([])
        migration_conf.register_opts(conf)
        for name, value in options.items():
            conf.set_override(name, value, migration_conf.GROUP)
        return conf

    def test_options_and_values_have_the_same_defaults(self):
        self.assertEqual(limits.Limits(),
                         limits.Limits.from_conf(self.conf()))

    def test_the_vms_limit_wins(self):
        conf = self.conf(max_downtime_ms=250, level='stream')
        self.assertEqual(0.25, limits.Limits.from_conf(conf)
                         .downtime_seconds)
        made = limits.Limits.from_conf(
            conf, 0.1, downtime.FixedCosts(drain=0.5))
        self.assertEqual((0.1, contract.Level.STREAM, 0.5),
                         (made.downtime_seconds, made.level,
                          made.costs.drain))


class OfferTest(base.BaseTestCase):

    GOOD = offer.Offer('host', 6190, '5a' * 32,
                       port.MemoryEndpoint('host', 7000, 'token'))

    def test_there_and_back(self):
        self.assertEqual(self.GOOD,
                         offer.Offer.from_dict(self.GOOD.as_dict()))

    def test_no_secrets_in_a_log(self):
        self.assertNotIn('5a5a', repr(self.GOOD))
        self.assertNotIn('token', repr(self.GOOD))

    def test_what_is_no_offer(self):
        good = self.GOOD.as_dict()
        for bad in (None, [], {}, good | {'port': 0}, good | {'port': True},
                    good | {'host': ''}, good | {'host': 'x' * 2000},
                    good | {'ticket': '5a'}, good | {'ticket': 'zz' * 32},
                    good | {'memory': 'there'}, good | {'memory': {}},
                    good | {'memory': {'host': 'a', 'port': 99999,
                                       'token': 't'}}):
            error = self.assertRaises(offer.OfferError,
                                      offer.Offer.from_dict, bad)
            self.assertIn('not an offer', str(error))
