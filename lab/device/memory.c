// SPDX-License-Identifier: GPL-2.0
/*
 * The frame buffer and its dirty bitmap.
 *
 * The order that makes a copy of running memory right: a writer writes, then
 * marks; a query clears, then copies. A unit that changes while it is copied
 * is marked again afterwards, whatever the timing.
 */
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/vmalloc.h>
#include <linux/xxhash.h>

#include "vgpu_lab.h"

int vgpu_memory_init(struct vgpu_memory *memory, u64 size)
{
	memory->size = size;
	memory->units = size / VGPU_UNIT_SIZE;
	memory->base = vzalloc(size);
	return memory->base ? 0 : -ENOMEM;
}

void vgpu_memory_free(struct vgpu_memory *memory)
{
	vfree(memory->base);
	memory->base = NULL;
}

void vgpu_memory_mark(struct vgpu_memory *memory, unsigned int unit)
{
	/* The data must be visible before the mark is. */
	smp_mb__before_atomic();
	set_bit(unit, memory->touched);
	set_bit(unit, memory->dirty);
}

void vgpu_memory_take_dirty(struct vgpu_memory *memory, unsigned long *taken)
{
	unsigned int word;

	/* xchg() orders the clearing before the caller's copy. */
	for (word = 0; word < BITS_TO_LONGS(VGPU_MAX_UNITS); word++)
		taken[word] = xchg(&memory->dirty[word], 0);
}

unsigned int vgpu_memory_dirty(struct vgpu_memory *memory)
{
	return bitmap_weight(memory->dirty, memory->units);
}

/* Only what was ever written: a fresh gibibyte is not cleared again. */
void vgpu_memory_scrub(struct vgpu_memory *memory)
{
	unsigned int unit;

	for_each_set_bit(unit, memory->touched, memory->units) {
		memset(vgpu_unit(memory, unit), 0, VGPU_UNIT_SIZE);
		cond_resched();
	}
	bitmap_zero(memory->touched, VGPU_MAX_UNITS);
	bitmap_zero(memory->dirty, VGPU_MAX_UNITS);
}

u64 vgpu_memory_digest(struct vgpu_memory *memory)
{
	struct xxh64_state state;
	unsigned int unit;

	xxh64_reset(&state, 0);
	for (unit = 0; unit < memory->units; unit++) {
		xxh64_update(&state, vgpu_unit(memory, unit), VGPU_UNIT_SIZE);
		cond_resched();
	}
	return xxh64_digest(&state);
}
