/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The kernel's inline functions and macros that this module calls, as functions that bindgen can
 * see and Rust can call; one line each in helpers.c.
 */
#ifndef DM_REMAP_HELPERS_H
#define DM_REMAP_HELPERS_H

#include <linux/bio.h>
#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/srcu.h>

/* Where a bio has to go, and how far it may be completed by a target. */
void remap_bio_set_dev(struct bio *bio, struct block_device *bdev);

/* Readers of `src/dm/srcu.rs`. */
struct srcu_ctr __percpu *remap_srcu_down_read_fast(struct srcu_struct *ssp);
void remap_srcu_up_read_fast(struct srcu_struct *ssp, struct srcu_ctr __percpu *scp);

/* Readers of `src/dm/published.rs`. */
void remap_rcu_read_lock_sched(void);
void remap_rcu_read_unlock_sched(void);

/* Scopes in which every allocation is made without I/O (`memalloc_noio_save`). */
unsigned int remap_memalloc_noio_save(void);
void remap_memalloc_noio_restore(unsigned int flags);

/* Facts of a block device. */
sector_t remap_bdev_nr_sectors(struct block_device *bdev);
unsigned int remap_bdev_logical_block_size(struct block_device *bdev);
unsigned int remap_bdev_physical_block_size(struct block_device *bdev);
unsigned int remap_bdev_max_discard_sectors(struct block_device *bdev);
bool remap_bdev_is_zoned(struct block_device *bdev);
bool remap_bdev_read_only(struct block_device *bdev);

unsigned int remap_crc32(const void *data, size_t len);
bool remap_dm_table_writable(struct dm_target *ti);
dev_t remap_bdev_dev(struct block_device *bdev);

#endif
