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

"""Nova's guest during the live migration of a VM with a GPU VF.

Nova has two hands on such a migration that are in the way: its monitor
raises the downtime limit in steps of its own, while a source agent steers by
that limit; and its `Guest.migrate` passes a fixed set of parameters. Both are
methods of the guest that the driver hands to its operation and its monitor,
so that a stand-in for the guest changes them for these VMs only.

It is the same for both carriers: where the agents carry the state, libvirt's
limit means nothing, and a job has no settings. So the monitor need not know
which it is, and asks no agent.

Rejected: to set Nova's options live_migration_downtime and
live_migration_parallel_connections. They hold for every VM of the host.
"""

from collections.abc import Mapping
from typing import Any

from nova.virt.libvirt import driver as libvirt_driver
from nova.virt.libvirt import guest as libvirt_guest
from oslo_log import log as logging

from nova_vgpu_mig.nova import job_parameters

LOG = logging.getLogger(__name__)


class _Domain:
    """A libvirt domain whose migration gets a job's settings."""

    def __init__(self, domain: Any, job: Mapping[str, Any]) -> None:
        self._domain = domain
        self._job = job

    def __getattr__(self, name: str) -> Any:
        return getattr(self._domain, name)

    def migrateToURI3(self, dconnuri: str, params: Mapping[str, Any],
                      flags: int) -> Any:
        merged, flags = job_parameters.merge(
            self._job, params, flags, libvirt_driver.libvirt)
        return self._domain.migrateToURI3(dconnuri, params=merged,
                                          flags=flags)


class SteeredGuest:
    """A Guest of Nova's; of its downtime limit only an agent writes.

    :param job: `job` of the record that `prepare_source` returns.
    """

    def __init__(self, guest: Any, job: Mapping[str, Any]) -> None:
        self._guest = guest
        self._job = job
        self._told = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._guest, name)

    def migrate(self, *args: Any, **kwargs: Any) -> None:
        """As Guest.migrate(), with the job's settings added."""
        domain = _Domain(self._guest._domain, self._job)
        libvirt_guest.Guest(domain).migrate(*args, **kwargs)

    def migrate_configure_max_downtime(self, mstime: int) -> None:
        """Leave the limit as it is; `mstime` is what Nova would write."""
        if not self._told:
            self._told = True
            LOG.debug('Nova\'s steps of the downtime limit, the first of '
                      '%d ms, are left out for domain %s: its agent writes '
                      'the limit', mstime, self._guest.uuid)
