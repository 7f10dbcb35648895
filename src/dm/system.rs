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

/// How the allocations of this thread behave while it lives (`memalloc_flags_save`).
pub(crate) struct MemScope {
    flags: ffi::c_uint,
    _thread: NotThreadSafe,
}

impl MemScope {
    /// They do no I/O: the thread may be what that would wait for (`PF_MEMALLOC_NOIO`).
    pub(crate) fn without_io() -> Self {
        Self::with(bindings::REMAP_PF_MEMALLOC_NOIO)
    }

    /// They do not wait for memory to be freed, and may take what the kernel has set aside for those
    /// who free it: the thread answers writes, which others free memory by (`PF_MEMALLOC`). For a
    /// few small ones.
    pub(crate) fn from_reserves() -> Self {
        Self::with(bindings::REMAP_PF_MEMALLOC_NOIO | bindings::REMAP_PF_MEMALLOC)
    }

    fn with(flags: ffi::c_uint) -> Self {
        // SAFETY: An FFI call without requirements; undone in `drop`.
        let flags = unsafe { bindings::remap_memalloc_flags_save(flags) };
        Self { flags, _thread: NotThreadSafe }
    }
}

impl Drop for MemScope {
    fn drop(&mut self) {
        // SAFETY: The flags are those that `with` has set, on this thread.
        unsafe { bindings::remap_memalloc_flags_restore(self.flags) };
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
