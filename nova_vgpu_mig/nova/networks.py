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

"""Can this host plug the VM's network interfaces?

Asked at the destination before anything is prepared: Nova would find out by
trying, with a half-plugged VM to roll back and a traceback for a reason.
Only a VM with a GPU VF is asked for; Nova's other moves stay Nova's.

It is asked when Neutron has bound the ports to this host, not in the checks
before the claim: until then only the source's binding is known, and hosts
with another kind of binding may take a VM as well.
"""

from collections.abc import Iterable

from os_vif.objects import host_info
from os_vif.objects import vif as vif_objects


def unpluggable(vifs: Iterable[vif_objects.VIFBase],
                host: host_info.HostInfo) -> list[str]:
    """Return a sentence for each VIF that no os-vif plugin takes. Pure.

    :param host: `os_vif.host_info()` of the destination.
    """
    plugins = {plugin.plugin_name: plugin for plugin in host.plugin_info}
    sentences = []
    for vif in vifs:
        kind = type(vif).__name__
        if vif.plugin not in plugins:
            sentences.append(
                f'port {vif.id} needs the os-vif plugin {vif.plugin!r}, and '
                f'there are {", ".join(sorted(plugins)) or "none"}')
        elif not plugins[vif.plugin].has_vif(kind):
            sentences.append(f'port {vif.id} is a {kind}, which the os-vif '
                             f'plugin {vif.plugin!r} does not plug')
    return sentences
