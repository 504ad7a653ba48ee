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

"""Nova's notifications as a second trigger of the steps of a move.

nova-compute asks for each step itself, through the driver extension. A hook
is missed when nova-compute dies at the wrong moment; the notification that
other hosts send still comes. So both trigger the same idempotent steps, and
nothing depends on a notification: each may come late, twice or never.

RULES is all there is to know. A notification names the instance and the
request, not the migration; it acts on the one entry of this host's journal
with the same instance, request and publisher. A late one of an earlier move
has another request, finds nothing, and does nothing.

Every agent has to see every notification, so each reads with a pool of its
own. The topic's default queue, which the sender makes whether anybody reads
it or not, would then grow for ever: one more listener empties it.
"""

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import logging
from typing import Any

from oslo_config import cfg
import oslo_messaging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.agent import steps as agent_steps
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import phases

LOG = logging.getLogger(__name__)

PUBLISHER = 'nova-compute:'

SOURCE = phases.Role.SOURCE
DESTINATION = phases.Role.DESTINATION


@dataclasses.dataclass(frozen=True, slots=True)
class Rule:
    """When `sender` publishes `event`, the side `role` does `step`."""

    event: str
    sender: phases.Role
    role: phases.Role
    step: str


RULES = (
    Rule('instance.live_migration_pre.end', DESTINATION, DESTINATION,
         'prepare'),
    Rule('instance.live_migration_abort.end', SOURCE, SOURCE, 'abort'),
    Rule('instance.live_migration_post.end', SOURCE, SOURCE, 'finish'),
    # Nova has told the destination by now; its own hook may be lost.
    Rule('instance.live_migration_post_dest.end', DESTINATION, SOURCE,
         'finish'),
    Rule('instance.live_migration_post_dest.end', DESTINATION, DESTINATION,
         'finish'),
    Rule('instance.live_migration_rollback.end', SOURCE, SOURCE, 'rollback'),
    # The destination gets no hook when Nova sees nothing to clean up there.
    Rule('instance.live_migration_rollback.end', SOURCE, DESTINATION,
         'rollback'),
    Rule('instance.live_migration_rollback_dest.end', DESTINATION,
         DESTINATION, 'rollback'),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Notification:
    """What a notification says that matters here."""

    event: str
    host: str
    instance_uuid: str
    request_id: str


def read(publisher_id: str, event_type: str,
         payload: Any) -> Notification | None:
    """Take a versioned notification apart; None if it isn't one of ours."""
    if not publisher_id.startswith(PUBLISHER):
        return None
    try:
        data = payload['nova_object.data']
        instance, request = data['uuid'], data['request_id']
    except (KeyError, TypeError):
        return None
    if not (isinstance(instance, str) and isinstance(request, str)):
        return None
    return Notification(event_type, publisher_id.removeprefix(PUBLISHER),
                        instance, request)


def triggers(notice: Notification, own_host: str,
             entries: Iterable[journal.Entry]
             ) -> list[tuple[str, journal.Entry]]:
    """Return the steps that a notification asks for, with their entries.

    Pure. :param entries: of the journal of `own_host`.
    """
    found = []
    for entry in entries:
        if (entry.instance_uuid != notice.instance_uuid
                or entry.record.get('request_id') != notice.request_id):
            continue
        for rule in RULES:
            if rule.event != notice.event or rule.role != entry.role:
                continue
            sender = own_host if rule.sender is rule.role else entry.peer_host
            if sender == notice.host:
                found.append((rule.step, entry))
    return found


class Endpoint:
    """Receives what passes the filter and runs the steps."""

    filter_rule = oslo_messaging.NotificationFilter(
        publisher_id=f'^{PUBLISHER}',
        event_type='^instance\\.live_migration_')

    def __init__(self, host: str, steps: agent_steps.Steps) -> None:
        self._host = host
        self._journal = steps.journal
        self._steps: dict[str, Callable[[journal.Entry], Any]] = {
            'prepare': lambda e: steps.prepare(e.migration_uuid),
            'abort': lambda e: steps.abort_migration(e.migration_uuid),
            'finish': lambda e: steps.finish(e.migration_uuid, e.role),
            'rollback': lambda e: steps.rollback(e.migration_uuid, e.role),
        }

    def info(self, ctxt: Any, publisher_id: str, event_type: str,
             payload: Any, metadata: Any) -> None:
        notice = read(publisher_id, event_type, payload)
        if notice is None:
            return
        for step, entry in triggers(notice, self._host,
                                    self._journal.entries(unsettled=True)):
            LOG.debug('%s of %s: %s of migration %s as %s', event_type,
                      publisher_id, step, entry.migration_uuid, entry.role)
            try:
                self._steps[step](entry)
            except errors.AgentError as exc:
                # The hook that asks for the same step has reported it, or
                # will; a notification has nobody to report to.
                LOG.info('%s of migration %s, asked for by %s: %s', step,
                         entry.migration_uuid, event_type, exc.message)
            except Exception:
                LOG.exception('%s of migration %s failed', step,
                              entry.migration_uuid)

    error = info


class _Drain:
    """Takes what lies in the topic's default queue, and forgets it."""

    def info(self, ctxt: Any, publisher_id: str, event_type: str,
             payload: Any, metadata: Any) -> None:
        return None

    error = info


def get_listeners(conf: cfg.ConfigOpts, transport: oslo_messaging.Transport,
                  host: str, endpoint: Endpoint) -> list[Any]:
    """Return the listeners to start, stop and wait for."""
    options = conf[agent_conf.GROUP]
    # The pool's queue has the pool's name: not that of a queue of our RPC.
    pool = f'{options.notification_topic}.of.{host}'
    targets = [oslo_messaging.Target(exchange=options.notification_exchange,
                                     topic=options.notification_topic)]
    return [
        oslo_messaging.get_notification_listener(
            transport, targets, [endpoint], executor='threading',
            pool=pool),
        oslo_messaging.get_notification_listener(
            transport, targets, [_Drain()], executor='threading'),
    ]
