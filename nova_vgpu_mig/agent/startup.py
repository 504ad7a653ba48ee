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

"""What an agent needs before it can serve, each named when it is missing.

A launcher of oslo.service starts its service in a child, and starts another
one when that ends: a wrong option would be tried again for ever, with a
traceback each time. So all that can be wrong from the start is tried in the
parent, by the same functions that the child uses, and ends it with a
sentence. A message bus that is down is not among it: that comes back.
"""

import os

from oslo_config import cfg
import oslo_messaging

from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.conf import migration as migration_conf
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.gpu import registry as gpu_registry
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import server


class CannotStart(Exception):
    """An agent can't be started so; the message names what to change."""


def register_opts(conf: cfg.ConfigOpts) -> None:
    for module in (agent_conf, libvirt_conf, migration_conf):
        module.register_opts(conf)


def open_journal(conf: cfg.ConfigOpts) -> journal_.Journal:
    """Open the journal, and make its directory if there is none.

    :raises CannotStart: it can't be opened.
    """
    path = conf[agent_conf.GROUP].journal
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), 0o700,
                    exist_ok=True)
        return journal_.Journal(path)
    except OSError as exc:
        raise CannotStart(
            f'[{agent_conf.GROUP}] journal = {path}: {exc}; its directory '
            f'must be there and writable for the agent\'s user') from exc
    except journal_.JournalError as exc:
        raise CannotStart(
            f'[{agent_conf.GROUP}] journal = {path}: {exc}') from exc


def open_data_port(conf: cfg.ConfigOpts) -> server.DataServer:
    """Listen for the state of VFs; nothing is accepted yet.

    :raises CannotStart: the address can't be bound.
    """
    options = conf[agent_conf.GROUP]
    try:
        return server.DataServer(
            options.data_host, options.data_port,
            conf[migration_conf.GROUP].silence_timeout,
            conf[migration_conf.GROUP].reconnect_timeout)
    except OSError as exc:
        raise CannotStart(
            f'[{agent_conf.GROUP}] data_host = {options.data_host}, '
            f'data_port = {options.data_port}: {exc.strerror or exc}; '
            f'data_host must be an address of this host, and the port free '
            f'on it') from exc


def load_driver(conf: cfg.ConfigOpts) -> contract.GPUDriver:
    """:raises CannotStart: no GPU driver fits this machine."""
    try:
        return gpu_registry.DRIVERS.load(conf)
    except gpu_registry.NoGPUDriver as exc:
        raise CannotStart(str(exc)) from exc


def open_transport(conf: cfg.ConfigOpts) -> oslo_messaging.Transport:
    """Return the transport of the agents' RPC; it connects when used.

    :raises CannotStart: there is no such transport.
    """
    try:
        return rpcapi.get_transport(conf)
    except (oslo_messaging.InvalidTransportURL,
            oslo_messaging.DriverLoadFailure) as exc:
        raise CannotStart(f'[DEFAULT] transport_url: {exc}') from exc


def examine(conf: cfg.ConfigOpts) -> None:
    """Return if an agent can be started; nothing stays open.

    :raises CannotStart: what to change.
    """
    register_opts(conf)
    try:
        for module in (agent_conf, libvirt_conf, migration_conf):
            for option in module.OPTS:
                # Read from a file, a value is looked at only when used.
                getattr(conf[module.GROUP], option.dest)
        open_transport(conf).cleanup()
    except cfg.Error as exc:
        raise CannotStart(str(exc)) from exc
    load_driver(conf).close()
    open_data_port(conf).close()
    open_journal(conf).close()
