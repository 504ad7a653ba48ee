// SPDX-License-Identifier: GPL-2.0
/*
 * The states of VFIO migration v2, and the knobs that stop on the way.
 *
 * The core names the next state again and again until the wanted one is
 * reached, so what happens on an arc follows from three questions about its
 * two ends: does the workload run there, is a saving session open there, is
 * a loading one.
 *
 * A transition that is held up keeps `transition`, so that a second one waits
 * its turn, but not `lock`: the state can be read, the data fd works on, and
 * a reset gets through. `generation` tells the one held up of that reset.
 */
#include <linux/err.h>
#include <linux/file.h>
#include <linux/jiffies.h>

#include "vgpu_lab.h"

const char * const vgpu_state_names[VFIO_DEVICE_STATE_NR + 1] = {
	[VFIO_DEVICE_STATE_ERROR] = "error",
	[VFIO_DEVICE_STATE_STOP] = "stop",
	[VFIO_DEVICE_STATE_RUNNING] = "running",
	[VFIO_DEVICE_STATE_STOP_COPY] = "stop_copy",
	[VFIO_DEVICE_STATE_RESUMING] = "resuming",
	[VFIO_DEVICE_STATE_RUNNING_P2P] = "running_p2p",
	[VFIO_DEVICE_STATE_PRE_COPY] = "pre_copy",
	[VFIO_DEVICE_STATE_PRE_COPY_P2P] = "pre_copy_p2p",
	[VFIO_DEVICE_STATE_NR] = "none",
};

static bool runs_in(enum vfio_device_mig_state state)
{
	return state == VFIO_DEVICE_STATE_RUNNING ||
	       state == VFIO_DEVICE_STATE_PRE_COPY;
}

static bool saves_in(enum vfio_device_mig_state state)
{
	return state == VFIO_DEVICE_STATE_PRE_COPY ||
	       state == VFIO_DEVICE_STATE_PRE_COPY_P2P ||
	       state == VFIO_DEVICE_STATE_STOP_COPY;
}

static void enter(struct vgpu *gpu, enum vfio_device_mig_state state)
{
	gpu->state = state;
	vgpu_workload_run(gpu, runs_in(state));
	wake_up_interruptible(&gpu->readable);
	vgpu_notify_state(gpu);
}

static bool given_up(struct vgpu *gpu, unsigned int generation)
{
	return READ_ONCE(gpu->generation) != generation ||
	       READ_ONCE(gpu->removing);
}

static int hold(struct vgpu *gpu, int next, unsigned int generation)
{
	struct vgpu_knobs *knobs = &gpu->knobs;
	int ret;

	knobs->released = false;
	WRITE_ONCE(knobs->held, next);
	mutex_unlock(&gpu->lock);
	vgpu_notify_held(gpu);
	ret = wait_event_interruptible(knobs->wait,
				       READ_ONCE(knobs->released) ||
				       READ_ONCE(knobs->hold) != next ||
				       given_up(gpu, generation));
	mutex_lock(&gpu->lock);
	WRITE_ONCE(knobs->held, VGPU_NO_STATE);
	vgpu_notify_held(gpu);
	return ret;
}

/* May let go of `lock` and take it again. */
static int pass_knobs(struct vgpu *gpu, int next)
{
	struct vgpu_knobs *knobs = &gpu->knobs;
	unsigned int generation = gpu->generation;
	unsigned long delay = msecs_to_jiffies(knobs->delay_ms);
	long ret = 0;

	if (knobs->hold == next)
		ret = hold(gpu, next, generation);
	if (!ret && delay) {
		mutex_unlock(&gpu->lock);
		ret = wait_event_interruptible_timeout(
			knobs->wait, given_up(gpu, generation), delay);
		mutex_lock(&gpu->lock);
		ret = min(ret, 0L);
	}
	if (given_up(gpu, generation))
		return -ECANCELED;
	if (!ret && knobs->fail_at == next) {
		if (knobs->fail_into_error) {
			vgpu_session_end(gpu);
			enter(gpu, VFIO_DEVICE_STATE_ERROR);
		}
		ret = -EIO;
	}
	return ret;
}

static struct file *walk_arc(struct vgpu *gpu, enum vfio_device_mig_state next)
{
	enum vfio_device_mig_state now = gpu->state;
	struct file *file = NULL;
	int ret = 0;

