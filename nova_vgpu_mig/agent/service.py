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

"""An agent: its parts, in the order in which they come up and go down.

`Agent` runs in threads and can live inside another process, from a
ConfigOpts of its own; `AgentService` is the same as a service of
oslo.service. What recovery can decide alone it does before any call is
answered, so that nobody is told a state which is about to change. What needs
another agent's word is left to the first round of housekeeping, when calls
are answered: two agents that start together would wait for each other.
"""

import contextlib
import logging
import socket
import threading

from oslo_config import cfg
import oslo_messaging
from oslo_service import service

from nova_vgpu_mig.agent import listener
from nova_vgpu_mig.agent import manager
from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.agent import startup
from nova_vgpu_mig.agent import steps as agent_steps
from nova_vgpu_mig.agent import views as agent_views
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.migration import recovery as recovery_
from nova_vgpu_mig.vmm import hypervisor as hypervisor_
from nova_vgpu_mig.vmm.libvirt import driver as libvirt_driver
from nova_vgpu_mig.vmm import registry as vmm_registry

LOG = logging.getLogger(__name__)


class Agent:
    """The agent of one compute host, in threads of this process."""

    def __init__(self, conf: cfg.ConfigOpts,
                 observer: node_.Observer | None = None,
                 hypervisor: hypervisor_.Hypervisor | None = None) -> None:
        """Nothing is opened yet.

        :param observer: called with the record as a move goes on.
        :param hypervisor: another one than this host's libvirt, for tests.
        """
        startup.register_opts(conf)
        self._conf = conf
        self._options = conf[agent_conf.GROUP]
        self.host: str = self._options.host or socket.gethostname()
        self._observer = observer
        self._hypervisor = (libvirt_driver.LibvirtHypervisor(conf)
                            if hypervisor is None else hypervisor)
        self._closing = contextlib.ExitStack()
        self._down = threading.Event()

    def start(self) -> None:
        """Return when RPC is served and the data port is open.

        :raises startup.CannotStart: a part can't start; the message says
            which and why. Whatever is raised, what had come up is closed.
        """
        try:
            self._start()
        except BaseException:
            self._closing.close()
            raise

    def _start(self) -> None:
        transport = startup.open_transport(self._conf)
        self._closing.callback(transport.cleanup)
        node = self._open(rpcapi.AgentAPI(self._conf, transport))
        recovery = recovery_.Recovery(
            node.journal, driver_for=node.driver_for, guest_for=node.guest,
            ask_source=node.ask_source,
            push_destination=node.push_destination,
            no_vmm=node.look_for_vmm)
        for sentence in recovery.start():
            LOG.warning('Recovery: %s', sentence)
        view = agent_views.Views(node)
        steps = agent_steps.Steps(node, view, recovery)
        self._serve(transport, manager.AgentManager(view, steps), steps)
        # Not before: it asks agents that may have to ask this one.
        self._keep_house(node, steps)
        # First of all: a move in pre-copy needs the time to go back.
        self._closing.callback(node.moves.stop)
        LOG.info('Agent of %s: RPC on %s, VF state on %s:%s', self.host,
                 rpcapi.TOPIC, *node.server.address)

    def _open(self, api: rpcapi.AgentAPI) -> node_.Node:
        book = startup.open_journal(self._conf)
        self._closing.callback(book.close)
        port = startup.open_data_port(self._conf)
        self._closing.callback(port.close)
        port.start()
        self._closing.callback(self._hypervisor.close)
        if why := self._hypervisor.available():
            # No libvirt at all is the operator's choice.
            expected = bool(self._conf[libvirt_conf.GROUP].uri)
            LOG.log(logging.WARNING if expected else logging.INFO,
                    '%s; no VM in QEMU is moved with a GPU VF until then.',
                    why)
        driver = startup.load_driver(self._conf)
        self._closing.callback(driver.close)
        node = node_.Node(
            host=self.host, conf=self._conf, journal=book,
            hypervisor=self._hypervisor,
            driver=driver, vmm=None,
            server=port, api=api, observer=self._observer,
            find_vmm=lambda: vmm_registry.PORTS.load(self._conf))
        if why := node.look_for_vmm():
            LOG.info('%s The agent carries no VM on this host until then.',
                     why)
        return node

    def _keep_house(self, node: node_.Node,
                    steps: agent_steps.Steps) -> None:
        def loop() -> None:
            while not self._down.is_set():
                try:
                    node.look_for_vmm()
                    for sentence in steps.housekeep():
                        LOG.info('Housekeeping: %s', sentence)
                except Exception:
                    LOG.exception('Housekeeping failed; it goes on at the '
                                  'next time')
                self._down.wait(self._options.periodic_seconds)

        thread = threading.Thread(target=loop, name='housekeeping')
        thread.start()
        self._closing.callback(thread.join)
        self._closing.callback(self._down.set)

    def _serve(self, transport: oslo_messaging.Transport,
               endpoint: manager.AgentManager,
               steps: agent_steps.Steps) -> None:
        servers = [oslo_messaging.get_rpc_server(
            transport,
            oslo_messaging.Target(exchange=rpcapi.EXCHANGE,
                                  topic=rpcapi.TOPIC, server=self.host),
            [endpoint], executor='threading',
            serializer=rpcapi.Serializer())]
        if self._options.listen_notifications:
            notices = oslo_messaging.get_notification_transport(self._conf)
            self._closing.callback(notices.cleanup)
            servers += listener.get_listeners(
                self._conf, notices, self.host,
                listener.Endpoint(self.host, steps))
        self._conf.set_default('executor_thread_pool_size',
                               self._options.rpc_workers)
        # All are told to stop before one is waited for.
        for one in servers:
            self._closing.callback(one.wait)
        for one in servers:
            one.start()
            self._closing.callback(one.stop)

    def stop(self) -> None:
        """End: moves before the commit go back, no more calls, close."""
        self._closing.close()


class AgentService(service.ServiceBase):  # type: ignore[misc]
    """An Agent as a service of oslo.service."""

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._agent = Agent(conf)
        self._stopped = threading.Event()

    def start(self) -> None:
        self._agent.start()

    def wait(self) -> None:
        self._stopped.wait()

    def stop(self) -> None:
        self._agent.stop()
        self._stopped.set()

    def reset(self) -> None:
        """SIGHUP: the options were read again; each is used when needed."""
