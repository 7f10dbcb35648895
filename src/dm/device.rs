// SPDX-License-Identifier: GPL-2.0

//! Block devices that a table has opened.
//!
//! C headers: [`include/linux/device-mapper.h`](srctree/include/linux/device-mapper.h),
//! [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{bindings, target::Gone};
use crate::pure::identity::{HardwareId, Mapped};
use core::{fmt, ptr::NonNull};
use kernel::{error::to_result, prelude::*, sync::Arc, types::Opaque};

/// Bits of a minor number (`MINORBITS`).
pub(super) const MINOR_BITS: u32 = 20;

/// Keeps a `dm_target` in place: its destructor, and a failed constructor, wait until the last
/// anchor is gone. So whoever holds a [`Device`] may use it, on whatever thread.
pub(crate) struct Anchor {
    ti: NonNull<bindings::dm_target>,
    pub(super) gone: Arc<Gone>,
}

// SAFETY: The target is only used by functions that may be called from any thread.
unsafe impl Send for Anchor {}
// SAFETY: As above.
unsafe impl Sync for Anchor {}

impl Anchor {
    pub(super) fn new(ti: NonNull<bindings::dm_target>, gone: Arc<Gone>) -> Self {
        Self { ti, gone }
    }
}

impl Drop for Anchor {
    fn drop(&mut self) {
        self.gone.done.complete_all();
    }
}

/// An open block device.
#[repr(transparent)]
pub(crate) struct BlockDevice(Opaque<bindings::block_device>);

impl BlockDevice {
    #[inline]
    pub(super) fn as_ptr(&self) -> *mut bindings::block_device {
        self.0.get()
    }

    /// Its size.
    pub(crate) fn sectors(&self) -> u64 {
        // SAFETY: A reference to a `BlockDevice` is one to an open device; so below.
        unsafe { bindings::remap_bdev_nr_sectors(self.as_ptr()) }
    }

    /// Bytes in the smallest piece that it reads or writes.
    pub(crate) fn logical_block_size(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_logical_block_size(self.as_ptr()) }
    }

    /// Bytes in the smallest piece that it writes without reading.
    pub(crate) fn physical_block_size(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_physical_block_size(self.as_ptr()) }
    }

    /// The most sectors in a discard; 0 where it has none.
    pub(crate) fn max_discard_sectors(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_max_discard_sectors(self.as_ptr()) }
    }

    /// Granularity and alignment of its discards, in bytes.
    pub(crate) fn discard_granularity(&self) -> (u32, u32) {
        // SAFETY: As above.
        unsafe {
            (
                bindings::remap_bdev_discard_granularity(self.as_ptr()),
                bindings::remap_bdev_discard_alignment(self.as_ptr()),
            )
        }
    }

    /// The most sectors of zeroes that it writes by itself; 0 where it cannot.
    pub(crate) fn max_write_zeroes_sectors(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_write_zeroes_sectors(self.as_ptr()) }
    }

    /// To what bytes in memory have to be aligned that it reads or writes, less one.
    pub(crate) fn dma_alignment(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_dma_alignment(self.as_ptr()) }
    }

    /// Whether it answers at once where it would have to wait, if it is asked to (`REQ_NOWAIT`).
    pub(crate) fn has_nowait(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_nowait(self.as_ptr()) }
    }

    /// Whether data must not change while it is written.
    pub(crate) fn needs_stable_writes(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_stable_writes(self.as_ptr()) }
    }

    /// Whether it is a rotating disk.
    pub(crate) fn is_rotational(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_rot(self.as_ptr()) }
    }

    /// Whether a write with FUA is one behind which it is flushed: the core answers it with the error of either.
    pub(crate) fn flushes_behind_fua(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_flushes_behind_fua(self.as_ptr()) }
    }

    /// Whether it is zoned.
    pub(crate) fn is_zoned(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_is_zoned(self.as_ptr()) }
    }

    /// Whether it refuses writes.
    pub(crate) fn is_read_only(&self) -> bool {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_read_only(self.as_ptr()) }
    }

    /// Its device number (`dev_t`).
    pub(crate) fn number(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_bdev_dev(self.as_ptr()) }
    }

    /// How many sectors the whole disk that it is, or is a part of, has read, written or discarded so
    /// far, for whomever; where the queue keeps no account (`iostats`), this stands still.
    pub(crate) fn disk_sectors_done(&self) -> u64 {
        // SAFETY: As above.
        unsafe { bindings::remap_disk_sectors_done(self.as_ptr()) }
    }

    /// How many requests that disk has and has not answered.
    pub(crate) fn disk_in_flight(&self) -> u32 {
        // SAFETY: As above.
        unsafe { bindings::remap_disk_in_flight(self.as_ptr()) }
    }

    /// The partition's UUID (`PARTUUID`), where it is a partition that has one.
    pub(crate) fn partition_uuid(&self) -> Option<&str> {
        // SAFETY: As above; the string lives as long as the device.
        let uuid = unsafe { bindings::remap_bdev_partition_uuid(self.as_ptr()) };
        if uuid.is_null() {
            return None;
        }
        // SAFETY: The kernel keeps it as a C string.
        unsafe { CStr::from_char_ptr(uuid) }.to_str().ok().filter(|u| !u.is_empty())
    }
}

