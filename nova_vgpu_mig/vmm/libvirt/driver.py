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

"""The port on libvirt: looks, subscriptions, and the two things to turn.

Rejected: to ask QEMU itself by its monitor. libvirt owns that, marks a
domain as tainted for it, and has a call for all but one thing: why a
migration is blocked, which is worth knowing before the move.
"""

from collections.abc import Callable
import json
import logging
import threading
import time
from typing import Any

from oslo_config import cfg

from nova_vgpu_mig.conf import libvirt as libvirt_conf
from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm.libvirt import binding as binding_
from nova_vgpu_mig.vmm.libvirt import connection
from nova_vgpu_mig.vmm.libvirt import words

LOG = logging.getLogger(__name__)

Event = hypervisor.Event
What = hypervisor.What


class LibvirtHypervisor(hypervisor.Hypervisor):
    """QEMU guests of this host, through libvirt."""

    def __init__(self, conf: cfg.ConfigOpts,
                 find: Callable[[], binding_.Binding] = binding_.find
                 ) -> None:
        """Nothing is touched yet."""
        libvirt_conf.register_opts(conf)
        self._options = conf[libvirt_conf.GROUP]
        self._find = find
        self._mutex = threading.Lock()
        self._subscribers: dict[str, list[hypervisor.Subscriber]] = {}
        self._binding: binding_.Binding | None = None
        self._connection: connection.Connection | None = None

    def _bound(self) -> tuple[binding_.Binding, connection.Connection]:
        with self._mutex:
            if self._binding is None or self._connection is None:
                self._binding = self._find()
                self._connection = connection.Connection(
                    self._binding, self._options.uri, self._register,
                    lambda: self._tell_all(What.LOST))
            return self._binding, self._connection

    def _ask(self, what: str, ask: Callable[[binding_.Binding, Any], Any]
             ) -> Any:
        """:raises hypervisor.HypervisorError: not to be asked, or no."""
        binding, held = self._bound()
        made = held.get()
        try:
            return ask(binding, made)
        except binding.libvirt.libvirtError as exc:
            raise hypervisor.HypervisorError(f'{what}: {exc}') from exc

    def _domain(self, what: str, instance_uuid: str,
                ask: Callable[[binding_.Binding, Any], Any]) -> Any:
        return self._ask(
            f'libvirt, domain {instance_uuid}, {what}',
            lambda binding, made: ask(
                binding, made.lookupByUUIDString(instance_uuid)))

    def available(self) -> str:
        if not self._options.uri:
            return '[vgpu_mig_libvirt] uri is empty: no libvirt is asked'
        try:
            self._ask('libvirt', lambda binding, made: made.getLibVersion())
        except hypervisor.HypervisorError as exc:
            return str(exc)
        return ''

    def abilities(self) -> hypervisor.Abilities:
        def ask(binding: binding_.Binding,
                made: Any) -> hypervisor.Abilities:
            return words.abilities(
                made.getLibVersion(), made.getVersion(),
                has_monitor=binding.qemu is not None)
        found: hypervisor.Abilities = self._ask('libvirt\'s version', ask)
        return found

    # Looking

    def view(self, instance_uuid: str) -> hypervisor.View:
        def ask(binding: binding_.Binding, made: Any) -> hypervisor.View:
            libvirt = binding.libvirt
            domain = _lookup(libvirt, made, instance_uuid)
            if domain is None:
                return hypervisor.View(hypervisor.GuestState.ABSENT)
            # In this order: without a job, the state is what that has left.
            # The other way round a job that ends in between leaves a guest
            # that seems to run as if there had been none.
            job = words.job(libvirt, _running_stats(libvirt, domain))
            state, reason = domain.state()
            return words.view(libvirt, state, reason, job)
        seen: hypervisor.View = self._ask(
            f'libvirt, domain {instance_uuid}, its state', ask)
        return seen

    def sample(self, instance_uuid: str) -> hypervisor.JobSample | None:
        def ask(binding: binding_.Binding, made: Any) -> dict[str, Any]:
            domain = _lookup(binding.libvirt, made, instance_uuid)
            return ({} if domain is None
                    else _running_stats(binding.libvirt, domain))
        return words.sample(
            self._ask(f'libvirt, domain {instance_uuid}, its job', ask),
            time.monotonic())

    def ended_job(self, instance_uuid: str) -> dict[str, Any]:
        def ask(binding: binding_.Binding, domain: Any) -> dict[str, Any]:
            libvirt = binding.libvirt
            return dict(domain.jobStats(
                libvirt.VIR_DOMAIN_JOB_STATS_COMPLETED
                | libvirt.VIR_DOMAIN_JOB_STATS_KEEP_COMPLETED))
        try:
            found: dict[str, Any] = self._domain(
                'its last job', instance_uuid, ask)
        except hypervisor.HypervisorError as exc:
            LOG.debug('%s', exc)
            return {}
        return found

    def blockers(self, instance_uuid: str) -> tuple[str, ...]:
        def ask(binding: binding_.Binding, domain: Any) -> str:
            if binding.qemu is None:
                return '{}'
            return str(binding.qemu.qemuMonitorCommand(
                domain, '{"execute": "query-migrate"}', 0))
        answer = json.loads(self._domain(
            'what blocks its migration', instance_uuid, ask))
        return tuple(answer.get('return', {}).get('blocked-reasons', ()))

    # Steering

    def downtime_limit(self, instance_uuid: str) -> int:
        return int(self._domain('its downtime limit', instance_uuid,
                                lambda binding, d:
                                d.migrateGetMaxDowntime()))

    def limit_downtime(self, instance_uuid: str, milliseconds: int) -> None:
        self._domain('its downtime limit', instance_uuid,
                     lambda binding, d: d.migrateSetMaxDowntime(
                         milliseconds, 0))

    def abort(self, instance_uuid: str) -> None:
        self._domain('abort', instance_uuid,
                     lambda binding, d: d.abortJob())

    # Events

    def subscribe(self, instance_uuid: str,
                  subscriber: hypervisor.Subscriber) -> Callable[[], None]:
        with self._mutex:
            self._subscribers.setdefault(instance_uuid, []).append(subscriber)

        def unsubscribe() -> None:
            with self._mutex:
                mine = self._subscribers.get(instance_uuid, [])
                if subscriber in mine:
                    mine.remove(subscriber)
                if not mine:
                    self._subscribers.pop(instance_uuid, None)
        try:
            self._bound()[1].get()
        except BaseException:
            unsubscribe()
            raise
        return unsubscribe

    def _register(self, made: Any) -> None:
        assert self._binding is not None
        libvirt, qemu = self._binding.libvirt, self._binding.qemu

        def lifecycle(made: Any, domain: Any, event: int, detail: int,
                      opaque: Any) -> None:
            self._tell(domain, Event(
                What.LIFECYCLE, time.time(),
                words.lifecycle(libvirt, event, detail)))

        def ended(made: Any, domain: Any, values: dict[str, Any],
                  opaque: Any) -> None:
            self._tell(domain, Event(What.JOB_ENDED, time.time(),
                                     values=dict(values)))

        def monitor(made: Any, domain: Any, event: str, seconds: int,
                    micros: int, details: str | None, opaque: Any) -> None:
            told = words.monitor_event(event, seconds, micros, details)
            if told is not None:
                self._tell(domain, told)

        made.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, lifecycle, None)
        made.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_JOB_COMPLETED, ended, None)
        if qemu is not None:
            qemu.qemuMonitorEventRegister(made, None, None, monitor, None, 0)
        self._tell_all(What.BACK)

    def _tell(self, domain: Any, event: Event) -> None:
        with self._mutex:
            found = list(self._subscribers.get(domain.UUIDString(), ()))
        _call(found, event)

    def _tell_all(self, what: What) -> None:
        # Not under the mutex: get() of a connection may hold it elsewhere.
        found = [one for those in list(self._subscribers.values())
                 for one in list(those)]
        _call(found, Event(what, time.time()))

    def close(self) -> None:
        with self._mutex:
            held, self._connection = self._connection, None
        if held is not None:
            held.close()


