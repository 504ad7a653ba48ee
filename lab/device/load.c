// SPDX-License-Identifier: GPL-2.0
/*
 * The loading data fd: takes a stream in pieces of any size.
 *
 * Nothing in it is believed. Each stage knows from the one before how many
 * bytes it is to take; a header whose lengths don't follow from its flags and
 * its unit count is refused, so memory is never taken by what a stream says.
 * The context is compared as soon as its last byte is there.
 */
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/mm.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "vgpu_lab.h"

#define CONTEXT_END \
	(sizeof(struct vgpu_stream_header) + \
	 sizeof(struct vgpu_section_header) + sizeof(struct vgpu_context))

static int refuse(struct vgpu_session *session, const char *what)
{
	dev_info(session->gpu->vdev.dev, "package %llu refused: %s\n",
		 session->sequence, what);
	session->broken = true;
	return -EINVAL;
}

static const struct vgpu_stream_header *
header_of(const struct vgpu_session *session)
{
	return (const struct vgpu_stream_header *)session->head;
}

static int take_header(struct vgpu_session *session)
{
	const struct vgpu_stream_header *header = header_of(session);
	u64 units = le32_to_cpu(header->unit_count);
	u16 flags = le16_to_cpu(header->flags);
	size_t sections = vgpu_sections_length(flags);

	if (le32_to_cpu(header->magic) != VGPU_STREAM_MAGIC)
		return refuse(session, "magic");
	if (le16_to_cpu(header->version) != VGPU_STREAM_VERSION)
		return refuse(session, "version");
	if (le64_to_cpu(header->sequence) != session->sequence)
		return refuse(session, "sequence");
	if (flags & ~(VGPU_STREAM_FIRST | VGPU_STREAM_LAST) ||
	    !(flags & VGPU_STREAM_FIRST) != !!session->sequence)
		return refuse(session, "flags");
	if (le32_to_cpu(header->sections_length) != sections ||
	    units > session->gpu->memory.units ||
	    le64_to_cpu(header->total_length) !=
	    sizeof(*header) + sections + units * VGPU_RECORD_SIZE)
		return refuse(session, "length");
	session->flags = flags;
	session->head_length = sizeof(*header) + sections;
	session->stage = flags & VGPU_STREAM_FIRST ? VGPU_STAGE_CONTEXT :
						     VGPU_STAGE_SECTIONS;
	return 0;
}

/* Points at a section's data, or is NULL if it is not what must be here. */
static const u8 *section_at(const u8 *at, enum vgpu_section type,
			    size_t length)
{
	struct vgpu_section_header header;

	memcpy(&header, at, sizeof(header));
	if (le32_to_cpu(header.type) != type ||
	    le32_to_cpu(header.length) != length)
		return NULL;
	return at + sizeof(header);
}

static const char *difference(const struct vgpu_context *theirs,
			      const struct vgpu_context *ours)
{
	if (theirs->frame_buffer_bytes != ours->frame_buffer_bytes)
		return "context: frame buffer";
	if (memcmp(theirs->firmware, ours->firmware, VGPU_TEXT))
		return "context: firmware";
	if (memcmp(theirs->driver_version, ours->driver_version, VGPU_TEXT))
		return "context: driver version";
	if (memcmp(theirs->vbios, ours->vbios, VGPU_TEXT))
		return "context: vbios";
	if (memcmp(theirs->partition, ours->partition, VGPU_TEXT))
		return "context: partition";
	return "context: kind of device";
}

static int take_context(struct vgpu_session *session)
{
	const u8 *at = session->head + sizeof(struct vgpu_stream_header);
	struct vgpu_context ours;

	at = section_at(at, VGPU_SECTION_CONTEXT, sizeof(ours));
	if (!at)
		return refuse(session, "context: no such section");
	vgpu_context_of(session->gpu, &ours);
	if (memcmp(at, &ours, sizeof(ours)))
		return refuse(session, difference((const void *)at, &ours));
	session->stage = VGPU_STAGE_SECTIONS;
	return 0;
}

