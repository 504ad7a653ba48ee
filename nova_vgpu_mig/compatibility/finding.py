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

"""What one rule found: the unit of every verdict.

A finding carries both values and a sentence, not a boolean: "No valid host"
without a reason is what operators complain about. The values are text,
because they are for people and logs; programs compare identities.

It has a module of its own so that the rules can make findings and the
verdict can run the rules without importing each other.
"""

import dataclasses
import enum

NOT_EXPOSED = 'not exposed'
"""Stands for a value that a host's library does not tell."""

NOT_COMPARED = 'not compared'
"""Stands for a value that no host tells and no host driver asks for."""


class Severity(enum.StrEnum):
    OK = 'ok'
    NOTE = 'note'
    """Could not be compared, as was to be expected of such a device."""

    WARNING = 'warning'
    """Seen and said, but no reason to refuse."""

    ERROR = 'error'
    """The destination could not take the state: the move is refused."""


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """The result of one rule for one source and one destination."""

    rule: str
    severity: Severity
    source_value: str
    destination_value: str
    sentence: str

    def as_dict(self) -> dict[str, str]:
        """Return the finding as JSON types."""
        return {'rule': self.rule, 'severity': str(self.severity),
                'source_value': self.source_value,
                'destination_value': self.destination_value,
                'sentence': self.sentence}
