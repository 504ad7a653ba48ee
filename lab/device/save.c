// SPDX-License-Identifier: GPL-2.0
/*
 * The saving data fd: packages, built when they are read.
 *
 * A package asks for the dirty units once, when it begins, and copies each
 * of them when its turn comes. The copy goes through a buffer of one unit,
 * because its checksum leaves before it does.
 */
#include <linux/delay.h>
#include <linux/fs.h>
#include <linux/poll.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/xxhash.h>

#include "vgpu_lab.h"

static u64 head_length(u16 flags)
{
	return sizeof(struct vgpu_stream_header) + vgpu_sections_length(flags);
}

static u64 package_length(u16 flags, unsigned int units)
{
	return head_length(flags) + units * VGPU_RECORD_SIZE;
}

static u8 *add_section(u8 *at, enum vgpu_section type, const void *data,
		       size_t length)
{
	struct vgpu_section_header header = {
		.type = cpu_to_le32(type),
		.length = cpu_to_le32(length),
	};

	memcpy(at, &header, sizeof(header));
	memcpy(at + sizeof(header), data, length);
	return at + sizeof(header) + length;
}

static u8 *add_first(struct vgpu_session *session, u8 *at)
{
	struct vgpu_context context;
	struct vgpu_section_header header = {
		.type = cpu_to_le32(VGPU_SECTION_STATIC),
		.length = cpu_to_le32(VGPU_STATIC_SIZE),
	};

	vgpu_context_of(session->gpu, &context);
	at = add_section(at, VGPU_SECTION_CONTEXT, &context, sizeof(context));
	memcpy(at, &header, sizeof(header));
	vgpu_static_of(&context, at + sizeof(header));
	return at + sizeof(header) + VGPU_STATIC_SIZE;
}

static u8 *add_bitmap(struct vgpu_session *session, u8 *at)
{
	u64 words[VGPU_MAX_UNITS / 64];
	struct vgpu_bitmap bitmap;
	unsigned int i;

	bitmap_to_arr64(words, session->units, VGPU_MAX_UNITS);
	for (i = 0; i < VGPU_MAX_UNITS / 64; i++)
		bitmap.words[i] = cpu_to_le64(words[i]);
	return add_section(at, VGPU_SECTION_BITMAP, &bitmap, sizeof(bitmap));
}

static void begin_package(struct vgpu_session *session, u16 flags)
{
	unsigned int count = bitmap_weight(session->units, VGPU_MAX_UNITS);
	struct vgpu_stream_header header = {
		.magic = cpu_to_le32(VGPU_STREAM_MAGIC),
		.version = cpu_to_le16(VGPU_STREAM_VERSION),
		.flags = cpu_to_le16(flags),
		.total_length = cpu_to_le64(package_length(flags, count)),
		.sequence = cpu_to_le64(session->sequence),
		.sections_length = cpu_to_le32(vgpu_sections_length(flags)),
		.unit_count = cpu_to_le32(count),
	};
	struct vgpu_dynamic dynamic;
	u8 *at = session->head + sizeof(header);

	if (flags & VGPU_STREAM_FIRST)
		at = add_first(session, at);
	at = add_bitmap(session, at);
	if (flags & VGPU_STREAM_LAST) {
		vgpu_workload_save(session->gpu, &dynamic);
		at = add_section(at, VGPU_SECTION_DYNAMIC, &dynamic,
				 sizeof(dynamic));
	}
	session->flags = flags;
	session->head_length = at - session->head;
	memcpy(session->head, &header, sizeof(header));
	header.checksum = cpu_to_le64(xxh64(session->head,
					    session->head_length, 0));
	memcpy(session->head, &header, sizeof(header));
	session->position = 0;
	session->sequence++;
	session->stage = VGPU_STAGE_SECTIONS;
}

/* Broken on purpose, where nothing later can mend it. */
static void drop_a_unit(struct vgpu_session *session)
{
	struct vgpu_knobs *knobs = &session->gpu->knobs;
	unsigned int unit = find_first_bit(session->units, VGPU_MAX_UNITS);

	if (knobs->drop_dirty_unit && unit < VGPU_MAX_UNITS) {
		clear_bit(unit, session->units);
		knobs->drop_dirty_unit--;
	}
}

/* False: there is nothing to send now, or (in STOP_COPY) ever. */
static bool next_package(struct vgpu_session *session)
{
	struct vgpu_memory *memory = &session->gpu->memory;

	if (!session->sequence) {
		vgpu_memory_take_dirty(memory, session->units);
		bitmap_set(session->units, 0, memory->units);
		begin_package(session, VGPU_STREAM_FIRST);
		return true;
	}
	if (session->flags & VGPU_STREAM_LAST)
		return false;
	if (vgpu_pre_copying(session->gpu)) {
		if (!vgpu_memory_dirty(memory))
			return false;
		vgpu_memory_take_dirty(memory, session->units);
		begin_package(session, 0);
		return true;
	}
	vgpu_memory_take_dirty(memory, session->units);
	drop_a_unit(session);
	begin_package(session, VGPU_STREAM_LAST);
	return true;
}

static void next_unit(struct vgpu_session *session)
{
	unsigned int unit = find_first_bit(session->units, VGPU_MAX_UNITS);
	struct vgpu_unit_header header = { .index = cpu_to_le32(unit) };
	u8 *data = session->record + sizeof(header);

	session->position = 0;
	if (unit >= VGPU_MAX_UNITS) {
		session->stage = VGPU_STAGE_NONE;
		return;
	}
	clear_bit(unit, session->units);
	memcpy(data, vgpu_unit(&session->gpu->memory, unit), VGPU_UNIT_SIZE);
	header.checksum = cpu_to_le64(xxh64(data, VGPU_UNIT_SIZE, 0));
	memcpy(session->record, &header, sizeof(header));
	session->stage = VGPU_STAGE_UNIT;
}

