// SPDX-License-Identifier: GPL-2.0

//! What a batch of changes makes of the table, of the lifetime counts, and of what people are told.

use super::{engine::Staged, job::Kind, moves::Change, Remap};
use crate::{
    dm::system,
    pure::{
        entry::{Entry, Mapping},
        format::{header::Header, layout::RESERVED_ENTRIES},
        health::Health,
        settings::{Limits, Settings, SETTINGS},
        store::SpareSet,
        table::{guaranteed_entries, Edit, EditError, Table},
        units::{Extent, MainSector, SpareId, SpareSector},
    },
};
use core::fmt;

/// The entry that a change makes, or the extent that it clears; nothing where it has none.
fn entry_of(change: &Change) -> Option<core::result::Result<Entry, Extent>> {
    Some(match *change {
        Change::To(extent, spare, to) => {
            Ok(Entry { extent, mapping: Mapping::Remapped { spare, to } })
        }
        Change::Pending(extent) => Ok(Entry { extent, mapping: Mapping::Pending }),
        Change::Suspect(extent, spare, to, true) => {
            Ok(Entry { extent, mapping: Mapping::Suspect { spare, to } })
        }
        Change::Suspect(extent, spare, to, false) => {
            Ok(Entry { extent, mapping: Mapping::Remapped { spare, to } })
        }
        Change::Retire(spare, at, len, _) => Ok(Entry::retired(spare, at, len)),
        Change::Back(extent, _) => Err(extent),
        Change::Free(..) => return None,
    })
}

fn apply(edit: &mut Edit, change: &Change) -> core::result::Result<(), EditError> {
    match entry_of(change) {
        Some(Ok(Entry { extent, mapping })) => edit.set(extent, mapping),
        Some(Err(extent)) => edit.clear(extent),
        None => Ok(()),
    }
}

/// The most pending marks that give way to a change for which there is no room.
const GIVE_WAY: usize = 64;

pub(super) fn edit_of(
    table: &Table,
    batch: &[Staged],
    active: SpareSet,
) -> core::result::Result<Edit, EditError> {
    let mut edit = table.edit()?;
    let all = guaranteed_entries(table.capacity_blocks());
    let changes = batch.iter().flat_map(|staged| {
        let waits = staged.job.kind == Kind::Rescue;
        staged.changes.iter().map(move |change| (waits, change))
    });
    for (waits, change) in changes {
        // That a place on a spare failed which is gone says nothing of the place; one that has left has
        // none.
        if matches!(change, Change::Retire(spare, ..) if !active.has(*spare)) {
            continue;
        }
        // The last entries are for what a caller waits for.
        let left = all.saturating_sub(edit.totals().extents);
        let applied = match change {
            Change::Back(..) => apply(&mut edit, change),
            _ if !waits && left <= RESERVED_ENTRIES => Err(EditError::Full),
            _ => apply(&mut edit, change),
        };
        match applied {
            // A mark only says what reading says too.
            Err(EditError::Full) if matches!(change, Change::Pending(_) | Change::Suspect(..)) => {}
            Err(EditError::Full) if !waits => return Err(EditError::Full),
            Err(EditError::Full) => {
                let pending = table.iter().filter(|entry| entry.mapping == Mapping::Pending);
                for entry in pending.take(GIVE_WAY) {
                    // What has been made of it in this batch stays.
                    let changed = |c: &Change| match entry_of(c) {
                        Some(Ok(Entry { extent, .. }) | Err(extent)) => {
                            extent.overlaps(&entry.extent)
                        }
                        None => false,
                    };
                    if !batch.iter().flat_map(|staged| staged.changes.iter()).any(changed) {
                        edit.clear(entry.extent)?;
                    }
                }
                apply(&mut edit, change)?;
            }
            result => result?,
        }
    }
    Ok(edit)
}

/// What batches add to the lifetime counts.
#[derive(Default)]
pub(super) struct Tally {
    by_itself: u64,
    moved: u64,
    back: u64,
    pending: u64,
    suspect: u64,
    retired: u64,
    /// Sectors of spares that come into use.
    filled: u64,
    /// The first sector of main that it moves by itself, the first that is pending now, and the first
    /// that is suspect.
    first: [Option<MainSector>; 3],
    /// Where on a spare the first lives that is suspect, and where the first place is that has failed.
    first_place: [Option<(SpareId, SpareSector)>; 2],
}

