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

"""What the demo promises beside the comparison, and whether it held.

Looked at after the move, through Nova's API and the agents' RPC; each
promise becomes a check of the report.
"""

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
from typing import Any

from nova_vgpu_mig.demo import cloud as cloud_
from nova_vgpu_mig.demo import options as options_
from nova_vgpu_mig.demo import report as report_
from nova_vgpu_mig.demo import vm as vm_
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as migration_record

SOURCE, GOOD, OLD = 'compute1', 'compute2', 'compute3'

ENOUGH_SLICES = 5.0
"""Slices to be expected in the time of a move, for none to mean something."""


def stays(options: options_.Options) -> bool:
    """Tell whether the VM has to be at the source in the end."""
    return (options.only_incompatible or options.abort
            or options.fail not in (None, phases.Phase.COMMIT))


def served(rows: Sequence[Mapping[str, Any]]) -> report_.Check | None:
    """Judge whether the other VFs went on while one was moved. Pure.

    One has work by what its guest was given to do, not by what was counted
    before: an idle one is served while it still sets itself up.

    :param rows: Report.slices.
    :returns: None where no VF had enough to do in the time of the move.
    """
    due = [row for row in rows if row['has_work']
           and row['expected_during'] >= ENOUGH_SLICES]
    if not due:
        return None
    starved = [f'{row["vf"]} ({row["of"]} on {row["host"]})'
               for row in due if row['during'] <= 0]
    least = min(row['during'] for row in due)
    return report_.Check(
        'the other VFs with work were served during the move', not starved,
        f'no slice for {", ".join(starved)}' if starved
        else f'at least {least:.0f} slices a second')


@dataclasses.dataclass(frozen=True, slots=True)
class Promises:
    """What is looked at, when all is over."""

    options: options_.Options
    report: report_.Report
    cloud: cloud_.Cloud
    mover: vm_.VM
    twin: vm_.VM
    source_vf: str
    record: migration_record.MigrationRecord | None
    """The source's; None where no agent has begun a move."""

    def check(self) -> None:
        report, mover = self.report, self.mover
        server = self.cloud.server(mover.server_id)
        host = mover.compute.host
        report.check('the VM is ACTIVE', server['status'] == 'ACTIVE',
                     server['status'])
        wanted = SOURCE if stays(self.options) else GOOD
        report.check(f'it runs on {wanted}', host == wanted, host)
        assert report.migration is not None
        self._check_outcome(str(report.migration['status']),
                            server['status'])
        status = mover.status()
        report.check('no GPU job timed out in the guest (TDR)',
                     status['tdr_events'] == 0, status['tdr_events'])
        went_on = served(report.slices)
        if went_on is not None:
            report.checks.append(went_on)
        self._check_reservations()

    def _check_outcome(self, status: str, vm_status: str) -> None:
        report, options = self.report, self.options
        if options.only_incompatible:
            report.check(
                'Nova found no host, and moved nothing', status == 'error',
                f"{status} is the status of Nova's migration record, the VM "
                f'is {vm_status}')
            texts = ' '.join(report.refusals)
            report.check("the server's events name each host's reason",
                         all(f'{host}: firmware' in texts
                             for host in (GOOD, OLD)), texts)
            return
        wanted = ('cancelled' if options.abort
                  else 'failed' if stays(options) else 'completed')
        report.check(f'Nova calls the migration {wanted}',
                     status == wanted, status)
        if stays(options):
            self._check_reason()
            return
        indices = [compute.vfs()[vf] for compute, vf in (
            (self.cloud.computes[SOURCE], self.source_vf),
            (self.mover.compute, self.mover.vf))]
        report.check('the VF has another index at the destination',
                     indices[0] != indices[1],
                     f'{indices[0]} -> {indices[1]}')
        if options.fail is None:
            # A failed first run costs downtime, which nobody promises.
            assert self.record is not None
            took = self.record.downtime_seconds
            report.check(
                f'downtime within the limit of {options.limit_ms} ms',
                took is not None and 0 < took * 1000 <= options.limit_ms,
                'not measured' if took is None else f'{took * 1000:.0f} ms')

    def _check_reason(self) -> None:
        """A failure has to be the injected one, and be said."""
        options = self.options
        said = (self.record.reason if self.record is not None
                else ' '.join(self.report.refusals))
        wanted = {phases.Phase.PREPARE: 'vanish',
                  None: 'aborted'}.get(options.fail, f'{options.fail}:')
        self.report.check(f'the reason is the one to expect ("{wanted}")',
                          wanted in said, said or 'none')

    def _check_reservations(self) -> None:
        cloud = self.cloud
        open_moves = [entry for host in cloud.computes
                      for entry in cloud.unsettled(host)]
        self.report.check('no agent holds anything for a move any more',
                          not open_moves, f'{len(open_moves)} open')
        holders = {vm.vf for vm in (self.mover, self.twin)
                   if vm.compute.host == SOURCE}
        taken = {vf.address
                 for pool in cloud.agents.describe(
                     cloud.context, SOURCE).pools
                 for vf in pool.vfs if not vf.free}
        self.report.check(f'on {SOURCE} only the VFs of its VMs are taken',
                          taken == holders, ', '.join(sorted(taken)))
