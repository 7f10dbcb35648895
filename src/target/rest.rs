// SPDX-License-Identifier: GPL-2.0

//! What was tried in vain is left alone for a while.

use crate::dm::system;
use kernel::sync::atomic::{Atomic, Relaxed};

/// The time for which something is left alone. By the clock on the wall: when that is set, it may be over sooner or, by as much as it
/// lasts, later.
pub(super) struct Rest {
    /// When it began, in seconds since 1970.
    since: Atomic<u64>,
    /// How long it lasts, in seconds.
    seconds: Atomic<u64>,
}

impl Rest {
    /// None yet.
    pub(super) fn new() -> Self {
        Self { since: Atomic::new(0), seconds: Atomic::new(0) }
    }

    /// It begins now, and lasts so many seconds.
    pub(super) fn begin(&self, seconds: u64) {
        self.since.store(system::real_seconds(), Relaxed);
        self.seconds.store(seconds, Relaxed);
    }

    /// Whether it is not over.
    pub(super) fn lasts(&self) -> bool {
        system::real_seconds().abs_diff(self.since.load(Relaxed)) < self.seconds.load(Relaxed)
    }
}
