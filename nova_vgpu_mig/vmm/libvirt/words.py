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

"""libvirt's numbers and dictionaries as the carrier's values. Pure.

Names come from the module itself (VIR_DOMAIN_PAUSED_MIGRATION: 'migration'),
so that a number of a newer libvirt is told by its name there and by its
number elsewhere, and nothing has to be kept equal to a header.
"""

import json
from typing import Any

from nova_vgpu_mig.planning import steering
from nova_vgpu_mig.vmm import hypervisor

State = hypervisor.GuestState
Job = hypervisor.Job
What = hypervisor.What

_DEVICE_EVENTS = 9_001_000
_DEVICE_STATISTICS = 10_006_000
_OVERRIDE = 8_002_000
_SWITCHOVER_BANDWIDTH = 11_001_000
_PARALLEL = 5_002_000

_STATUSES = {'MIGRATION': What.STATUS, 'MIGRATION_PASS': What.PASS,
             'VFIO_MIGRATION': What.DEVICE, 'STOP': What.STOP,
             'RESUME': What.RESUME}


def name(module: Any, prefix: str, number: int) -> str:
    """Return the word that libvirt has for a number."""
    for key in dir(module):
        if key.startswith(prefix) and getattr(module, key) == number:
            return key[len(prefix):].lower().replace('_', ' ')
    return str(number)


def view(module: Any, state: int, reason: int, job: Job) -> hypervisor.View:
    """Return what virDomainGetState and the job say of a domain."""
    if state in (module.VIR_DOMAIN_SHUTOFF, module.VIR_DOMAIN_CRASHED):
        return hypervisor.View(State.SHUT_OFF, name(
            module, 'VIR_DOMAIN_SHUTOFF_', reason), job)
    if state == module.VIR_DOMAIN_PAUSED:
        return hypervisor.View(State.PAUSED, name(
            module, 'VIR_DOMAIN_PAUSED_', reason), job)
    return hypervisor.View(State.RUNNING, name(
        module, 'VIR_DOMAIN_RUNNING_', reason), job)


def job(module: Any, stats: dict[str, Any]) -> Job:
    """Return which job the statistics of a domain belong to."""
    if stats.get('type', module.VIR_DOMAIN_JOB_NONE) == (
            module.VIR_DOMAIN_JOB_NONE):
        return Job.NONE
    operation = stats.get(module.VIR_DOMAIN_JOB_OPERATION)
    if operation == module.VIR_DOMAIN_JOB_OPERATION_MIGRATION_OUT:
        return Job.OUT
    if operation == module.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN:
        return Job.IN
    return Job.OTHER


def sample(stats: dict[str, Any], at: float) -> hypervisor.JobSample | None:
    """Return a job's statistics; None before QEMU has begun to count.

    What QEMU calls memory has the devices' bytes in it.

    :param at: when they were read, monotonic seconds.
    """
    passes = int(stats.get('memory_iteration', 0))
    if passes < 1:
        return None
    device = stats.get('vfio_data_transferred')
    return hypervisor.JobSample(
        steering.Sample(at, passes, int(stats.get('memory_processed', 0)),
                        None if device is None else int(device)),
        remaining_bytes=int(stats.get('memory_remaining', 0)))


def lifecycle(module: Any, event: int, detail: int) -> str:
    """Return a lifecycle event in two words, such as 'stopped/migrated'."""
    kinds = {getattr(module, f'VIR_DOMAIN_EVENT_{kind.upper()}', None): kind
             for kind in ('defined', 'undefined', 'started', 'suspended',
                          'resumed', 'stopped', 'shutdown', 'crashed')}
    kind = kinds.get(event)
    if kind is None:
        return f'{event}/{detail}'
    prefix = f'VIR_DOMAIN_EVENT_{kind.upper()}_'
    return f'{kind}/{name(module, prefix, detail)}'


def monitor_event(event: str, seconds: int, micros: int,
                  details: str | None) -> hypervisor.Event | None:
    """Return one of QEMU's events; None for one that tells nothing here."""
    what = _STATUSES.get(event)
    if what is None:
        return None
    values = json.loads(details) if details else {}
    detail = values.get('status', values.get(
        'device-state', values.get('pass', '')))
    return hypervisor.Event(
        what, seconds + micros / 1e6, str(detail),
        str(values.get('device-id') or values.get('qom-path') or ''))


def version(number: int) -> str:
    """Return libvirt's way to write a version as text."""
    return (f'{number // 1_000_000}.{number // 1000 % 1000}'
            f'.{number % 1000}')


def abilities(libvirt: int, qemu: int, *,
              has_monitor: bool) -> hypervisor.Abilities:
    """Return what versions of libvirt and QEMU can do.

    :param has_monitor: whether libvirt_qemu can be imported.
    """
    has = {
        'monitor_events': has_monitor,
        'device_events': has_monitor and qemu >= _DEVICE_EVENTS
        and libvirt >= _OVERRIDE,
        'device_statistics': libvirt >= _DEVICE_STATISTICS,
        'switchover_bandwidth': libvirt >= _SWITCHOVER_BANDWIDTH,
        'parallel': libvirt >= _PARALLEL,
    }
    missing = {
        'monitor_events': 'libvirt_qemu is not installed: the downtime is '
        'libvirt\'s own figure, without its parts, and what blocks a '
        'migration is found out by libvirt when it is to begin',
        'device_events': 'no VFIO_MIGRATION events (QEMU 9.1, libvirt 8.2): '
        'the phases are told by the vCPUs alone, and the downtime is '
        'without the time in which the devices come to rest',
        'device_statistics': 'no bytes of VFIO devices in the job\'s '
        'statistics (libvirt 10.6): progress has them in guest RAM',
        'switchover_bandwidth': 'no switchover bandwidth (libvirt 11.1): '
        'QEMU goes by what it measures',
        'parallel': 'no parallel connections (libvirt 5.2)',
    }
    return hypervisor.Abilities(
        f'libvirt {version(libvirt)}, QEMU {version(qemu)}',
        monitor_events=has['monitor_events'],
        device_events=has['device_events'],
        switchover_bandwidth=has['switchover_bandwidth'],
        parallel=has['parallel'],
        missing=tuple(missing[key] for key, there in has.items()
                      if not there))
