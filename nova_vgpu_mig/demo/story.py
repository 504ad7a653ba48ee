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

"""What the demo does, in order, and what it promises.

It drives Nova as an operator would, through the HTTP API, and looks behind
Nova only to show and to compare. Every promise becomes a check of the
report; the exit status is theirs.
"""

import dataclasses
import importlib.metadata
import threading
import time

from nova_vgpu_mig.compatibility import verdict
from nova_vgpu_mig.demo import cloud as cloud_
from nova_vgpu_mig.demo import compute as compute_
from nova_vgpu_mig.demo import display as display_
from nova_vgpu_mig.demo import failure
from nova_vgpu_mig.demo import options as options_
from nova_vgpu_mig.demo import promises
from nova_vgpu_mig.demo import report as report_
from nova_vgpu_mig.demo import slices
from nova_vgpu_mig.demo import timeline
from nova_vgpu_mig.demo import vm as vm_
from nova_vgpu_mig.gpu.software import abi
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import record as migration_record
from nova_vgpu_mig.vmm.standin import comparison

SOURCE, GOOD, OLD = promises.SOURCE, promises.GOOD, promises.OLD
ENGINES = {'render': abi.Engine.GFX, 'compute': abi.Engine.COMPUTE,
           'video': abi.Engine.VCN}
"""The engine that a workload keeps busy."""

GUEST_MIB = 64
FILL_PERCENT = 60
"""Of the frame buffer that holds data before the workload begins."""

SAMPLE_SECONDS = 1.0
LAST_FRAMES = 5


