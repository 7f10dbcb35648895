// SPDX-License-Identifier: GPL-2.0

//! Numbers that several processors change at once, for the pure code: the kernel's atomics in the kernel, their like on the host.

#[cfg(CONFIG_RUST)]
use kernel::sync::atomic::{Atomic, Full, Relaxed};

#[cfg(CONFIG_RUST)]
type Number = Atomic<u64>;

#[cfg(not(CONFIG_RUST))]
use host::{Full, Number, Relaxed};

/// A number. Who changes it, but by [`set`](Self::set), orders all that is before before all that is after (a full barrier).
pub struct Count(Number);

impl Default for Count {
    fn default() -> Self {
        Self::new(0)
    }
}

impl Count {
    /// It begins with `value`.
    pub fn new(value: u64) -> Self {
        Self(Number::new(value))
    }

    /// What it is. Orders nothing.
    #[inline(always)]
    pub fn get(&self) -> u64 {
        load(&self.0)
    }

    /// It is that now. Orders nothing.
    pub fn set(&self, value: u64) {
        self.0.store(value, Relaxed);
    }

    /// Adds `n`; what it was before.
    #[inline]
    pub fn add(&self, n: u64) -> u64 {
        self.0.fetch_add(n, Full)
    }

    /// Makes it 0; what it was before.
    pub fn take(&self) -> u64 {
        self.0.xchg(0, Full)
    }

    /// Makes it at least `least`. Orders nothing where it is that already.
    pub fn raise(&self, least: u64) {
        let mut seen = self.get();
        while seen < least {
            match self.0.cmpxchg(seen, least, Full) {
                Ok(_) => break,
                Err(now) => seen = now,
            }
        }
    }
}

/// Orders all that is before before all that is after (`smp_mb`).
#[cfg(CONFIG_RUST)]
#[inline(always)]
pub fn barrier() {
    crate::dm::bits::full_barrier();
}

#[cfg(CONFIG_RUST)]
use crate::dm::bits::load;

/// The same.
#[cfg(not(CONFIG_RUST))]
pub fn barrier() {
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}

#[cfg(not(CONFIG_RUST))]
fn load(number: &Number) -> u64 {
    number.load(Relaxed)
}

#[cfg(not(CONFIG_RUST))]
mod host {
    use core::sync::atomic::{AtomicU64, Ordering};

    pub(super) struct Full;
    pub(super) struct Relaxed;
    pub(super) struct Number(AtomicU64);

    impl Number {
        pub(super) fn new(value: u64) -> Self {
            Self(AtomicU64::new(value))
        }

        pub(super) fn load(&self, _: Relaxed) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        pub(super) fn store(&self, value: u64, _: Relaxed) {
            self.0.store(value, Ordering::Relaxed);
        }

        pub(super) fn fetch_add(&self, n: u64, _: Full) -> u64 {
            self.0.fetch_add(n, Ordering::SeqCst)
        }

        pub(super) fn xchg(&self, value: u64, _: Full) -> u64 {
            self.0.swap(value, Ordering::SeqCst)
        }

        pub(super) fn cmpxchg(&self, old: u64, new: u64, _: Full) -> Result<u64, u64> {
            self.0.compare_exchange(old, new, Ordering::SeqCst, Ordering::SeqCst)
        }
    }
}
