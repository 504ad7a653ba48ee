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

"""The port on a libvirt of answers: what each refusal of it means.

The lab has the real one. Here is what it answers when it can't, which the
lab shows only in passing: each was seen there.
"""

import types

from oslo_config import cfg
from oslotest import base

from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm.libvirt import binding
from nova_vgpu_mig.vmm.libvirt import driver
from tests.unit.vmm import test_libvirt_words

UUID = '3f6d1f4e-8a55-4a0b-9a52-d1b0b9a0d0a1'
NO_DOMAIN, INVALID, UNSUPPORTED, TIMEOUT, OTHER = range(42, 47)


class LibvirtError(Exception):
    def get_error_code(self):
        return self.args[0]


class Domain:
    """Answers with what it was given; an error is raised."""

    def __init__(self, state=(1, 0), stats=None):
        self.answers = {'state': state, 'stats': stats or {}}
        self.limits = []

    def _answer(self, name):
        answer = self.answers[name]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def state(self):
        return self._answer('state')

    def jobStats(self, flags=0):
        return self._answer('stats')

    def migrateSetMaxDowntime(self, milliseconds, flags):
        self.limits.append(milliseconds)


class Ending(Domain):
    """Its migration ends as soon as one thing has been asked."""

    def _answer(self, name):
        answer = super()._answer(name)
        self.answers = {'state': (5, 4), 'stats': {}}
        return answer


class Connection:
    def __init__(self, domain):
        self.domain = domain

    def __getattr__(self, name):
        # Registering for events, keepalive and the like.
        return lambda *args: None

    def getLibVersion(self):
        return 11_003_000

    def getVersion(self):
        return 10_000_013

    def lookupByUUIDString(self, uuid):
        if self.domain is None:
            raise LibvirtError(NO_DOMAIN, 'no domain')
        return self.domain


def port(domain):
    """The port, on a libvirt that has this domain or none."""
    names = vars(test_libvirt_words.LIBVIRT) | {
        'libvirtError': LibvirtError, 'VIR_ERR_NO_DOMAIN': NO_DOMAIN,
        'VIR_ERR_OPERATION_INVALID': INVALID,
        'VIR_ERR_OPERATION_UNSUPPORTED': UNSUPPORTED,
        'VIR_ERR_OPERATION_TIMEOUT': TIMEOUT,
        'VIR_DOMAIN_JOB_UNBOUNDED': 2,
        'VIR_DOMAIN_EVENT_ID_LIFECYCLE': 0,
        'VIR_DOMAIN_EVENT_ID_JOB_COMPLETED': 22,
        'virEventRegisterDefaultImpl': lambda: None,
        # The loop has nothing to do, for ever.
        'virEventRunDefaultImpl': lambda: driver.time.sleep(3600),
        'open': lambda uri: Connection(domain)}
    conf = cfg.ConfigOpts()
    conf([])
    return driver.LibvirtHypervisor(conf, lambda: binding.Binding(
        types.SimpleNamespace(**names), None))


class TestLibvirt(base.BaseTestCase):
    def view(self, **answers):
        return port(Domain(**answers)).view(UUID)

    def test_no_domain_is_an_answer(self):
        one = port(None)
        self.assertEqual(hypervisor.GuestState.ABSENT, one.view(UUID).state)
        self.assertIsNone(one.sample(UUID))

    def test_jobs(self):
        for stats, job in (
                ({'type': 0}, hypervisor.Job.NONE),
                (test_libvirt_words.STATS, hypervisor.Job.OUT),
                (LibvirtError(INVALID, 'not running'), hypervisor.Job.NONE),
                (LibvirtError(UNSUPPORTED, 'only on the source host'),
                 hypervisor.Job.IN),
                (LibvirtError(TIMEOUT, 'cannot acquire state change lock'),
                 hypervisor.Job.OTHER)):
            self.assertEqual(job, self.view(stats=stats).job, stats)

    def test_a_job_that_ends_between_two_questions(self):
        one = port(Ending((1, 1), test_libvirt_words.STATS))
        # Never one that runs, and has no job.
        self.assertEqual(hypervisor.Job.OUT, one.view(UUID).job)
        self.assertEqual('shut off (migrated)', str(one.view(UUID)))

    def test_a_held_monitor_gives_no_sample(self):
        self.assertIsNone(port(Domain(stats=LibvirtError(
            TIMEOUT, 'lock'))).sample(UUID))

    def test_other_errors_are_told(self):
        one = port(Domain(stats=LibvirtError(OTHER, 'broken pipe')))
        error = self.assertRaises(hypervisor.HypervisorError, one.view, UUID)
        self.assertIn('broken pipe', str(error))
        self.assertIn(UUID, str(error))

    def test_steering(self):
        domain = Domain()
        port(domain).limit_downtime(UUID, 7)
        self.assertEqual([7], domain.limits)

    def test_without_libvirt(self):
        def none():
            raise hypervisor.HypervisorError('install python3-libvirt')
        conf = cfg.ConfigOpts()
        conf([])
        one = driver.LibvirtHypervisor(conf, none)
        self.assertIn('python3-libvirt', one.available())
        conf.set_override('uri', '', 'vgpu_mig_libvirt')
        self.assertIn('uri is empty', one.available())
