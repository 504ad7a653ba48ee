// SPDX-License-Identifier: GPL-2.0
/*
 * What a test can see and set, in the directory of the mdev (README.rst).
 *
 * Most files are one field of `struct vgpu`, so an attribute carries the
 * field's offset and a handful of functions serve them all.
 */
#include <linux/ctype.h>
#include <linux/device.h>
#include <linux/kstrtox.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "vgpu_lab.h"

#define MAX_DELAY_MS	600000u

struct field_attribute {
	struct device_attribute attr;
	size_t offset;
};

#define FIELD(_name, _kind, _path)					\
	static struct field_attribute field_##_name = {			\
		.attr = __ATTR(_name, 0644, show_##_kind, store_##_kind), \
		.offset = offsetof(struct vgpu, _path),			\
	}

static struct vgpu *of_device(struct device *dev)
{
	return dev_get_drvdata(dev);
}

static void *field_of(struct device *dev, struct device_attribute *attr)
{
	struct field_attribute *field =
		container_of(attr, struct field_attribute, attr);

	return (u8 *)of_device(dev) + field->offset;
}

/* Status, beside the mdev's own files. */

static ssize_t state_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	struct vgpu *gpu = of_device(dev);

	return sysfs_emit(buf, "%s\n",
			  vgpu_state_names[READ_ONCE(gpu->state)]);
}
static DEVICE_ATTR_RO(state);

static ssize_t guest_present_show(struct device *dev,
				  struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(of_device(dev)->open));
}
static DEVICE_ATTR_RO(guest_present);

static ssize_t dirty_units_show(struct device *dev,
				struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n",
			  vgpu_memory_dirty(&of_device(dev)->memory));
}
static DEVICE_ATTR_RO(dirty_units);

static ssize_t work_done_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n",
			  READ_ONCE(of_device(dev)->workload.done));
}
static DEVICE_ATTR_RO(work_done);

/* With the count it belongs to, or it would say nothing while work goes on. */
static ssize_t digest_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct vgpu *gpu = of_device(dev);
	u64 digest, done;

	if (mutex_lock_interruptible(&gpu->workload.lock))
		return -ERESTARTSYS;
	digest = vgpu_memory_digest(&gpu->memory);
	done = gpu->workload.done;
	mutex_unlock(&gpu->workload.lock);
	return sysfs_emit(buf, "%016llx %llu\n", digest, done);
}
static DEVICE_ATTR_RO(digest);

static struct attribute *status_attrs[] = {
	&dev_attr_state.attr,
	&dev_attr_guest_present.attr,
	&dev_attr_dirty_units.attr,
	&dev_attr_work_done.attr,
	&dev_attr_digest.attr,
	NULL,
};

static const struct attribute_group status_group = { .attrs = status_attrs };

/* identity/ */

static ssize_t show_text(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	struct vgpu *gpu = of_device(dev);
	ssize_t length;

	mutex_lock(&gpu->lock);
	length = sysfs_emit(buf, "%s\n", (char *)field_of(dev, attr));
	mutex_unlock(&gpu->lock);
	return length;
}

static ssize_t store_text(struct device *dev, struct device_attribute *attr,
			  const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	size_t length = count;
	char *field = field_of(dev, attr);
	size_t i;

	while (length && isspace(buf[length - 1]))
		length--;
	if (!length || length >= VGPU_TEXT)
		return -EINVAL;
	for (i = 0; i < length; i++)
		if (!isascii(buf[i]) || !isprint(buf[i]))
			return -EINVAL;
	mutex_lock(&gpu->lock);
	if (gpu->open) {
		mutex_unlock(&gpu->lock);
		return -EBUSY;
	}
	memset(field, 0, VGPU_TEXT);
	memcpy(field, buf, length);
	mutex_unlock(&gpu->lock);
	return count;
}

FIELD(firmware, text, identity.firmware);
FIELD(driver_version, text, identity.driver_version);
FIELD(vbios, text, identity.vbios);
FIELD(partition, text, identity.partition);

static ssize_t vendor_id_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%04x\n", VGPU_VENDOR);
}
static DEVICE_ATTR_RO(vendor_id);

static ssize_t device_id_show(struct device *dev,
			      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%04x\n", VGPU_DEVICE);
}
static DEVICE_ATTR_RO(device_id);

