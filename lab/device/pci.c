// SPDX-License-Identifier: GPL-2.0
/*
 * The face towards the guest: a PCI function with 256 bytes of config space
 * and one memory BAR of a few registers. No interrupt, no capability, no
 * mmap: what a migration needs is that the guest can see the work go on and
 * ask for more of it.
 */
#include <linux/io.h>
#include <linux/minmax.h>
#include <linux/pci_regs.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/unaligned.h>

#include "vgpu_lab.h"

#define INDEX_SHIFT	40
#define OFFSET_MASK	((1ULL << INDEX_SHIFT) - 1)

#define CLASS_3D	0x0302
#define COMMAND_MASK	(PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | \
			 PCI_COMMAND_INTX_DISABLE)

enum vgpu_register {
	REGISTER_MAGIC = 0x00,
	REGISTER_VERSION = 0x04,
	REGISTER_FRAME_BUFFER_MIB = 0x08,
	REGISTER_RUNNING = 0x0c,
	REGISTER_WORK_DONE = 0x10,	/* 64 bits */
	REGISTER_DOORBELL = 0x18,
	REGISTER_PENDING = 0x1c,
	REGISTER_SCRATCH = 0x20,
	REGISTERS_END = REGISTER_SCRATCH + 4 * VGPU_SCRATCH,
};

void vgpu_pci_clear(struct vgpu *gpu)
{
	u8 *config = gpu->workload.config;

	memset(config, 0, VGPU_CONFIG_SIZE);
	put_unaligned_le16(VGPU_VENDOR, config + PCI_VENDOR_ID);
	put_unaligned_le16(VGPU_DEVICE, config + PCI_DEVICE_ID);
	put_unaligned_le16(VGPU_VENDOR, config + PCI_SUBSYSTEM_VENDOR_ID);
	put_unaligned_le16(VGPU_DEVICE, config + PCI_SUBSYSTEM_ID);
	put_unaligned_le16(CLASS_3D, config + PCI_CLASS_DEVICE);
	config[PCI_REVISION_ID] = VGPU_STREAM_VERSION;
}

static u8 writable(unsigned int offset)
{
	/* The address bits of a BAR that a guest sizes by writing ones. */
	u32 address = ~(VGPU_BAR_SIZE - 1u);

	switch (offset) {
	case PCI_COMMAND ... PCI_COMMAND + 1:
		return COMMAND_MASK >> (8 * (offset - PCI_COMMAND));
	case PCI_BASE_ADDRESS_0 ... PCI_BASE_ADDRESS_0 + 3:
		return address >> (8 * (offset - PCI_BASE_ADDRESS_0));
	case PCI_CACHE_LINE_SIZE:
	case PCI_INTERRUPT_LINE:
		return 0xff;
	default:
		return 0;
	}
}

static void config_write(struct vgpu *gpu, unsigned int offset,
			 const u8 *data, size_t count)
{
	u8 *config = gpu->workload.config;
	size_t i;

	mutex_lock(&gpu->workload.lock);
	for (i = 0; i < count; i++) {
		u8 mask = writable(offset + i);

		config[offset + i] = (config[offset + i] & ~mask) |
				     (data[i] & mask);
	}
	mutex_unlock(&gpu->workload.lock);
}

static void bar_image(struct vgpu *gpu, u8 *image)
{
	struct vgpu_workload *work = &gpu->workload;
	unsigned int i;

	put_unaligned_le32(VGPU_STREAM_MAGIC, image + REGISTER_MAGIC);
	put_unaligned_le32(VGPU_STREAM_VERSION, image + REGISTER_VERSION);
	put_unaligned_le32(gpu->memory.size >> 20,
			   image + REGISTER_FRAME_BUFFER_MIB);
	put_unaligned_le32(work->running, image + REGISTER_RUNNING);
	put_unaligned_le64(work->done, image + REGISTER_WORK_DONE);
	put_unaligned_le32(min_t(u64, work->pending, U32_MAX),
			   image + REGISTER_PENDING);
	for (i = 0; i < VGPU_SCRATCH; i++)
		put_unaligned_le32(work->scratch[i],
				   image + REGISTER_SCRATCH + 4 * i);
}

static void bar_write(struct vgpu *gpu, unsigned int offset, u32 value)
{
	unsigned int scratch = (offset - REGISTER_SCRATCH) / 4;

	if (offset == REGISTER_DOORBELL) {
		vgpu_workload_ring(gpu, value);
	} else if (offset >= REGISTER_SCRATCH && scratch < VGPU_SCRATCH) {
		mutex_lock(&gpu->workload.lock);
		gpu->workload.scratch[scratch] = value;
		mutex_unlock(&gpu->workload.lock);
	}
}

