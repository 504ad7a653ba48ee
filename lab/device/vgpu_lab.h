/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the parts of the module share.
 *
 * Locks, in the order in which they are taken:
 *
 *	transition	one SET_STATE at a time; kept while one is held up
 *	lock		state, sessions, knobs; never kept while waiting
 *	workload.lock	the words being written, the registers, config space
 */
#ifndef VGPU_LAB_H
#define VGPU_LAB_H

#include <linux/bitmap.h>
#include <linux/kref.h>
#include <linux/mdev.h>
#include <linux/mutex.h>
#include <linux/types.h>
#include <linux/vfio.h>
#include <linux/wait.h>

#include "stream.h"

/*
 * QEMU's registry leaves 1af4:10f0 to 1af4:10ff to experiments, so no guest
 * has a driver that takes this for something else.
 */
#define VGPU_VENDOR		0x1af4
#define VGPU_DEVICE		0x10f0
#define VGPU_CONFIG_SIZE	256
#define VGPU_BAR_SIZE		4096
#define VGPU_INSTANCES		8
#define VGPU_NO_STATE		(-1)

#define VGPU_RECORD_SIZE \
	((u64)sizeof(struct vgpu_unit_header) + VGPU_UNIT_SIZE)

struct vgpu_type {
	struct mdev_type type;
	u64 frame_buffer_bytes;
};

struct vgpu_identity {
	char firmware[VGPU_TEXT];
	char driver_version[VGPU_TEXT];
	char vbios[VGPU_TEXT];
	char partition[VGPU_TEXT];
};

struct vgpu_memory {
	u8 *base;
	u64 size;
	unsigned int units;
	/* Written since the last query. */
	DECLARE_BITMAP(dirty, VGPU_MAX_UNITS);
	/* Written since the last scrub. */
	DECLARE_BITMAP(touched, VGPU_MAX_UNITS);
};

/* What a guest's program would be: it travels with the state. */
struct vgpu_program {
	u64 seed;
	u64 working_set_bytes;
	u64 stride_bytes;
	u64 bytes_per_second;
};

struct vgpu_workload {
	struct mutex lock;	/* all of this, and the memory's words */
	wait_queue_head_t wait;
	struct task_struct *thread;
	struct vgpu_program program;
	bool running;
	u64 generator;
	u64 done;
	u64 pending;
	u64 credit;
	u64 last_ns;
	u32 scratch[VGPU_SCRATCH];
	u8 config[VGPU_CONFIG_SIZE];
};

struct vgpu_knobs {
	wait_queue_head_t wait;
	int hold;
	int held;
	bool released;
	unsigned int delay_ms;
	unsigned int read_delay_ms;
	int fail_at;
	bool fail_into_error;
	unsigned int drop_dirty_unit;
};

struct vgpu_session;

struct vgpu {
	struct vfio_device vdev;	/* first: vfio_alloc_device() */
	struct mutex transition;	/* one SET_STATE at a time */
	struct mutex lock;	/* state, session, identity, knobs */
	enum vfio_device_mig_state state;
	unsigned int generation;
	bool open;
	bool removing;
	bool dma_logging;
	struct vgpu_session *session;
	wait_queue_head_t readable;
	struct vgpu_identity identity;
	struct vgpu_memory memory;
	struct vgpu_workload workload;
	struct vgpu_knobs knobs;
};

enum vgpu_stage {
	VGPU_STAGE_NONE,	/* saving: between packages */
	VGPU_STAGE_HEADER,	/* loading only */
	VGPU_STAGE_CONTEXT,	/* loading only */
	VGPU_STAGE_SECTIONS,	/* saving: the header too */
	VGPU_STAGE_RECORD,	/* loading only: a unit's header */
	VGPU_STAGE_UNIT,	/* saving: a unit's header too */
	VGPU_STAGE_DONE,
};

#define VGPU_MAX_HEAD \
	(sizeof(struct vgpu_stream_header) + \
	 4 * sizeof(struct vgpu_section_header) + \
	 sizeof(struct vgpu_context) + VGPU_STATIC_SIZE + \
	 sizeof(struct vgpu_bitmap) + sizeof(struct vgpu_dynamic))

/*
 * One data fd. The device and the file each hold a reference: a VMM may
 * close the fd before it leaves RESUMING, and must find its data loaded.
 */
