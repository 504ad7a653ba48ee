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

"""What an agent does unasked, every few seconds.

Nobody waits for it, so it stands back: an entry whose step is under way for
somebody else, or that a live move serves, is left for the next round.
"""

from collections.abc import Iterable
import logging
import time

from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import ownership
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery as recovery_

LOG = logging.getLogger(__name__)

State = ownership.State


def forgotten(entries: Iterable[journal_.Entry], now: float,
              patience: float) -> list[journal_.Entry]:
    """Return completed moves that nobody has asked to finish. Pure.

    Nova's hook and its notification may both be lost; the VF would stay
    taken for ever.

    :param patience: seconds that Nova is given for its own order of things.
    """
    return [entry for entry in entries
            if entry.state in (State.GIVEN_UP, State.OWNED)
            and entry.record.get('outcome') == phases.Outcome.COMPLETED
            and now - entry.changed_at > patience]


class Housekeeping:
    """One round of it at a time, in a thread of its own."""

    def __init__(self, node: node_.Node,
                 recovery: recovery_.Recovery) -> None:
        self._journal = node.journal
        self._options = node.conf[agent_conf.GROUP]
        self._moves = node.moves
        self._recovery = recovery

    def go_round(self) -> list[str]:
        """Look at every entry that is open; a sentence for each thing done.

        :raises journal.JournalError: it can not be read now.
        """
        said = self._recovery.housekeep(self._moves, self._moves.turn)
        for entry in forgotten(self._journal.entries(unsettled=True),
                               time.time(),
                               self._options.reservation_seconds):
            with self._moves.turn(entry.migration_uuid) as ours:
                live = (entry.migration_uuid, entry.role) in self._moves
                if ours and not live:
                    said += self._finish(entry)
        return said

    def _finish(self, entry: journal_.Entry) -> list[str]:
        name = (f'migration {entry.migration_uuid}, {entry.role}, VF '
                f'{entry.vf_address}')
        try:
            self._recovery.finish(entry.migration_uuid, entry.role)
        except (*custody.EXPECTED, journal_.JournalError,
                LookupError) as exc:
            # A guest that Nova has not removed yet still holds the VF.
            LOG.info('%s: not finished yet: %s', name, custody.explain(exc))
            return []
        return [f'{name}: finished']