impl Tally {
    pub(super) fn of(batch: &[Staged]) -> Self {
        let mut tally = Self::default();
        for staged in batch {
            for change in &staged.changes {
                if let Change::To(Extent { len, .. }, ..) | Change::Retire(_, _, len, false) =
                    *change
                {
                    tally.filled += len.0;
                }
                match *change {
                    Change::To(extent, ..) if staged.job.kind.is_own() => {
                        tally.by_itself += 1;
                        tally.first[0].get_or_insert(extent.start);
                    }
                    Change::To(..) => tally.moved += 1,
                    Change::Back(..) => tally.back += 1,
                    Change::Pending(extent) => {
                        tally.pending += 1;
                        tally.first[1].get_or_insert(extent.start);
                    }
                    Change::Retire(spare, at, ..) => {
                        tally.retired += 1;
                        tally.first_place[1].get_or_insert((spare, at));
                    }
                    Change::Suspect(extent, spare, at, true) => {
                        tally.suspect += 1;
                        tally.first[2].get_or_insert(extent.start);
                        tally.first_place[0].get_or_insert((spare, at));
                    }
                    Change::Suspect(..) | Change::Free(..) => {}
                }
            }
        }
        tally
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.by_itself += other.by_itself;
        self.pending += other.pending;
        self.suspect += other.suspect;
        self.retired += other.retired;
        for (first, others) in self.first.iter_mut().zip(other.first) {
            *first = first.or(others);
        }
        for (first, others) in self.first_place.iter_mut().zip(other.first_place) {
            *first = first.or(others);
        }
    }

    /// Whether nothing has been done that nobody asked for.
    pub(super) fn is_nothing(&self) -> bool {
        self.by_itself + self.pending + self.suspect + self.retired == 0
    }

    pub(super) fn add_to(&self, header: &mut Header) {
        let statistics = &mut header.raw_mut().statistics;
        for (count, n) in [
            (&mut statistics.auto_remaps, self.by_itself),
            (&mut statistics.manual_remaps, self.moved),
            (&mut statistics.unremaps, self.back),
            (&mut statistics.pending_marks, self.pending),
            (&mut statistics.retired_places, self.retired),
        ] {
            count.set(count.get().saturating_add(n));
        }
        let raw = &mut header.raw_mut().health;
        let mut health = Health::from_raw(raw);
        health.filled(self.filled);
        health.put_into(raw);
    }
}

impl Remap {
    /// Tells people what has been done without their asking.
    pub(super) fn tell_of(&self, tally: &Tally) {
        let main = &self.main.device;
        if let Some(first) = tally.first[0] {
            let n = tally.by_itself;
            log_warn!("{self}: main ({main}): {n} extents were moved to a spare, the first at sector {first}");
            self.tell("remapped");
        }
        if let Some(first) = tally.first[1] {
            let n = tally.pending;
            log_warn!(
                "{self}: main ({main}): {n} extents cannot be read, the first at sector {first}"
            );
            self.tell("pending");
        }
        if let (Some(first), Some(place)) = (tally.first[2], tally.first_place[0]) {
            let (n, place) = (tally.suspect, OnSpare(self, place));
            log_warn!("{self}: {n} extents cannot be read from their spare, the first of them, by main at sector {first}, from {place}");
            self.tell("suspect");
        }
        if let Some(first) = tally.first_place[1] {
            let (n, first) = (tally.retired, OnSpare(self, first));
            log_warn!(
                "{self}: {n} places on spares have failed and are retired, the first is {first}"
            );
            self.tell("retired");
        }
    }

    /// Tells people which settings are others than `before`.
    pub(crate) fn tell_of_settings(&self, before: &Settings, now: &Settings) {
        // Whoever turns one to and fro says it too often for the log.
        if self.last_error.lock().is_worth_a_line(system::real_seconds()) {
            let changed = Changed { before, now, limits: self.limits() };
            log_info!("{self}: settings have changed:{changed}");
        }
        self.tell("settings");
    }
}

/// A place on a spare, for people: they know its device, and the sector there.
struct OnSpare<'a>(&'a Remap, (SpareId, SpareSector));

impl fmt::Display for OnSpare<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(remap, (id, at)) = *self;
        match remap.spare(id) {
            Some(spare) => {
                write!(f, "sector {} of spare {id} ({})", spare.sector(at), spare.device)
            }
            // It has left meanwhile.
            None => write!(f, "a place of spare {id}"),
        }
    }
}

/// What the settings were that have changed, and what they are.
struct Changed<'a> {
    before: &'a Settings,
    now: &'a Settings,
    limits: Limits,
}

impl fmt::Display for Changed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, now) = (self.before, self.now);
        let changed = SETTINGS.iter().filter(|s| before.explicit(s) != now.explicit(s));
        changed.enumerate().try_for_each(|(i, setting)| {
            f.write_str(if i == 0 { " " } else { ", " })?;
            write!(f, "{} ", setting.name)?;
            setting.write_value(now.in_force(setting, &self.limits), f)?;
            f.write_str(" (was ")?;
            setting.write_value(before.in_force(setting, &self.limits), f)?;
            f.write_str(")")
        })
    }
}