impl BlockDevice {
    /// The identifier that the disk itself gives (`get_unique_id`), the best kind that it has. May
    /// sleep.
    pub(crate) fn unique_id(&self) -> Option<HardwareId> {
        [3u8, 2, 1].into_iter().find_map(|kind| {
            let mut bytes = [0; 16];
            // SAFETY: A reference to a `BlockDevice` is one to an open device; the driver writes at
            // most 16 bytes.
            let len =
                unsafe { bindings::remap_bdev_unique_id(self.as_ptr(), bytes.as_mut_ptr(), kind) };
            let len = u8::try_from(len).ok().filter(|len| (1..=16).contains(len))?;
            Some(HardwareId { kind, len, bytes })
        })
    }
}

/// The longest UUID that device mapper gives, with the zero behind it (`DM_UUID_LEN`).
const DM_UUID_BYTES: usize = 129;

impl BlockDevice {
    /// What it is to device mapper (`dm_copy_name_and_uuid`). May sleep.
    pub(crate) fn mapped(&self) -> Mapped {
        // SAFETY: Takes any device number, and a reference to what it finds.
        let md = unsafe { bindings::dm_get_md(self.number()) };
        if md.is_null() {
            return Mapped::No;
        }
        let mut uuid = [0u8; DM_UUID_BYTES];
        // SAFETY: `md` is referenced; the UUID fits, and the name is not asked for.
        let copied = to_result(unsafe {
            bindings::dm_copy_name_and_uuid(md, core::ptr::null_mut(), uuid.as_mut_ptr().cast())
        });
        // SAFETY: The reference that was taken above, which is not used any more.
        unsafe { bindings::dm_put(md) };
        let uuid = CStr::from_bytes_until_nul(&uuid).ok().filter(|_| copied.is_ok());
        uuid.and_then(|uuid| uuid.to_str().ok()).map_or(Mapped::Yes, Mapped::of)
    }
}

/// An open block device that a target uses, until this is dropped.
///
/// # Invariants
///
/// `bdev` is what `held` holds open.
pub(crate) struct Device {
    bdev: NonNull<BlockDevice>,
    held: Held,
    anchor: Arc<Anchor>,
}

/// How a device is held open.
///
/// # Invariants
///
/// A `Table` comes from `dm_get_device` for the anchored target, and has not been put. A `File` comes
/// from `bdev_file_open_by_dev`, and has not been put; its device is linked as one that the disk holds.
enum Held {
    Table(NonNull<bindings::dm_dev>),
    File(NonNull<bindings::file>, NonNull<bindings::gendisk>),
}

// SAFETY: A device may be used and put from any thread.
unsafe impl Send for Device {}
// SAFETY: Shared use reads only.
unsafe impl Sync for Device {}

fn mode(writable: bool) -> bindings::blk_mode_t {
    match writable {
        true => bindings::REMAP_BLK_OPEN_READ | bindings::REMAP_BLK_OPEN_WRITE,
        false => bindings::REMAP_BLK_OPEN_READ,
    }
}

