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

"""Says what libvirt on a node says of its guests: run there, by ssh.

One line of JSON: for each guest its state with the reason, as virsh words
them, and whether a job of it goes on.
"""

import json

import libvirt

STATES = {
    libvirt.VIR_DOMAIN_RUNNING: 'running',
    libvirt.VIR_DOMAIN_PAUSED: 'paused',
    libvirt.VIR_DOMAIN_SHUTOFF: 'shut off',
}
REASONS = {
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_BOOTED):
    'booted',
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_MIGRATED):
    'migrated',
    (libvirt.VIR_DOMAIN_RUNNING,
     libvirt.VIR_DOMAIN_RUNNING_MIGRATION_CANCELED): 'migration canceled',
    (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_RUNNING_UNPAUSED):
    'unpaused',
    (libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_MIGRATION):
    'migrating',
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_DAEMON):
    'daemon',
    (libvirt.VIR_DOMAIN_SHUTOFF, libvirt.VIR_DOMAIN_SHUTOFF_FAILED):
    'failed',
}


def job(domain: libvirt.virDomain) -> bool:
    """Return whether one goes on; so it does if that can't be said now."""
    if not domain.isActive():
        return False
    try:
        return bool(domain.jobStats()['type'] != libvirt.VIR_DOMAIN_JOB_NONE)
    except libvirt.libvirtError as exc:
        # The destination's has no statistics, but it is a job.
        return bool(exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN)


def look(domain: libvirt.virDomain) -> dict[str, object]:
    state, reason = domain.state()
    return {'state': STATES.get(state, f'state {state}'),
            'reason': REASONS.get((state, reason), f'reason {reason}'),
            'job': job(domain)}


def main() -> None:
    libvirt.registerErrorHandler(lambda context, error: None, None)
    found = {}
    for domain in libvirt.open('qemu:///system').listAllDomains():
        try:
            found[domain.name()] = look(domain)
        except libvirt.libvirtError as exc:
            if exc.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                raise
    print(json.dumps(found))


if __name__ == '__main__':
    main()
