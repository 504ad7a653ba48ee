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

"""What a node boots from: kernel, initramfs, and two disks.

The root file system holds Debian's packages and changes rarely. What we
bring (modules, what the agent imports, our files, the keys) is a second,
small disk, so that a changed line in lab/device costs seconds.
"""

import concurrent.futures
import dataclasses
import pathlib
import shutil

from lab import cache
from lab import debian
from lab import jail
from lab import modules
from lab import places
from lab import python


@dataclasses.dataclass(frozen=True)
class Image:
    kernel: pathlib.Path
    initramfs: pathlib.Path
    root: pathlib.Path
    extras: pathlib.Path
    ssh: pathlib.Path
    """Directory of the keys: `user`, and `known_hosts`."""


def built() -> Image:
    """Build what is missing; the parts that don't need each other at once."""
    with concurrent.futures.ThreadPoolExecutor() as pool:
        root = pool.submit(debian.node_image)
        wheels = pool.submit(python.packages)
        keys = pool.submit(_keys)
        toolchain = pool.submit(debian.build_root)
        futures = [root, wheels, keys, toolchain]
        try:
            done = concurrent.futures.wait(
                futures,
                return_when=concurrent.futures.FIRST_EXCEPTION).done
            for future in done:
                future.result()
        except BaseException:
            jail.stop()
            raise
    kernel = modules.built()
    extras = _extras(kernel, python.compiled(), keys.result())
    return Image(
        kernel=kernel / 'vmlinuz', initramfs=kernel / 'initramfs.gz',
        root=root.result() / 'root.img', extras=extras / 'extras.img',
        ssh=keys.result())


def _keys() -> pathlib.Path:
    return cache.entry('keys', cache.digest(pathlib.Path(__file__)),
                       _make_keys)


def _make_keys(where: pathlib.Path) -> None:
    for name in ('user', 'host'):
        jail.run('keys', cache.log('keys'), [
            'ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-C', 'lab',
            '-f', where / name])
    public = (where / 'host.pub').read_text()
    (where / 'known_hosts').write_text(f'node1,node2 {public}')
    shutil.copy(where / 'user.pub', where / 'authorized_keys')


def _extras(kernel: pathlib.Path, site: pathlib.Path,
            keys: pathlib.Path) -> pathlib.Path:
    key = cache.digest(pathlib.Path(__file__), places.FILES, kernel.name,
                       site.name, keys.name)
    return cache.entry('extras', key, lambda where: _make_extras(
        where, kernel, site, keys))


def _make_extras(where: pathlib.Path, kernel: pathlib.Path,
                 site: pathlib.Path, keys: pathlib.Path) -> None:
    tree = where / 'lab'
    tree.mkdir()
    (tree / 'ssh').mkdir(mode=0o700)
    for name in ('host', 'authorized_keys'):
        shutil.copy(keys / name, tree / 'ssh' / name)
    shutil.copytree(places.FILES, tree / 'files')
    (tree / 'files' / 'init').chmod(0o755)
    (tree / 'init').symlink_to('/lab/files/init')
    log = cache.log('extras')
    jail.run('extras', log, ['cp', '-a', kernel / 'tree' / 'lib', tree])
    jail.run('extras', log, ['cp', '-a', site / 'python', tree])
    jail.run('extras', log, [
        'mkfs.ext4', '-q', '-F', '-L', 'extras', '-O', '^has_journal',
        '-d', tree, where / 'extras.img', '1G'])
    places.remove(tree)