static bool static_is_ours(struct vgpu_session *session, const u8 *data)
{
	struct vgpu_context ours;
	u8 *expected = kmalloc(VGPU_STATIC_SIZE, GFP_KERNEL);
	bool equal = false;

	if (expected) {
		vgpu_context_of(session->gpu, &ours);
		vgpu_static_of(&ours, expected);
		equal = !memcmp(data, expected, VGPU_STATIC_SIZE);
	}
	kfree(expected);
	return equal;
}

static bool take_bitmap(struct vgpu_session *session, const u8 *data)
{
	u64 words[VGPU_MAX_UNITS / 64];
	struct vgpu_bitmap bitmap;
	unsigned int i;

	memcpy(&bitmap, data, sizeof(bitmap));
	for (i = 0; i < VGPU_MAX_UNITS / 64; i++)
		words[i] = le64_to_cpu(bitmap.words[i]);
	bitmap_from_arr64(session->units, words, VGPU_MAX_UNITS);
	return find_next_bit(session->units, VGPU_MAX_UNITS,
			     session->gpu->memory.units) == VGPU_MAX_UNITS &&
	       bitmap_weight(session->units, VGPU_MAX_UNITS) ==
	       le32_to_cpu(header_of(session)->unit_count);
}

static bool checksum_holds(struct vgpu_session *session)
{
	struct vgpu_stream_header header = *header_of(session);
	u64 announced = le64_to_cpu(header.checksum);

	header.checksum = 0;
	memcpy(session->head, &header, sizeof(header));
	return xxh64(session->head, session->head_length, 0) == announced;
}

static void next_unit(struct vgpu_session *session)
{
	session->position = 0;
	if (!bitmap_empty(session->units, VGPU_MAX_UNITS)) {
		session->stage = VGPU_STAGE_RECORD;
		return;
	}
	session->sequence++;
	session->stage = session->flags & VGPU_STREAM_LAST ?
			 VGPU_STAGE_DONE : VGPU_STAGE_HEADER;
}

static int take_sections(struct vgpu_session *session)
{
	const u8 *at = session->head + sizeof(struct vgpu_stream_header);
	const u8 *data;

	if (!checksum_holds(session))
		return refuse(session, "checksum");
	if (session->flags & VGPU_STREAM_FIRST) {
		at = session->head + CONTEXT_END;
		data = section_at(at, VGPU_SECTION_STATIC, VGPU_STATIC_SIZE);
		if (!data || !static_is_ours(session, data))
			return refuse(session, "static data");
		at = data + VGPU_STATIC_SIZE;
	}
	data = section_at(at, VGPU_SECTION_BITMAP, sizeof(struct vgpu_bitmap));
	if (!data || !take_bitmap(session, data))
		return refuse(session, "bitmap");
	/* A destination holds nothing of the source's before this. */
	if (session->flags & VGPU_STREAM_FIRST &&
	    !bitmap_full(session->units, session->gpu->memory.units))
		return refuse(session, "bitmap: units are missing");
	at = data + sizeof(struct vgpu_bitmap);
	if (session->flags & VGPU_STREAM_LAST) {
		data = section_at(at, VGPU_SECTION_DYNAMIC,
				  sizeof(session->dynamic));
		if (!data)
			return refuse(session, "dynamic data");
		memcpy(&session->dynamic, data, sizeof(session->dynamic));
	}
	next_unit(session);
	return 0;
}

static int take_record(struct vgpu_session *session)
{
	struct vgpu_unit_header header;

	memcpy(&header, session->head, sizeof(header));
	session->unit = find_first_bit(session->units, VGPU_MAX_UNITS);
	if (le32_to_cpu(header.index) != session->unit || header.reserved)
		return refuse(session, "order of units");
	session->checksum = le64_to_cpu(header.checksum);
	session->position = 0;
	session->stage = VGPU_STAGE_UNIT;
	return 0;
}