/* Bytes of this package that were not read yet. */
static u64 package_left(const struct vgpu_session *session)
{
	u64 left = bitmap_weight(session->units, VGPU_MAX_UNITS) *
		   VGPU_RECORD_SIZE;

	if (session->stage == VGPU_STAGE_SECTIONS)
		left += session->head_length - session->position;
	else if (session->stage == VGPU_STAGE_UNIT)
		left += VGPU_RECORD_SIZE - session->position;
	return left;
}

u64 vgpu_save_initial(const struct vgpu_session *session)
{
	if (!session->sequence)
		return package_length(VGPU_STREAM_FIRST,
				      session->gpu->memory.units);
	return session->flags & VGPU_STREAM_FIRST ? package_left(session) : 0;
}

u64 vgpu_save_dirty(const struct vgpu_session *session)
{
	unsigned int dirty = vgpu_memory_dirty(&session->gpu->memory);
	u64 bytes = 0;

	/* The first package will carry these anyway. */
	if (!session->sequence)
		return 0;
	if (!(session->flags & VGPU_STREAM_FIRST))
		bytes = package_left(session);
	return dirty ? bytes + package_length(0, dirty) : bytes;
}

/* What a stop-copy would have to carry if it began now. */
u64 vgpu_save_left(struct vgpu *gpu)
{
	struct vgpu_session *session = gpu->session;
	u64 last = package_length(VGPU_STREAM_LAST,
				  vgpu_memory_dirty(&gpu->memory));

	if (!session || !session->saving || !session->sequence)
		return package_length(VGPU_STREAM_FIRST, gpu->memory.units) +
		       package_length(VGPU_STREAM_LAST, 0);
	if (session->flags & VGPU_STREAM_LAST)
		return package_left(session);
	return package_left(session) + last;
}

/* Copies what this stage still has, as far as it fits. */
static ssize_t copy_out(struct vgpu_session *session, char __user *buf,
			size_t count)
{
	bool head = session->stage == VGPU_STAGE_SECTIONS;
	u8 *from = head ? session->head : session->record;
	size_t length = head ? session->head_length : VGPU_RECORD_SIZE;

	count = min(count, length - session->position);
	if (copy_to_user(buf, from + session->position, count))
		return -EFAULT;
	session->position += count;
	if (session->position == length)
		next_unit(session);
	return count;
}

static ssize_t read_locked(struct vgpu_session *session, char __user *buf,
			   size_t count)
{
	size_t done = 0;
	ssize_t ret;

	if (session->ended)
		return -ENODEV;
	/* One record at most: a long read must not hold states up. */
	count = min_t(size_t, count, VGPU_RECORD_SIZE);
	while (done < count) {
		if (session->stage == VGPU_STAGE_NONE &&
		    !next_package(session))
			break;
		ret = copy_out(session, buf + done, count - done);
		if (ret < 0)
			return done ?: ret;
		done += ret;
	}
	if (!done && count && vgpu_pre_copying(session->gpu))
		return -ENOMSG;
	return done;
}

static ssize_t save_read(struct file *file, char __user *buf, size_t count,
			 loff_t *ppos)
{
	struct vgpu_session *session = file->private_data;
	struct vgpu *gpu = session->gpu;
	unsigned int delay_ms = READ_ONCE(gpu->knobs.read_delay_ms);
	ssize_t ret;

	if (delay_ms && msleep_interruptible(delay_ms))
		return -ERESTARTSYS;
	if (mutex_lock_interruptible(&gpu->lock))
		return -ERESTARTSYS;
	ret = read_locked(session, buf, count);
	mutex_unlock(&gpu->lock);
	return ret;
}

static long save_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	size_t least = offsetofend(struct vfio_precopy_info, dirty_bytes);
	struct vgpu_session *session = file->private_data;
	struct vgpu *gpu = session->gpu;
	struct vfio_precopy_info info = {};
	int ret = 0;

	if (cmd != VFIO_MIG_GET_PRECOPY_INFO)
		return -ENOTTY;
	if (copy_from_user(&info, (void __user *)arg, least))
		return -EFAULT;
	if (info.argsz < least)
		return -EINVAL;
	mutex_lock(&gpu->lock);
	if (session->ended || !vgpu_pre_copying(gpu)) {
		ret = -EINVAL;
	} else {
		info.flags = 0;
		info.initial_bytes = vgpu_save_initial(session);
		info.dirty_bytes = vgpu_save_dirty(session);
	}
	mutex_unlock(&gpu->lock);
	if (ret)
		return ret;
	return copy_to_user((void __user *)arg, &info, least) ? -EFAULT : 0;
}

/* Readable: data, the end, or an error; not at a temporary end. */
static __poll_t save_poll(struct file *file, struct poll_table_struct *table)
{
	struct vgpu_session *session = file->private_data;
	struct vgpu *gpu = session->gpu;
	__poll_t ready = 0;

	poll_wait(file, &gpu->readable, table);
	mutex_lock(&gpu->lock);
	if (session->ended)
		ready = EPOLLIN | EPOLLRDNORM | EPOLLERR;
	else if (!vgpu_pre_copying(gpu) || vgpu_save_initial(session) ||
		 vgpu_save_dirty(session))
		ready = EPOLLIN | EPOLLRDNORM;
	mutex_unlock(&gpu->lock);
	return ready;
}

const struct file_operations vgpu_save_fops = {
	.owner = THIS_MODULE,
	.read = save_read,
	.poll = save_poll,
	.unlocked_ioctl = save_ioctl,
	.compat_ioctl = compat_ptr_ioctl,
	.release = vgpu_session_release,
};
