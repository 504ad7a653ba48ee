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

"""How an entry that no live migration serves ends.

Recovery has decided; here is what that takes: the journal, the VF, the guest
and the record. Each of these may fail half-way and is then done again from
its beginning: the entry stays unsettled until all of it has been done.
"""

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import doubt
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

State = ownership.State


def _guest_was(entry: journal_.Entry) -> str:
    """MigrationRecord.guest; RUNNING where an entry is older than that."""
    return str(entry.record.get('guest', vmm_port.GuestState.RUNNING))


def _guest_ran(entry: journal_.Entry) -> bool:
    return _guest_was(entry) == vmm_port.GuestState.RUNNING


def _gone(entry: journal_.Entry, guest: vmm_port.Guest | None) -> str:
    """Say so, and log it, when a guest that took part is not there."""
    if guest is not None or not entry.record.get('guest'):
        return ''
    what = (f'the guest of instance {entry.instance_uuid}, which took part '
            f'in the move, is gone from this host: only its VF goes on')
    LOG.error('migration %s: %s', entry.migration_uuid, what)
    return what


class Endings:
    """Each returns a sentence; one at a time for an entry.

    :raises OSError, vmm_port.VMMError, journal.JournalError, LookupError:
        it has to be tried again.
    """

    def __init__(self, journal: journal_.Journal,
                 driver_for: Callable[[str], contract.GPUDriver],
                 guest_for: Callable[[str], vmm_port.Guest | None],
                 no_vmm: Callable[[], str]) -> None:
        """As Recovery()."""
        self._journal = journal
        self._driver_for = driver_for
        self._guest_for = guest_for
        self._no_vmm = no_vmm

    @contextlib.contextmanager
    def _hands_on(self, entry: journal_.Entry) -> Iterator[
            tuple[contract.MigrationDevice, vmm_port.Guest | None]]:
        """The VF and its guest, opened; closed when they are left.

        No guest is one that took no part, even if there is one: it was not
        touched.
        """
        with contextlib.ExitStack() as held:
            guest = (self._guest_for(entry.instance_uuid)
                     if _guest_was(entry) else None)
            if guest is not None:
                held.callback(guest.close)
            elif entry.record.get('guest') and (why := self._no_vmm()):
                raise vmm_port.VMMError(
                    f'the guest of instance {entry.instance_uuid} took part '
                    f'in the move and can not be reached: {why}')
            device = self._driver_for(entry.vf_address).open(
                entry.vf_address)
            held.callback(device.close)
            yield device, guest

    def give_back(self, entry: journal_.Entry) -> str:
        """Source: RETURNED, then VF and guest go on here."""
        if entry.state is State.ACTIVE:
            self._journal.move(entry.migration_uuid, entry.role,
                               State.RETURNED, expected=State.ACTIVE)
        with self._hands_on(entry) as (device, guest):
            custody.cancel_memory(guest)
            lost = custody.return_to_source(device, guest,
                                            run=_guest_ran(entry))
        reason = entry.record.get('reason') or (
            'the transfer was under way when the agent ended')
        for what in (lost, _gone(entry, guest)):
            reason += f'; {what}' if what else ''
        self._end(entry, phases.Phase.RETURNED, phases.Outcome(
            entry.record.get('outcome') or phases.Outcome.FAILED), reason)
        self._journal.settle(entry.migration_uuid, entry.role)
        return f'runs on here: {reason}'

    def own(self, entry: journal_.Entry) -> str:
        """Destination: OWNED, then VF and guest run here."""
        values = dict(entry.record)
        if entry.state is State.PREPARED:
            values |= {'run_tried': False, 'reason': ''}
            self._journal.move(entry.migration_uuid, entry.role, State.OWNED,
                               expected=State.PREPARED, record=values)
        with self._hands_on(entry) as (device, guest):
            # An OWNED from before it was noted may have been run.
            if not values.get('run_tried', True):
                values |= {'run_tried': True,
                           'reason': custody.reset_before_run(device)}
                self._journal.save_record(entry.migration_uuid, entry.role,
                                          values)
            custody.run_at_destination(device, guest, run=_guest_ran(entry))
        reason = '; '.join(filter(None, (values.get('reason'),
                                         _gone(entry, guest))))
        entry = dataclasses.replace(entry, record=values)
        self._end(entry, phases.Phase.COMPLETED, phases.Outcome.COMPLETED,
                  reason)
        return (f'{entry.peer_host} has given it up: it runs here'
                + (f'; {reason}' if reason else ''))

    def drop(self, entry: journal_.Entry) -> str:
        """Destination: DROPPED, then the VF is cleared."""
        if entry.state is not State.DROPPED:
            self._journal.move(entry.migration_uuid, entry.role,
                               State.DROPPED, expected=entry.state)
        if entry.state is not State.RESERVED:
            # It never ran here: one that can't be found now loses nothing.
            guest = self._guest_for(entry.instance_uuid)
            custody.cancel_memory(guest)
            if guest is not None:
                guest.close()
            custody.discard(self._driver_for(entry.vf_address),
                            entry.vf_address, None)
        reason = entry.record.get('reason') or (
            'the reservation has ended' if entry.overdue(time.time())
            else 'the transfer was under way when the agent ended')
        self._end(entry, phases.Phase.RETURNED, phases.Outcome(
            entry.record.get('outcome') or phases.Outcome.FAILED), reason)
        self._journal.settle(entry.migration_uuid, entry.role)
        return f'dropped: {reason}'

    def complete(self, entry: journal_.Entry,
                 answer: doubt.Answer | None) -> str:
        """Source: the destination has said that it runs; note it."""
        lost = ''
        if answer is not None and answer.reason:
            lost = f'{entry.peer_host}: {answer.reason}'
            LOG.error('migration %s: %s', entry.migration_uuid, lost)
        self._end(entry, phases.Phase.COMPLETED, phases.Outcome.COMPLETED,
                  lost)
        return f'given up; {entry.peer_host} runs it'

    def _end(self, entry: journal_.Entry, phase: phases.Phase,
             outcome: phases.Outcome, reason: str) -> None:
        values = entry.record | {
            'phase': phase.value, 'outcome': outcome.value,
            'reason': reason}
        if outcome is phases.Outcome.COMPLETED:
            values['remaining_bytes'] = 0
        times = dict(values.get('phase_times') or {})
        times.setdefault(phase.value, time.time())
        values['phase_times'] = times
        self._journal.save_record(entry.migration_uuid, entry.role, values)
