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

"""What both sides of a watched move have in common: a thread that looks.

Events come in libvirt's own thread and are only put into a queue; all else
happens here, in one thread for each side of a move, which also looks at the
guest from time to time: an event may have been missed while libvirtd or the
agent was down, and what the hypervisor says *now* is what is judged.
"""

import abc
from collections.abc import Callable
import contextlib
import dataclasses
import logging
import queue
import threading
import time

from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration.hypervisor import judgement
from nova_vgpu_mig.migration.hypervisor import timeline
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import progress as progress_
from nova_vgpu_mig.migration import record as record_
from nova_vgpu_mig.vmm import hypervisor

LOG = logging.getLogger(__name__)

KEPT_EVENTS = 200
"""Of a record's timeline; passes are counted as rounds instead."""

REST_SECONDS = 10.0

DOUBT_SECONDS = 15.0
"""Most doubts are over by then: an end takes libvirt some seconds."""

WATCHED = frozenset((ownership.State.ACTIVE, ownership.State.RESERVED,
                     ownership.State.LOADING))
"""States in which libvirt has not decided yet, as far as a side knows."""

_ORDER = tuple(phases.Phase)


@dataclasses.dataclass(frozen=True, slots=True)
class PeerAnswer:
    """What the agent of the other end sees of the guest."""

    view: hypervisor.View | None = None
    """None: it can't be asked, or can't tell, now."""

    clock_ahead: float = 0.0
    """Seconds by which that host's clock is ahead of this one's."""

    clock_error: float = 0.0
    """How far `clock_ahead` may be wrong, at most, seconds."""


class Peer(abc.ABC):
    """The agent of the other end of a move; never raises."""

    @abc.abstractmethod
    def guest(self) -> PeerAnswer:
        """Its view of the guest, and how far its clock is off."""

    @abc.abstractmethod
    def record(self) -> record_.MigrationRecord | None:
        """Its record of the move; None if it can't be had now."""


@dataclasses.dataclass(frozen=True, slots=True)
class Scene:
    """One move, and what is around it on this host."""

    host: hypervisor.Hypervisor
    journal: journal_.Journal
    record: record_.MigrationRecord
    peer: Peer
    poll_seconds: float
    ended: Callable[['Watch'], None]
    """Called in the watch's thread, when nothing is watched any more."""

    observer: progress_.Observer | None = None
    explain: contract.Explain = contract.nothing_more
    """What the GPU driver adds to the reason of a failure."""