class Story:
    """One run of the demo."""

    def __init__(self, options: options_.Options,
                 display: display_.Display) -> None:
        self.options = options
        self.display = display
        self.report = report_.Report(
            options=dataclasses.asdict(options)
            | {'json': str(options.json or '')},
            versions={name: importlib.metadata.version(package)
                      for name, package in (
                          ('nova', 'nova'),
                          ('placement', 'openstack-placement'))})
        self._record: migration_record.MigrationRecord | None = None
        self._sides: dict[str, dict[str, float]] = {}
        """Who -> the times of its phases."""
        self._during: list[slices.Sample] = []
        self._in_precopy = threading.Event()
        self._go_on = threading.Event()

    def plan(self) -> compute_.Plan:
        old = (GOOD, OLD) if self.options.only_incompatible else (OLD,)
        return compute_.Plan(
            hosts=(SOURCE, GOOD, OLD), old_hosts=old,
            frame_buffer_mib=self.options.frame_buffer_mib,
            memory_mib=GUEST_MIB)

    def run(self) -> report_.Report:
        """Tell it; the cloud is gone when this returns."""
        self.display.what_is_real(self.report.versions)
        with cloud_.Cloud(self.plan()) as cloud:
            self._cloud = cloud
            cloud.observers.append(self._observe)
            self.display.step(f'cloud is up: {SOURCE}, {GOOD}, {OLD}')
            self._boot()
            self._foresee()
            samples = self._move()
            self._tell(samples)
            self._compare()
            self._look_around()
        return self.report

    # Before

    def _boot(self) -> None:
        cloud, options = self._cloud, self.options
        # The neighbour comes first, so that the VM's VF has another index
        # at the destination.
        self.neighbour = self._vm('neighbour', GOOD)
        self.mover = self._vm('mover', SOURCE)
        self.twin = self._vm('twin', SOURCE)
        for vm in (self.mover, self.twin):
            vm.guest('workload', name=options.workload, seed=options.seed,
                     fill_percent=FILL_PERCENT)
        self.neighbour.guest('workload', name='video', seed=options.seed + 1)
        self._wait_for_work()
        self.display.step(
            f'{options.workload} runs on {self.mover.vf} ("mover") and, the '
            f'same from the same seed, on {self.twin.vf} ("twin"), which '
            'stays')
        self._source_vf = self.mover.vf
        self._started = cloud.server(self.mover.server_id)

    def _wait_for_work(self) -> None:
        """Return when what runs is the workload, and not its set-up."""
        # An idle one has no frame to wait for: it is ready once it has
        # filled its frame buffer.
        reached = ({'frame': 3} if self.options.workload in ENGINES
                   else {'phase': 'ready'})
        for vm in (self.mover, self.twin):
            vm.guest('wait', **reached)

    def _vm(self, name: str, host: str) -> vm_.VM:
        server = self._cloud.boot(name, host,
                                  max_downtime_ms=self.options.limit_ms)
        made = vm_.VM(name, server['id'], self._cloud.computes[host],
                      self._cloud.vf_of(server['id']))
        made.guest('wait', phase='ready')
        self.display.step(f'{name}: ACTIVE on {host} with VF {made.vf}')
        return made

    def _foresee(self) -> None:
        """Show verdicts and plan, from what the agents publish."""
        cloud = self._cloud
        pools = {host: cloud.agents.describe(cloud.context, host).as_pools()
                 for host in cloud.computes}
        source = pools[SOURCE][0].identity
        rows = []
        for host in (GOOD, OLD):
            for pool in pools[host]:
                judged = verdict.judge(
                    source, pool.identity, health=pool.health,
                    free_vfs=sum(vf.free for vf in pool.vfs))
                rows.append((host, pool.pf_address, judged))
                self.report.verdicts.append(
                    {'host': host, 'pf': pool.pf_address}
                    | judged.as_dict())
        self.display.verdicts(rows)
        self.report.plan = cloud.agents.plan(
            cloud.context, SOURCE, self.mover.server_id, self.mover.vf,
            self.options.limit_ms)
        self.display.plan(self.report.plan,
                          any(judged.compatible for _, _, judged in rows))

    # The move

    def _observe(self, host: str,
                 record: migration_record.MigrationRecord) -> None:
        self._sides[f'{record.role} {host}'] = record.phase_times
        if record.role is not phases.Role.SOURCE:
            return
        if record.phase is phases.Phase.PRECOPY and not self._during:
            self._during.append(self._take())
        if record.phase.terminal:
            self._during.append(self._take())
        if record.phase is phases.Phase.COMPLETED:
            self._note_in_flight()
        self._record = record
        if (record.phase is phases.Phase.PRECOPY and record.rounds
                and self.options.abort):
            # An abort by hand takes longer than a pre-copy does here.
            self._in_precopy.set()
            self._go_on.wait(vm_.PATIENCE)

    def _take(self) -> slices.Sample:
        return slices.take([self._cloud.computes[host]
                            for host in (SOURCE, GOOD)])

    def _note_in_flight(self) -> None:
        """Look at the VF that was given up, before it is scrubbed."""
        engines = self._cloud.computes[SOURCE].gim.call(
            'vf_state', vf=self._source_vf)['engines']
        self.report.in_flight = {
            name: engine['in_flight'] for name, engine in engines.items()
            if engine['in_flight']}

    def _move(self) -> list[slices.Sample]:
        cloud, options = self._cloud, self.options
        samples = [self._take()]
        time.sleep(SAMPLE_SECONDS)
        if options.fail is not None:
            due = cloud.fail_in(options.fail)
            self._say_failure(due)
        samples.append(self._take())
        self.display.step('openstack server migrate --live-migration mover')
        self._asked = time.time()
        cloud.live_migrate(self.mover.server_id)
        waiting = threading.Thread(target=self._wait, daemon=True)
        waiting.start()
        if options.abort and self._in_precopy.wait(vm_.PATIENCE):
            self._abort()
        try:
            self._follow(waiting)
        finally:
            self.display.stopped()
        samples.append(self._take())
        if self.report.migration is None:
            raise compute_.CloudError('the migration has no end')
        cloud.heal()
        before, started, ended = samples
        if len(self._during) == 2:
            # The agents' part of it, without Nova's own steps.
            started, ended = self._during
        resumed = self._take()
        time.sleep(SAMPLE_SECONDS)
        return [before, samples[1], started, ended, resumed, self._take()]

    def _follow(self, waiting: threading.Thread) -> None:
        while waiting.is_alive():
            if self._record is not None:
                self.display.moving(self._record)
            waiting.join(0.05)
        if self._record is not None:
            self.display.moving(self._record)

    def _say_failure(self, due: failure.Failure) -> None:
        self.display.step(f'injected: {due.what}', 'yellow')

    def _abort(self) -> None:
        cloud, server = self._cloud, self.mover.server_id
        self.display.step('openstack server migration abort mover ...')
        cloud.abort(server)
        cloud.wait_event(server, 'live_migration_cancel',
                         'compute_live_migration_abort')
        self._go_on.set()

    def _wait(self) -> None:
        self.report.migration = self._cloud.wait_migrated(
            self.mover.server_id, vm_.PATIENCE)
        self._ended = time.time()

    # After

    def _tell(self, samples: list[slices.Sample]) -> None:
        cloud, report, display = self._cloud, self.report, self.display
        assert report.migration is not None
        server = cloud.server(self.mover.server_id)
        host = cloud.host_of(self.mover.server_id)
        status = report.migration['status']
        display.step(
            f'Nova: migration {status}'
            + (" (the status of Nova's migration record, not of the VM)"
               if status == 'error' else '')
            + f'; mover is {server["status"]} on {host}')
        report.refusals = cloud.refusals(self.mover.server_id)
        for text in report.refusals:
            display.step(f"in Nova's events: {text}", 'yellow')
        if self._record is not None:
            self._tell_record(self._record)
        spans = timeline.tell(self._sides, cloud.events(self.mover.server_id),
                              self._asked, self._ended)
        report.timeline = [dataclasses.asdict(span) for span in spans]
        display.timeline(spans)
        self._tell_slices(samples)
        self.mover.compute = cloud.computes[host]
        self.mover.vf = cloud.vf_of(self.mover.server_id)

    def _tell_record(self, record: migration_record.MigrationRecord) -> None:
        report, display = self.report, self.display
        report.record = record.as_dict()
        if record.reason:
            display.step(f"in the agent's record: {record.outcome}: "
                         f'{record.reason}')
        for name, command in (report.in_flight or {}).items():
            display.step(
                f'preempted inside: {name} #{command["number"]}, '
                f'{command["done"]} of {command["total"]} work units')
        if report.in_flight == {}:
            display.step('preempted between two commands: the VF had none '
                         'in flight')
        if record.outcome is not phases.Outcome.COMPLETED:
            report.unfinished_bytes = display_.unfinished_bytes(record)
            stood = display_.stood_still_seconds(record)
            report.stood_still_ms = None if stood is None else stood * 1000
        if phases.Phase.PRECOPY in record.phase_times:
            display.rounds(record)
        if record.downtime_parts:
            display.downtime(record)

    def _tell_slices(self, samples: list[slices.Sample]) -> None:
        rows = []
        for vm, host, has_work in (
                (self.twin, SOURCE, self.options.workload in ENGINES),
                (self.neighbour, GOOD, True)):
            # Before, during and after; what lies between them is Nova's.
            rates = slices.rates(samples, host, vm.vf)[::2]
            lasted = samples[3].at - samples[2].at
            rows.append((vm.vf, f'{vm.name} on {host}',
                         [round(rate) for rate in rates]))
            self.report.slices.append({
                'vf': vm.vf, 'of': vm.name, 'host': host,
                'has_work': has_work,
                'before': rates[0], 'during': rates[1], 'after': rates[2],
                'expected_during': rates[0] * lasted})
        self.display.slices(rows)

    def _compare(self) -> None:
        both = (self.mover, self.twin)
        engine = ENGINES.get(self.options.workload)
        if engine is not None:
            vm_.hold(both, engine)
            vm_.rest(both)
            self._check_in_flight(engine)
            self._compare_now('In the middle of a command')
            for vm in both:
                vm.release()
            last = LAST_FRAMES + max(
                vm.status()['frames_submitted'] for vm in both)
            for vm in both:
                vm.guest('finish_workload', frame=last)
            for vm in both:
                vm.guest('wait', phase='ready')
        vm_.rest(both)
        self._compare_now('At the end of the workload')
        for vm in both:
            vm.guest('run')

    def _check_in_flight(self, engine: abi.Engine) -> None:
        """Look whether a comparison inside a command is inside one."""
        flying = [{name: found['in_flight'] for name, found
                   in vm.vf_state()['engines'].items() if found['in_flight']}
                  for vm in (self.mover, self.twin)]
        self.report.compared_in_flight = flying[0]
        self.report.check(
            'they are compared inside a command of the busy engine',
            all(engine.name in each for each in flying),
            ', '.join(f'{name} #{command["number"]}'
                      for name, command in flying[0].items()) or 'none')

    def _compare_now(self, title: str) -> None:
        rows = comparison.compare(self.mover.snapshot(),
                                  self.twin.snapshot())
        self.report.comparisons[title] = rows
        self.display.comparison(
            title, ((row.what, row.moved, row.stayed, row.equal)
                    for row in rows))
        self.report.check(
            f'{title[0].lower()}{title[1:]} the mover equals its twin',
            all(row.equal for row in rows),
            ', '.join(row.what for row in rows if not row.equal)
            or f'{len(rows)} aspects equal')

    def _look_around(self) -> None:
        """Check what was promised beside the comparison."""
        promises.Promises(
            self.options, self.report, self._cloud, self.mover, self.twin,
            self._source_vf, self._record).check()
        took = self._record and self._record.downtime_seconds
        if self.options.fail is not None and took:
            self.display.step(
                f'the failed first run cost downtime: {took * 1000:,.0f} ms, '
                f'limit {self.options.limit_ms:,} ms', 'yellow')
        self.display.checks((check.promise, check.held, check.seen)
                            for check in self.report.checks)