static int take_unit(struct vgpu_session *session)
{
	struct vgpu_memory *memory = &session->gpu->memory;

	vgpu_memory_mark(memory, session->unit);
	if (xxh64(vgpu_unit(memory, session->unit), VGPU_UNIT_SIZE, 0) !=
	    session->checksum)
		return refuse(session, "checksum of a unit");
	clear_bit(session->unit, session->units);
	next_unit(session);
	return 0;
}

/* Where this stage's bytes go, and up to which position. */
static u8 *target(struct vgpu_session *session, size_t *end)
{
	switch (session->stage) {
	case VGPU_STAGE_HEADER:
		*end = sizeof(struct vgpu_stream_header);
		return session->head;
	case VGPU_STAGE_CONTEXT:
		*end = CONTEXT_END;
		return session->head;
	case VGPU_STAGE_SECTIONS:
		*end = session->head_length;
		return session->head;
	case VGPU_STAGE_RECORD:
		*end = sizeof(struct vgpu_unit_header);
		return session->head;
	case VGPU_STAGE_UNIT:
		*end = VGPU_UNIT_SIZE;
		return vgpu_unit(&session->gpu->memory, session->unit);
	default:
		return NULL;
	}
}

static int take(struct vgpu_session *session)
{
	switch (session->stage) {
	case VGPU_STAGE_HEADER:
		return take_header(session);
	case VGPU_STAGE_CONTEXT:
		return take_context(session);
	case VGPU_STAGE_SECTIONS:
		return take_sections(session);
	case VGPU_STAGE_RECORD:
		return take_record(session);
	default:
		return take_unit(session);
	}
}

static ssize_t write_locked(struct vgpu_session *session,
			    const char __user *buf, size_t count)
{
	size_t done = 0, end, length;
	u8 *to;
	int ret;

	if (session->ended)
		return -ENODEV;
	if (session->broken)
		return -EINVAL;
	/* As when reading: no longer than one record in one go. */
	count = min_t(size_t, count, VGPU_RECORD_SIZE);
	while (done < count) {
		to = target(session, &end);
		if (!to)
			return refuse(session, "data after the end");
		/*
		 * Before the first byte of a unit: a load that ends in the
		 * middle of one leaves what the next reset has to clear. That
		 * it is dirty is marked after the last one, as ever.
		 */
		if (session->stage == VGPU_STAGE_UNIT)
			set_bit(session->unit,
				session->gpu->memory.touched);
		length = min(count - done, end - session->position);
		if (copy_from_user(to + session->position, buf + done, length))
			return done ?: -EFAULT;
		session->position += length;
		done += length;
		if (session->position == end) {
			ret = take(session);
			if (ret)
				return ret;
		}
	}
	return done;
}

static ssize_t load_write(struct file *file, const char __user *buf,
			  size_t count, loff_t *ppos)
{
	struct vgpu_session *session = file->private_data;
	struct vgpu *gpu = session->gpu;
	ssize_t ret;

	if (mutex_lock_interruptible(&gpu->lock))
		return -ERESTARTSYS;
	ret = write_locked(session, buf, count);
	mutex_unlock(&gpu->lock);
	return ret;
}

/* RESUMING -> STOP: the stream must have reached its end. */
int vgpu_load_finish(struct vgpu_session *session)
{
	if (session->broken)
		return -EINVAL;
	if (session->stage != VGPU_STAGE_DONE)
		return refuse(session, "the stream is short");
	if (vgpu_workload_load(session->gpu, &session->dynamic))
		return refuse(session, "dynamic data");
	return 0;
}

const struct file_operations vgpu_load_fops = {
	.owner = THIS_MODULE,
	.write = load_write,
	.release = vgpu_session_release,
};
