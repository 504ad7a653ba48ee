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

"""Options of the hypervisor carrier: VMs that QEMU carries, by libvirt."""

from oslo_config import cfg

GROUP = 'vgpu_mig_libvirt'

OPTS = [
    cfg.StrOpt(
        'uri',
        default='qemu:///system',
        help="""
The libvirt whose VMs this agent watches and steers in a live migration.

It must be the one that nova-compute uses. Empty for none: then no VM in QEMU
is moved with a GPU VF. The agent's user needs the right to use its socket;
it never starts or stops a VM.
"""),
    cfg.BoolOpt(
        'steer',
        default=True,
        help="""
Whether the agent holds a live migration in pre-copy while the VF's dirty
state would take longer than the VM may stand still, and gives it up early
when that does not change.

Without it the VM's downtime limit is given to QEMU once, as it is: QEMU
leaves out what a switchover costs beside the copying, so that the measured
downtime will be longer, and a VM that writes too much stays in pre-copy until
Nova's own time-out.
"""),
    cfg.FloatOpt(
        'poll_interval',
        default=0.5,
        min=0.05,
        help="""
Seconds between two looks at the statistics of a migration job. Events come
at once in any case.
"""),
    cfg.IntOpt(
        'parallel_connections',
        default=0,
        min=0,
        max=255,
        help="""
Connections over which QEMU carries guest RAM and, since QEMU 10.0 with
machine types from 10.0 on, the state of VFIO devices. 0 is one, as ever.

Worth it from about 25 Gb/s on, when one core can no longer fill the way.
"""),
    cfg.IntOpt(
        'switchover_bandwidth_mib',
        default=0,
        min=0,
        help="""
MiB a second that the way to other hosts can surely carry while a VM stands
still; 0 lets QEMU measure.

QEMU's own measure is low on a way that others use too, and then it does not
switch over although it could. The number is for its decision only.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