static ssize_t migration_version_show(struct device *dev,
				      struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", VGPU_STREAM_VERSION);
}
static DEVICE_ATTR_RO(migration_version);

static ssize_t frame_buffer_mib_show(struct device *dev,
				     struct device_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%llu\n", of_device(dev)->memory.size >> 20);
}
static DEVICE_ATTR_RO(frame_buffer_mib);

static struct attribute *identity_attrs[] = {
	&field_firmware.attr.attr,
	&field_driver_version.attr.attr,
	&field_vbios.attr.attr,
	&field_partition.attr.attr,
	&dev_attr_vendor_id.attr,
	&dev_attr_device_id.attr,
	&dev_attr_migration_version.attr,
	&dev_attr_frame_buffer_mib.attr,
	NULL,
};

static const struct attribute_group identity_group = {
	.name = "identity",
	.attrs = identity_attrs,
};

/* workload/ */

static ssize_t show_program(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%llu\n",
			  READ_ONCE(*(u64 *)field_of(dev, attr)));
}

static ssize_t store_program(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	u64 *field = field_of(dev, attr);
	struct vgpu_program next;
	u64 value;
	int ret;

	ret = kstrtou64(buf, 0, &value);
	if (ret)
		return ret;
	mutex_lock(&gpu->lock);
	next = gpu->workload.program;
	*(u64 *)((u8 *)&next + ((u8 *)field - (u8 *)&gpu->workload.program)) =
		value;
	ret = vgpu_workload_program(gpu, &next);
	mutex_unlock(&gpu->lock);
	return ret ?: count;
}

FIELD(bytes_per_second, program, workload.program.bytes_per_second);
FIELD(working_set_bytes, program, workload.program.working_set_bytes);
FIELD(stride_bytes, program, workload.program.stride_bytes);
FIELD(seed, program, workload.program.seed);

static ssize_t doorbell_store(struct device *dev,
			      struct device_attribute *attr,
			      const char *buf, size_t count)
{
	u64 words;
	int ret = kstrtou64(buf, 0, &words);

	if (ret)
		return ret;
	vgpu_workload_ring(of_device(dev), words);
	return count;
}
static DEVICE_ATTR_WO(doorbell);

static ssize_t pending_show(struct device *dev, struct device_attribute *attr,
			    char *buf)
{
	return sysfs_emit(buf, "%llu\n",
			  READ_ONCE(of_device(dev)->workload.pending));
}
static DEVICE_ATTR_RO(pending);

static struct attribute *workload_attrs[] = {
	&field_bytes_per_second.attr.attr,
	&field_working_set_bytes.attr.attr,
	&field_stride_bytes.attr.attr,
	&field_seed.attr.attr,
	&dev_attr_doorbell.attr,
	&dev_attr_pending.attr,
	NULL,
};

static const struct attribute_group workload_group = {
	.name = "workload",
	.attrs = workload_attrs,
};

/* migration/ */

static ssize_t flags_show(struct device *dev, struct device_attribute *attr,
			  char *buf)
{
	return sysfs_emit(buf, "0x%x\n",
			  READ_ONCE(of_device(dev)->vdev.migration_flags));
}

static ssize_t flags_store(struct device *dev, struct device_attribute *attr,
			   const char *buf, size_t count)
{
	unsigned int known = VFIO_MIGRATION_STOP_COPY | VFIO_MIGRATION_P2P |
			     VFIO_MIGRATION_PRE_COPY;
	struct vgpu *gpu = of_device(dev);
	unsigned int flags;
	int ret = kstrtouint(buf, 0, &flags);

	if (ret)
		return ret;
	if (flags & ~known || !(flags & VFIO_MIGRATION_STOP_COPY))
		return -EINVAL;
	mutex_lock(&gpu->lock);
	if (gpu->open)
		ret = -EBUSY;
	else
		gpu->vdev.migration_flags = flags;
	mutex_unlock(&gpu->lock);
	return ret ?: count;
}
static DEVICE_ATTR_RW(flags);

static struct attribute *migration_attrs[] = {
	&dev_attr_flags.attr,
	NULL,
};

static const struct attribute_group migration_group = {
	.name = "migration",
	.attrs = migration_attrs,
};