	if (now == VFIO_DEVICE_STATE_RESUMING)
		ret = gpu->session ? vgpu_load_finish(gpu->session) : -EINVAL;
	if (now == VFIO_DEVICE_STATE_RESUMING ||
	    (saves_in(now) && !saves_in(next)))
		vgpu_session_end(gpu);
	if (ret) {
		/* Half of another GPU's state must not run. */
		enter(gpu, VFIO_DEVICE_STATE_ERROR);
		return ERR_PTR(ret);
	}
	if (next == VFIO_DEVICE_STATE_RESUMING ||
	    (!saves_in(now) && saves_in(next))) {
		file = vgpu_session_open(gpu, saves_in(next));
		if (IS_ERR(file))
			return file;
	}
	enter(gpu, next);
	return file;
}

static struct file *walk(struct vgpu *gpu, enum vfio_device_mig_state target)
{
	enum vfio_device_mig_state next;
	struct file *file = NULL;
	int ret;

	while (gpu->state != target) {
		/* The core opens a session on the last arc only. */
		if (WARN_ON_ONCE(file)) {
			fput(file);
			return ERR_PTR(-EINVAL);
		}
		/* The core knows no way out of ERROR, and warns when asked. */
		if (gpu->state == VFIO_DEVICE_STATE_ERROR)
			return ERR_PTR(-EINVAL);
		ret = vfio_mig_get_next_state(&gpu->vdev, gpu->state, target,
					      &next);
		if (!ret)
			ret = pass_knobs(gpu, next);
		if (ret)
			return ERR_PTR(ret);
		file = walk_arc(gpu, next);
		if (IS_ERR(file))
			return file;
	}
	return file;
}

static struct file *set_state(struct vfio_device *vdev,
			      enum vfio_device_mig_state target)
{
	struct vgpu *gpu = vgpu_of(vdev);
	struct file *file;

	if (mutex_lock_interruptible(&gpu->transition))
		return ERR_PTR(-ERESTARTSYS);
	mutex_lock(&gpu->lock);
	file = walk(gpu, target);
	mutex_unlock(&gpu->lock);
	mutex_unlock(&gpu->transition);
	return file;
}

static int get_state(struct vfio_device *vdev,
		     enum vfio_device_mig_state *state)
{
	struct vgpu *gpu = vgpu_of(vdev);

	mutex_lock(&gpu->lock);
	*state = gpu->state;
	mutex_unlock(&gpu->lock);
	return 0;
}

static int get_data_size(struct vfio_device *vdev, unsigned long *length)
{
	struct vgpu *gpu = vgpu_of(vdev);

	mutex_lock(&gpu->lock);
	*length = vgpu_save_left(gpu);
	mutex_unlock(&gpu->lock);
	return 0;
}

const struct vfio_migration_ops vgpu_migration_ops = {
	.migration_set_state = set_state,
	.migration_get_state = get_state,
	.migration_get_data_size = get_data_size,
};

void vgpu_reset(struct vgpu *gpu)
{
	mutex_lock(&gpu->lock);
	WRITE_ONCE(gpu->generation, gpu->generation + 1);
	vgpu_session_end(gpu);
	vgpu_workload_run(gpu, false);
	vgpu_workload_clear(gpu);
	enter(gpu, VFIO_DEVICE_STATE_RUNNING);
	mutex_unlock(&gpu->lock);
	wake_up_interruptible(&gpu->knobs.wait);
}

/* The mdev is to go: let nobody wait for a release that won't come. */
void vgpu_give_up(struct vgpu *gpu)
{
	WRITE_ONCE(gpu->removing, true);
	wake_up_interruptible(&gpu->knobs.wait);
}

/*
 * This GPU does no DMA, so it never dirties guest memory. It still has to
 * answer: without these QEMU cannot tell, and refuses to migrate.
 */
static int log_start(struct vfio_device *vdev, struct rb_root_cached *ranges,
		     u32 count, u64 *page_size)
{
	struct vgpu *gpu = vgpu_of(vdev);
	int ret = 0;

	mutex_lock(&gpu->lock);
	if (gpu->dma_logging)
		ret = -EINVAL;
	gpu->dma_logging = true;
	mutex_unlock(&gpu->lock);
	return ret;
}

static int log_stop(struct vfio_device *vdev)
{
	struct vgpu *gpu = vgpu_of(vdev);

	mutex_lock(&gpu->lock);
	gpu->dma_logging = false;
	mutex_unlock(&gpu->lock);
	return 0;
}

static int log_read_and_clear(struct vfio_device *vdev, unsigned long iova,
			      unsigned long length, struct iova_bitmap *dirty)
{
	return READ_ONCE(vgpu_of(vdev)->dma_logging) ? 0 : -EINVAL;
}

const struct vfio_log_ops vgpu_log_ops = {
	.log_start = log_start,
	.log_stop = log_stop,
	.log_read_and_clear = log_read_and_clear,
};
