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

"""The rules: small pure functions in one table.

Each takes the same `Comparison` and gives one `Finding`, also when all is
well, so that a verdict shows what was looked at. How severe a difference is
comes from the policy. A value that is not exposed never counts as equal: if
one side tells it and the other does not, that is a difference; if neither
does, the policy says what follows and the sentence says that it is unknown.
"""

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses

from nova_vgpu_mig.compatibility import finding
from nova_vgpu_mig.compatibility import health as health_module
from nova_vgpu_mig.compatibility import identity
from nova_vgpu_mig.compatibility import policy as policy_module


@dataclasses.dataclass(frozen=True, slots=True)
class Circumstances:
    """What a verdict depends on beside the two identities."""

    vm_vfs: int
    """How many GPU VFs the VM holds."""

    free_vfs: int
    """How many VFs at the destination are free; after the claim, 1 if the
    claimed VF is."""

    source_index: int | None = None
    """VF index at the source, None if not known."""

    free_indices: frozenset[int] | None = None
    """Indices of the free VFs at the destination, None if not known."""

    health: health_module.Health = health_module.UNKNOWN
    """Of the destination's GPU."""


@dataclasses.dataclass(frozen=True, slots=True)
class Comparison:
    """The input of a rule."""

    source: identity.VFIdentity
    destination: identity.VFIdentity
    circumstances: Circumstances
    policy: policy_module.Policy


Rule = Callable[[Comparison], finding.Finding]


def _text(value: object) -> str:
    return finding.NOT_EXPOSED if value is None else str(value)


def _judge(comparison: Comparison, rule: str, what: str,
           source: str | None, destination: str | None) -> finding.Finding:
    """Compare two texts exactly; None is a value that is not exposed."""
    if rule in comparison.policy.ignored and (
            source is None or source != destination):
        severity = finding.Severity.OK
        sentence = (f'{what}: {_text(source)} at the source, '
                    f'{_text(destination)} at the destination, which '
                    f'{comparison.policy.name} does not compare')
        return finding.Finding(rule, severity,
                               source or finding.NOT_COMPARED,
                               destination or finding.NOT_COMPARED, sentence)
    if source is None and destination is None:
        severity = comparison.policy.on_not_exposed(rule)
        sentence = (f'{what}: not exposed by either host, so it cannot be '
                    'shown to be equal')
    elif source == destination:
        severity = finding.Severity.OK
        sentence = f'{what}: {source} at both'
    else:
        severity = comparison.policy.on_difference(rule)
        sentence = (f'{what}: {_text(source)} at the source, '
                    f'{_text(destination)} at the destination')
    return finding.Finding(rule, severity, _text(source),
                           _text(destination), sentence)


def device(comparison: Comparison) -> finding.Finding:
    """Vendor and device of the VF."""
    source, destination = (
        f'{side.vendor_id}:{side.device_id}'.lower()
        for side in (comparison.source, comparison.destination))
    return _judge(comparison, 'device', 'PCI device', source, destination)


def frame_buffer(comparison: Comparison) -> finding.Finding:
    """The frame buffer of a VF has exactly the same size."""
    source, destination = (
        None if side.frame_buffer_mib is None
        else f'{side.frame_buffer_mib} MiB'
        for side in (comparison.source, comparison.destination))
    return _judge(comparison, 'frame_buffer', 'frame buffer', source,
                  destination)


def _scalar(rule: str, what: str) -> Rule:
    def compare(comparison: Comparison) -> finding.Finding:
        source, destination = (
            None if value is None else str(value)
            for value in (getattr(comparison.source, rule),
                          getattr(comparison.destination, rule)))
        return _judge(comparison, rule, what, source, destination)
    return compare


def _differing(source: Mapping[str, object],
               destination: Mapping[str, object],
               show: Callable[[object], str]) -> tuple[str, str]:
    """Return both sides' values of only those keys that differ."""
    keys = sorted(key for key in source.keys() | destination.keys()
                  if source.get(key) != destination.get(key))
    sides = []
    for side in (source, destination):
        sides.append(', '.join(
            f'{key} {show(side[key]) if key in side else "missing"}'
            for key in keys))
    return sides[0], sides[1]


def _mapping(comparison: Comparison, rule: str, what: str,
             source: Mapping[str, object], destination: Mapping[str, object],
             show: Callable[[object], str]) -> finding.Finding:
    """Compare two mappings key by key; an empty one is not exposed."""
    if not source or not destination:
        texts = [', '.join(f'{key} {show(side[key])}' for key in sorted(side))
                 or None for side in (source, destination)]
        return _judge(comparison, rule, what, *texts)
    if source == destination:
        both = ', '.join(f'{key} {show(source[key])}'
                         for key in sorted(source))
        return finding.Finding(rule, finding.Severity.OK, both, both,
                               f'{what}: equal ({len(source)} compared)')
    return _judge(comparison, rule, what,
                  *_differing(source, destination, show))


