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


"""Options of the VMM stand-in's port."""

from oslo_config import cfg

GROUP = 'vmm_standin'

OPTS = [
    cfg.StrOpt(
        'runtime_dir', default='/run/nova-vgpu-mig/guests',
        help='Directory with the sockets of the guest processes of this '
        'host, one for each VM, named <instance uuid>.sock. Two agents on '
        'one machine (the demo, a test) need one each, as source and '
        'destination have the same instance uuid. Whoever can write to the '
        'sockets can stop the guests.'),
    cfg.HostAddressOpt(
        'memory_host', default='127.0.0.1',
        help='Address at which a guest that is moved in to this host listens '
        'for its RAM; the source host must be able to reach it. Guest RAM '
        'goes over it unencrypted, guarded by a one-time token only: use a '
        'network that nobody else is on.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
