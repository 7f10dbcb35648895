// SPDX-License-Identifier: GPL-2.0

//! A few places, each with a value or none, that are read without a lock while a value is put there, and keys of
//! a byte under which values are shown for as long as somebody wants it.

use core::sync::atomic::{AtomicPtr, Ordering};
use kernel::prelude::*;
use pin_init::{zeroed, Zeroable};

/// A value, and the one that was put somewhere before it.
struct Node<T> {
    value: T,
    before: *mut Node<T>,
}

/// The places. A value that is replaced stays until all go, so a reference to it does not end.
///
/// The pointers are atomics of the compiler's, not of the kernel crate's, which call a C function for
/// each load: one is on the way of every bio that lives on a spare.
///
/// # Invariants
///
/// `last` is null or the first of a chain, linked by `before`, of nodes from a `KBox`; the chain only
/// grows, and its values are not changed. Each pointer of `now` and `shown` is null or a node of the chain.
pub(crate) struct Slots<T: Send + Sync, const N: usize> {
    now: [AtomicPtr<Node<T>>; N],
    /// One for each byte there is, so that none is to be compared with how many there are.
    shown: [AtomicPtr<Node<T>>; 256],
    last: AtomicPtr<Node<T>>,
}

// SAFETY: The values are owned by it, and may be sent and shared themselves.
unsafe impl<T: Send + Sync, const N: usize> Send for Slots<T, N> {}
// SAFETY: As above; all else are atomics.
unsafe impl<T: Send + Sync, const N: usize> Sync for Slots<T, N> {}

// SAFETY: It has nothing but pointers, which may be null.
unsafe impl<T: Send + Sync, const N: usize> Zeroable for Slots<T, N> {}

impl<T: Send + Sync, const N: usize> Slots<T, N> {
    /// Places without values, made where they stay: they are too large to go over the stack.
    pub(crate) fn none() -> impl Init<Self> {
        // INVARIANT: All pointers are null.
        zeroed::<Self>()
    }

    /// The value in a place.
    #[inline]
    pub(crate) fn get(&self, at: usize) -> Option<&T> {
        let node = self.now.get(at)?.load(Ordering::Acquire);
        // SAFETY: By the type invariant it is null or a node that lives as long as `self`.
        unsafe { node.as_ref() }.map(|node| &node.value)
    }

    /// The value that is shown under a key.
    #[inline(always)]
    pub(crate) fn shown(&self, key: u8) -> Option<&T> {
        let node = self.shown[usize::from(key)].load(Ordering::Acquire);
        // SAFETY: By the type invariant it is null or a node that lives as long as `self`.
        unsafe { node.as_ref() }.map(|node| &node.value)
    }

    /// Shows what is in a place under a key, or nothing, until this is called for the key again: also where
    /// another value is put into the place. One at a time for each key.
    pub(crate) fn show(&self, key: u8, at: Option<usize>) {
        let place = at.and_then(|at| self.now.get(at));
        let node = place.map_or(core::ptr::null_mut(), |place| place.load(Ordering::Acquire));
        // INVARIANT: It is null, or comes from `now`.
        self.shown[usize::from(key)].store(node, Ordering::Release);
    }

    /// Puts a value into a place; what was there is seen there no more.
    ///
    /// # Errors
    ///
    /// There is no such place, or no memory.
    pub(crate) fn put(&self, at: usize, value: T) -> Result {
        let place = self.now.get(at).ok_or(EINVAL)?;
        let node = KBox::new(Node { value, before: core::ptr::null_mut() }, GFP_KERNEL)?;
        let node = KBox::into_raw(node);
        let mut last = self.last.load(Ordering::Relaxed);
        loop {
            // SAFETY: The node is ours until it is in the chain.
            unsafe { (*node).before = last };
            // INVARIANT: The node, from a box, is the chain's new first.
            let swap =
                self.last.compare_exchange_weak(last, node, Ordering::AcqRel, Ordering::Relaxed);
            match swap {
                Ok(_) => break,
                Err(now) => last = now,
            }
        }
        // INVARIANT: It is in the chain.
        place.store(node, Ordering::Release);
        Ok(())
    }

    /// The values, each with its place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &T)> {
        (0..N).filter_map(|at| Some((at, self.get(at)?)))
    }
}

impl<T: Send + Sync, const N: usize> Drop for Slots<T, N> {
    fn drop(&mut self) {
        let mut node = *self.last.get_mut();
        while !node.is_null() {
            // SAFETY: By the type invariant; nobody has a reference any more.
            let first = unsafe { KBox::from_raw(node) };
            node = first.before;
        }
    }
}
