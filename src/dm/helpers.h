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
#include <linux/ioprio.h>
#include <linux/srcu.h>

/* Constants that are casts or shifts, which bindgen does not evaluate. */
static const blk_status_t REMAP_STS_NOTSUPP = BLK_STS_NOTSUPP;
static const blk_status_t REMAP_STS_IOERR = BLK_STS_IOERR;
static const blk_status_t REMAP_STS_AGAIN = BLK_STS_AGAIN;
static const blk_status_t REMAP_STS_MEDIUM = BLK_STS_MEDIUM;
static const blk_status_t REMAP_STS_TARGET = BLK_STS_TARGET;
static const gfp_t REMAP_GFP_NOIO = GFP_NOIO;
/* What the queue of a device below keeps in a bio until that is answered. */
static const unsigned short REMAP_BIO_QOS = 1U << BIO_QOS_THROTTLED | 1U << BIO_QOS_MERGED;
static const unsigned int REMAP_PF_MEMALLOC = PF_MEMALLOC;
static const unsigned int REMAP_PF_MEMALLOC_NOIO = PF_MEMALLOC_NOIO;
/* What IOPRIO_PRIO_VALUE makes of it, which is a function. */
static const unsigned short REMAP_IOPRIO_IDLE = IOPRIO_CLASS_IDLE << IOPRIO_CLASS_SHIFT;
static const blk_mode_t REMAP_BLK_OPEN_READ = BLK_OPEN_READ;
static const blk_mode_t REMAP_BLK_OPEN_WRITE = BLK_OPEN_WRITE;
/* Somebody waits for it: as direct I/O it is not held back for other writes (blk-wbt.c). */
static const blk_opf_t REMAP_REQ_SYNC = REQ_SYNC | REQ_IDLE;
static const blk_opf_t REMAP_REQ_PREFLUSH = REQ_PREFLUSH;
static const blk_opf_t REMAP_REQ_NOMERGE = REQ_NOMERGE;
static const blk_opf_t REMAP_REQ_DRV = REQ_DRV;
static const blk_features_t REMAP_BLK_FEAT_ROTATIONAL = BLK_FEAT_ROTATIONAL;

/* bio.rs */
void remap_bio_set_dev(struct bio *bio, struct block_device *bdev);
int remap_bio_set_dev_remapped(struct block_device *bdev, struct bio *bio);
int remap_bio_set_dev_unlock(struct block_device *bdev, struct bio *bio);
void remap_bio_inc_remaining(struct bio *bio);
void remap_bio_rearm(struct bio *bio);

/* in_flight.rs */
int remap_srcu_init(struct srcu_struct *ssp);
bool remap_srcu_enter(struct srcu_struct *ssp);
void remap_srcu_leave(struct srcu_struct *ssp, bool which);

/* published.rs */
void remap_rcu_read_lock_sched(void);
void remap_rcu_read_unlock_sched(void);

/* system.rs */
unsigned int remap_memalloc_flags_save(unsigned int flags);
void remap_memalloc_flags_restore(unsigned int flags);
unsigned int remap_crc32(const void *data, size_t len);
struct workqueue_struct *remap_alloc_workqueue(const char *name, int max_active);

/* device.rs */
sector_t remap_bdev_nr_sectors(struct block_device *bdev);
unsigned int remap_bdev_logical_block_size(struct block_device *bdev);
unsigned int remap_bdev_physical_block_size(struct block_device *bdev);
unsigned int remap_bdev_max_discard_sectors(struct block_device *bdev);
unsigned int remap_bdev_discard_granularity(struct block_device *bdev);
unsigned int remap_bdev_discard_alignment(struct block_device *bdev);
bool remap_bdev_rot(struct block_device *bdev);
bool remap_bdev_flushes_behind_fua(struct block_device *bdev);
bool remap_bdev_is_zoned(struct block_device *bdev);
bool remap_bdev_read_only(struct block_device *bdev);
u32 remap_bdev_dev(struct block_device *bdev);
const char *remap_bdev_partition_uuid(struct block_device *bdev);
int remap_bdev_unique_id(struct block_device *bdev, u8 id[16], u8 kind);
unsigned int remap_bdev_write_zeroes_sectors(struct block_device *bdev);
unsigned int remap_bdev_dma_alignment(struct block_device *bdev);
bool remap_bdev_nowait(struct block_device *bdev);
bool remap_bdev_stable_writes(struct block_device *bdev);
struct file *remap_bdev_open(dev_t dev, blk_mode_t mode, struct block_device *with_holder_of);
int remap_link_holder(struct block_device *bdev, struct gendisk *disk);
void remap_unlink_holder(struct block_device *bdev, struct gendisk *disk);
u64 remap_disk_sectors_done(struct block_device *bdev);
unsigned int remap_disk_in_flight(struct block_device *bdev);

/* target.rs */
bool remap_dm_table_writable(struct dm_target *ti);
void remap_disk_change_uevent(struct gendisk *disk, char *envp[]);
struct kobject *remap_disk_kobject(struct gendisk *disk);

#endif
