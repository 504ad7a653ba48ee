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


"""Options of the agent carrier: how one move is bounded."""

from oslo_config import cfg

GROUP = 'vgpu_mig_migration'

OPTS = [
    cfg.IntOpt(
        'max_downtime_ms',
        default=500,
        min=1,
        help="""
Milliseconds that a VM may stand still while its VF moves, unless its flavor
says otherwise (extra spec ``vgpu_mig:max_downtime_ms``).

The source copies the frame buffer while VM and GPU run and stops them only
when the rest is predicted to fit into this time. A move that can't get there
is given up, and the VM goes on at the source. The prediction is not a
promise: both numbers are in the report of each move.
"""),
    cfg.IntOpt(
        'max_rounds',
        default=30,
        min=1,
        help="""
How often what was written meanwhile is copied again before the move is given
up.

Raise it for workloads whose dirty rate goes up and down, so that a quiet
moment can be found.
"""),
    cfg.StrOpt(
        'level',
        default='best',
        choices=[
            ('best', 'units where the device offers them, else stream'),
            ('stream', 'all in the device\'s own data stream'),
            ('units', 'frame buffer unit by unit; devices without refuse'),
        ],
        help="""
How the frame buffer is carried.

With ``units`` the engine skips what was never touched and compares unit by
unit; every VFIO device offers at least ``stream``. Set it to ``stream`` to
see how a device without mapped frame buffer would do.
"""),
    cfg.FloatOpt(
        'connect_timeout',
        default=10.0,
        min=0.1,
        help="""
Seconds to wait for the destination's data port to take a connection.

When it passes, the move fails and the VM goes on at the source; check the
destination's ``data_host`` and the firewall between the hosts.
"""),
    cfg.FloatOpt(
        'silence_timeout',
        default=30.0,
        min=0.1,
        help="""
Seconds that the other agent may neither take nor send a byte of the state
before it is given up.

Before the commit, the move fails and the VM goes on at the source. A network
that drops everything without a word looks the same: only a connection that
breaks, so that the kernel says so, is connected again, see
``reconnect_timeout``.
"""),
    cfg.FloatOpt(
        'reconnect_timeout',
        default=10.0,
        min=0.0,
        help="""
Seconds to wait for a broken connection between the two agents to come back;
0 ends the move at once.

The source connects again and both go on where they were; at most 16 MiB, or
four pieces of the frame buffer where these are larger, are sent twice. While
the VM stands still the source waits no longer than its downtime limit in
all. When the time passes, the VM goes on at the source, and the destination
throws away what it has. An agent that has ended is not waited for. Set the
same at both ends.
"""),
    cfg.FloatOpt(
        'load_timeout',
        default=60.0,
        min=0.1,
        help="""
Seconds to wait for the destination to load and verify the state, and for it
to run the VF.

The VM stands still in the first of these, so a value far above the downtime
limit only decides how soon a hung destination is given up.
"""),
    cfg.FloatOpt(
        'first_fence_timeout',
        default=2.0,
        min=0.0,
        help="""
Seconds to wait, when the VM runs at the destination already, for the GPU to
retire the first command, so that the report can tell the time.

It delays nothing but the report. An idle VM retires none.
"""),
    cfg.FloatOpt(
        'ask_interval',
        default=2.0,
        min=0.1,
        help="""
Seconds between two questions to the source by a destination that has
verified everything, and lost the connection before it was told to run.

It keeps the VM paused until the source's journal has answered, because the
VM may be running there.
"""),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
