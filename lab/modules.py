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
without which vfio.ko has no cdevs, nor an iova_bitmap, so that it answers
EOPNOTSUPP to a report of DMA logging and QEMU refuses to migrate; and our own
device. All are built out of tree, from the sources of the very same package
version.

The option changes `struct vfio_device`, so whatever includes linux/vfio.h and
is loaded is built with it; nothing that is in the kernel itself differs by it.
"""

import pathlib

from lab import cache
from lab import debian
from lab import jail
from lab import places

BOOT = ('virtio_pci', 'virtio_blk', 'ext4', 'crc32c_generic')
NODE = ('virtio_net', 'virtio_rng', 'qemu_fw_cfg', 'vfio_iommu_type1',
        'mdev', 'vfio')
OPTIONS = ('IOMMUFD', 'IOMMUFD_DRIVER', 'VFIO_DEVICE_CDEV',
           'INTERVAL_TREE_SPAN_ITER')

_SCRIPT = """\
release=$(cat /kernel/release)
kdir=/lib/modules/$release/build
cd /work
mkdir -p src/iommufd src/vfio src/mtty
cp /kernel/drivers/iommu/iommu-priv.h src
cp /kernel/drivers/iommu/iommufd/*.[ch] /kernel/lib/interval_tree.c src/iommufd
cp /kernel/drivers/vfio/*.[ch] src/vfio
cp /kernel/samples/vfio-mdev/mtty.c src/mtty
# A part of interval_tree.c is in the kernel, which exports that part.
cat /kernel/drivers/iommu/iommufd/Makefile - >src/iommufd/Makefile <<'EOF'
obj-m := iommufd.o
iommufd-y += iova_bitmap.o interval_tree.o
CFLAGS_interval_tree.o := -D__DISABLE_EXPORTS
EOF
{{
    echo 'obj-m := vfio.o vfio_iommu_type1.o'
    grep '^vfio-' /kernel/drivers/vfio/Makefile
    echo 'vfio-y += device_cdev.o iommufd.o'
}} >src/vfio/Makefile
echo 'obj-m := mtty.o' >src/mtty/Makefile
echo 'obj-m := iommufd/ vfio/ mtty/' >src/Makefile
if [ -e device/Makefile ]; then
    mv device src
    echo 'obj-m += device/' >>src/Makefile
fi
make -j "$(nproc)" -C "$kdir" M="$PWD/src" KCFLAGS='{flags}' modules
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
rm -f "$tree/stock/vfio.ko" "$tree/stock/vfio_iommu_type1.ko"
find src -name '*.ko' -exec cp {{}} "$tree/updates" \\;
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
rm -rf src files initramfs
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
                _SCRIPT.format(boot=' '.join(BOOT), node=' '.join(NODE),
                               flags=' '.join(f'-DCONFIG_{name}=1'
                                              for name in OPTIONS)),
                work=where)
