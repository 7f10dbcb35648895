// SPDX-License-Identifier: GPL-2.0

//! Single calls into the kernel that have no better home: the clock, random numbers, checksums,
//! scopes of memory allocation, work queues.

use super::bindings;
use kernel::{ffi, prelude::*, types::NotThreadSafe, workqueue};

/// Seconds since 1970 (`ktime_get_real_seconds`).
pub(crate) fn real_seconds() -> u64 {
    // SAFETY: An FFI call without requirements.
    unsafe { bindings::ktime_get_real_seconds() as u64 }
}

/// Fills `bytes` with random numbers fit for keys (`get_random_bytes`).
pub(crate) fn random(bytes: &mut [u8]) {
    // SAFETY: The slice is valid for writing its length.
    unsafe { bindings::get_random_bytes(bytes.as_mut_ptr().cast(), bytes.len()) };
}

/// CRC-32 (IEEE 802.3, as zlib computes it) of `bytes`.
pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    // SAFETY: The slice is valid for reading its length.
    unsafe { bindings::remap_crc32(bytes.as_ptr().cast(), bytes.len()) }
}

/// While it lives, allocations of this thread do no I/O (`memalloc_noio_save`): the thread may be
/// what the I/O would wait for.
pub(crate) struct NoIo {
    flags: ffi::c_uint,
    _thread: NotThreadSafe,
}

impl NoIo {
    /// Begins the scope.
    pub(crate) fn begin() -> Self {
        // SAFETY: An FFI call without requirements; undone in `drop`.
        Self { flags: unsafe { bindings::remap_memalloc_noio_save() }, _thread: NotThreadSafe }
    }
}

impl Drop for NoIo {
    fn drop(&mut self) {
        // SAFETY: The flags are those that `begin` saved, on this thread.
        unsafe { bindings::remap_memalloc_noio_restore(self.flags) };
    }
}

/// A work queue that makes progress under memory pressure (`WQ_MEM_RECLAIM | WQ_UNBOUND`).
/// Dropping it waits for what is queued.
///
/// # Invariants
///
/// Comes from `alloc_workqueue` and has not been destroyed.
pub(crate) struct WorkQueue(core::ptr::NonNull<bindings::workqueue_struct>);

// SAFETY: A work queue may be used from any thread.
unsafe impl Send for WorkQueue {}
// SAFETY: It has its own locking.
unsafe impl Sync for WorkQueue {}

impl WorkQueue {
    /// A queue that runs up to `at_once` items at the same time.
    pub(crate) fn new(name: &CStr, at_once: i32) -> Result<Self> {
        // SAFETY: The name is a C string, copied by the call.
        let queue = unsafe { bindings::remap_alloc_workqueue(name.as_char_ptr(), at_once) };
        // INVARIANT: Just made.
        Ok(Self(core::ptr::NonNull::new(queue).ok_or(ENOMEM)?))
    }

    /// Waits until nothing is queued or running, nor queued by what runs.
    pub(crate) fn drain(&self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::drain_workqueue(self.0.as_ptr()) };
    }
}

impl core::ops::Deref for WorkQueue {
    type Target = workqueue::Queue;

    fn deref(&self) -> &workqueue::Queue {
        // SAFETY: By the type invariant it is valid until `self` is dropped.
        unsafe { workqueue::Queue::from_raw(self.0.as_ptr()) }
    }
}

impl Drop for WorkQueue {
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::destroy_workqueue(self.0.as_ptr()) };
    }
}