static u64 region_size(unsigned int index)
{
	switch (index) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		return VGPU_BAR_SIZE;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		return VGPU_CONFIG_SIZE;
	default:
		return 0;
	}
}

/* Bytes of this access in its region; no more than config space at once. */
static ssize_t clip(loff_t position, size_t count)
{
	u64 size = region_size(position >> INDEX_SHIFT);
	u64 offset = position & OFFSET_MASK;

	if (!size || offset >= size)
		return -EINVAL;
	return min3((u64)count, size - offset, (u64)VGPU_CONFIG_SIZE);
}

ssize_t vgpu_pci_read(struct vfio_device *vdev, char __user *buf,
		      size_t count, loff_t *ppos)
{
	struct vgpu *gpu = vgpu_of(vdev);
	u64 offset = *ppos & OFFSET_MASK;
	u8 image[REGISTERS_END] = {};
	u8 data[VGPU_CONFIG_SIZE] = {};
	ssize_t length = clip(*ppos, count);

	if (length < 0)
		return length;
	mutex_lock(&gpu->workload.lock);
	if (*ppos >> INDEX_SHIFT == VFIO_PCI_CONFIG_REGION_INDEX) {
		memcpy(data, gpu->workload.config + offset, length);
	} else if (offset < REGISTERS_END) {
		bar_image(gpu, image);
		memcpy(data, image + offset,
		       min_t(u64, length, REGISTERS_END - offset));
	}
	mutex_unlock(&gpu->workload.lock);
	if (copy_to_user(buf, data, length))
		return -EFAULT;
	*ppos += length;
	return length;
}

ssize_t vgpu_pci_write(struct vfio_device *vdev, const char __user *buf,
		       size_t count, loff_t *ppos)
{
	struct vgpu *gpu = vgpu_of(vdev);
	u64 offset = *ppos & OFFSET_MASK;
	u8 data[VGPU_CONFIG_SIZE];
	ssize_t length = clip(*ppos, count);
	ssize_t i;

	if (length < 0)
		return length;
	if (copy_from_user(data, buf, length))
		return -EFAULT;
	if (*ppos >> INDEX_SHIFT == VFIO_PCI_CONFIG_REGION_INDEX) {
		config_write(gpu, offset, data, length);
	} else {
		if (offset % 4 || length % 4)
			return -EINVAL;
		for (i = 0; i < length; i += 4)
			bar_write(gpu, offset + i,
				  get_unaligned_le32(data + i));
	}
	*ppos += length;
	return length;
}

static long get_info(void __user *arg)
{
	size_t least = offsetofend(struct vfio_device_info, num_irqs);
	struct vfio_device_info info = {};

	if (copy_from_user(&info, arg, least))
		return -EFAULT;
	if (info.argsz < least)
		return -EINVAL;
	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = VFIO_PCI_NUM_REGIONS;
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, least) ? -EFAULT : 0;
}

static long get_region_info(void __user *arg)
{
	size_t least = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info = {};

	if (copy_from_user(&info, arg, least))
		return -EFAULT;
	if (info.argsz < least || info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	info.size = region_size(info.index);
	info.offset = (u64)info.index << INDEX_SHIFT;
	info.flags = info.size ? VFIO_REGION_INFO_FLAG_READ |
				 VFIO_REGION_INFO_FLAG_WRITE : 0;
	info.cap_offset = 0;
	return copy_to_user(arg, &info, least) ? -EFAULT : 0;
}

/* No interrupt at any index, and as of no PCIe device no error one at all. */
static long get_irq_info(void __user *arg)
{
	size_t least = offsetofend(struct vfio_irq_info, count);
	struct vfio_irq_info info = {};

	if (copy_from_user(&info, arg, least))
		return -EFAULT;
	if (info.argsz < least || info.index >= VFIO_PCI_NUM_IRQS ||
	    info.index == VFIO_PCI_ERR_IRQ_INDEX)
		return -EINVAL;
	info.flags = 0;
	info.count = 0;
	return copy_to_user(arg, &info, least) ? -EFAULT : 0;
}

long vgpu_pci_ioctl(struct vfio_device *vdev, unsigned int cmd,
		    unsigned long arg)
{
	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return get_info((void __user *)arg);
	case VFIO_DEVICE_GET_REGION_INFO:
		return get_region_info((void __user *)arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		return get_irq_info((void __user *)arg);
	case VFIO_DEVICE_SET_IRQS:
		return -EINVAL;
	case VFIO_DEVICE_RESET:
		vgpu_reset(vgpu_of(vdev));
		return 0;
	default:
		return -ENOTTY;
	}
}
