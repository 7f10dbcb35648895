// SPDX-License-Identifier: GPL-2.0

//! Bits that are read without a lock while they are changed.

use core::sync::atomic::{AtomicU64, Ordering};
use kernel::prelude::*;
use pin_init::{zeroed, Zeroable};

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
        let word = self.0[(n >> 6) as usize & (WORDS - 1)].load(Ordering::Relaxed);
        word >> (n & 63) & 1 != 0
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
