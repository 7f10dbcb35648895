// SPDX-License-Identifier: GPL-2.0

//! Which sets are live, so that no device is in two of them, and a table that is loaded under a
//! live one is checked against what that knows.

use super::construct::{Said, Takes};
use crate::{
    dm::global::LIVE,
    pure::{
        format::{MemberUuid, SetUuid},
        store::SpareSet,
        units::{Sectors, SpareId, MAX_SPARES},
    },
};
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
    /// The spares that are there, as far as they are used, each at its number.
    pub(crate) spares: [Option<Part>; MAX_SPARES],
    /// The set.
    pub(crate) set: SetUuid,
    /// The members, by their numbers.
    pub(crate) uuids: [MemberUuid; MAX_SPARES],
    /// Those that it has.
    pub(crate) active: SpareSet,
    /// Those that it goes on without.
    pub(crate) away: SpareSet,
}

impl LiveSet {
    fn parts(&self) -> impl Iterator<Item = &Part> {
        Iterator::chain(core::iter::once(&self.main), self.spares.iter().flatten())
    }

    fn overlaps(&self, part: &Part) -> bool {
        self.parts().any(|own| own.overlaps(part))
    }

    /// The number of the spare that this part is.
    pub(crate) fn number_of(&self, part: &Part) -> Option<SpareId> {
        let at = self.spares.iter().position(|own| own.as_ref() == Some(part))?;
        Some(SpareId(at as u8))
    }
}

/// What the devices of a table are to the live sets.
#[expect(clippy::large_enum_variant, reason = "looked at once for each load, and dropped")]
pub(crate) enum Found {
    /// No live set has any of them.
    Free,
    /// The same mapped device has a set live with this main, and those of the spares that it has are
    /// the same: the table takes its place.
    Same(LiveSet),
    /// The same mapped device has these devices live, but not in this way.
    Different,
    /// This other mapped device has one of them.
    Taken((u32, u32)),
}

/// Looks for a live set with these devices; `said` is what a person says of main: that it is not to be the one that the set has, or that it
/// is named with more sectors than the set has of it.
pub(crate) fn find(owner: (u32, u32), main: Part, spares: &[Part], said: Said) -> Found {
    let mut found = Found::Free;
    for set in LIVE.lock().iter() {
        if !set.overlaps(&main) && !spares.iter().any(|part| set.overlaps(part)) {
            continue;
        }
        if set.owner != owner {
            return Found::Taken(set.owner);
        }
        let known = |part: &Part| set.number_of(part).is_some() || !set.overlaps(part);
        let grown = said.grow && main.len >= set.main.len;
        let was = if grown { Part { len: set.main.len, ..main } } else { main };
        let fits = if said.takes != Takes::No { !set.overlaps(&main) } else { set.main == was };
        let same = fits && spares.iter().all(known);
        found = if same { Found::Same(*set) } else { Found::Different };
    }
    found
}

/// The part of a device that the mapped device's live set uses as a spare, from the beginning on.
pub(crate) fn used_of(owner: (u32, u32), device: u32) -> Option<(u64, Sectors)> {
    let live = LIVE.lock();
    let mut own = live.iter().filter(|set| set.owner == owner).flat_map(|set| set.spares).flatten();
    own.find(|part| part.device == device && part.start == 0).map(|part| (part.start, part.len))
}

/// Makes a set live.
///
/// # Errors
///
/// `EBUSY` when a live set has one of the devices.
pub(crate) fn claim(set: LiveSet) -> Result {
    let mut live = LIVE.lock();
    if live.iter().any(|other| set.parts().any(|part| other.overlaps(part))) {
        return Err(EBUSY);
    }
    Ok(live.push(set, GFP_KERNEL)?)
}

/// Makes a part one more that the mapped device's live set has.
///
/// # Errors
///
/// `EBUSY` when a live set has it already, this one included.
pub(crate) fn join(owner: (u32, u32), id: SpareId, part: Part) -> Result {
    let mut live = LIVE.lock();
    let own = |set: &LiveSet| set.owner == owner && set.number_of(&part) == Some(id);
    if live.iter().any(|set| set.overlaps(&part) && !own(set)) {
        return Err(EBUSY);
    }
    let set = live.iter_mut().find(|set| set.owner == owner).ok_or(EBUSY)?;
    *set.spares.get_mut(usize::from(id.0)).ok_or(EINVAL)? = Some(part);
    Ok(())
}

/// Notes who the members of the set are that the mapped device has live.
pub(crate) fn members(
    owner: (u32, u32),
    uuid: SetUuid,
    uuids: [MemberUuid; MAX_SPARES],
    active: SpareSet,
    away: SpareSet,
) {
    for set in LIVE.lock().iter_mut().filter(|set| set.owner == owner) {
        (set.set, set.uuids, set.active, set.away) = (uuid, uuids, active, away);
    }
}

/// Lets go what the mapped device has live.
pub(crate) fn release(owner: (u32, u32)) {
    LIVE.lock().retain(|set| set.owner != owner);
}
