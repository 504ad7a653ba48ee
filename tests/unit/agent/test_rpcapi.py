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

"""The client over a real (in-process) bus: errors, versions, contexts."""

import inspect
from typing import Any
import unittest

from oslo_config import cfg
from oslo_context import context
import oslo_messaging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import manager
from nova_vgpu_mig.agent import objects
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.migration import phases


class NewerDescription(objects.HostDescription):
    """As an agent of a later release sends it."""

    def obj_to_primitive(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        primitive: dict[str, Any] = super().obj_to_primitive(*args, **kwargs)
        return {**primitive, 'nova_vgpu_mig_object.name': 'HostDescription',
                'nova_vgpu_mig_object.version': '1.99'}


class Endpoint:
    """Answers `ownership`, or refuses."""

    target = oslo_messaging.Target(version=rpcapi.VERSION)

    def __init__(self) -> None:
        self.contexts: list[Any] = []

    @oslo_messaging.expected_exceptions(errors.AgentError)
    def ownership(self, ctxt: Any, migration_uuid: str) -> str:
        self.contexts.append(ctxt)
        if migration_uuid == 'refused':
            raise errors.Refused('agent of h: no')
        return 'ACTIVE'

    def describe(self, ctxt: Any) -> objects.HostDescription:
        return NewerDescription(
            host='h4', version='9', rpc_version='1.0', data_host='h4',
            data_port=1, pools=[])


class TestAgentAPI(unittest.TestCase):

    def setUp(self) -> None:
        self.conf = cfg.ConfigOpts()
        self.conf([], project='nova-vgpu-mig', default_config_files=[])
        self.api = rpcapi.AgentAPI(self.conf, url='fake://')
        self.addCleanup(self.api.close)
        self.conf.set_override('rpc_timeout', 1, 'vgpu_mig_agent')
        self.ctxt = context.RequestContext(
            auth_token='secret', request_id='req-1', user_id='u')

    def serve(self, host: str) -> Endpoint:
        endpoint = Endpoint()
        server = oslo_messaging.get_rpc_server(
            rpcapi.get_transport(self.conf, 'fake://'),
            oslo_messaging.Target(exchange=rpcapi.EXCHANGE,
                                  topic=rpcapi.TOPIC, server=host),
            [endpoint], executor='threading',
            serializer=rpcapi.Serializer())
        server.start()
        self.addCleanup(server.wait)
        self.addCleanup(server.stop)
        return endpoint

    def test_nobody_there(self) -> None:
        with self.assertRaises(errors.AgentUnreachable) as caught:
            self.api.ownership(self.ctxt, 'nowhere', 'm')
        for part in ('nowhere', 'nova-vgpu-mig-agent', 'transport_url'):
            self.assertIn(part, caught.exception.message)

    def test_time_out_of_the_caller(self) -> None:
        for name in ('rpc_timeout', 'step_timeout'):
            self.conf.set_override(name, 600, 'vgpu_mig_agent')
        for call in (
                lambda: self.api.describe(self.ctxt, 'nowhere', timeout=1),
                lambda: self.api.finish(self.ctxt, 'nowhere', 'm',
                                        phases.Role.SOURCE, timeout=1),
                lambda: self.api.rollback(self.ctxt, 'nowhere', 'm',
                                          phases.Role.SOURCE, timeout=1)):
            with self.assertRaises(errors.AgentUnreachable) as caught:
                call()
            self.assertIn('within 1 s', caught.exception.message)

    def test_error_comes_as_its_class_without_traceback(self) -> None:
        self.serve('h1')
        with self.assertRaises(errors.Refused) as caught:
            self.api.ownership(self.ctxt, 'h1', 'refused')
        self.assertIs(errors.Refused, type(caught.exception))
        self.assertEqual('agent of h: no', str(caught.exception))

    def test_token_stays(self) -> None:
        endpoint = self.serve('h3')
        self.assertEqual('ACTIVE', self.api.ownership(self.ctxt, 'h3', 'm'))
        seen = endpoint.contexts[0]
        self.assertEqual('req-1', seen.request_id)
        self.assertIsNone(seen.auth_token)

    def test_answer_of_a_newer_release(self) -> None:
        self.serve('h4')
        with self.assertRaises(errors.Unexpected) as caught:
            self.api.describe(self.ctxt, 'h4')
        for part in ('host h4', 'newer', '1.99', 'upgrade'):
            self.assertIn(part, caught.exception.message)

    def test_what_can_not_be_sent(self) -> None:
        unsendable: Any = object()
        with self.assertRaises(errors.Unexpected) as caught:
            self.api.ownership(self.ctxt, 'h5', unsendable)
        self.assertIn('ownership', caught.exception.message)

    def test_cap_below_the_version_refuses(self) -> None:
        self.conf.set_override('rpc_version_cap', '0.9', 'vgpu_mig_agent')
        api = rpcapi.AgentAPI(self.conf, url='fake://')
        self.addCleanup(api.close)
        with self.assertRaises(errors.VersionTooOld) as caught:
            api.ownership(self.ctxt, 'h', 'm')
        self.assertIn('0.9', caught.exception.message)

    def test_cap_that_is_no_version(self) -> None:
        for wrong in ('latest', '1', '1.x', ''):
            with self.assertRaises(ValueError, msg=wrong) as caught:
                self.conf.set_override('rpc_version_cap', wrong,
                                       'vgpu_mig_agent')
            self.assertIn('match regex', str(caught.exception))

    def test_every_call_has_its_method(self) -> None:
        def public(kind: type) -> set[str]:
            return {n for n, v in vars(kind).items()
                    if inspect.isfunction(v) and not n.startswith('_')}

        self.assertEqual(public(rpcapi.AgentAPI) - {'close'},
                         public(manager.AgentManager))
