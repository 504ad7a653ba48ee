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

"""The nodes' RabbitMQ, on the host's loopback.

A broker of its own: not even epmd is shared with one that the machine may
have. Its user and password are made for each lab; started again, it goes on
with its data.
"""

import pathlib
import socket

from lab import network
from lab import places
from lab import processes
from lab import wait

SERVER = pathlib.Path('/usr/lib/rabbitmq/bin/rabbitmq-server')
PATIENCE = 120
_HELLO = b'AMQP\x00\x00\x09\x01'


def log() -> pathlib.Path:
    return places.run() / 'rabbitmq' / 'console.log'


def _data() -> str:
    return f'RABBITMQ_MNESIA_BASE={log().parent / "data"}'


def alive() -> bool:
    return bool(processes.found(_data()))


def stop() -> None:
    """Kill it: its clients are not told, its data stays."""
    processes.end(_data())


def start(port: int, password: str) -> None:
    """Start it; await_answer() says when it can be used.

    Nobody's child: it outlives a test that has started it again.
    """
    home = log().parent
    home.mkdir(exist_ok=True)
    (home / 'rabbitmq.conf').write_text(
        f'default_user = lab\ndefault_pass = {password}\n'
        'loopback_users = none\n')
    distribution, epmd = network.free_ports(2)
    processes.start(['setsid', '--fork', SERVER], log(), {
        'HOME': str(home),
        'RABBITMQ_NODENAME': 'lab@localhost',
        'RABBITMQ_NODE_IP_ADDRESS': '127.0.0.1',
        'RABBITMQ_NODE_PORT': str(port),
        'RABBITMQ_DIST_PORT': str(distribution),
        'ERL_EPMD_PORT': str(epmd),
        'ERL_EPMD_ADDRESS': '127.0.0.1',
        **dict([_data().split('=', 1)]),
        'RABBITMQ_LOG_BASE': str(home / 'log'),
        'RABBITMQ_PID_FILE': str(home / 'pid'),
        'RABBITMQ_CONFIG_FILE': str(home / 'rabbitmq.conf'),
        'RABBITMQ_ENABLED_PLUGINS_FILE': str(home / 'plugins'),
        'RABBITMQ_CONF_ENV_FILE': '/dev/null',
        'RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS': '+sbwt none +S 2:2',
    }).wait()


def await_answer(port: int) -> None:
    wait.until('RabbitMQ', lambda: _answers(port), PATIENCE, log())


def _answers(port: int) -> bool:
    """Tell whether it speaks AMQP: it answers a hello with a method."""
    try:
        with socket.create_connection(('127.0.0.1', port), 5) as peer:
            peer.sendall(_HELLO)
            return peer.recv(1) == b'\x01'
    except OSError:
        return False
