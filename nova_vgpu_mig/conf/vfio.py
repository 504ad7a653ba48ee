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


"""Options of the GPU driver for the kernel's VFIO devices."""

from oslo_config import cfg

GROUP = 'vfio'

OPTS = [
    cfg.StrOpt(
        'helper_command', default='sudo privsep-helper',
        help='Command that starts oslo.privsep\'s daemon as root. It opens '
        'files under /dev/vfio, and /dev/iommu, for the agent and does '
        'nothing else; it keeps no Linux capability. It is started only '
        'where the agent may not open such a file itself: a udev rule that '
        'gives them to the agent\'s group (SUBSYSTEM=="vfio|vfio-dev", '
        'GROUP=..., MODE="0660", and the same for KERNEL=="iommu") makes it '
        'unnecessary. Leave it empty for no helper.'),
]


def register_opts(conf: cfg.ConfigOpts) -> None:
    conf.register_opts(OPTS, group=GROUP)


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    return [(GROUP, OPTS)]
