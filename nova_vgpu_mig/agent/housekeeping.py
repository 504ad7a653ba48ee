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

import logging
import time

from nova_vgpu_mig.agent import node as node_
from nova_vgpu_mig.agent import tenancy
from nova_vgpu_mig.conf import agent as agent_conf
from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.migration import journal as journal_
from nova_vgpu_mig.migration import phases
from nova_vgpu_mig.migration import recovery as recovery_
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)


class Housekeeping:
    """One round of it at a time, in a thread of its own."""

    def __init__(self, node: node_.Node,
                 recovery: recovery_.Recovery) -> None:
        self._journal = node.journal
        self._options = node.conf[agent_conf.GROUP]
        self._moves = node.moves
        self._recovery = recovery
        self._find_guest = node.guest
        self._told: dict[str, str] = {}
        """Why a completed move could not be finished, as last logged."""

    def go_round(self) -> list[str]:
        """Look at every entry that is open; a sentence for each thing done.

        :raises journal.JournalError: it can not be read now.
        """
        said = self._recovery.housekeep(self._moves, self._moves.turn)
        over = [entry for entry in self._journal.entries(unsettled=True)
                if tenancy.over(entry)]
        self._told = {entry.migration_uuid: self._told.get(
            entry.migration_uuid, '') for entry in over}
        for entry in over:
            with self._moves.turn(entry.migration_uuid) as ours:
                live = (entry.migration_uuid, entry.role) in self._moves
                if ours and not live and self._due(entry):
                    said += self._finish(entry)
        return said

    def _due(self, entry: journal_.Entry) -> bool:
        """Whether nothing needs a completed move's entry any more.

        A source's has only the VF to clear: that is tried at once, and
        refused as long as the VM is here. A destination's keeps the VF for
        a VM which has come, or is about to be given it: without a VM to be
        seen it stays, as long as Nova may take for its own order of things.
        """
        if (entry.role is phases.Role.SOURCE
                or entry.carrier is phases.Carrier.HYPERVISOR):
            return True
        if (time.time() - entry.changed_at
                > self._options.reservation_seconds):
            return True
        try:
            guest = self._find_guest(entry.instance_uuid)
        except (OSError, vmm_port.VMMError):
            return False
        if guest is not None:
            guest.close()
        return guest is not None

    def _finish(self, entry: journal_.Entry) -> list[str]:
        uuid = entry.migration_uuid
        name = f'migration {uuid}, {entry.role}, VF {entry.vf_address}'
        try:
            self._recovery.finish(uuid, entry.role)
        except (*custody.EXPECTED, journal_.JournalError,
                LookupError) as exc:
            # Nova may need minutes to remove the VM: it is told once.
            why = custody.explain(exc)
            if self._told[uuid] != why:
                LOG.info('%s: not finished yet: %s', name, why)
            self._told[uuid] = why
            return []
        return [f'{name}: finished']
