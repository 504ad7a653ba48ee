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

"""Plays Nova for one move: run on the source node, by ssh.

The same calls in the same order as the driver extension and Nova's libvirt
driver make them, without Nova: what is tested here is libvirt, QEMU and the
agents. `describe` and `plan` at the head, the verdict between them; the
claim, `prepare` and `prepare_source`; migrateToURI3; then `finish` or
`rollback` at both ends.

The order comes as JSON on standard input (an Order). Each step is printed as
a line of JSON when it begins; the last one is the Result. Exits with 0 if
the guest has moved.
"""

import dataclasses
import json
import sys
import threading
import time
from typing import Any

import libvirt

from nova_vgpu_mig.nova import job_parameters

FLAGS = (libvirt.VIR_MIGRATE_LIVE | libvirt.VIR_MIGRATE_PEER2PEER
         | libvirt.VIR_MIGRATE_PERSIST_DEST
         | libvirt.VIR_MIGRATE_UNDEFINE_SOURCE)
"""Nova 34's, with its options as they are by default."""

EVENT_SECONDS = 30


@dataclasses.dataclass
class Order:
    domain: str
    instance_uuid: str
    migration_uuid: str
    source: str
    destination: str
    destination_uri: str
    destination_xml: str
    source_vf: str
    destination_vf: str
    agents: bool
    """Without them it is libvirt's part only."""

    judge: bool = True
    """False: an unfit destination is left to the agents and the device."""

    limit_ms: int | None = None
    """The agents steer by it; without them it is libvirt's all along."""

    params: dict[str, Any] = dataclasses.field(default_factory=dict)
    """More of migrateToURI3's, such as `bandwidth` in MiB/s."""


@dataclasses.dataclass
class Result:
    outcome: str
    """completed, failed, or refused: before libvirt was asked."""

    error: str = ''
    seconds: float = 0.0
    """Of the call of libvirt."""

    job: dict[str, Any] = dataclasses.field(default_factory=dict)
    """libvirt's statistics at the source, of a move that has completed."""

    source_record: dict[str, Any] | None = None
    destination_record: dict[str, Any] | None = None


def say(step: str, **more: Any) -> None:
    print(json.dumps({'step': step, 'at': time.time(), **more}), flush=True)


class JobEnded:
    """What libvirt says of a job that has ended.

    By its event: with the domain, which is gone after the move, the source
    forgets the statistics; and only the source has those of VFIO.
    """

    def __init__(self, connection: libvirt.virConnect) -> None:
        self._said: dict[str, dict[str, Any]] = {}
        self._there = threading.Condition()
        connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, self._hear,
            None)

    def _hear(self, connection: libvirt.virConnect,
              domain: libvirt.virDomain, statistics: dict[str, Any],
              opaque: None) -> None:
        with self._there:
            self._said[domain.name()] = statistics
            self._there.notify()

    def statistics(self, domain: str) -> dict[str, Any]:
        """Return them; {} if they don't come."""
        with self._there:
            self._there.wait_for(lambda: domain in self._said, EVENT_SECONDS)
            return self._said.get(domain, {})


def _run_events() -> None:
    while True:
        libvirt.virEventRunDefaultImpl()


def migrate(order: Order, job: dict[str, Any]) -> Result:
    """Call libvirt as Nova's Guest.migrate() does."""
    params, flags = job_parameters.merge(job, {
        'bandwidth': 0, 'destination_xml': order.destination_xml,
        'persistent_xml': order.destination_xml, **order.params}, FLAGS,
        libvirt)
    say('migrate')
    began = time.monotonic()
    result = Result('completed')
    try:
        connection = libvirt.open('qemu:///system')
        job_ended = JobEnded(connection)
        domain = connection.lookupByName(order.domain)
        if order.limit_ms and not order.agents:
            domain.migrateSetMaxDowntime(order.limit_ms)
        domain.migrateToURI3(order.destination_uri, params, flags)
        result.job = job_ended.statistics(order.domain)
    except libvirt.libvirtError as exc:
        result = Result('failed', str(exc))
    result.seconds = round(time.monotonic() - began, 3)
    return result


def _no_words(context: object, error: object) -> None:
    """Keep libvirt from printing what it raises."""


def main() -> int:
    libvirt.registerErrorHandler(_no_words, None)
    libvirt.virEventRegisterDefaultImpl()
    threading.Thread(target=_run_events, daemon=True).start()
    order = Order(**json.load(sys.stdin))
    if order.agents:
        # Seconds of imports on a node.
        from tests.lab import extension
        result = extension.move(order, migrate)
    else:
        result = migrate(order, {})
    say('end', **dataclasses.asdict(result))
    return int(result.outcome != 'completed')


if __name__ == '__main__':
    sys.exit(main())
