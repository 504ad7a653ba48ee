// SPDX-License-Identifier: GPL-2.0
/*
 * What the GPU does for its guest: it sweeps over a working set, word by
 * word, and each word's new value depends on its old one. So a word written
 * twice, left out or restored from the wrong moment changes all that follows,
 * and the frame buffer after N words is a function of the program and N
 * alone: a GPU that moved can be compared with one that stayed.
 *
 * Step N (from 0), with `generator` started from the seed:
 *
 *	x = generator ^= generator << 13, ^= >> 7, ^= << 17
 *	word at (N * stride) % working set = rotate left by 13, plus x
 *
 * Work comes from a rate (bytes swept in a second) and from doorbells (an
 * exact number of words, as fast as it goes).
 */
#include <linux/kthread.h>
#include <linux/ktime.h>
#include <linux/log2.h>
#include <linux/math64.h>
#include <linux/sched.h>
#include <linux/sizes.h>

#include "vgpu_lab.h"

/* Words in one go: bounds how long a change of state waits. */
#define BATCH		8192
#define TICK		msecs_to_jiffies(4)
#define MAX_RATE	(65536ULL * SZ_1M)
#define MAX_PENDING	(1ULL << 48)
#define GOLDEN		0x9e3779b97f4a7c15ULL

static u64 generator_from(u64 seed)
{
	/* Never 0, which a shift register would keep for ever. */
	return (seed * 2 + 1) * GOLDEN;
}

static void restart(struct vgpu_workload *work)
{
	work->generator = generator_from(work->program.seed);
	work->done = 0;
	work->pending = 0;
	work->credit = 0;
	work->last_ns = ktime_get_ns();
}

static void sweep(struct vgpu *gpu, u64 words)
{
	struct vgpu_workload *work = &gpu->workload;
	u64 slots = work->program.working_set_bytes >>
		    ilog2(work->program.stride_bytes);
	u64 x = work->generator;
	u64 slot, offset, i;
	u64 *word;

	div64_u64_rem(work->done, slots, &slot);
	for (i = 0; i < words; i++) {
		offset = slot * work->program.stride_bytes;
		word = (u64 *)(gpu->memory.base + offset);
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		*word = rol64(*word, 13) + x;
		if (++slot == slots)
			slot = 0;
		/* Mark a unit when leaving it, and the last one. */
		if (i + 1 == words ||
		    (slot * work->program.stride_bytes) / VGPU_UNIT_SIZE !=
		    offset / VGPU_UNIT_SIZE)
			vgpu_memory_mark(&gpu->memory, offset / VGPU_UNIT_SIZE);
	}
	work->generator = x;
	work->done += words;
}

/* Words that the rate allows now; `last_ns` keeps what is not yet a byte. */
static u64 earned(struct vgpu_workload *work)
{
	u64 rate = work->program.bytes_per_second;
	u64 now = ktime_get_ns();
	u64 bytes;

	if (!rate)
		return 0;
	/* A thread that was starved does not catch up for more than that. */
	if (now - work->last_ns > NSEC_PER_SEC)
		work->last_ns = now - NSEC_PER_SEC;
	bytes = mul_u64_u64_div_u64(now - work->last_ns, rate, NSEC_PER_SEC);
	work->last_ns += mul_u64_u64_div_u64(bytes, NSEC_PER_SEC, rate);
	work->credit = min(work->credit + bytes,
			   max(rate, work->program.stride_bytes));
	return work->credit >> ilog2(work->program.stride_bytes);
}

/* Returns true when there is more to do at once. */
static bool work_once(struct vgpu *gpu)
{
	struct vgpu_workload *work = &gpu->workload;
	u64 words;
	bool more = false;

	mutex_lock(&work->lock);
	if (!work->running)
		goto out;
	words = min_t(u64, work->pending, BATCH);
	if (words) {
		work->pending -= words;
		work->last_ns = ktime_get_ns();
		more = true;
	} else {
		words = earned(work);
		more = words > BATCH;
		words = min_t(u64, words, BATCH);
		work->credit -= words * work->program.stride_bytes;
	}
	if (words) {
		sweep(gpu, words);
		wake_up_interruptible(&gpu->readable);
	}
out:
	mutex_unlock(&work->lock);
	return more;
}

static bool has_work(struct vgpu_workload *work)
{
	return READ_ONCE(work->running) &&
	       (READ_ONCE(work->pending) ||
		READ_ONCE(work->program.bytes_per_second));
}

static bool wanted(struct vgpu_workload *work)
{
	return has_work(work) || kthread_should_stop();
}

static bool rung(struct vgpu_workload *work)
{
	return READ_ONCE(work->pending) || kthread_should_stop();
}

static int work_thread(void *data)
{
	struct vgpu *gpu = data;
	struct vgpu_workload *work = &gpu->workload;

	while (!kthread_should_stop()) {
		if (work_once(gpu)) {
			cond_resched();
			continue;
		}
		wait_event_interruptible(work->wait, wanted(work));
		wait_event_interruptible_timeout(work->wait, rung(work), TICK);
	}
	return 0;
}

void vgpu_workload_init(struct vgpu *gpu)
{
	struct vgpu_workload *work = &gpu->workload;

	mutex_init(&work->lock);
	init_waitqueue_head(&work->wait);
	work->program.seed = 1;
	work->program.working_set_bytes = gpu->memory.size;
	work->program.stride_bytes = sizeof(u64);
	restart(work);
}

