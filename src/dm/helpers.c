// SPDX-License-Identifier: GPL-2.0
/* One line each; helpers.h says who calls what. */

#include <linux/crc32.h>
#include <linux/part_stat.h>
#include <linux/sched/mm.h>
#include <linux/workqueue.h>
#include "helpers.h"

void remap_bio_set_dev(struct bio *bio, struct block_device *bdev)
{
	bio_set_dev(bio, bdev);
}

int remap_bio_set_dev_remapped(struct block_device *bdev, struct bio *bio)
{
	bio_set_dev(bio, bdev);
	return DM_MAPIO_REMAPPED;
}

int remap_bio_set_dev_unlock(struct block_device *bdev, struct bio *bio)
{
	rcu_read_unlock_sched();
	return remap_bio_set_dev_remapped(bdev, bio);
}

void remap_bio_inc_remaining(struct bio *bio)
{
	bio_inc_remaining(bio);
}

void remap_bio_rearm(struct bio *bio)
{
	atomic_set(&bio->__bi_remaining, 1);
	bio->bi_cookie = BLK_QC_T_NONE;
}

int remap_srcu_init(struct srcu_struct *ssp)
{
	return init_srcu_struct_fast_updown(ssp);
}

bool remap_srcu_enter(struct srcu_struct *ssp)
{
	return __srcu_ptr_to_ctr(ssp, srcu_down_read_fast(ssp));
}

void remap_srcu_leave(struct srcu_struct *ssp, bool which)
{
	/* Not an index, which would be checked against the two that there are. */
	srcu_up_read_fast(ssp, __srcu_ctr_to_ptr(ssp, 0) + which);
}

void remap_rcu_read_lock_sched(void)
{
	rcu_read_lock_sched();
}

void remap_rcu_read_unlock_sched(void)
{
	rcu_read_unlock_sched();
}

unsigned int remap_memalloc_flags_save(unsigned int flags)
{
	return memalloc_flags_save(flags);
}

void remap_memalloc_flags_restore(unsigned int flags)
{
	memalloc_flags_restore(flags);
}

unsigned int remap_crc32(const void *data, size_t len)
{
	return crc32_le(~0u, data, len) ^ ~0u;
}

struct workqueue_struct *remap_alloc_workqueue(const char *name, int max_active)
{
	return alloc_workqueue("%s", WQ_MEM_RECLAIM | WQ_UNBOUND, max_active, name);
}

sector_t remap_bdev_nr_sectors(struct block_device *bdev)
{
	return bdev_nr_sectors(bdev);
}

unsigned int remap_bdev_logical_block_size(struct block_device *bdev)
{
	return bdev_logical_block_size(bdev);
}

unsigned int remap_bdev_physical_block_size(struct block_device *bdev)
{
	return bdev_physical_block_size(bdev);
}

unsigned int remap_bdev_max_discard_sectors(struct block_device *bdev)
{
	return bdev_max_discard_sectors(bdev);
}

unsigned int remap_bdev_discard_granularity(struct block_device *bdev)
{
	return bdev_discard_granularity(bdev);
}

unsigned int remap_bdev_discard_alignment(struct block_device *bdev)
{
	return bdev_discard_alignment(bdev);
}

bool remap_bdev_rot(struct block_device *bdev)
{
	return bdev_rot(bdev);
}

bool remap_bdev_flushes_behind_fua(struct block_device *bdev)
{
	/* One that is put together from others hands FUA on, whatever they do with it. */
	return bdev_write_cache(bdev) &&
	       !(bdev_fua(bdev) && queue_is_mq(bdev_get_queue(bdev)));
}

bool remap_bdev_is_zoned(struct block_device *bdev)
{
	return bdev_is_zoned(bdev);
}

bool remap_bdev_read_only(struct block_device *bdev)
{
	return bdev_read_only(bdev);
}

u32 remap_bdev_dev(struct block_device *bdev)
{
	return bdev->bd_dev;
}

const char *remap_bdev_partition_uuid(struct block_device *bdev)
{
	return bdev->bd_meta_info ? bdev->bd_meta_info->uuid : NULL;
}

int remap_bdev_unique_id(struct block_device *bdev, u8 id[16], u8 kind)
{
	const struct block_device_operations *ops = bdev->bd_disk->fops;

	return ops->get_unique_id ? ops->get_unique_id(bdev->bd_disk, id, kind) : -EOPNOTSUPP;
}

unsigned int remap_bdev_write_zeroes_sectors(struct block_device *bdev)
{
	return bdev_write_zeroes_sectors(bdev);
}

unsigned int remap_bdev_dma_alignment(struct block_device *bdev)
{
	return bdev_dma_alignment(bdev);
}

bool remap_bdev_nowait(struct block_device *bdev)
{
	return bdev_nowait(bdev);
}

bool remap_bdev_stable_writes(struct block_device *bdev)
{
	return bdev_stable_writes(bdev);
}

struct file *remap_bdev_open(dev_t dev, blk_mode_t mode, struct block_device *with_holder_of)
{
	/* Not with the caller's credentials, which would live as long as the file. */
	scoped_with_kernel_creds()
		return bdev_file_open_by_dev(dev, mode, with_holder_of->bd_holder, NULL);
}

int remap_link_holder(struct block_device *bdev, struct gendisk *disk)
{
	return disk->slave_dir ? bd_link_disk_holder(bdev, disk) : 0;
}

void remap_unlink_holder(struct block_device *bdev, struct gendisk *disk)
{
	if (disk->slave_dir)
		bd_unlink_disk_holder(bdev, disk);
}

u64 remap_disk_sectors_done(struct block_device *bdev)
{
	return part_stat_read_accum(bdev_whole(bdev), sectors);
}

unsigned int remap_disk_in_flight(struct block_device *bdev)
{
	return bdev_count_inflight(bdev_whole(bdev));
}

bool remap_dm_table_writable(struct dm_target *ti)
{
	return dm_table_get_mode(ti->table) & BLK_OPEN_WRITE;
}

void remap_disk_change_uevent(struct gendisk *disk, char *envp[])
{
	kobject_uevent_env(&disk_to_dev(disk)->kobj, KOBJ_CHANGE, envp);
}

struct kobject *remap_disk_kobject(struct gendisk *disk)
{
	return &disk_to_dev(disk)->kobj;
}
