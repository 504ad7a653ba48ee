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

"""The nodes' kernel: what boots, and the modules that are built for it.

Debian's kernel lacks three things: the sample driver mtty; CONFIG_IOMMUFD,
without which vfio.ko has no iova_bitmap and answers EOPNOTSUPP to a report of
DMA logging, so that QEMU refuses to migrate; and our own device. All are
built out of tree, from the sources of the very same package version.
"""

import pathlib

from lab import cache
from lab import debian
from lab import jail
from lab import places

BOOT = ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic')
NODE = ('virtio_net', 'virtio_rng', 'qemu_fw_cfg', 'vfio_iommu_type1',
        'mdev', 'vfio')

_SCRIPT = """\
release=$(cat /kernel/release)
kdir=/lib/modules/$release/build
cd /work
mkdir vfio mtty
cp /kernel/drivers/vfio/*.[ch] /kernel/drivers/iommu/iommufd/iova_bitmap.c \\
    vfio
{{
    echo 'obj-m := vfio.o'
    grep '^vfio-' /kernel/drivers/vfio/Makefile
    echo 'vfio-y += iova_bitmap.o'
    echo 'ccflags-y += -DCONFIG_IOMMUFD_DRIVER=1'
}} >vfio/Makefile
cp /kernel/samples/vfio-mdev/mtty.c mtty
echo 'obj-m := mtty.o' >mtty/Makefile
for part in vfio mtty; do
    make -C "$kdir" M="/work/$part" modules
done
if [ -e device/Makefile ]; then
    make -C device KDIR="$kdir"
fi
tree=tree/lib/modules/$release
mkdir -p "$tree/stock" "$tree/updates" initramfs/m initramfs/bin \\
    initramfs/dev initramfs/proc initramfs/sys initramfs/root
take() {{
    to=$1
    shift
    modprobe -S "$release" -a --show-depends "$@" | sed -n 's/^insmod //p' |
    while read -r path options; do
        name=${{path##*/}}
        name=${{name%.xz}}
        case $path in
            *.xz) xz -dc "$path" >"$to/$name" ;;
            *) cp "$path" "$to/$name" ;;
        esac
        echo "$name"
    done
}}
take initramfs/m {boot} | awk '!seen[$0]++' >initramfs/load
take "$tree/stock" {boot} {node} >/dev/null
rm -f "$tree/stock/vfio.ko"
find vfio mtty device -name '*.ko' -exec cp {{}} "$tree/updates" \\;
cp "/lib/modules/$release/modules.builtin" \\
    "/lib/modules/$release/modules.builtin.modinfo" \\
    "/lib/modules/$release/modules.order" "$tree"
depmod -b tree -F "/boot/System.map-$release" "$release" || depmod -b tree \\
    "$release"
cp /usr/bin/busybox initramfs/bin
cp files/initramfs initramfs/init
chmod 755 initramfs/init
(cd initramfs && find . | cpio -o -H newc --quiet | gzip -1) >initramfs.gz
cp "/boot/vmlinuz-$release" vmlinuz
rm -rf vfio mtty device files initramfs
"""


def built() -> pathlib.Path:
    """Return the directory with `vmlinuz`, `initramfs.gz` and `tree`.

    `tree` has /lib/modules of the nodes.
    """
    root = debian.build_root()
    inputs: list[str | pathlib.Path] = [
        root.parent.name, pathlib.Path(__file__),
        places.FILES / 'initramfs', *_device()]
    return cache.entry('modules', cache.digest(*inputs),
                       lambda where: _build(root, where))


def _device() -> list[pathlib.Path]:
    """Return the sources of our own device, none where there is none."""
    if not (places.DEVICE / 'Makefile').exists():
        return []
    return sorted(path for path in places.DEVICE.iterdir()
                  if path.suffix in ('.c', '.h') or path.name == 'Makefile')


def _build(root: pathlib.Path, where: pathlib.Path) -> None:
    for name, sources in (('device', _device()),
                          ('files', [places.FILES / 'initramfs'])):
        (where / name).mkdir()
        for source in sources:
            (where / name / source.name).write_bytes(source.read_bytes())
    jail.chroot('modules', cache.log('modules'), root,
                _SCRIPT.format(boot=' '.join(BOOT), node=' '.join(NODE)),
                work=where)
