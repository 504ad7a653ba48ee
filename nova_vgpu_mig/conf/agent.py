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

"""Options of the agents, of whoever calls them, and of the CLI."""

from oslo_config import cfg

GROUP = 'vgpu_mig_agent'

CALL_OPTS = [
    cfg.IntOpt(
        'rpc_timeout',
        default=20,
        min=1,
        help="""
Seconds to wait for an agent's answer to a call that only reads: ``describe``,
``get``, ``ownership``, the lists of the CLI.

A destination that is in doubt also waits this long for the source's answer,
each time it asks. Raise it when RabbitMQ is slow, not when a GPU is.
"""),
    cfg.IntOpt(
        'step_timeout',
        default=120,
        min=1,
        help="""
Seconds to wait for an agent's answer to a step of a move: ``claim``,
``prepare``, ``finish``, ``rollback`` and the like.

A step may have to open, reset or scrub a VF. The time of the transfer itself
is not in it: ``start`` answers at once and the transfer goes on in the
agent. A step that was given up is safe to ask for again.
"""),
    cfg.StrOpt(
        'rpc_version_cap',
        regex=r'^\d+\.\d+$',
        help="""
Highest version of the agents' RPC that this process may send, such as
``1.0``.

Leave it unset when all agents have the same release. During a rolling upgrade
set it to the RPC version of the oldest agent, which ``nova-vgpu-mig --host
HOST hosts`` shows, and remove it afterwards.
"""),
]

AGENT_OPTS = [
    cfg.StrOpt(
        'host',
        help="""
Name of the compute host that this agent serves.

It must be the ``[DEFAULT] host`` of the nova-compute on the same machine
(its default is the host name, and so is the default here): the agent is
addressed by it, and notifications are matched with it.
"""),
    cfg.HostAddressOpt(
        'data_host',
        default='127.0.0.1',
        help="""
Address on which this agent takes the state of VFs from other agents.

It is told to the sending agent as it stands here, so it must be an address
that the other compute hosts can reach, best one of the network that is used
for live migration. The default serves a machine by itself only.
"""),
    cfg.PortOpt(
        'data_port',
        default=6190,
        help="""
TCP port for the state of VFs; 0 takes any free one.

With 0 a firewall can't be told in advance. The port is told to the sending
agent with each move, so it may differ from host to host.
"""),
    cfg.StrOpt(
        'journal',
        default='/var/lib/nova-vgpu-mig/journal.sqlite',
        help="""
File with the journal of moves: who may run which VF.

It must survive a restart of the agent and of the host, and it must be on a
local file system that honours fsync. Never delete it while ``nova-vgpu-mig
--host HOST list --open`` shows a move: the right to run a VM's VF is an entry
in it.
"""),
    cfg.IntOpt(
        'reservation_seconds',
        default=600,
        min=1,
        help="""
How long a destination keeps a VF reserved for a move that does not begin.

Nova claims the VF some seconds before the transfer starts; if nova-compute
dies in between, nobody tells the agent. After this time the reservation is
dropped. A destination that holds verified state is never dropped by time.
"""),
    cfg.IntOpt(
        'periodic_seconds',
        default=5,
        min=1,
        help="""
Seconds between two rounds of the agent's housekeeping: reservations whose
time has passed, and destinations in doubt that have to ask the source.
"""),
    cfg.IntOpt(
        'rpc_workers',
        default=16,
        min=1,
        help="""
How many calls and notifications this agent works on at the same time.
"""),
    cfg.BoolOpt(
        'listen_notifications',
        default=True,
        help="""
Whether the agent follows Nova's versioned notifications.

They are a second trigger of the steps that nova-compute asks for itself, and
they still come when a hook of nova-compute was missed. Without them a VF that
nobody released waits for the agent's housekeeping.
"""),
    cfg.StrOpt(
        'notification_topic',
        default='vgpu_mig_notifications',
        help="""
Topic of Nova's versioned notifications that the agent reads.

It must be one of its own: on a topic that another service reads too, each
message reaches only one of the readers. Nova has to send to it as well (if
others read versioned notifications, keep their topics in the list)::

    [notifications]
    notification_format = both
    versioned_notifications_topics = vgpu_mig_notifications
    [oslo_messaging_notifications]
    driver = messagingv2
"""),
    cfg.StrOpt(
        'notification_exchange',
        default='nova',
        help="""
Exchange on which Nova sends its notifications: the ``control_exchange`` of
nova-compute, which is ``nova`` unless it was set.
"""),
]

OPTS = [*CALL_OPTS, *AGENT_OPTS]


def register_opts(conf: cfg.ConfigOpts) -> None:
    """Register the options of an agent and of its callers."""
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
