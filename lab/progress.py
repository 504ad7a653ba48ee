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

"""What the lab is doing, with the time since it was started.

On a terminal the last line shows what the steps under way said last.
"""

import sys
import threading
import time

_start = time.monotonic()
_lock = threading.Lock()
_WIDTH = 78


def _stamp() -> str:
    seconds = int(time.monotonic() - _start)
    return f'[{seconds // 60}:{seconds % 60:02d}]'


def say(text: str) -> None:
    """Print a line that stays."""
    with _lock:
        clear = '\r\033[K' if sys.stderr.isatty() else ''
        print(f'{clear}{_stamp()} {text}', file=sys.stderr, flush=True)


def murmur(step: str, text: str) -> None:
    """Show a line that the next one replaces; only on a terminal."""
    if not sys.stderr.isatty():
        return
    line = f'{_stamp()} {step}: {" ".join(text.split())}'[:_WIDTH]
    with _lock:
        print(f'\r\033[K{line}', end='', file=sys.stderr, flush=True)
