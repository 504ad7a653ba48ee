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


"""What this nova-compute tells the scheduler of its VFs, and remembers.

Nova asks for a host's resources about once a minute and drops the whole
report when a driver raises. So an agent that cannot be asked, or that
answers what this release cannot read, is something to publish and never an
error.

The sizes of the frame buffers are kept from the last good answer, because
the time-outs of a live migration need them in a thread of Nova's that must
not fail and should not wait for a message. Rejected: to ask the agent there
once more.
"""

from collections.abc import Callable
from collections.abc import Iterable
from typing import Any

from oslo_log import log as logging

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.gpu import contract
from nova_vgpu_mig.nova import moves
from nova_vgpu_mig.nova import publication

LOG = logging.getLogger(__name__)

_MIB = 1024 ** 2


class Publisher:
    """Turns an agent's answer into a node's stats; never raises.

    :param ask: returns the pools, or raises what it likes.
    """

    def __init__(self, host: str,
                 ask: Callable[[], tuple[contract.Pool, ...]]) -> None:
        self._host = host
        self._ask = ask
        self._state = ''
        self._frame_buffers: dict[str, int | None] = {}

    def stats(self) -> dict[str, str]:
        """Return what a scheduler reads; nothing old if nothing is known.
        """
        try:
            pools = self._ask()
            text = publication.encode(moves.published(pools))
            # What no scheduler would read is a problem to be named here.
            publication.decode(text)
        except Exception as exc:
            if not isinstance(exc, errors.AgentError):
                LOG.exception('The VFs of %s cannot be published',
                              self._host)
            problem = (exc.message if isinstance(exc, errors.AgentError)
                       else f'{type(exc).__name__}: {exc}')
            self._log(LOG.warning, f'none: {problem}')
            text = publication.encode(
                publication.Publication(problem=problem))
        else:
            self._frame_buffers = {
                vf.address.lower(): pool.identity.frame_buffer_mib
                for pool in pools for vf in pool.vfs}
            self._log(LOG.info, f'{sum(len(pool.vfs) for pool in pools)} of '
                      f'{len(pools)} PFs')
        return {publication.KEY: text}

    def frame_buffer_bytes(self, addresses: Iterable[str]) -> int | None:
        """Return the sum of the VFs' frame buffers; None if not known."""
        sizes = [self._frame_buffers.get(address) for address in addresses]
        if None in sizes:
            return None
        return sum(size for size in sizes if size is not None) * _MIB

    def _log(self, log: Callable[..., Any], state: str) -> None:
        if state != self._state:
            self._state = state
            log('GPU VFs of %(host)s published to the scheduler: %(state)s',
                {'host': self._host, 'state': state})
