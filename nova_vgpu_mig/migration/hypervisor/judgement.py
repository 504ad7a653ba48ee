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

"""Who has the guest, judged by what both hypervisors say. Pure.

libvirt decides; the agents only find out what it has decided, which is not
always to be known: where the connection is cut during libvirt's own finish,
the source's libvirt may keep a paused guest, because the destination's may
run it. Then nothing is papered over: the entry stays open, and says what each
end has and what a person has to type. A judgement is made anew at each look,
so that whatever that person does ends it.

A guest that neither end runs has ended for the move too, and its VFs are kept
for nobody. Where the source still has it shut off that is seen at once: the
guest was shut off, or has crashed, and nothing can come of its move. Where
the source has nothing and the destination neither, it was deleted, or both
ends lost it. libvirt removes the source's only when the destination's was
there, so that nothing is on its way any more; but a person should hear of it,
and Nova may be about to clean up. So it is a doubt until Nova has given the
move up, or the time is past in which it had to begin, which also holds where
Nova says nothing: then it ends with the doubt's sentence as its reason. As
long as one end can't be asked it stays a doubt: the guest may run there.
Nothing is cleared here: what becomes of the VF is what becomes of any guest's
that was shut off or deleted without a move.
"""

import dataclasses
import enum

from nova_vgpu_mig.vmm import hypervisor

State = hypervisor.GuestState
Job = hypervisor.Job
View = hypervisor.View


class Ending(enum.StrEnum):
    """What has become of a move."""

    OPEN = 'open'
    """It goes on, or has not begun."""
    MOVED = 'moved'
    STAYED = 'stayed'
    NOWHERE = 'nowhere'
    """Neither end runs it, nor will through this move."""

    DOUBT = 'doubt'

    @property
    def ends(self) -> bool:
        """Whether nothing has to be watched any more."""
        return self in (Ending.MOVED, Ending.STAYED, Ending.NOWHERE)


@dataclasses.dataclass(frozen=True, slots=True)
class Judgement:
    ending: Ending
    sentence: str = ''
    """DOUBT, NOWHERE: what is seen, and what to do about it."""


@dataclasses.dataclass(frozen=True, slots=True)
class Sight:
    """Both ends of one move, as far as can be seen."""

    source: View | None
    destination: View | None
    """None: that end can't be asked now."""

    source_host: str
    destination_host: str
    instance_uuid: str
    handed_over: bool = False
    """All had been sent, or this agent did not see how far it was: from then
    on the destination may run it, whatever the source's libvirt does."""

    paused: bool = False
    """The guest was paused when the move began, and is meant to stay so."""

    abandoned: bool = False
    """Nova has given it up, or the time to begin is past."""


OPEN = Judgement(Ending.OPEN)
_MOVED = Judgement(Ending.MOVED)
_STAYED = Judgement(Ending.STAYED)


def judge(sight: Sight, *, begun: bool, overdue: bool = False) -> Judgement:
    """Return what has become of the move.

    :param begun: a job was seen, or its guest at the destination.
    :param overdue: it has not begun, and will not any more.
    """
    source, destination = sight.source, sight.destination
    if _busy(source) or _busy(destination):
        return OPEN
    if source is not None and source.state is State.RUNNING:
        if _runs(destination):
            return _doubt(sight, 'it runs on both: stop one of them at once '
                          '(virsh destroy), and look at its disks before '
                          'it is used again')
        if destination is None and begun and sight.handed_over:
            return _doubt(sight, f'it runs on {sight.source_host}, and may '
                          f'run on {sight.destination_host} as well, whose '
                          f'agent does not answer: look there, and stop one '
                          f'of them if it runs on both (virsh destroy)')
        return _returned(sight) if begun or overdue else OPEN
    if source is None:
        # libvirt lets it run at the destination only once it is whole.
        return _MOVED if _runs(destination) else OPEN
    if source.state is State.PAUSED:
        return _source_paused(sight, begun or overdue)
    if not begun and not overdue:
        return OPEN
    return _source_gone(sight)


def _busy(view: View | None) -> bool:
    return view is not None and view.job in (Job.OUT, Job.IN)


def _runs(view: View | None) -> bool:
    return view is not None and view.state is State.RUNNING


def _returned(sight: Sight) -> Judgement:
    """The source runs it; what the destination has is a leftover."""
    if sight.destination is not None and (
            sight.destination.state is State.PAUSED):
        return _doubt(sight, f'it runs on {sight.source_host}; what is left '
                      f'on {sight.destination_host} is to be removed there: '
                      f'virsh destroy {sight.instance_uuid}')
    return _STAYED


def _source_paused(sight: Sight, over: bool) -> Judgement:
    destination = sight.destination
    if _runs(destination):
        return _doubt(sight, f'it runs on {sight.destination_host}; what is '
                      f'left on {sight.source_host} must never run again and '
                      f'is to be removed there: virsh destroy '
                      f'{sight.instance_uuid}')
    if not over:
        # A guest that was paused by somebody before its move began.
        return OPEN
    if destination is None:
        return _doubt(sight, f'it is paused on {sight.source_host}, and may '
                      f'run on {sight.destination_host}, whose agent does '
                      f'not answer: look there before it is resumed anywhere')
    if not destination.state.here and sight.paused:
        return _STAYED
    if destination.state is State.PAUSED:
        resume = ('' if sight.paused
                  else ', and only then resume it on the other (virsh resume)')
        return _doubt(sight, f'it is paused on both: remove it from one '
                      f'(virsh destroy){resume}')
    return _doubt(sight, f'it is paused on {sight.source_host} and nowhere '
                  f'else: virsh resume {sight.instance_uuid} there')


def _source_gone(sight: Sight) -> Judgement:
    destination = sight.destination
    if destination is None:
        # The destination will say so as soon as it can be asked.
        return _doubt(sight, f'it has left {sight.source_host}; the agent of '
                      f'{sight.destination_host} does not answer, and has to '
                      f'say whether it came: check it there')
    if destination.state is State.RUNNING:
        return _MOVED
    if destination.state is State.PAUSED:
        return _MOVED if sight.paused else _doubt(
            sight, f'it is paused on {sight.destination_host} and nowhere '
            f'else: virsh resume {sight.instance_uuid} there')
    return _runs_nowhere(sight)


def _runs_nowhere(sight: Sight) -> Judgement:
    again = ('start it again through Nova (openstack server reboot --hard), '
             'after a look at libvirt\'s logs at both ends')
    if sight.source is not None and sight.source.state is State.SHUT_OFF:
        return _nowhere(sight, f'it was shut off during the move; if it was '
                        f'not meant to be, {again}')
    said = _doubt if not sight.abandoned else _nowhere
    return said(sight, f'it runs nowhere: {again}')


def _doubt(sight: Sight, what: str) -> Judgement:
    return Judgement(Ending.DOUBT, _sentence(sight, what))


def _nowhere(sight: Sight, what: str) -> Judgement:
    return Judgement(Ending.NOWHERE, _sentence(sight, what))


def _sentence(sight: Sight, what: str) -> str:
    def seen(host: str, view: View | None) -> str:
        return f'{host}: {"no answer" if view is None else view}'
    return (f'instance {sight.instance_uuid}: {what} '
            f'({seen(sight.source_host, sight.source)}; '
            f'{seen(sight.destination_host, sight.destination)})')
