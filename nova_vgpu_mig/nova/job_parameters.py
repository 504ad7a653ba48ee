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

"""What a source agent's job settings are to libvirt's migrateToURI3.

The agent knows what this host's libvirt and QEMU can do; the caller of
migrateToURI3 is Nova, or a client that stands in for it. So this is a pure
mapping that imports neither: the caller hands over the libvirt module it
uses, as one that is older than a parameter must not be given it.

Rejected: to let the agent set the same through QEMU's monitor. libvirt writes
QEMU's capabilities itself when a migration begins, and several connections
have to be turned on at both ends.
"""

from collections.abc import Mapping
from typing import Any

_MIB = 1024 ** 2


def merge(job: Mapping[str, Any], params: Mapping[str, Any], flags: int,
          libvirt: Any) -> tuple[dict[str, Any], int]:
    """Return the typed parameters and the flags for migrateToURI3.

    Post-copy is taken out of the flags: QEMU has none for VFIO devices.

    :param job: `job` of the record that `prepare_source` returns;
        `switchover_bandwidth` is in bytes a second, what libvirt gets in
        MiB/s. Empty: nothing is added.
    :param params: those of the caller; the job's win.
    :param libvirt: the module, for its names.
    """
    merged = dict(params)
    flags &= ~libvirt.VIR_MIGRATE_POSTCOPY
    connections = job.get('parallel_connections')
    # A tunnel through libvirtd is one stream.
    if connections is not None and not flags & libvirt.VIR_MIGRATE_TUNNELLED:
        flags |= libvirt.VIR_MIGRATE_PARALLEL
        merged[libvirt.VIR_MIGRATE_PARAM_PARALLEL_CONNECTIONS] = connections
    # Since libvirt 11.1.0.
    name = getattr(libvirt, 'VIR_MIGRATE_PARAM_BANDWIDTH_AVAIL_SWITCHOVER',
                   None)
    bandwidth = job.get('switchover_bandwidth')
    if bandwidth is not None and name is not None:
        # Rounded down: the downtime may be shorter than predicted. Zero
        # would leave the estimate to QEMU.
        merged[name] = max(1, bandwidth // _MIB)
    return merged, flags
