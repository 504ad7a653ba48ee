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

"""Is there a message bus at all?

oslo.messaging waits for a RabbitMQ that is down until it comes back, however
short the time-out of a call is. That is right for a service and wrong for a
command, so the CLI looks first.
"""

import socket

from oslo_config import cfg
import oslo_messaging

DEFAULT_PORT = 5672
SECONDS = 5.0


class BusDown(Exception):
    """None of the brokers of transport_url takes a connection."""


def look(conf: cfg.ConfigOpts) -> None:
    """Return if a broker of `conf`'s transport_url takes a connection.

    :raises BusDown: none does; the message names each.
    """
    url = oslo_messaging.TransportURL.parse(conf)
    if url.transport not in ('rabbit', 'amqp'):
        return
    tried: list[str] = []
    for host in url.hosts:
        address = (host.hostname or 'localhost', host.port or DEFAULT_PORT)
        try:
            socket.create_connection(address, SECONDS).close()
        except OSError as exc:
            tried.append(f'{address[0]}:{address[1]} ({exc.strerror or exc})')
        else:
            return
    raise BusDown('the message bus of transport_url does not answer: '
                  + (', '.join(tried) or 'it names no host')
                  + '; check transport_url in the --config-file, and that '
                  'RabbitMQ is up')
