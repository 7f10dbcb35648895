// SPDX-License-Identifier: GPL-2.0

//! Bios that a target keeps for later, many of them: linked through the bios, so that keeping one needs no
//! memory.

use super::{bindings, bio::HeldBio, target::Target};
use core::{
    marker::PhantomData,
    ptr::NonNull,
    sync::atomic::{AtomicPtr, Ordering},
};

/// A list of held bios, first in, first out. Linked through the bios: adding needs no memory.
///
/// # Invariants
///
/// `head` and `tail` are both null or the ends of a list linked by `bi_next`, whose bios are owned
/// by the list.
pub(crate) struct HeldList<T: Target> {
    head: *mut bindings::bio,
    tail: *mut bindings::bio,
    _target: PhantomData<fn() -> T>,
}

// SAFETY: Bios may be handed from one thread to another.
unsafe impl<T: Target> Send for HeldList<T> {}

impl<T: Target> HeldList<T> {
    /// An empty list.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Both ends are null.
        Self { head: core::ptr::null_mut(), tail: core::ptr::null_mut(), _target: PhantomData }
    }

    /// Adds one at the end.
    pub(crate) fn push(&mut self, bio: HeldBio<T>) {
        let bio = bio.into_raw();
        // SAFETY: `bio` was owned by a `HeldBio`, so nothing else uses its `bi_next`; `tail` is
        // owned by the list.
        unsafe {
            (*bio).bi_next = core::ptr::null_mut();
            if self.tail.is_null() {
                self.head = bio;
            } else {
                (*self.tail).bi_next = bio;
            }
        }
        self.tail = bio;
    }

    /// Takes the first.
    pub(crate) fn pop(&mut self) -> Option<HeldBio<T>> {
        let bio = NonNull::new(self.head)?;
        // SAFETY: The bio is owned by the list.
        unsafe {
            self.head = (*bio.as_ptr()).bi_next;
            (*bio.as_ptr()).bi_next = core::ptr::null_mut();
        }
        if self.head.is_null() {
            self.tail = core::ptr::null_mut();
        }
        // SAFETY: The bio came from a `HeldBio` and has just left the list.
        Some(unsafe { HeldBio::from_raw(bio) })
    }

    /// Takes all, leaving none.
    pub(crate) fn take(&mut self) -> Self {
        core::mem::replace(self, Self::new())
    }
}

impl<T: Target> Drop for HeldList<T> {
    fn drop(&mut self) {
        while self.pop().is_some() {}
    }
}

/// A pile of held bios that may be added to from any context, without a lock.
///
/// # Invariants
///
/// `top` is null or the first of a chain linked by `bi_next`, whose bios are owned by the pile.
pub(crate) struct HeldPile<T: Target> {
    top: AtomicPtr<bindings::bio>,
    _target: PhantomData<fn() -> T>,
}

impl<T: Target> HeldPile<T> {
    /// An empty pile.
    pub(crate) const fn new() -> Self {
        // INVARIANT: Null.
        Self { top: AtomicPtr::new(core::ptr::null_mut()), _target: PhantomData }
    }

    /// Puts one on top.
    pub(crate) fn push(&self, bio: HeldBio<T>) {
        let bio = bio.into_raw();
        let mut top = self.top.load(Ordering::Relaxed);
        loop {
            // SAFETY: `bio` was owned by a `HeldBio`, so nothing else uses its `bi_next`.
            unsafe { (*bio).bi_next = top };
            match self.top.compare_exchange_weak(top, bio, Ordering::Release, Ordering::Relaxed) {
                Ok(_) => return,
                Err(now) => top = now,
            }
        }
    }

    /// Whether there is none.
    pub(crate) fn is_empty(&self) -> bool {
        self.top.load(Ordering::Relaxed).is_null()
    }

    /// Takes all, in the order in which they came.
    pub(crate) fn take(&self) -> HeldList<T> {
        let mut list = HeldList::new();
        let mut bio = self.top.swap(core::ptr::null_mut(), Ordering::Acquire);
        list.tail = bio;
        while !bio.is_null() {
            // SAFETY: The chain was owned by the pile and is ours now; what is taken from its front
            // is put in front of the list, which turns the order round.
            unsafe {
                let next = (*bio).bi_next;
                (*bio).bi_next = list.head;
                list.head = bio;
                bio = next;
            }
        }
        list
    }
}

impl<T: Target> Drop for HeldPile<T> {
    fn drop(&mut self) {
        drop(self.take());
    }
}
