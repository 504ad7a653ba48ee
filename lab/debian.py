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

"""Debian trixie in a directory: one for the nodes, one to build in."""

import pathlib

from lab import cache
from lab import jail
from lab import places

SUITE = 'trixie'
NODE_PACKAGES = (
    'busybox-static', 'iproute2', 'kmod', 'libvirt-clients',
    'libvirt-daemon', 'libvirt-daemon-driver-nodedev',
    'libvirt-daemon-driver-qemu', 'mdevctl', 'openssh-server', 'procps',
    'python3', 'python3-libvirt', 'qemu-system-x86', 'udev')
BUILD_PACKAGES = (
    'busybox-static', 'cpio', 'gcc', 'kmod', 'linux-headers-amd64', 'make',
    'python3', 'xz-utils')
KERNEL_SOURCES = (
    'drivers/iommu/iommu-priv.h', 'drivers/iommu/iommufd', 'drivers/vfio',
    'lib/interval_tree.c', 'samples/vfio-mdev/mtty.c')

_DPKG = """\
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
"""
_INSTALL = """\
printf '#!/bin/sh\\nexit 101\\n' >/usr/sbin/policy-rc.d
chmod 755 /usr/sbin/policy-rc.d
apt-get -q -y -o APT::Install-Recommends=false install {packages}
apt-get clean
rm -rf /var/lib/apt/lists/partial
"""
_KERNEL = """\
cd /kernel
release=$(ls /lib/modules)
test "$(echo "$release" | wc -w)" = 1
version=$(dpkg-query -W -f '${Version}' "linux-headers-$release")
series=${version%%.*}
rest=${version#*.}
series=$series.${rest%%.*}
apt-get -q download "linux-source-$series=$version"
dpkg-deb --fsys-tarfile linux-source-*.deb |
    tar -xO "./usr/src/linux-source-$series.tar.xz" | xz -dc -T0 |
    tar -x --strip-components=1 --occurrence=1 {members}
rm ./*.deb
echo "$release" >release
"""


def _bootstrap(name: str, root: pathlib.Path,
               packages: tuple[str, ...]) -> None:
    log = cache.log(name)
    jail.run(name, log, [
        'debootstrap', '--variant=minbase', SUITE, root])
    (root / 'etc/dpkg/dpkg.cfg.d/lab').write_text(_DPKG)
    (root / 'work').mkdir()
    jail.chroot(name, log, root,
                _INSTALL.format(packages=' '.join(packages)), INITRD='No')


def _key(*more: str) -> str:
    return cache.digest(SUITE, pathlib.Path(__file__), *more)


def node_image() -> pathlib.Path:
    """Return the directory of the nodes' root file system, `root.img`."""
    return cache.entry('debian', _key(), _build_image)


def _build_image(where: pathlib.Path) -> None:
    root = where / 'root'
    _bootstrap('debian', root, NODE_PACKAGES)
    for directory in ('lab', 'opt/nova-vgpu-mig'):
        (root / directory).mkdir(parents=True)
    jail.run('debian', cache.log('debian'), [
        'mkfs.ext4', '-q', '-F', '-L', 'root', '-O', '^has_journal',
        '-d', root, where / 'root.img', '4G'])
    places.remove(root)


def build_root() -> pathlib.Path:
    """Return the root to build modules in, with the kernel in it.

    Its /kernel has the kernel's `release` and what of its sources is built
    again, with the paths of the kernel's tree.
    """
    return cache.entry('toolchain', _key(), _build_toolchain) / 'root'


def _build_toolchain(where: pathlib.Path) -> None:
    root = where / 'root'
    _bootstrap('toolchain', root, BUILD_PACKAGES)
    (root / 'kernel').mkdir()
    members = ' '.join(f"'linux-source-'\"$series\"'/{path}'"
                       for path in KERNEL_SOURCES)
    jail.chroot('toolchain', cache.log('toolchain'), root,
                _KERNEL.replace('{members}', members))
