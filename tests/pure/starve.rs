// SPDX-License-Identifier: GPL-2.0

//! What is done is done once for each of its allocations, with that one failing.

#![allow(dead_code, missing_docs)]

use std::cell::Cell;

use remap_pure::mem::{fail_after, fail_once_after, refused};

/// Memory of which one allocation fails, and perhaps all behind it.
pub struct Memory {
    after: usize,
    once: bool,
    refused: Cell<bool>,
}

impl Memory {
    /// Does `work` with it; before and after there is enough.
    pub fn short<T>(&self, work: impl FnOnce() -> T) -> T {
        /// A test that fails leaves no limit behind.
        struct Limit;
        impl Drop for Limit {
            fn drop(&mut self) {
                fail_after(usize::MAX);
            }
        }
        let limit = Limit;
        if self.once {
            fail_once_after(self.after);
        } else {
            fail_after(self.after);
        }
        let result = work();
        self.refused.set(refused() > 0);
        drop(limit);
        result
    }

    /// Whether an allocation has failed.
    pub fn was_short(&self) -> bool {
        self.refused.get()
    }
}

/// Calls `attempt` with each of its allocations failing in turn, that one alone, until none fails: there are at
/// least so many. Then once more with all failing from some of them on.
pub fn with_each_allocation_failing(at_least: usize, mut attempt: impl FnMut(&Memory)) {
    for once in [true, false] {
        let mut points = 0;
        loop {
            let memory = Memory { after: points, once, refused: Cell::new(false) };
            attempt(&memory);
            if !memory.was_short() {
                break;
            }
            points += if once { 1 } else { 1 + points / 16 };
        }
        assert!(points >= at_least, "only {points} allocations");
    }
}
