// SPDX-License-Identifier: GPL-2.0

//! Queue limits that device mapper has stacked from all devices of a table.
//!
//! C header: [`include/linux/blkdev.h`](srctree/include/linux/blkdev.h)

use super::{bindings, device::BlockDevice};
use kernel::types::Opaque;

/// `struct queue_limits` of the mapped device, before they take effect.
#[repr(transparent)]
pub(crate) struct QueueLimits(Opaque<bindings::queue_limits>);

impl QueueLimits {
    fn get_mut(&mut self) -> &mut bindings::queue_limits {
        // SAFETY: A reference to `QueueLimits` is one to valid limits that are nobody else's.
        unsafe { &mut *self.0.get() }
    }

    /// Takes over what `device` can discard, whatever the other devices can.
    pub(crate) fn discard_as(&mut self, device: &BlockDevice) {
        let (granularity, alignment) = device.discard_granularity();
        let max = device.max_discard_sectors();
        let limits = self.get_mut();
        limits.max_discard_sectors = max;
        limits.max_hw_discard_sectors = max;
        limits.max_user_discard_sectors = ffi_max();
        limits.discard_granularity = granularity;
        limits.discard_alignment = alignment;
    }

    /// Says that the device rotates, or does not, as `device` does.
    pub(crate) fn rotational_as(&mut self, device: &BlockDevice) {
        let rotational = device.is_rotational();
        let limits = self.get_mut();
        if rotational {
            limits.features |= bindings::REMAP_BLK_FEAT_ROTATIONAL;
        } else {
            limits.features &= !bindings::REMAP_BLK_FEAT_ROTATIONAL;
        }
    }
}

/// No limit of the user's.
const fn ffi_max() -> kernel::ffi::c_uint {
    kernel::ffi::c_uint::MAX
}
