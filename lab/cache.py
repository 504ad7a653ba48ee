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

"""Things that are built once: kept by a digest of what they are made from.

An entry is built in a directory of its own and renamed when it is complete,
so what has its final name is whole. A new entry replaces older ones of the
same name.
"""

from collections.abc import Callable
from collections.abc import Iterable
import hashlib
import pathlib
import tempfile
import time

from lab import places
from lab import progress

Build = Callable[[pathlib.Path], None]


def digest(*inputs: str | pathlib.Path) -> str:
    """Digest texts, files, and directories with all that is below them."""
    summer = hashlib.sha256()
    for given in inputs:
        for name, content in _pieces(given):
            for piece in (name.encode(), content):
                summer.update(len(piece).to_bytes(8, 'big') + piece)
    return summer.hexdigest()[:16]


def _pieces(given: str | pathlib.Path) -> Iterable[tuple[str, bytes]]:
    if isinstance(given, str):
        yield 'text', given.encode()
    elif given.is_dir():
        for path in sorted(given.rglob('*')):
            if path.is_file():
                yield str(path.relative_to(given)), path.read_bytes()
    else:
        yield given.name, given.read_bytes()


def entry(name: str, key: str, build: Build) -> pathlib.Path:
    """Return the directory of this name and key; build it if need be."""
    store = places.cache()
    final = store / f'{name}-{key}'
    if final.is_dir():
        return final
    progress.say(f'{name}: building')
    began = time.monotonic()
    places.unfinished().mkdir(mode=0o700, exist_ok=True)
    being = pathlib.Path(tempfile.mkdtemp(prefix=f'{name}-',
                                          dir=places.unfinished()))
    build(being)
    being.rename(final)
    for other in store.glob(f'{name}-*'):
        if other != final:
            places.remove(other)
    progress.say(f'{name}: built in {time.monotonic() - began:.0f} s')
    return final


def sweep() -> None:
    """Remove what builds left that did not end."""
    if places.unfinished().exists():
        places.remove(places.unfinished())


def log(name: str) -> pathlib.Path:
    return places.logs() / f'{name}.log'