int vgpu_workload_start(struct vgpu *gpu)
{
	struct task_struct *thread;

	thread = kthread_run(work_thread, gpu, "vgpu_lab/%s",
			     dev_name(gpu->vdev.dev));
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	gpu->workload.thread = thread;
	return 0;
}

void vgpu_workload_stop(struct vgpu *gpu)
{
	kthread_stop(gpu->workload.thread);
	gpu->workload.thread = NULL;
}

/* When this returns with false, nothing is written and all is marked. */
void vgpu_workload_run(struct vgpu *gpu, bool running)
{
	struct vgpu_workload *work = &gpu->workload;

	mutex_lock(&work->lock);
	if (running && !work->running)
		work->last_ns = ktime_get_ns();
	WRITE_ONCE(work->running, running);
	mutex_unlock(&work->lock);
	wake_up_interruptible(&work->wait);
}

/* As after power-on; the program stays, being the test's to set. */
void vgpu_workload_clear(struct vgpu *gpu)
{
	struct vgpu_workload *work = &gpu->workload;

	mutex_lock(&work->lock);
	restart(work);
	memset(work->scratch, 0, sizeof(work->scratch));
	vgpu_pci_clear(gpu);
	vgpu_memory_scrub(&gpu->memory);
	mutex_unlock(&work->lock);
}

int vgpu_workload_check(struct vgpu *gpu, const struct vgpu_program *program)
{
	if (!is_power_of_2(program->stride_bytes) ||
	    program->stride_bytes < sizeof(u64) ||
	    program->stride_bytes > SZ_4K)
		return -EINVAL;
	if (!program->working_set_bytes ||
	    program->working_set_bytes % SZ_4K ||
	    program->working_set_bytes > gpu->memory.size)
		return -EINVAL;
	return program->bytes_per_second > MAX_RATE ? -EINVAL : 0;
}

/* All but the rate is fixed once work has been done: no twin could follow. */
int vgpu_workload_program(struct vgpu *gpu, const struct vgpu_program *next)
{
	struct vgpu_workload *work = &gpu->workload;
	int ret = vgpu_workload_check(gpu, next);

	if (ret)
		return ret;
	mutex_lock(&work->lock);
	if (next->seed != work->program.seed ||
	    next->working_set_bytes != work->program.working_set_bytes ||
	    next->stride_bytes != work->program.stride_bytes) {
		if (gpu->open && work->done) {
			mutex_unlock(&work->lock);
			return -EBUSY;
		}
		work->generator = generator_from(next->seed);
	}
	if (next->bytes_per_second != work->program.bytes_per_second) {
		work->last_ns = ktime_get_ns();
		work->credit = 0;
	}
	work->program = *next;
	mutex_unlock(&work->lock);
	wake_up_interruptible(&work->wait);
	return 0;
}

void vgpu_workload_ring(struct vgpu *gpu, u64 words)
{
	struct vgpu_workload *work = &gpu->workload;

	mutex_lock(&work->lock);
	work->pending += min_t(u64, words, MAX_PENDING - work->pending);
	mutex_unlock(&work->lock);
	wake_up_interruptible(&work->wait);
}

void vgpu_workload_save(struct vgpu *gpu, struct vgpu_dynamic *dynamic)
{
	struct vgpu_workload *work = &gpu->workload;
	unsigned int i;

	mutex_lock(&work->lock);
	dynamic->seed = cpu_to_le64(work->program.seed);
	dynamic->working_set_bytes =
		cpu_to_le64(work->program.working_set_bytes);
	dynamic->stride_bytes = cpu_to_le64(work->program.stride_bytes);
	dynamic->bytes_per_second =
		cpu_to_le64(work->program.bytes_per_second);
	dynamic->generator = cpu_to_le64(work->generator);
	dynamic->work_done = cpu_to_le64(work->done);
	dynamic->pending = cpu_to_le64(work->pending);
	for (i = 0; i < VGPU_SCRATCH; i++)
		dynamic->scratch[i] = cpu_to_le32(work->scratch[i]);
	mutex_unlock(&work->lock);
}

int vgpu_workload_load(struct vgpu *gpu, const struct vgpu_dynamic *dynamic)
{
	struct vgpu_workload *work = &gpu->workload;
	struct vgpu_program program = {
		.seed = le64_to_cpu(dynamic->seed),
		.working_set_bytes = le64_to_cpu(dynamic->working_set_bytes),
		.stride_bytes = le64_to_cpu(dynamic->stride_bytes),
		.bytes_per_second = le64_to_cpu(dynamic->bytes_per_second),
	};
	u64 pending = le64_to_cpu(dynamic->pending);
	unsigned int i;

	if (vgpu_workload_check(gpu, &program) || pending > MAX_PENDING)
		return -EINVAL;
	mutex_lock(&work->lock);
	work->program = program;
	work->generator = le64_to_cpu(dynamic->generator);
	work->done = le64_to_cpu(dynamic->work_done);
	work->pending = pending;
	work->credit = 0;
	for (i = 0; i < VGPU_SCRATCH; i++)
		work->scratch[i] = le32_to_cpu(dynamic->scratch[i]);
	mutex_unlock(&work->lock);
	return 0;
}
