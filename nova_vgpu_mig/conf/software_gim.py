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

"""Options of the software GIM's GPU driver."""

from oslo_config import cfg

GROUP = 'software_gim'

OPTS = [
    cfg.StrOpt(
        'runtime_dir', default='/run/nova-vgpu-mig/gim',
        help='Directory with the sockets of the software GIMs of this host, '
        'one for each PF, named <pf address>.sock. Start a GIM with '
        '`python -m nova_vgpu_mig.gpu.software --runtime-dir <this>`. The '
        'agent must be able to enter the directory and to write to the '
        'sockets; whoever can do so can read every frame buffer.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