def _lookup(libvirt: Any, made: Any, instance_uuid: str) -> Any | None:
    """The domain; None if this host has none of that uuid."""
    try:
        return made.lookupByUUIDString(instance_uuid)
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _running_stats(libvirt: Any, domain: Any) -> dict[str, Any]:
    """A job's statistics; {} where there is none, or no process."""
    try:
        return dict(domain.jobStats())
    except libvirt.libvirtError as exc:
        if exc.get_error_code() == libvirt.VIR_ERR_OPERATION_INVALID:
            return {}
        if exc.get_error_code() == libvirt.VIR_ERR_OPERATION_TIMEOUT:
            # QEMU's monitor is held by the job itself: there is one.
            return {'type': libvirt.VIR_DOMAIN_JOB_UNBOUNDED}
        if exc.get_error_code() == libvirt.VIR_ERR_OPERATION_UNSUPPORTED:
            # Said of a guest that comes in, and of no other.
            return {'type': libvirt.VIR_DOMAIN_JOB_UNBOUNDED,
                    libvirt.VIR_DOMAIN_JOB_OPERATION:
                    libvirt.VIR_DOMAIN_JOB_OPERATION_MIGRATION_IN}
        raise


def _call(subscribers: list[hypervisor.Subscriber], event: Event) -> None:
    for subscriber in subscribers:
        try:
            subscriber(event)
        except Exception:
            LOG.exception('a subscriber of libvirt\'s events failed')