/* knobs/ */

static ssize_t show_number(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	return sysfs_emit(buf, "%u\n",
			  READ_ONCE(*(unsigned int *)field_of(dev, attr)));
}

static ssize_t store_number(struct device *dev, struct device_attribute *attr,
			    const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	unsigned int value;
	int ret = kstrtouint(buf, 0, &value);

	if (ret)
		return ret;
	if (value > MAX_DELAY_MS)
		return -EINVAL;
	mutex_lock(&gpu->lock);
	WRITE_ONCE(*(unsigned int *)field_of(dev, attr), value);
	mutex_unlock(&gpu->lock);
	return count;
}

static ssize_t show_flag(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(*(bool *)field_of(dev, attr)));
}

static ssize_t store_flag(struct device *dev, struct device_attribute *attr,
			  const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	bool value;
	int ret = kstrtobool(buf, &value);

	if (ret)
		return ret;
	mutex_lock(&gpu->lock);
	WRITE_ONCE(*(bool *)field_of(dev, attr), value);
	mutex_unlock(&gpu->lock);
	return count;
}

static const char *name_of(int state)
{
	return vgpu_state_names[state == VGPU_NO_STATE ? VFIO_DEVICE_STATE_NR :
							 state];
}

static ssize_t show_name(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  name_of(READ_ONCE(*(int *)field_of(dev, attr))));
}

static ssize_t store_name(struct device *dev, struct device_attribute *attr,
			  const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	int state = sysfs_match_string(vgpu_state_names, buf);

	if (state < 0)
		return state;
	if (state == VFIO_DEVICE_STATE_ERROR)
		return -EINVAL;
	if (state == VFIO_DEVICE_STATE_NR)
		state = VGPU_NO_STATE;
	mutex_lock(&gpu->lock);
	WRITE_ONCE(*(int *)field_of(dev, attr), state);
	mutex_unlock(&gpu->lock);
	wake_up_interruptible(&gpu->knobs.wait);
	return count;
}

FIELD(hold, name, knobs.hold);
FIELD(fail_at, name, knobs.fail_at);
FIELD(fail_into_error, flag, knobs.fail_into_error);
FIELD(delay_ms, number, knobs.delay_ms);
FIELD(read_delay_ms, number, knobs.read_delay_ms);
FIELD(drop_dirty_unit, number, knobs.drop_dirty_unit);

static ssize_t held_show(struct device *dev, struct device_attribute *attr,
			 char *buf)
{
	return sysfs_emit(buf, "%s\n",
			  name_of(READ_ONCE(of_device(dev)->knobs.held)));
}
static DEVICE_ATTR_RO(held);

static ssize_t release_store(struct device *dev, struct device_attribute *attr,
			     const char *buf, size_t count)
{
	struct vgpu *gpu = of_device(dev);
	int ret = 0;

	mutex_lock(&gpu->lock);
	if (gpu->knobs.held == VGPU_NO_STATE)
		ret = -EAGAIN;
	else
		WRITE_ONCE(gpu->knobs.released, true);
	mutex_unlock(&gpu->lock);
	wake_up_interruptible(&gpu->knobs.wait);
	return ret ?: count;
}
static DEVICE_ATTR_WO(release);

static struct attribute *knobs_attrs[] = {
	&field_hold.attr.attr,
	&dev_attr_held.attr,
	&dev_attr_release.attr,
	&field_fail_at.attr.attr,
	&field_fail_into_error.attr.attr,
	&field_delay_ms.attr.attr,
	&field_read_delay_ms.attr.attr,
	&field_drop_dirty_unit.attr.attr,
	NULL,
};

static const struct attribute_group knobs_group = {
	.name = "knobs",
	.attrs = knobs_attrs,
};

const struct attribute_group *vgpu_groups[] = {
	&status_group,
	&identity_group,
	&workload_group,
	&migration_group,
	&knobs_group,
	NULL,
};

void vgpu_notify_state(struct vgpu *gpu)
{
	sysfs_notify(&gpu->vdev.dev->kobj, NULL, "state");
}

void vgpu_notify_held(struct vgpu *gpu)
{
	sysfs_notify(&gpu->vdev.dev->kobj, "knobs", "held");
}
