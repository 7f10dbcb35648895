// SPDX-License-Identifier: GPL-2.0

//! Which sets are live, so that no device is in two of them, and a table that is loaded under a
//! live one is checked against what that knows.

use crate::{dm::global::LIVE, pure::units::Sectors};
use kernel::prelude::*;

/// A part of a device, by device number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Part {
    pub(crate) device: u32,
    pub(crate) start: u64,
    pub(crate) len: Sectors,
}

impl Part {
    /// Whether both have a sector in common.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.device == other.device
            && self.start < other.start.saturating_add(other.len.0)
            && other.start < self.start.saturating_add(self.len.0)
    }
}

/// A set that is live, as far as others have to know.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LiveSet {
    /// Major and minor number of the mapped device that it is live on.
    pub(crate) owner: (u32, u32),
    /// Main, as far as it is mapped.
    pub(crate) main: Part,
    /// The spare, as far as it is used.
    pub(crate) spare: Part,
}

/// What the devices of a table are to the live sets.
pub(crate) enum Found {
    /// No live set has any of them.
    Free,
    /// The same mapped device has the same set live: the table takes its place.
    Same,
    /// The same mapped device has these devices live, but not in this way.
    Different,
    /// This other mapped device has one of them.
    Taken((u32, u32)),
}

/// Looks for a live set with these devices.
pub(crate) fn find(owner: (u32, u32), main: Part, spare: Part) -> Found {
    let mut found = Found::Free;
    for set in LIVE.lock().iter() {
        let parts = [set.main, set.spare];
        if !parts.iter().any(|part| part.overlaps(&main) || part.overlaps(&spare)) {
            continue;
        }
        if set.owner != owner {
            return Found::Taken(set.owner);
        }
        found = if set.main == main && set.spare == spare { Found::Same } else { Found::Different };
    }
    found
}

/// Makes a set live.
///
/// # Errors
///
/// `EBUSY` when a live set has one of the devices.
pub(crate) fn claim(set: LiveSet) -> Result {
    let mut live = LIVE.lock();
    let taken = live.iter().any(|other| {
        [other.main, other.spare]
            .iter()
            .any(|part| part.overlaps(&set.main) || part.overlaps(&set.spare))
    });
    if taken {
        return Err(EBUSY);
    }
    Ok(live.push(set, GFP_KERNEL)?)
}

/// Lets go what the mapped device has live.
pub(crate) fn release(owner: (u32, u32)) {
    LIVE.lock().retain(|set| set.owner != owner);
}