class Watch(abc.ABC):
    """One side of one move. Every method from any thread."""

    role: phases.Role

    def __init__(self, scene: Scene) -> None:
        """Nothing is looked at yet."""
        self._host = scene.host
        self._journal = scene.journal
        self._peer = scene.peer
        self._poll = scene.poll_seconds
        self._ended = scene.ended
        self._explain = scene.explain
        self._record = scene.record
        self._progress = progress_.Progress(scene.record, scene.journal,
                                            scene.observer)
        self._uuid = scene.record.migration_uuid
        self._instance = scene.record.instance_uuid
        self._given_up = ''
        self._queue: queue.SimpleQueue[hypervisor.Event] = queue.SimpleQueue()
        self._events: list[hypervisor.Event] = []
        self._cancel: Callable[[], None] | None = None
        self._doubted = ''
        self._superseded = False
        self._down = threading.Event()
        self._over = threading.Event()
        self._word = threading.Event()
        """It is over, or in doubt."""

        self._wake = threading.Event()
        self._thread = threading.Thread(
            target=self._run, name=f'watch-{self.role}-{self._uuid}')

    @property
    def record(self) -> record_.MigrationRecord:
        """A copy of the record as it is now."""
        return self._progress.snapshot()

    def start(self) -> None:
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is watched any more; False at a timeout."""
        return self._over.wait(timeout)

    def hear(self, timeout: float) -> bool:
        """As wait(), but not for all of that where it stays in doubt.

        Such an end may come much later, or wait for a person.
        """
        patient = min(timeout, DOUBT_SECONDS)
        if not self._over.wait(patient):
            self._word.wait(timeout - patient)
        return self._over.is_set()

    def stop(self) -> None:
        """The agent goes down: the move goes on, and is watched again."""
        self._down.set()
        self._wake.set()
        # It is known before it is started; then it ends as it begins.
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._down.is_set():
                began = time.monotonic()
                if self._go_round():
                    break
                # A look that had to wait for a monitor that is held keeps
                # one of libvirtd's few workers: as long a rest after it.
                took = time.monotonic() - began
                self._wake.wait(max(self._poll, min(took, REST_SECONDS)))
                self._wake.clear()
        except Exception:
            LOG.exception('migration %s is no longer watched at the %s; it '
                          'is looked at again later', self._uuid, self.role)
        finally:
            if self._cancel is not None:
                self._cancel()
            if not self._superseded:
                self._progress.save()
            self._ended(self)
            self._over.set()
            self._word.set()

    def _go_round(self) -> bool:
        """Take what was told, then look; True at the end of the move."""
        try:
            if self._cancel is None:
                self._cancel = self._host.subscribe(
                    self._instance, self._tell)
            self._take_events()
            self._look()
            return self._judge()
        except (hypervisor.HypervisorError, *custody.EXPECTED,
                journal_.JournalError) as exc:
            if (isinstance(exc, journal_.IllegalTransition
                           | journal_.NotInJournal)
                    and self._over_already()):
                LOG.warning('migration %s is no longer watched at the %s: '
                            '%s', self._uuid, self.role, exc)
                return True
            LOG.info('migration %s, %s: %s; it is looked at again',
                     self._uuid, self.role, custody.explain(exc))
            return False

    def _over_already(self) -> bool:
        """Whether the journal has its end: nothing is left to watch for.

        What this watch knows of it is then older than what is there.
        """
        with contextlib.suppress(journal_.JournalError):
            entry = self._journal.newest(migration_uuid=self._uuid,
                                         role=self.role)
            if entry is None or entry.state not in WATCHED:
                self._superseded = not self._record.phase.terminal
                return True
        return False

    def _tell(self, event: hypervisor.Event) -> None:
        """In libvirt's thread."""
        self._queue.put(event)
        self._wake.set()

    def _take_events(self) -> bool:
        """Take what is queued; whether there was anything."""
        taken = False
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(self._queue.get_nowait())
                taken = True
        return taken

    def _take(self, event: hypervisor.Event) -> None:
        self._events.append(event)
        with self._progress.lock:
            if (event.what is not hypervisor.What.PASS
                    and len(self._record.timeline) < KEPT_EVENTS):
                self._record.timeline.append(event.as_dict())
        self._enter(timeline.phase(event, self.role))

    def _enter(self, phase: phases.Phase | None) -> None:
        """Go on to a phase; a late event takes no move back."""
        if phase is not None and (
                _ORDER.index(phase) > _ORDER.index(self._record.phase)):
            self._progress.enter(phase)

    def _note(self, sentence: str) -> None:
        """Keep what an operator should know, once."""
        with self._progress.lock:
            if sentence in self._record.notes:
                return
            self._record.notes.append(sentence)
        LOG.warning('migration %s, %s: %s', self._uuid, self.role, sentence)
        self._progress.save()

    def _end(self, to: ownership.State, phase: phases.Phase,
             outcome: phases.Outcome, reason: str = '', *,
             expected: ownership.State | None = None) -> None:
        """Come to the end, in one write.

        Of an end without its outcome, or one that is not settled, nobody
        would take the VF again: the agent may be killed between two writes.
        """
        self._journal.move(
            self._uuid, self.role, to, expected=expected, settle=True,
            record=self._progress.values_at_end(phase, outcome, reason))
        self._progress.end(phase, outcome, reason)

    def give_up(self, reason: str) -> None:
        """Nova waits for it no more: what has not begun is over."""
        self._given_up = self._given_up or reason
        self._wake.set()

    def _overdue(self) -> bool:
        """Whether it has not begun in time, and nobody waits for it."""
        if self._given_up:
            return True
        entry = self._journal.get(self._uuid, self.role)
        return entry.overdue(time.time())

    def _decide(self, sight: judgement.Sight, *, begun: bool,
                overdue: bool) -> judgement.Judgement:
        """Judge; a doubt counts when it is seen twice in a row.

        An end counts when nothing was told while it was looked for: that may
        change it, and belongs to the record in any case.
        """
        found = judgement.judge(sight, begun=begun, overdue=overdue)
        if found.ending.ends and self._take_events():
            return judgement.OPEN
        if found.ending is judgement.Ending.DOUBT:
            if self._doubted == found.sentence:
                self._note(f'IN DOUBT: {found.sentence}')
                self._word.set()
            self._doubted = found.sentence
        else:
            self._doubted = ''
            self._word.clear()
        return found

    @abc.abstractmethod
    def _look(self) -> None:
        """Ask the hypervisor for what no event tells."""

    @abc.abstractmethod
    def _judge(self) -> bool:
        """Find out whether it has ended, and write that down."""