def firmware(comparison: Comparison) -> finding.Finding:
    """Firmware by id, without the ids that the host driver ignores."""
    ignored = comparison.policy.ignored_firmware
    source, destination = (
        {key: value for key, value in side.firmware.items()
         if key not in ignored}
        for side in (comparison.source, comparison.destination))
    return _mapping(comparison, 'firmware', 'firmware', source, destination,
                    str)


def engines(comparison: Comparison) -> finding.Finding:
    """Each engine has the same instances."""
    return _mapping(comparison, 'engines', 'engine instances',
                    comparison.source.engines,
                    comparison.destination.engines,
                    lambda mask: f'{mask:#x}')


def time_slices(comparison: Comparison) -> finding.Finding:
    """Another time slice means another speed, not another state."""
    return _mapping(comparison, 'time_slices', 'time slices',
                    comparison.source.time_slices_us,
                    comparison.destination.time_slices_us,
                    lambda slice_us: f'{slice_us} us')


def _error_count(rule: str, what: str, trouble: str) -> Rule:
    """The destination's GPU has none of these errors."""
    def look(comparison: Comparison) -> finding.Finding:
        count: int | None = getattr(comparison.circumstances.health, rule)
        if count is None:
            severity = comparison.policy.on_not_exposed(rule)
            sentence = f'{what}: not exposed by the destination'
        elif count:
            severity = comparison.policy.on_difference(rule)
            sentence = f'{what}: {count} at the destination; {trouble}'
        else:
            severity = finding.Severity.OK
            sentence = f'{what}: none at the destination'
        return finding.Finding(rule, severity, 'any number', _text(count),
                               sentence)
    return look


def free_vf(comparison: Comparison) -> finding.Finding:
    """A free VF at the destination, and of the right index if demanded."""
    case = comparison.circumstances
    source = 'any VF index'
    destination = f'{case.free_vfs} free'
    severity = finding.Severity.OK
    sentence = f'free VF: {destination} at the destination'
    if case.free_vfs < 1:
        severity = finding.Severity.ERROR
        sentence = 'free VF: none at the destination'
    elif comparison.policy.same_vf_index:
        source = f'VF index {_text(case.source_index)}'
        if case.free_indices is None:
            indices = finding.NOT_EXPOSED
        else:
            indices = ', '.join(map(str, sorted(case.free_indices)))
        destination = f'free: {indices or "none"}'
        if (case.source_index is None or case.free_indices is None
                or case.source_index not in case.free_indices):
            severity = finding.Severity.ERROR
        sentence = (f'free VF: {comparison.policy.name} needs the same '
                    f'{source}; {destination} at the destination')
    return finding.Finding('free_vf', severity, source, destination,
                           sentence)


def vm_vfs(comparison: Comparison) -> finding.Finding:
    """Exactly one GPU VF in the VM is supported."""
    number = comparison.circumstances.vm_vfs
    if number == 1:
        severity = finding.Severity.OK
        sentence = 'GPU VFs in the VM: 1'
    else:
        severity = finding.Severity.ERROR
        sentence = (f'GPU VFs in the VM: {number}, and exactly 1 is '
                    'supported')
    return finding.Finding('vm_vfs', severity, str(number), '1', sentence)


RULES: tuple[Rule, ...] = (
    vm_vfs,
    device,
    frame_buffer,
    _scalar('subsystem', 'PCI subsystem'),
    _scalar('revision', 'PCI revision'),
    _scalar('migration_version', 'migration version'),
    _scalar('psp_migration_version', 'PSP migration version'),
    firmware,
    _scalar('driver_version', 'host driver'),
    _scalar('vbios_version', 'VBIOS'),
    _scalar('partition', 'compute partition'),
    _scalar('memory_partition', 'memory partition'),
    _scalar('compute_units', 'compute units'),
    _scalar('xgmi', 'XGMI sharing'),
    _scalar('xgmi_node', "the GPU's XGMI node"),
    engines,
    _scalar('num_vfs', 'VFs of the PF'),
    free_vf,
    # The guest's driver keeps off the source's bad pages, and knows of no
    # others: what it has there would be lost. An error that was counted
    # and cost no page is a reason to look, not to refuse.
    _error_count('bad_pages', 'bad pages of the GPU',
                 'the guest would use them; move to another GPU, or have '
                 'this one replaced'),
    _error_count('uncorrectable_errors', 'uncorrectable ECC errors',
                 "look into the host's log before more VMs come here"),
    time_slices,
)
"""In the order in which an operator should read the refusals."""
