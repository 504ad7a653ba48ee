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

"""What a running lab is: written once, read by every other command."""

import dataclasses
import json
import pathlib

from lab import errors
from lab import places


@dataclasses.dataclass(frozen=True)
class State:
    image: list[str]
    """The parts it was started from, by name and key."""
    keys: str
    ssh_ports: dict[str, int]
    broker_port: int
    broker_password: str
    installed: dict[str, str]
    """Digest of the checkout that each node has."""


def _path() -> pathlib.Path:
    return places.run() / 'state.json'


def write(state: State) -> None:
    temporary = _path().with_suffix('.new')
    temporary.write_text(json.dumps(dataclasses.asdict(state)))
    temporary.rename(_path())


def read() -> State | None:
    """Return the state, None when no lab was started."""
    try:
        return State(**json.loads(_path().read_text()))
    except FileNotFoundError:
        return None


def running() -> State:
    state = read()
    if state is None:
        raise errors.LabError('the lab is not running: tools/lab up')
    return state
