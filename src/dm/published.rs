// SPDX-License-Identifier: GPL-2.0

//! A pointer that readers follow without a lock and a writer replaces: RCU.
//!
//! C header: [`include/linux/rcupdate.h`](srctree/include/linux/rcupdate.h)

use super::{bindings, compat};
use core::{
    marker::PhantomData,
    sync::atomic::{AtomicPtr, Ordering},
};
use kernel::{prelude::*, sync::rcu, types::NotThreadSafe};

/// Proof that the current CPU is in an RCU read-side critical section (`rcu_read_lock_sched`; the
/// cheapest, as it only keeps the CPU from being given away). Nothing may sleep until it is dropped, nor
/// is a lock taken: one that a real-time kernel sleeps for (`spinlock_t`) is not to be had with the CPU
/// kept. Who takes one uses [`rcu::Guard`].
///
/// # Invariants
///
/// The section has begun on this CPU.
pub(crate) struct Reading(NotThreadSafe);

impl Reading {
    /// Begins one.
    #[inline]
    pub(crate) fn begin() -> Self {
        // SAFETY: It is ended in `drop`, or by who forgets this, on the same CPU, as this cannot be sent to
        // another thread.
        unsafe { by_cpu::lock() };
        // INVARIANT: Begun just now.
        Self(NotThreadSafe)
    }
}

/// `rcu_read_lock_sched` as it is on x86 in a kernel that checks nothing there: one instruction (`__preempt_count_add`), which is less than
/// the call of a function takes.
#[cfg(all(
    CONFIG_X86_64,
    CONFIG_PREEMPT_COUNT,
    CONFIG_HAS_SEPARATE_PREEMPT_RESCHED_BITS,
    not(any(CONFIG_DEBUG_LOCK_ALLOC, CONFIG_DEBUG_PREEMPT, CONFIG_TRACE_PREEMPT_TOGGLE))
))]
mod by_cpu {
    use core::arch::asm;
    use kernel::ffi;

    extern "C" {
        /// Of each processor at its offset, which is the base of `gs`.
        static __preempt_count: ffi::c_ulong;
    }

    /// # Safety
    ///
    /// `remap_rcu_read_unlock_sched` is called later, on the same CPU.
    #[inline(always)]
    pub(super) unsafe fn lock() {
        // SAFETY: The processor's own count is raised, by the safety requirement until it is lowered again. What follows is not moved in
        // front of this, as the compiler takes it to change any memory.
        unsafe {
            asm!("inc qword ptr gs:[rip + {}]", sym __preempt_count, options(nostack));
        }
    }
}

/// By the kernel's own function, in any other.
#[cfg(not(all(
    CONFIG_X86_64,
    CONFIG_PREEMPT_COUNT,
    CONFIG_HAS_SEPARATE_PREEMPT_RESCHED_BITS,
    not(any(CONFIG_DEBUG_LOCK_ALLOC, CONFIG_DEBUG_PREEMPT, CONFIG_TRACE_PREEMPT_TOGGLE))
)))]
mod by_cpu {
    /// # Safety
    ///
    /// `remap_rcu_read_unlock_sched` is called later, on the same CPU.
    #[inline]
    pub(super) unsafe fn lock() {
        // SAFETY: By the safety requirement.
        unsafe { super::bindings::remap_rcu_read_lock_sched() };
    }
}

impl Drop for Reading {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariant.
        unsafe { bindings::remap_rcu_read_unlock_sched() };
    }
}

/// A section in which what is published is not freed.
///
/// # Safety
///
/// While a value of it lives, its thread is in an RCU read-side critical section.
pub(crate) unsafe trait Section {}

// SAFETY: By its type invariant.
unsafe impl Section for Reading {}
// SAFETY: By its type invariant.
unsafe impl Section for rcu::Guard {}

/// A value that is replaced as a whole while it is read.
///
/// The pointer is an atomic of the compiler's, not of the kernel crate's: those call a C function
/// for each load, and this load is on the way of every bio.
///
/// # Invariants
///
/// The pointer comes from a `KBox` and is owned by this value.
pub(crate) struct Published<T: Send + Sync> {
    pointer: AtomicPtr<T>,
    _owned: PhantomData<T>,
}

impl<T: Send + Sync> Published<T> {
    /// Publishes the first value.
    pub(crate) fn new(value: KBox<T>) -> Self {
        // INVARIANT: The box is given to the pointer.
        Self { pointer: AtomicPtr::new(KBox::into_raw(value)), _owned: PhantomData }
    }

    /// The value of now. It stays valid as long as the critical section lasts.
    #[inline]
    pub(crate) fn read<'a>(&'a self, _: &'a impl Section) -> &'a T {
        // SAFETY: By the type invariant it points to a value; who replaces it does not free the old
        // one before a grace period has passed, and we are in a critical section. The address
        // dependency orders what is read through the pointer, as in `rcu_dereference`.
        unsafe { &*self.pointer.load(Ordering::Relaxed) }
    }

    /// Publishes `value` (`rcu_assign_pointer`). The old one is freed when no reader can have it.
    pub(crate) fn replace(&self, value: KBox<T>) -> Retired<T> {
        let old = self.pointer.swap(KBox::into_raw(value), Ordering::AcqRel);
        // SAFETY: By the type invariant the old pointer came from a box; it is ours now. It is not
        // touched mutably before the grace period is over.
        let value = unsafe { KBox::from_raw(old) };
        // SAFETY: An FFI call without requirements.
        let cookie = unsafe { bindings::start_poll_synchronize_rcu() };
        Retired { value: Some(value), cookie }
    }
}

impl<T: Send + Sync> Drop for Published<T> {
    fn drop(&mut self) {
        // SAFETY: By the type invariant; with `&mut self` there is no reader.
        drop(unsafe { KBox::from_raw(*self.pointer.get_mut()) });
    }
}

/// A value that was replaced, and that readers may still have. Dropping it waits until they
/// cannot.
pub(crate) struct Retired<T> {
    value: Option<KBox<T>>,
    cookie: kernel::ffi::c_ulong,
}

impl<T> Retired<T> {
    /// Whether no reader can have it any more; then dropping it does not wait.
    pub(crate) fn is_over(&self) -> bool {
        // SAFETY: An FFI call on a cookie that `start_poll_synchronize_rcu` gave.
        unsafe { bindings::poll_state_synchronize_rcu(self.cookie) }
    }

    /// The value, once no reader can have it any more; waits until then.
    pub(crate) fn into_value(mut self) -> Option<KBox<T>> {
        self.await_readers();
        self.value.take()
    }

    fn await_readers(&self) {
        if self.value.is_some() && !self.is_over() {
            compat::synchronize_rcu();
        }
    }
}

impl<T> Drop for Retired<T> {
    fn drop(&mut self) {
        self.await_readers();
        self.value = None;
    }
}
