//! The numbers of the pure code (`src/pure/atomic.rs`), such that all orders of what is done with them can be tried.

use loom::sync::atomic::{fence, AtomicU64, Ordering};

/// A number.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Count {
    /// It begins with `value`.
    pub fn new(value: u64) -> Self {
        Self(AtomicU64::new(value))
    }

    /// What it is.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// It is that now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// Adds `n`; what it was before.
    pub fn add(&self, n: u64) -> u64 {
        around(|| self.0.fetch_add(n, Ordering::Relaxed))
    }

    /// Makes it 0; what it was before.
    pub fn take(&self) -> u64 {
        around(|| self.0.swap(0, Ordering::Relaxed))
    }

    /// Makes it at least `least`.
    pub fn raise(&self, least: u64) {
        if self.get() < least {
            around(|| self.0.fetch_max(least, Ordering::Relaxed));
        }
    }
}

/// A change in the middle of two full barriers.
fn around<T>(change: impl FnOnce() -> T) -> T {
    barrier();
    let value = change();
    barrier();
    value
}

/// A full barrier.
pub fn barrier() {
    fence(Ordering::SeqCst);
}
