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

"""Wait for something to become true, with a limit that names a log."""

from collections.abc import Callable
import pathlib
import time

from lab import errors
from lab import jail

_PAUSE = 0.1


def until(what: str, holds: Callable[[], bool], seconds: float,
          log: pathlib.Path) -> None:
    """Return when it holds.

    :raises LabError: it took too long; the end of `log` is shown.
    """
    limit = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > limit:
            raise errors.LabError(
                f'{what}: not within {seconds:.0f} s; see {log}\n'
                f'{jail.tail(log)}')
        time.sleep(_PAUSE)


def for_line(what: str, line: str, log: pathlib.Path, seconds: float,
             alive: Callable[[], bool]) -> None:
    """Return when `line` is in the log; at once if it can't come any more.

    :raises LabError: as until(), or who writes the log has ended.
    """
    def there() -> bool:
        living = alive()
        if log.exists() and line in log.read_text(errors='replace'):
            return True
        if not living:
            raise errors.LabError(
                f'{what}: ended; see {log}\n{jail.tail(log)}')
        return False

    until(what, there, seconds, log)