struct vgpu_session {
	struct kref ref;
	struct vgpu *gpu;
	bool saving;
	bool ended;		/* its states were left */
	bool broken;		/* loading: the stream was refused */
	enum vgpu_stage stage;
	u64 sequence;		/* of the next package */
	u16 flags;		/* of the package under way */
	size_t head_length;	/* header and sections */
	size_t position;	/* in this stage */
	unsigned int unit;	/* under way */
	u64 checksum;		/* loading: of that unit, as announced */
	struct vgpu_dynamic dynamic;
	DECLARE_BITMAP(units, VGPU_MAX_UNITS);	/* still to come */
	u8 head[VGPU_MAX_HEAD];
	u8 *record;		/* saving: copy of one unit and its header */
};

static inline struct vgpu *vgpu_of(struct vfio_device *vdev)
{
	return container_of(vdev, struct vgpu, vdev);
}

static inline u8 *vgpu_unit(struct vgpu_memory *memory, unsigned int unit)
{
	return memory->base + (u64)unit * VGPU_UNIT_SIZE;
}

/* pci.c */
void vgpu_pci_clear(struct vgpu *gpu);
ssize_t vgpu_pci_read(struct vfio_device *vdev, char __user *buf,
		      size_t count, loff_t *ppos);
ssize_t vgpu_pci_write(struct vfio_device *vdev, const char __user *buf,
		       size_t count, loff_t *ppos);
long vgpu_pci_ioctl(struct vfio_device *vdev, unsigned int cmd,
		    unsigned long arg);

/* memory.c */
int vgpu_memory_init(struct vgpu_memory *memory, u64 size);
void vgpu_memory_free(struct vgpu_memory *memory);
void vgpu_memory_mark(struct vgpu_memory *memory, unsigned int unit);
void vgpu_memory_take_dirty(struct vgpu_memory *memory, unsigned long *taken);
unsigned int vgpu_memory_dirty(struct vgpu_memory *memory);
void vgpu_memory_scrub(struct vgpu_memory *memory);
u64 vgpu_memory_digest(struct vgpu_memory *memory);

/* workload.c */
void vgpu_workload_init(struct vgpu *gpu);
int vgpu_workload_start(struct vgpu *gpu);
void vgpu_workload_stop(struct vgpu *gpu);
void vgpu_workload_run(struct vgpu *gpu, bool running);
void vgpu_workload_clear(struct vgpu *gpu);
int vgpu_workload_check(struct vgpu *gpu, const struct vgpu_program *program);
int vgpu_workload_program(struct vgpu *gpu, const struct vgpu_program *next);
void vgpu_workload_ring(struct vgpu *gpu, u64 words);
void vgpu_workload_save(struct vgpu *gpu, struct vgpu_dynamic *dynamic);
int vgpu_workload_load(struct vgpu *gpu, const struct vgpu_dynamic *dynamic);

/* states.c */
extern const struct vfio_migration_ops vgpu_migration_ops;
extern const struct vfio_log_ops vgpu_log_ops;
extern const char * const vgpu_state_names[VFIO_DEVICE_STATE_NR + 1];
void vgpu_reset(struct vgpu *gpu);
void vgpu_give_up(struct vgpu *gpu);

/* session.c */
struct file *vgpu_session_open(struct vgpu *gpu, bool saving);
void vgpu_session_end(struct vgpu *gpu);
void vgpu_context_of(struct vgpu *gpu, struct vgpu_context *context);
void vgpu_static_of(const struct vgpu_context *context, u8 *data);
size_t vgpu_sections_length(u16 flags);
bool vgpu_pre_copying(const struct vgpu *gpu);

/* save.c */
extern const struct file_operations vgpu_save_fops;
u64 vgpu_save_initial(const struct vgpu_session *session);
u64 vgpu_save_dirty(const struct vgpu_session *session);
u64 vgpu_save_left(struct vgpu *gpu);

/* load.c */
extern const struct file_operations vgpu_load_fops;
int vgpu_load_finish(struct vgpu_session *session);

/* session.c, for both file_operations */
int vgpu_session_release(struct inode *inode, struct file *file);

/* sysfs.c */
extern const struct attribute_group *vgpu_groups[];
void vgpu_notify_state(struct vgpu *gpu);
void vgpu_notify_held(struct vgpu *gpu);

#endif
