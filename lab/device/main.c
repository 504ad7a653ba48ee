// SPDX-License-Identifier: GPL-2.0
/*
 * vgpu_lab: a GPU for the laboratory, as mediated devices that migrate.
 *
 * Why it exists: a live migration of a VM with a GPU goes through the kernel's
 * VFIO, QEMU and libvirt, and none of the three can be tried without a device
 * that keeps the VFIO migration contract (v2). The hardware that does is rare;
 * the kernel's sample device has a state of under 100 bytes, so nothing that
 * takes time happens to it. This one has what makes a GPU hard to move: a
 * frame buffer of up to a gibibyte, a workload that dirties it while it is
 * copied, an identity that a destination may refuse, state that exists only
 * when it is stopped, and a stream of packages like a real one's. And it can
 * be told to wait, to be slow, to fail and to lose data, so that a test need
 * not hope for the moment it is about.
 *
 * Left out: DMA and interrupts (the workload writes its own frame buffer
 * only), mmap of the BAR, config space in the stream (the VMM carries its own
 * view of it), power management, more than one parent, and every security
 * consideration: whoever can write the sysfs files owns the guest's GPU.
 */
#include <linux/device.h>
#include <linux/err.h>
#include <linux/init.h>
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vfio.h>

#include "vgpu_lab.h"

#define MIB (1024ULL * 1024)

static struct vgpu_type types[] = {
	{
		.type = { .sysfs_name = "16", .pretty_name = "16 MiB" },
		.frame_buffer_bytes = 16 * MIB,
	}, {
		.type = { .sysfs_name = "64", .pretty_name = "64 MiB" },
		.frame_buffer_bytes = 64 * MIB,
	}, {
		.type = { .sysfs_name = "256", .pretty_name = "256 MiB" },
		.frame_buffer_bytes = 256 * MIB,
	}, {
		.type = { .sysfs_name = "1024", .pretty_name = "1024 MiB" },
		.frame_buffer_bytes = 1024 * MIB,
	},
};

static struct mdev_type *type_list[] = {
	&types[0].type, &types[1].type, &types[2].type, &types[3].type,
};

static struct mdev_parent parent;
static struct device *parent_device;

static int vgpu_init(struct vfio_device *vdev)
{
	struct vgpu *gpu = vgpu_of(vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);
	struct vgpu_type *type =
		container_of(mdev->type, struct vgpu_type, type);

	mutex_init(&gpu->transition);
	mutex_init(&gpu->lock);
	init_waitqueue_head(&gpu->readable);
	init_waitqueue_head(&gpu->knobs.wait);
	gpu->knobs.hold = VGPU_NO_STATE;
	gpu->knobs.held = VGPU_NO_STATE;
	gpu->knobs.fail_at = VGPU_NO_STATE;
	gpu->state = VFIO_DEVICE_STATE_RUNNING;
	strscpy(gpu->identity.firmware, "1.0");
	strscpy(gpu->identity.driver_version, "1.0");
	strscpy(gpu->identity.vbios, "1.0");
	strscpy(gpu->identity.partition, "SPX");
	vdev->migration_flags = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P |
				VFIO_MIGRATION_PRE_COPY;
	vdev->mig_ops = &vgpu_migration_ops;
	vdev->log_ops = &vgpu_log_ops;
	if (vgpu_memory_init(&gpu->memory, type->frame_buffer_bytes))
		return -ENOMEM;
	vgpu_workload_init(gpu);
	vgpu_pci_clear(gpu);
	return 0;
}

static void vgpu_release(struct vfio_device *vdev)
{
	vgpu_memory_free(&vgpu_of(vdev)->memory);
}

/* Each guest finds a device as after power-on. */
static int vgpu_open(struct vfio_device *vdev)
{
	struct vgpu *gpu = vgpu_of(vdev);
	int ret = vgpu_workload_start(gpu);

	if (ret)
		return ret;
	mutex_lock(&gpu->lock);
	WRITE_ONCE(gpu->open, true);
	gpu->dma_logging = false;
	mutex_unlock(&gpu->lock);
	vgpu_reset(gpu);
	return 0;
}

/* What the guest left can be looked at until the next one opens. */
static void vgpu_close(struct vfio_device *vdev)
{
	struct vgpu *gpu = vgpu_of(vdev);

	vgpu_workload_run(gpu, false);
	vgpu_workload_stop(gpu);
	mutex_lock(&gpu->lock);
	vgpu_session_end(gpu);
	WRITE_ONCE(gpu->open, false);
	mutex_unlock(&gpu->lock);
}

static void vgpu_request(struct vfio_device *vdev, unsigned int count)
{
	vgpu_give_up(vgpu_of(vdev));
}

static const struct vfio_device_ops vgpu_ops = {
	.name = "vgpu_lab",
	.init = vgpu_init,
	.release = vgpu_release,
	.open_device = vgpu_open,
	.close_device = vgpu_close,
	.read = vgpu_pci_read,
	.write = vgpu_pci_write,
	.ioctl = vgpu_pci_ioctl,
	.request = vgpu_request,
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
};

static int vgpu_probe(struct mdev_device *mdev)
{
	struct vgpu *gpu;
	int ret;

	gpu = vfio_alloc_device(vgpu, vdev, &mdev->dev, &vgpu_ops);
	if (IS_ERR(gpu))
		return PTR_ERR(gpu);
	dev_set_drvdata(&mdev->dev, gpu);
	ret = vfio_register_emulated_iommu_dev(&gpu->vdev);
	if (ret)
		vfio_put_device(&gpu->vdev);
	return ret;
}

static void vgpu_remove(struct mdev_device *mdev)
{
	struct vgpu *gpu = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&gpu->vdev);
	vfio_put_device(&gpu->vdev);
}

static ssize_t show_description(struct mdev_type *mtype, char *buf)
{
	struct vgpu_type *type = container_of(mtype, struct vgpu_type, type);

	return sysfs_emit(buf, "lab GPU with %llu MiB of frame buffer\n",
			  type->frame_buffer_bytes / MIB);
}

static struct mdev_driver driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = VGPU_INSTANCES,
	.probe = vgpu_probe,
	.remove = vgpu_remove,
	.show_description = show_description,
	.driver = {
		.name = "vgpu_lab",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
		.dev_groups = vgpu_groups,
	},
};

static const struct class vgpu_class = { .name = "vgpu_lab" };

static int __init vgpu_module_init(void)
{
	int ret;

	ret = class_register(&vgpu_class);
	if (ret)
		return ret;
	parent_device = device_create(&vgpu_class, NULL, MKDEV(0, 0), NULL,
				      "vgpu_lab0");
	if (IS_ERR(parent_device)) {
		ret = PTR_ERR(parent_device);
		goto no_class;
	}
	ret = mdev_register_driver(&driver);
	if (ret)
		goto no_device;
	ret = mdev_register_parent(&parent, parent_device, &driver, type_list,
				   ARRAY_SIZE(type_list));
	if (ret)
		goto no_driver;
	return 0;

no_driver:
	mdev_unregister_driver(&driver);
no_device:
	device_unregister(parent_device);
no_class:
	class_unregister(&vgpu_class);
	return ret;
}
module_init(vgpu_module_init);

static void __exit vgpu_module_exit(void)
{
	mdev_unregister_parent(&parent);
	mdev_unregister_driver(&driver);
	device_unregister(parent_device);
	class_unregister(&vgpu_class);
}
module_exit(vgpu_module_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A GPU for the laboratory: mediated devices that migrate");
MODULE_SOFTDEP("pre: vfio_iommu_type1");
