// SPDX-License-Identifier: GPL-2.0
/*
 * What the saving and the loading data fd have in common.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "vgpu_lab.h"

static void session_free(struct kref *ref)
{
	struct vgpu_session *session =
		container_of(ref, struct vgpu_session, ref);

	vfree(session->record);
	put_device(&session->gpu->vdev.device);
	kfree(session);
}

static struct vgpu_session *session_new(struct vgpu *gpu, bool saving)
{
	struct vgpu_session *session = kzalloc(sizeof(*session), GFP_KERNEL);

	if (!session)
		return NULL;
	if (saving) {
		session->record = vmalloc(VGPU_RECORD_SIZE);
		if (!session->record) {
			kfree(session);
			return NULL;
		}
	}
	kref_init(&session->ref);
	/* The file may outlive the mdev; `gpu` may not go before it. */
	get_device(&gpu->vdev.device);
	session->gpu = gpu;
	session->saving = saving;
	session->stage = saving ? VGPU_STAGE_NONE : VGPU_STAGE_HEADER;
	return session;
}

struct file *vgpu_session_open(struct vgpu *gpu, bool saving)
{
	struct vgpu_session *session = session_new(gpu, saving);
	struct file *file;

	if (!session)
		return ERR_PTR(-ENOMEM);
	file = anon_inode_getfile(saving ? "vgpu_lab_saving" :
					   "vgpu_lab_loading",
				  saving ? &vgpu_save_fops : &vgpu_load_fops,
				  session, saving ? O_RDONLY : O_WRONLY);
	if (IS_ERR(file)) {
		kref_put(&session->ref, session_free);
		return file;
	}
	stream_open(file_inode(file), file);
	kref_get(&session->ref);
	gpu->session = session;
	return file;
}

void vgpu_session_end(struct vgpu *gpu)
{
	struct vgpu_session *session = gpu->session;

	if (!session)
		return;
	session->ended = true;
	gpu->session = NULL;
	kref_put(&session->ref, session_free);
	wake_up_interruptible(&gpu->readable);
}

int vgpu_session_release(struct inode *inode, struct file *file)
{
	struct vgpu_session *session = file->private_data;

	kref_put(&session->ref, session_free);
	return 0;
}

bool vgpu_pre_copying(const struct vgpu *gpu)
{
	return gpu->state == VFIO_DEVICE_STATE_PRE_COPY ||
	       gpu->state == VFIO_DEVICE_STATE_PRE_COPY_P2P;
}

void vgpu_context_of(struct vgpu *gpu, struct vgpu_context *context)
{
	const struct vgpu_identity *identity = &gpu->identity;

	memset(context, 0, sizeof(*context));
	context->version = cpu_to_le32(VGPU_STREAM_VERSION);
	context->vendor = cpu_to_le16(VGPU_VENDOR);
	context->device = cpu_to_le16(VGPU_DEVICE);
	context->frame_buffer_bytes = cpu_to_le64(gpu->memory.size);
	strscpy_pad(context->firmware, identity->firmware);
	strscpy_pad(context->driver_version, identity->driver_version);
	strscpy_pad(context->vbios, identity->vbios);
	strscpy_pad(context->partition, identity->partition);
}

/* Stands for firmware images: bytes that follow from the versions. */
void vgpu_static_of(const struct vgpu_context *context, u8 *data)
{
	u64 x = xxh64(context, sizeof(*context), 0);
	__le64 chunk;
	size_t i;

	for (i = 0; i < VGPU_STATIC_SIZE; i += sizeof(chunk)) {
		chunk = cpu_to_le64(x);
		memcpy(data + i, &chunk, sizeof(chunk));
		x = xxh64(&chunk, sizeof(chunk), i);
	}
}

size_t vgpu_sections_length(u16 flags)
{
	size_t length = sizeof(struct vgpu_section_header) +
			sizeof(struct vgpu_bitmap);

	if (flags & VGPU_STREAM_FIRST)
		length += 2 * sizeof(struct vgpu_section_header) +
			  sizeof(struct vgpu_context) + VGPU_STATIC_SIZE;
	if (flags & VGPU_STREAM_LAST)
		length += sizeof(struct vgpu_section_header) +
			  sizeof(struct vgpu_dynamic);
	return length;
}
