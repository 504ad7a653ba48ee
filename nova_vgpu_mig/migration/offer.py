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


"""What a destination offers to a source: where to connect, and with what.

It crosses the agents' RPC as plain values, so it is checked when it is read.
The ticket is good for one connection of one migration; whoever can read the
RPC can use it, so the RPC's transport has to be as private as the VMs' RAM.
"""

import dataclasses
from typing import Any
from typing import Self

from nova_vgpu_mig.migration import custody
from nova_vgpu_mig.vmm import port as vmm_port

TICKET_BYTES = 32


class OfferError(custody.MoveFailed, ValueError):
    """An offer that is none, or that lacks what the move needs."""


@dataclasses.dataclass(frozen=True, slots=True)
class Offer:
    host: str
    port: int
    ticket: str = dataclasses.field(repr=False)
    """TICKET_BYTES of randomness, hexadecimal."""

    memory: vmm_port.MemoryEndpoint | None = dataclasses.field(
        default=None, repr=False)
    """Where guest RAM goes; None when the guest is not moved with the VF."""

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Self:
        """Inverse of as_dict().

        :raises OfferError: it is not an offer, and what is wrong.
        """
        if not isinstance(values, dict):
            raise OfferError('not an offer: no object')
        try:
            memory = values['memory']
            made = cls(_text(values, 'host'), _port(values),
                       _text(values, 'ticket'),
                       None if memory is None else vmm_port.MemoryEndpoint(
                           _text(memory, 'host'), _port(memory),
                           _text(memory, 'token')))
            if len(bytes.fromhex(made.ticket)) != TICKET_BYTES:
                raise ValueError(f'ticket is not {TICKET_BYTES} bytes')
        except (KeyError, TypeError, ValueError) as exc:
            raise OfferError(f'not an offer: {exc}') from exc
        return made


def _text(values: dict[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str) or not value or len(value) > 1024:
        raise ValueError(f'{key} is not a text')
    return value


def _port(values: dict[str, Any]) -> int:
    port = values['port']
    if type(port) is not int or not 0 < port < 65536:
        raise ValueError(f'port is {port!r}')
    return port
