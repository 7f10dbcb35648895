// SPDX-License-Identifier: GPL-2.0

//! Bits and numbers that are read without a lock while they are changed.

use core::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use kernel::{prelude::*, sync::atomic::Atomic};
use pin_init::{zeroed, Zeroable};

/// A number, for the same reasons, and with as little said of other memory.
pub(crate) struct Number(AtomicI32);

impl Number {
    /// One to begin with.
    pub(crate) const fn new(value: i32) -> Self {
        Self(AtomicI32::new(value))
    }

    /// What it is.
    #[inline(always)]
    pub(crate) fn load(&self) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    /// What it is from now on.
    pub(crate) fn store(&self, value: i32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// What one of the kernel crate's is (`READ_ONCE`). That calls a C function for each load, and some are on the way of a bio. Orders nothing.
#[inline(always)]
pub(crate) fn load(number: &Atomic<u64>) -> u64 {
    // SAFETY: It is a valid pointer. Whoever else has the number changes it as a whole, and it is read as a whole, once.
    unsafe { number.as_ptr().cast_const().read_volatile() }
}

/// `smp_mb` as it is on x86: one instruction, on a word of the stack that nobody uses, which is less than the call of a function takes.
#[cfg(all(CONFIG_X86_64, CONFIG_SMP))]
#[inline(always)]
pub(crate) fn full_barrier() {
    // SAFETY: It adds nothing to that word. What follows is not moved in front of this, nor the other way round, as the compiler takes it to change
    // any memory.
    unsafe { core::arch::asm!("lock add dword ptr [rsp - 4], 0", options(nostack)) };
}

/// By the kernel's own function, in any other.
#[cfg(not(all(CONFIG_X86_64, CONFIG_SMP)))]
#[inline]
pub(crate) fn full_barrier() {
    super::compat::smp_mb(kernel::sync::atomic::Full);
}

/// Bits in a fixed number of words, a power of two.
///
/// They are atomics of the compiler's, not of the kernel crate's: those call a C function for each load, and this load is on the way
/// of every bio. No load or store says anything of what else is in memory.
pub(crate) struct Bits<const WORDS: usize>([AtomicU64; WORDS]);

// SAFETY: An atomic integer has the representation of the integer.
unsafe impl<const WORDS: usize> Zeroable for Bits<WORDS> {}

impl<const WORDS: usize> Bits<WORDS> {
    /// How many bits there are.
    pub(crate) const COUNT: u64 = WORDS as u64 * 64;

    /// No bit is set.
    pub(crate) fn none() -> impl Init<Self> {
        const { assert!(WORDS.is_power_of_two()) };
        zeroed::<Self>()
    }

    /// Whether bit `n` is set, of as many as there are.
    #[inline(always)]
    pub(crate) fn has(&self, n: u64) -> bool {
        self.from(n) & 1 != 0
    }

    /// Bit `n` and those above it in its word, the lowest first.
    #[inline(always)]
    pub(crate) fn from(&self, n: u64) -> u64 {
        self.word((n >> 6) as usize) >> (n & 63)
    }

    /// The `n`th word, of as many as there are; bit 0 is its lowest.
    #[inline(always)]
    pub(crate) fn word(&self, n: usize) -> u64 {
        self.0[n & (WORDS - 1)].load(Ordering::Relaxed)
    }

    /// Sets the bits that are set in `words`. One writer at a time.
    pub(crate) fn add(&self, words: &[u64]) {
        for (bits, new) in self.0.iter().zip(words) {
            bits.store(bits.load(Ordering::Relaxed) | new, Ordering::Relaxed);
        }
    }

    /// Sets those and clears the others. One writer at a time.
    pub(crate) fn become_those(&self, words: &[u64]) {
        self.0.iter().zip(words).for_each(|(bits, new)| bits.store(*new, Ordering::Relaxed));
    }
}
