// SPDX-License-Identifier: GPL-2.0

//! The devices of a set while it is in use, and what has to be known of their caches.
//!
//! # Flushes
//!
//! A flush of the target goes to main, and to every spare written since its last flush that
//! succeeded. `written` counts the writes that a spare has acknowledged, and is raised before the
//! caller hears of them. A flush takes the count before it is sent, and stores it in `flushed` when
//! it has succeeded. So a spare needs no flush exactly when both are equal: then every write that
//! was acknowledged was so before some flush that has since succeeded. A flush that is still under
//! way does not excuse another.
//!
//! The core loses the error of a flush that it sends ahead of data (`REQ_PREFLUSH` with `REQ_FUA`),
//! so a failed flush is remembered: until one succeeds, FUA writes to that device fail.

use crate::{
    dm::device::{BlockDevice, Device},
    pure::units::{Sectors, SpareSector},
};
use kernel::sync::atomic::{Atomic, Full, Relaxed};

/// The state of a device's volatile cache, as far as we caused it.
pub(crate) struct Cache {
    written: Atomic<u64>,
    flushed: Atomic<u64>,
    flush_failed: Atomic<bool>,
}

impl Cache {
    /// The cache of a device that we have written nothing to.
    pub(crate) fn new() -> Self {
        Self { written: Atomic::new(0), flushed: Atomic::new(0), flush_failed: Atomic::new(false) }
    }

    /// A write has been acknowledged; to be called before the caller hears of it.
    pub(crate) fn wrote(&self) {
        self.written.fetch_add(1u64, Full);
    }

    /// The count to give to [`flushed`](Self::flushed) after a flush that is sent now.
    pub(crate) fn count(&self) -> u64 {
        self.written.fetch_add(0u64, Full)
    }

    /// Whether there may be something to flush, and the count to give to [`flushed`](Self::flushed)
    /// once that has been done.
    pub(crate) fn needs_flush(&self) -> Option<u64> {
        // `flushed` first: read the other way round, it could be newer than `written`.
        let flushed = self.flushed.load(Relaxed);
        let failed = self.flush_failed.load(Relaxed);
        let written = self.count();
        (flushed != written || failed).then_some(written)
    }

    /// A flush that was sent after `written` was taken has ended.
    pub(crate) fn flushed(&self, written: u64, ok: bool) {
        if !ok {
            self.flush_failed.store(true, Relaxed);
            return;
        }
        self.flush_failed.store(false, Relaxed);
        let mut seen = self.flushed.load(Relaxed);
        while seen < written {
            match self.flushed.cmpxchg(seen, written, Full) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
    }

    /// Whether the last flush failed.
    pub(crate) fn flush_failed(&self) -> bool {
        self.flush_failed.load(Relaxed)
    }
}

/// Main, as far as it is mapped.
pub(crate) struct Main {
    /// The device.
    pub(crate) device: Device,
    /// Its first sector that is mapped.
    pub(crate) start: u64,
    /// How many are mapped.
    pub(crate) len: Sectors,
    /// Its cache.
    pub(crate) cache: Cache,
}

/// A spare, as far as the set uses it.
pub(crate) struct Spare {
    /// The device.
    pub(crate) device: Device,
    /// Its first sector that is used.
    pub(crate) start: u64,
    /// How many are used.
    pub(crate) len: Sectors,
    /// Whether the table line names the part.
    pub(crate) part: bool,
    /// Its cache.
    pub(crate) cache: Cache,
}

impl Spare {
    /// The block device.
    #[inline]
    pub(crate) fn block(&self) -> &BlockDevice {
        self.device.block()
    }

    /// The sector of the device at which `at` lies.
    #[inline]
    pub(crate) fn sector(&self, at: SpareSector) -> u64 {
        self.start + at.0
    }
}
