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

"""The operator's CLI: moves of every host, over the agents' RPC.

It asks the agents and nobody else: the journal of a host is the truth about
its VFs, and it is read where it lies. Rejected: a plugin of the `openstack`
client. That talks to HTTP services with a token; the agents have no API of
that kind, and an operator who can read transport_url has more rights anyway.
"""

import argparse
import functools
import socket
from typing import Any

from cliff import app
from cliff import commandmanager
from oslo_config import cfg

from nova_vgpu_mig.agent import rpcapi
from nova_vgpu_mig import cli
from nova_vgpu_mig.cli import bus
from nova_vgpu_mig.cli import hosts
from nova_vgpu_mig.cli import moves
from nova_vgpu_mig.cli import watch
from nova_vgpu_mig.conf import agent as agent_conf

PROJECT = 'nova-vgpu-mig'

COMMANDS = {
    'hosts': hosts.ListHosts,
    'list': moves.ListMoves,
    'show': moves.ShowMove,
    'resolve': moves.ResolveMove,
    'watch': watch.WatchMove,
}


class OperatorApp(app.App):  # type: ignore[misc]
    """Holds the connection to the agents for its commands."""

    hosts: list[str]

    def __init__(self, **streams: Any) -> None:
        commands = commandmanager.CommandManager('nova_vgpu_mig.cli')
        for name, command in COMMANDS.items():
            commands.add_command(name, command)
        super().__init__(
            description='See and decide live migrations of VMs with GPU VFs.',
            version=cli.version(), command_manager=commands,
            deferred_help=True, **streams)

    def build_option_parser(self, description: str, version: str,
                            argparse_kwargs: dict[str, Any] | None = None
                            ) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = super().build_option_parser(
            description, version, argparse_kwargs)
        parser.add_argument(
            '--config-file', action='append', metavar='FILE',
            help='where transport_url is (default: those of the agent, '
            f'/etc/{PROJECT}/{PROJECT}.conf); may be repeated')
        parser.add_argument(
            '--host', action='append', metavar='HOST',
            help='compute host whose agent is asked (default: this one); '
            'may be repeated')
        return parser

    def initialize_app(self, argv: list[str]) -> None:
        self._conf = cfg.ConfigOpts()
        self._conf([], project=PROJECT,
                   default_config_files=self.options.config_file)
        agent_conf.register_opts(self._conf)
        own = self._conf[agent_conf.GROUP].host or socket.gethostname()
        self.hosts = self.options.host or [own]

    @functools.cached_property
    def api(self) -> rpcapi.AgentAPI:
        """Connected at the first use: help needs no message bus."""
        made = rpcapi.AgentAPI(self._conf)
        bus.look(self._conf)
        return made

    def clean_up(self, cmd: Any, result: int,
                 err: BaseException | None) -> None:
        if 'api' in self.__dict__:
            self.api.close()


def main(argv: list[str], **streams: Any) -> int:
    """Run one command, or the interactive mode without any."""
    return int(OperatorApp(**streams).run(argv))
