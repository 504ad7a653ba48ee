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

"""The downtime limit of a VM: its flavor's, else its host's.

The flavor says what the guest's application can bear; the host's option is
only what holds when nobody has said. Parsed here and not where it is used,
so that a limit that cannot be read is refused before the move and names the
key and the value.
"""

from collections.abc import Mapping
import dataclasses

EXTRA_SPEC = 'vgpu_mig:max_downtime_ms'
MIN_MS = 1
MAX_MS = 2_000_000
"""QEMU takes no downtime limit above 2000 seconds."""


class LimitError(ValueError):
    """A downtime limit that is no number of milliseconds in range."""


@dataclasses.dataclass(frozen=True, slots=True)
class Limit:
    seconds: float
    origin: str
    """Where it was set, for the operator who wonders."""


def parse_ms(key: str, value: object) -> int:
    """Return a limit in milliseconds.

    :param key: what to call the value in an error.
    :param value: an int, or the text of one, as Nova's validator takes it.
    :raises LimitError: naming key and value.
    """
    number = None
    if isinstance(value, str | int) and not isinstance(value, bool):
        try:
            number = int(value)
        except ValueError:
            pass
    if number is None or not MIN_MS <= number <= MAX_MS:
        raise LimitError(
            f'{key}={value!r:.40} is not a downtime limit: set it to a whole '
            f'number of milliseconds from {MIN_MS} to {MAX_MS}')
    return number


def downtime_limit(extra_specs: Mapping[str, str], host_ms: int,
                   host_origin: str) -> Limit:
    """Return the limit that holds for a VM.

    :param extra_specs: of the VM's own copy of its flavor.
    :param host_ms: the host's option, milliseconds.
    :param host_origin: the name of that option, for messages.
    :raises LimitError: the one that holds cannot be read; a flavor's bad
        limit is never replaced by the host's.
    """
    if EXTRA_SPEC in extra_specs:
        number = parse_ms(EXTRA_SPEC, extra_specs[EXTRA_SPEC])
        return Limit(number / 1000, f'flavor {EXTRA_SPEC}')
    return Limit(parse_ms(host_origin, host_ms) / 1000, host_origin)
