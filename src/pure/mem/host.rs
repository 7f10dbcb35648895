// SPDX-License-Identifier: GPL-2.0

//! The host's stand-ins for the kernel's collections: same names, same fallible signatures.

extern crate std;

use alloc::vec::Vec;
use core::cell::Cell;
use core::fmt;
use core::ops::{Deref, DerefMut};

/// Allocation flags; the host has one kind of memory.
#[derive(Clone, Copy, Debug)]
pub struct Flags;

/// An ordinary allocation.
pub const GFP_KERNEL: Flags = Flags;

/// There was no memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AllocError;

impl fmt::Display for AllocError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("out of memory")
    }
}

/// What is to become of the allocations of a thread.
#[derive(Clone, Copy)]
struct Limit {
    /// How many succeed before they fail.
    left: usize,
    /// Whether only one of them fails then.
    once: bool,
    /// How many have failed.
    refused: usize,
}

const NO_LIMIT: Limit = Limit { left: usize::MAX, once: false, refused: 0 };

std::thread_local! {
    static LIMIT: Cell<Limit> = const { Cell::new(NO_LIMIT) };
}

/// Lets `n` more allocations of this thread succeed, and none after them: for tests of what happens
/// then. `usize::MAX` sets no limit.
pub fn fail_after(n: usize) {
    LIMIT.set(Limit { left: n, ..NO_LIMIT });
}

/// Lets `n` more allocations of this thread succeed, the next one fail, and all after that succeed.
pub fn fail_once_after(n: usize) {
    LIMIT.set(Limit { left: n, once: true, refused: 0 });
}

/// How many allocations of this thread have failed since a limit was set.
pub fn refused() -> usize {
    LIMIT.get().refused
}

/// Whether an allocation may succeed.
fn granted() -> Result<(), AllocError> {
    let limit = LIMIT.get();
    if limit.left == usize::MAX {
        return Ok(());
    }
    if limit.left > 0 {
        LIMIT.set(Limit { left: limit.left - 1, ..limit });
        return Ok(());
    }
    let left = if limit.once { usize::MAX } else { 0 };
    LIMIT.set(Limit { left, refused: limit.refused + 1, ..limit });
    Err(AllocError)
}

/// A vector whose growth can fail, after `kernel::alloc::KVec`.
#[derive(PartialEq, Eq)]
pub struct KVec<T>(Vec<T>);

/// A vector for large contents, after `kernel::alloc::KVVec`.
pub type KVVec<T> = KVec<T>;

impl<T: fmt::Debug> fmt::Debug for KVec<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Default for KVec<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> KVec<T> {
    /// An empty vector that owns no memory.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// An empty vector with room for `capacity`.
    pub fn with_capacity(capacity: usize, _: Flags) -> Result<Self, AllocError> {
        let mut v = Vec::new();
        if capacity > 0 {
            granted()?;
        }
        v.try_reserve_exact(capacity).map_err(|_| AllocError)?;
        Ok(Self(v))
    }

    /// How many elements fit without another allocation.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Makes room for `additional` more.
    pub fn reserve(&mut self, additional: usize, _: Flags) -> Result<(), AllocError> {
        if self.0.capacity() - self.0.len() < additional {
            granted()?;
        }
        self.0.try_reserve(additional).map_err(|_| AllocError)
    }

    /// Appends one.
    pub fn push(&mut self, v: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(1, flags)?;
        self.0.push(v);
        Ok(())
    }

    /// Takes the last one.
    pub fn pop(&mut self) -> Option<T> {
        self.0.pop()
    }

    /// Drops all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Drops all from the `len`th on.
    pub fn truncate(&mut self, len: usize) {
        self.0.truncate(len);
    }

    /// Everything as a slice.
    pub fn as_slice(&self) -> &[T] {
        &self.0
    }

    /// Everything as a slice to change.
    pub fn as_mut_slice(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T: Clone> KVec<T> {
    /// `n` times `value`.
    pub fn from_elem(value: T, n: usize, flags: Flags) -> Result<Self, AllocError> {
        let mut v = Self::with_capacity(n, flags)?;
        v.0.resize(n, value);
        Ok(v)
    }

    /// Appends a copy of `other`.
    pub fn extend_from_slice(&mut self, other: &[T], flags: Flags) -> Result<(), AllocError> {
        self.reserve(other.len(), flags)?;
        self.0.extend_from_slice(other);
        Ok(())
    }

    /// Makes it `new_len` long, with `value` in what is new.
    pub fn resize(&mut self, new_len: usize, value: T, flags: Flags) -> Result<(), AllocError> {
        self.reserve(new_len.saturating_sub(self.0.len()), flags)?;
        self.0.resize(new_len, value);
        Ok(())
    }
}

impl<T> Deref for KVec<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        &self.0
    }
}

impl<T> DerefMut for KVec<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        &mut self.0
    }
}

impl<T> IntoIterator for KVec<T> {
    type Item = T;
    type IntoIter = alloc::vec::IntoIter<T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl<'a, T> IntoIterator for &'a KVec<T> {
    type Item = &'a T;
    type IntoIter = core::slice::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// A counted reference whose making can fail, after `kernel::sync::Arc`.
pub struct Arc<T>(alloc::sync::Arc<T>);

impl<T> Arc<T> {
    /// Moves `contents` to the heap.
    pub fn new(contents: T, _: Flags) -> Result<Self, AllocError> {
        granted()?;
        Ok(Self(alloc::sync::Arc::new(contents)))
    }

    /// Whether both are the same object.
    pub fn ptr_eq(this: &Self, other: &Self) -> bool {
        alloc::sync::Arc::ptr_eq(&this.0, &other.0)
    }
}

impl<T> Clone for Arc<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T> Deref for Arc<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}
