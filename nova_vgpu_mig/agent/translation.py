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

"""From the errors of the engine to those that an agent answers with.

The engine's errors say what happened to a device, a journal or a guest. A
caller on another host needs to know whose fault it is and where; so each
becomes one of `agent.errors` here, with the host in front of its text.
"""

from collections.abc import Callable
import functools
import logging
from typing import Any
from typing import Concatenate
from typing import ParamSpec
from typing import Protocol
from typing import TypeVar

from nova_vgpu_mig.agent import errors
from nova_vgpu_mig.gpu import registry as gpu_registry
from nova_vgpu_mig.migration import destination
from nova_vgpu_mig.migration.hypervisor import source as watched
from nova_vgpu_mig.migration import journal
from nova_vgpu_mig.migration import recovery
from nova_vgpu_mig.migration import source
from nova_vgpu_mig.vmm import hypervisor
from nova_vgpu_mig.vmm import port as vmm_port

LOG = logging.getLogger(__name__)

# The first that fits; subclasses come before their bases.
TABLE: tuple[tuple[type[Exception], type[errors.AgentError]], ...] = (
    (journal.NotInJournal, errors.MigrationNotFound),
    (journal.AlreadyMoving, errors.MigrationConflict),
    (journal.IllegalTransition, errors.Refused),
    (journal.JournalError, errors.Unexpected),
    (source.AbortRefused, errors.Refused),
    (destination.DropRefused, errors.Refused),
    (recovery.ResolveRefused, errors.Refused),
    (gpu_registry.NoGPUDriver, errors.DeviceFailed),
    (watched.AbortTooLate, errors.Refused),
    (hypervisor.HypervisorError, errors.DeviceFailed),
    (vmm_port.GuestNotFound, errors.DeviceFailed),
    (vmm_port.VMMError, errors.DeviceFailed),
    (OSError, errors.DeviceFailed),
    (ValueError, errors.BadRequest),
)


class _HasHost(Protocol):
    host: str


S = TypeVar('S', bound=_HasHost)
P = ParamSpec('P')
R = TypeVar('R')


def translate(host: str, exc: Exception) -> errors.AgentError:
    """Return what an agent answers for an error of the engine. Pure."""
    if isinstance(exc, errors.AgentError):
        return exc
    text = exc.strerror if isinstance(exc, OSError) else str(exc)
    for kind, ours in TABLE:
        if isinstance(exc, kind):
            return ours(f'agent of {host}: {text or exc}')
    return errors.Unexpected(
        f'agent of {host}: {type(exc).__name__}: {exc}; its log has more')


def translated(method: Callable[Concatenate[S, P], R]
               ) -> Callable[Concatenate[S, P], R]:
    """Make a method of an object with a `host` raise AgentError only."""
    @functools.wraps(method)
    def wrapper(self: S, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(self, *args, **kwargs)
        except errors.AgentError:
            raise
        except Exception as exc:
            answer: Any = translate(self.host, exc)
            if isinstance(answer, errors.Unexpected):
                LOG.exception('%s failed', method.__name__)
            raise answer from exc
    return wrapper