/// The number of the device at `path`: a path, or `major:minor` (`dm_devt_from_path`).
///
/// # Errors
///
/// That there is no such block device.
pub(crate) fn number_of(path: &CStr) -> Result<u32> {
    let mut number = 0;
    // SAFETY: `path` is a C string, `number` takes a device number.
    to_result(unsafe { bindings::dm_devt_from_path(path.as_char_ptr(), &mut number) })?;
    Ok(number)
}

impl Device {
    /// # Safety
    ///
    /// `ti` is being constructed, and `anchor` is its anchor.
    pub(super) unsafe fn get(
        ti: NonNull<bindings::dm_target>,
        path: &CStr,
        writable: bool,
        anchor: Arc<Anchor>,
    ) -> Result<Self> {
        let mut dev = core::ptr::null_mut();
        // SAFETY: By the safety requirement; `path` is a C string.
        to_result(unsafe {
            bindings::dm_get_device(ti.as_ptr(), path.as_char_ptr(), mode(writable), &mut dev)
        })?;
        let dev = NonNull::new(dev).ok_or(ENODEV)?;
        // SAFETY: Just got; an open `dm_dev` has its block device, which `BlockDevice` is transparent of.
        let bdev = unsafe { NonNull::new((*dev.as_ptr()).bdev.cast()) }.ok_or(ENODEV)?;
        // INVARIANT: Just got.
        Ok(Self { bdev, held: Held::Table(dev), anchor })
    }

    /// Opens a device outside of a constructor, as one more that the disk of the target holds, with
    /// the holder that `like` was opened with.
    ///
    /// # Safety
    ///
    /// `disk` is that of the mapped device of the anchored target.
    pub(super) unsafe fn open(
        number: u32,
        writable: bool,
        like: &Self,
        disk: NonNull<bindings::gendisk>,
        anchor: Arc<Anchor>,
    ) -> Result<Self> {
        let like = like.block().as_ptr();
        // SAFETY: `like` is open.
        let file = unsafe {
            kernel::error::from_err_ptr(bindings::remap_bdev_open(number, mode(writable), like))?
        };
        let file = NonNull::new(file).ok_or(ENODEV)?;
        // SAFETY: The file is one of an open block device.
        let bdev = unsafe { bindings::file_bdev(file.as_ptr()) };
        // SAFETY: Both are valid, by the safety requirement.
        let linked = to_result(unsafe { bindings::remap_link_holder(bdev, disk.as_ptr()) });
        let bdev = NonNull::new(bdev.cast()).ok_or(ENODEV);
        match (linked, bdev) {
            // INVARIANT: Just opened and linked.
            (Ok(()), Ok(bdev)) => Ok(Self { bdev, held: Held::File(file, disk), anchor }),
            (linked, bdev) => {
                // SAFETY: Just opened, and not used any more.
                unsafe { bindings::bdev_fput(file.as_ptr()) };
                Err(linked.err().or(bdev.err()).unwrap_or(ENODEV))
            }
        }
    }

    /// What device mapper knows of it; nothing where the target has opened it itself.
    #[inline]
    pub(super) fn as_dm(&self) -> Option<*mut bindings::dm_dev> {
        match self.held {
            Held::Table(dev) => Some(dev.as_ptr()),
            Held::File(..) => None,
        }
    }

    /// The block device.
    #[inline]
    pub(crate) fn block(&self) -> &BlockDevice {
        // SAFETY: By the type invariant.
        unsafe { self.bdev.as_ref() }
    }
}

/// The device's number as `major:minor`, which a table line takes as a path.
impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.block().number();
        write!(f, "{}:{}", number >> MINOR_BITS, number & ((1 << MINOR_BITS) - 1))
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        match self.held {
            // SAFETY: By the type invariant; the anchor, dropped after this, keeps `ti` valid.
            Held::Table(dev) => unsafe {
                bindings::dm_put_device(self.anchor.ti.as_ptr(), dev.as_ptr());
            },
            // SAFETY: By the type invariant; the anchor keeps the mapped device, and with it the disk.
            Held::File(file, disk) => unsafe {
                bindings::remap_unlink_holder(self.block().as_ptr(), disk.as_ptr());
                bindings::bdev_fput(file.as_ptr());
            },
        }
    }
}
