/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The migration stream of the lab's GPU, byte by byte (README.rst tells it
 * in words). All numbers are little endian.
 *
 * A package is a header, its sections in this order, and its units:
 *
 *	first package	context, static data, bitmap
 *	in between	bitmap
 *	last package	bitmap, dynamic data
 *
 * Every section has a fixed length, so the header's flags alone say how long
 * the sections are, and no length in the stream decides how much memory is
 * taken. Units have a checksum each: they are copied while the workload is
 * writing, so what was sent is known only when it is sent.
 */
#ifndef VGPU_LAB_STREAM_H
#define VGPU_LAB_STREAM_H

#include <linux/types.h>

#define VGPU_STREAM_MAGIC	0x314c4756	/* "VGL1" */
#define VGPU_STREAM_VERSION	1

#define VGPU_STREAM_FIRST	1
#define VGPU_STREAM_LAST	2

#define VGPU_UNIT_SIZE		(2u << 20)
#define VGPU_MAX_UNITS		512
#define VGPU_TEXT		64
#define VGPU_STATIC_SIZE	4096
#define VGPU_SCRATCH		4

struct vgpu_stream_header {
	__le32 magic;
	__le16 version;
	__le16 flags;
	__le64 total_length;	/* header, sections and units */
	__le64 sequence;	/* from 0 */
	__le32 sections_length;
	__le32 unit_count;
	__le64 checksum;	/* xxh64 of header (this field 0) + sections */
} __packed;

enum vgpu_section {
	VGPU_SECTION_CONTEXT = 1,
	VGPU_SECTION_STATIC = 2,
	VGPU_SECTION_BITMAP = 3,
	VGPU_SECTION_DYNAMIC = 4,
};

struct vgpu_section_header {
	__le32 type;
	__le32 length;		/* without this header */
} __packed;

/* What the destination compares with its own, bit by bit. */
struct vgpu_context {
	__le32 version;
	__le16 vendor;
	__le16 device;
	__le64 frame_buffer_bytes;
	char firmware[VGPU_TEXT];
	char driver_version[VGPU_TEXT];
	char vbios[VGPU_TEXT];
	char partition[VGPU_TEXT];
} __packed;

struct vgpu_bitmap {
	__le64 words[VGPU_MAX_UNITS / 64];
} __packed;

struct vgpu_dynamic {
	__le64 seed;
	__le64 working_set_bytes;
	__le64 stride_bytes;
	__le64 bytes_per_second;
	__le64 generator;
	__le64 work_done;
	__le64 pending;
	__le32 scratch[VGPU_SCRATCH];
} __packed;

/* In front of each unit's VGPU_UNIT_SIZE bytes. */
struct vgpu_unit_header {
	__le32 index;
	__le32 reserved;
	__le64 checksum;	/* xxh64 of the unit's bytes */
} __packed;

#endif
