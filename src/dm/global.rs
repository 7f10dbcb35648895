// SPDX-License-Identifier: GPL-2.0

//! The one thing that all targets of the module share: which sets are live.

use crate::target::live::LiveSet;
use kernel::prelude::*;

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is loaded, before anything can use it.
    pub(crate) unsafe(uninit) static LIVE: Mutex<KVec<LiveSet>> = KVec::new();
}

/// Makes [`LIVE`] ready. To be called once, when the module is loaded, before a target type is
/// registered.
pub(crate) fn init() {
    // SAFETY: Called once, before any use.
    unsafe { LIVE.init() };
}
