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

"""What an agent answers when it refuses or fails.

The only module whose exceptions oslo.messaging may build from a message
(`allowed_remote_exmods`), so a caller sees the same class as inside the
agent. Each takes one sentence and nothing else: that is what can be rebuilt
at the other end, and what an operator reads in a server's event.

Rejected: letting the errors of devices, journals and sockets through. Each
of their modules would have to be importable by whatever a message names,
and a caller can act on none of the differences.
"""


class AgentError(Exception):
    """An agent refused or failed; `message` says what, where, what next."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class AgentUnreachable(AgentError):
    """No answer from the agent of a host. Never sent, raised by a caller."""


class VersionTooOld(AgentError):
    """The pinned RPC version does not know the call. Raised by a caller."""


class BadRequest(AgentError):
    """The request itself makes no sense; nothing was done."""


class VFNotFound(AgentError):
    """No GPU driver of this host serves a VF at that address."""


class VFTaken(AgentError):
    """The VF belongs to a guest, or to another move."""


class Incompatible(AgentError):
    """The destination's VF could not take the source's state."""


class MigrationNotFound(AgentError):
    """The journal of this host knows no such move."""


class MigrationConflict(AgentError):
    """Another move of the same VM is under way."""


class Refused(AgentError):
    """The step would break an invariant in the state that the move is in."""


class DeviceFailed(AgentError):
    """The GPU, its host driver or the VMM failed; the message has whose."""


class Unexpected(AgentError):
    """A fault of the agent itself; its log has the traceback."""
