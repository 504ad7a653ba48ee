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

"""Every option of the project, for oslo.config's generator.

The modules are named, not imported at the top: the generator is the only
one that needs all of them at once.
"""

import importlib

from oslo_config import cfg

MODULES = ('agent', 'libvirt', 'migration', 'nova', 'software_gim', 'vfio',
           'vmm_standin')


def list_opts() -> list[tuple[str, list[cfg.Opt]]]:
    """Return (group, options) of each module."""
    found: list[tuple[str, list[cfg.Opt]]] = []
    for name in MODULES:
        module = importlib.import_module(f'nova_vgpu_mig.conf.{name}')
        found += module.list_opts()
    return found
