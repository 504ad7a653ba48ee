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


"""Options that nova-compute and nova-scheduler read, from nova.conf."""

from oslo_config import cfg

GROUP = 'vgpu_mig'

OPTS = [
    cfg.ListOpt(
        'pci_aliases',
        default=[],
        help="""
Names of the PCI aliases (``[pci] alias``) whose devices are GPU virtual
functions.

A live migration of a VM that holds such a VF is checked, planned and followed
by the agents of both hosts, and refused when they can't be reached; other VMs
are left to Nova as they are.

When the list is empty, each virtual function that a flavor asks for by alias
counts as a GPU's, so that no GPU is moved blindly because an option was
forgotten. Set it if flavors also ask for VFs of other devices, such as
accelerators for cryptography: these would be refused, as no GPU driver knows
them. It must be the same on all compute and scheduler hosts.
"""),
    cfg.IntOpt(
        'agent_timeout',
        default=5,
        min=1,
        help="""
Seconds for which nova-compute waits for an agent where nothing depends on
the answer: when it reports the host's resources, and when it tells agents
that a move has ended.

Nova's own threads stand still for that long when an agent is down. Agents
release by themselves what they were not told in time. Calls on which a move
does depend have ``[vgpu_mig_agent] rpc_timeout`` and ``step_timeout``.
"""),
    cfg.BoolOpt(
        'migration_events',
        default=True,
        help="""
Start GPU VFs of VMs in QEMU with the property ``migration-events``.

QEMU then tells the agents when a VF enters pre-copy, stop-copy and each other
state, which divides a move's downtime into its parts. Without it a move is
the same, but its report has the downtime as a whole and the parts that
libvirt's events give.

It needs libvirt 8.2.0 and QEMU 9.1.0 and is left out with older ones. libvirt
does not model the property: it is set by ``qemu:override`` in the domain's
XML, and libvirt marks such a domain as tainted (``custom-device``), in its
log and in ``virsh dominfo``. Set it to false if nothing may be tainted.

nova-compute reads it when it builds a domain: a VM that runs gets, or loses,
the property with a hard reboot, and keeps what it has in a live migration.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
