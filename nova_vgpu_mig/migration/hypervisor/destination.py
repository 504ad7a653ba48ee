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

"""The destination's watch: whether the guest has come, and when it ran."""

import logging

from nova_vgpu_mig.migration.hypervisor import judgement
from nova_vgpu_mig.migration.hypervisor import watch
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.vmm import hypervisor

LOG = logging.getLogger(__name__)

DESTINATION = phases.Role.DESTINATION
State = ownership.State


class DestinationWatch(watch.Watch):
    """What is seen of a move at the host that it goes to."""

    role = DESTINATION

    def __init__(self, scene: watch.Scene) -> None:
        super().__init__(scene)
        self._seen = False

    def _look(self) -> None:
        """Nothing: what is here is looked at by _judge."""

    def _judge(self) -> bool:
        here = self._host.view(self._instance)
        if here.state.here:
            self._seen = True
        if here.job is not hypervisor.Job.NONE:
            return False
        # One that was here and is gone is waited for no longer than one that
        # has not come: its source may never answer again.
        late = self._overdue()
        overdue = bool(self._given_up) or (not here.state.here and late)
        if not self._seen and not overdue:
            return False
        answer = self._peer.guest()
        found = self._decide(judgement.Sight(
            answer.view, here, self._record.source_host,
            self._record.destination_host, self._instance,
            paused=self._was_paused(here, answer.view), abandoned=late),
            begun=self._seen, overdue=overdue)
        if found.ending is judgement.Ending.MOVED:
            self._came()
            return True
        if not found.ending.ends and not (overdue and not here.state.here):
            return False
        self._gone(found)
        return True

    def _was_paused(self, *views: hypervisor.View | None) -> bool:
        """Whether a guest that is paused was so before its move."""
        if not any(view is not None
                   and view.state is hypervisor.GuestState.PAUSED
                   for view in views):
            return False
        theirs = self._peer.record()
        return (theirs is not None
                and theirs.guest == hypervisor.GuestState.PAUSED)

    def _came(self) -> None:
        self._enter(phases.Phase.RUN)
        self._end(State.OWNED, phases.Phase.COMPLETED,
                  phases.Outcome.COMPLETED)

    def _gone(self, found: judgement.Judgement) -> None:
        """Nothing of it is here; the VF is free again."""
        reason = self._why_gone(found) + self._explain()
        self._end(State.DROPPED, phases.Phase.RETURNED,
                  phases.Outcome.FAILED, reason)
        LOG.info('migration %s: %s', self._uuid, reason)

    def _why_gone(self, found: judgement.Judgement) -> str:
        if found.ending is judgement.Ending.NOWHERE:
            return found.sentence
        if self._given_up:
            return self._given_up
        if not self._seen:
            return 'the guest did not come in time'
        if found.ending is judgement.Ending.STAYED:
            return 'the guest went back to the source'
        return (f'the guest came in and is gone, and the agent of '
                f'{self._record.source_host} does not say that it runs there')
