// SPDX-License-Identifier: GPL-2.0

//! What all targets of the module share: which sets are live, which devices are active, what the callers of a
//! device have not been told, and the folder in debugfs.

use crate::target::{debt::Owing, live::LiveSet, Remap};
use kernel::{debugfs::Dir, prelude::*, sync::Arc};

kernel::sync::global_lock! {
    // SAFETY: `init` is called when the module is loaded, before anything can use it.
    pub(crate) unsafe(uninit) static LIVE: Mutex<KVec<LiveSet>> = KVec::new();
}

kernel::sync::global_lock! {
    // SAFETY: As above.
    pub(crate) unsafe(uninit) static ACTIVE: Mutex<KVec<Arc<Remap>>> = KVec::new();
}

kernel::sync::global_lock! {
    // SAFETY: As above.
    pub(crate) unsafe(uninit) static DEBTS: Mutex<KVec<Owing>> = KVec::new();
}

kernel::sync::global_lock! {
    // SAFETY: As above.
    pub(crate) unsafe(uninit) static FOLDER: Mutex<Option<Dir>> = None;
}

/// Makes them ready. To be called once, when the module is loaded, before a target type is
/// registered.
pub(crate) fn init() {
    // SAFETY: Called once, before any use.
    unsafe {
        LIVE.init();
        ACTIVE.init();
        DEBTS.init();
        FOLDER.init();
    }
}

/// Gives back the memory of the lists, which are empty by then. To be called when the module goes:
/// what is static is not dropped.
pub(crate) fn exit() {
    *LIVE.lock() = KVec::new();
    *ACTIVE.lock() = KVec::new();
    *DEBTS.lock() = KVec::new();
}
