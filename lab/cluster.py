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

"""The lab as a whole: two nodes and a broker, up and down."""

import concurrent.futures
import dataclasses
import pathlib
import secrets

from lab import broker
from lab import checkout
from lab import image as image_
from lab import network
from lab import node as node_
from lab import places
from lab import processes
from lab import progress
from lab import state as state_


def nodes(state: state_.State) -> list[node_.Node]:
    return [node_.Node(number, state.ssh_ports[network.node_name(number)],
                       pathlib.Path(state.keys))
            for number in network.numbers()]


def up() -> None:
    """Build what is missing and start what does not run."""
    image = image_.built()
    state = state_.read()
    if state is not None and state.image == _parts(image) and \
            processes.found():
        progress.say('the nodes are up already')
    else:
        down()
        try:
            state = _start(image)
        except BaseException:
            _end()
            raise
    update(state)


def _parts(image: image_.Image) -> list[str]:
    return [str(part) for part in dataclasses.astuple(image)]


def _start(image: image_.Image) -> state_.State:
    places.run().mkdir(mode=0o700)
    numbers = list(network.numbers())
    broker_port, *ssh_ports = network.free_ports(1 + len(numbers))
    state = state_.State(
        image=_parts(image), keys=str(image.ssh), broker_port=broker_port,
        broker_password=secrets.token_hex(16), installed={},
        ssh_ports=dict(zip(map(network.node_name, numbers), ssh_ports,
                           strict=True)))
    progress.say('starting RabbitMQ and two nodes')
    broker.start(broker_port, state.broker_password)
    found = nodes(state)
    for node in found:
        node.start(image)
    broker.await_answer(broker_port)
    progress.say('RabbitMQ answers')
    for event in ('ssh', 'libvirt'):
        for node in found:
            node.await_event(event)
            progress.say(f'{node.name}: {event} is up')
    for node in found:
        node.open()
    state_.write(state)
    return state


def update(state: state_.State) -> state_.State:
    """Bring the checkout to the nodes, and start their agents from it."""
    contents = {node.name: checkout.archive(
        node.number, state.broker_port, state.broker_password)
        for node in nodes(state)}
    digests = {name: checkout.digest(content)
               for name, content in contents.items()}
    stale = [node for node in nodes(state)
             if state.installed.get(node.name) != digests[node.name]]
    if stale:
        progress.say('sending the checkout, starting the agents')
        with concurrent.futures.ThreadPoolExecutor() as pool:
            list(pool.map(lambda node: node.run(
                'sh /lab/files/install', contents[node.name]), stale))
        progress.say('the agents answer')
    state = dataclasses.replace(state, installed=digests)
    state_.write(state)
    return state


def down() -> None:
    """End what runs, and forget it."""
    if _end():
        progress.say('the nodes are down')


def _end() -> bool:
    ended = processes.end()
    if places.run().exists():
        places.remove(places.run())
    return bool(ended)
