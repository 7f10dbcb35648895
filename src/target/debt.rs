// SPDX-License-Identifier: GPL-2.0

//! What the callers of a mapped device have not been told of, from one table of it to the next.
//!
//! A flush that fails, of a caller or of our own, may have lost what was acknowledged before. Each device's [`Cache`] remembers that until the
//! callers know (see [`cache`](crate::pure::cache)); but the caches are the table's, and the callers are the mapped device's, whatever tables follow each other on it.
//! So a table that is let go leaves word here, also of a flush that failed just then, and the next one that is put to use takes it over. It is
//! kept as long as there is a table of that mapped device, active or not: one that could not be put to use may be followed by another.
//!
//! So is the version of the set that was in use, and its history, if the table could write. That stood on all members that the set had then. So who finds a set that does not come from
//! there has other devices in front of him, clones or images of before, or one that had been put away, used elsewhere since perhaps: with old data in it, of which nothing
//! else says so. (A clone that was used elsewhere in the same history cannot be told.)
//!
//! [`Cache`]: crate::pure::cache::Cache

use crate::{
    dm::{global::DEBTS, system::MemScope},
    pure::format::{header::Header, SetUuid},
};
use kernel::prelude::*;

/// A mapped device that has tables.
pub(crate) struct Owing {
    /// Its major and minor number.
    device: (u32, u32),
    tables: usize,
    /// Whether callers of it are to be told that something may be lost.
    owes: bool,
    /// The set that was in use last, its history and its version.
    last: Option<(SetUuid, u64, u64)>,
}

/// A table's part in what its mapped device owes its callers.
pub(super) struct Debt {
    device: (u32, u32),
}

impl Debt {
    /// For one more table of the mapped device with these numbers.
    pub(super) fn of(device: (u32, u32)) -> Result<Self> {
        // Who suspends another device may wait for the lock, and memory for I/O to that.
        let _scope = MemScope::without_io();
        let mut all = DEBTS.lock();
        match all.iter_mut().find(|owing| owing.device == device) {
            Some(owing) => owing.tables += 1,
            None => all.push(Owing { device, tables: 1, owes: false, last: None }, GFP_KERNEL)?,
        }
        Ok(Self { device })
    }

    /// The callers are to be told by the table that comes next.
    pub(super) fn leave(&self) {
        self.note(|owing| owing.owes = true);
    }

    /// The set is let go as this says.
    pub(super) fn leave_at(&self, header: &Header) {
        let last = (header.uuid(), header.history(), header.version());
        self.note(|owing| owing.last = Some(last));
    }

    fn note(&self, what: impl FnMut(&mut Owing)) {
        DEBTS.lock().iter_mut().filter(|owing| owing.device == self.device).for_each(what);
    }

    /// The version at which the set was let go that was in use here last, if it is this one, and this does not come from there.
    pub(super) fn left_behind_by(&self, header: &Header) -> Option<u64> {
        let all = DEBTS.lock();
        let (set, history, version) = all.iter().find(|owing| owing.device == self.device)?.last?;
        (set == header.uuid() && !header.descends_from(history, version)).then_some(version)
    }

    /// Whether callers are to be told; who asks sees to it.
    pub(super) fn take(&self) -> bool {
        let mut all = DEBTS.lock();
        let owing = all.iter_mut().find(|owing| owing.device == self.device);
        owing.is_some_and(|owing| core::mem::take(&mut owing.owes))
    }
}

impl Drop for Debt {
    fn drop(&mut self) {
        let mut all = DEBTS.lock();
        all.iter_mut()
            .filter(|owing| owing.device == self.device)
            .for_each(|owing| owing.tables -= 1);
        all.retain(|owing| owing.tables > 0);
    }
}
