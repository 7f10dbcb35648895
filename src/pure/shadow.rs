// SPDX-License-Identifier: GPL-2.0

//! What of a spare has been copied to its successor, while the set goes on as it is.
//!
//! A shadow is a table of its own: for extents of main that live on the old spare, where their data
//! stands on the new one too, or that it is lost. Nothing of it counts before the commit that makes the
//! [edit](Shadow::edit) of it the table.
//!
//! # Invariants
//!
//! - What the shadow says of an extent was copied after the last change of it that did not go to both
//!   spares: whoever changes it otherwise has it [forgotten](Shadow::forget) before the change is
//!   acknowledged.
//! - A place on the new spare is given to one extent only, as long as the shadow lives.

use super::entry::Mapping;
use super::mem::{AllocError, KVVec, GFP_KERNEL};
use super::table::{Edit, EditError, Table};
use super::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

/// What has been copied.
pub struct Shadow {
    /// Whose data it is.
    pub from: SpareId,
    table: Table,
}

impl Shadow {
    /// Nothing of `from` so far, in a set whose table has room for `capacity` blocks.
    ///
    /// # Errors
    ///
    /// Without memory.
    pub fn new(from: SpareId, capacity: u32) -> Result<Self, AllocError> {
        // What is one entry there may be several here.
        Ok(Self { from, table: Table::empty(capacity.saturating_mul(2))? })
    }

    /// What has been copied, as a table.
    pub fn table(&self) -> &Table {
        &self.table
    }

    /// The first sectors of main, from `at` on and no more than `most`, that live on the old spare by
    /// `table` and have not been copied, and the mapping of the first.
    pub fn next(&self, table: &Table, at: MainSector, most: Sectors) -> Option<(Extent, Mapping)> {
        for entry in table.iter_from(at) {
            if !lives(entry.mapping, self.from) {
                continue;
            }
            let mut start = entry.extent.start.max(at);
            while let Some(left) = entry.extent.end().since(start).filter(|left| left.0 > 0) {
                let copied = self.table.lookup(start, left);
                let until = match copied {
                    Some(copied) if copied.extent.start <= start => {
                        start = copied.extent.end();
                        continue;
                    }
                    Some(copied) => copied.extent.start,
                    None => entry.extent.end(),
                };
                let extent = Extent { start, len: (until - start).min(most) };
                return Some((extent, entry.mapping.advance(start - entry.extent.start)));
            }
        }
        None
    }

    /// An extent has been copied to `to`, or, with `None`, cannot be read.
    ///
    /// # Errors
    ///
    /// There is no memory, or no room for so many pieces.
    pub fn copied(
        &mut self,
        extent: Extent,
        to: Option<(SpareId, SpareSector)>,
    ) -> Result<(), EditError> {
        let mapping = match to {
            Some((spare, to)) => Mapping::Remapped { spare, to },
            None => Mapping::Lost,
        };
        self.change(|edit| edit.set(extent, mapping))
    }

    /// An extent has changed otherwise: what was copied of it counts no more.
    ///
    /// # Errors
    ///
    /// As [`copied`](Self::copied).
    pub fn forget(&mut self, extent: Extent) -> Result<(), EditError> {
        if self.table.lookup(extent.start, extent.len).is_none() {
            return Ok(());
        }
        self.change(|edit| edit.clear(extent))
    }

    fn change(
        &mut self,
        how: impl FnOnce(&mut Edit) -> Result<(), EditError>,
    ) -> Result<(), EditError> {
        let mut edit = self.table.edit()?;
        how(&mut edit)?;
        // It is never written anywhere: its blocks need no stamps.
        self.table = edit.finish(1, |_, _| Ok(0))?.table;
        Ok(())
    }

    /// The change of `table` after which nothing lives on the old spare; `None` when something of it has
    /// not been copied.
    ///
    /// # Errors
    ///
    /// The new table has no room, or there is no memory.
    pub fn edit(&self, table: &Table) -> Result<Option<Edit>, EditError> {
        if self.next(table, MainSector(0), Sectors(u64::MAX)).is_some() {
            return Ok(None);
        }
        let mut edit = without_retired(table, self.from)?;
        for entry in table.iter().filter(|entry| lives(entry.mapping, self.from)) {
            for copied in self.table.iter_in(entry.extent) {
                if let Some(copied) = copied.clip(&entry.extent) {
                    edit.set(copied.extent, copied.mapping)?;
                }
            }
        }
        Ok(Some(edit))
    }

    /// Sectors that cannot be read, by their extents.
    ///
    /// # Errors
    ///
    /// Without memory.
    pub fn lost(&self) -> Result<KVVec<Extent>, AllocError> {
        let mut lost = KVVec::new();
        for entry in self.table.iter().filter(|entry| entry.mapping == Mapping::Lost) {
            lost.push(entry.extent, GFP_KERNEL)?;
        }
        Ok(lost)
    }
}

fn lives(mapping: Mapping, on: SpareId) -> bool {
    mapping.place().is_some_and(|(spare, _)| spare == on)
}

/// The change of `table` after which no place on `spare` is retired.
///
/// # Errors
///
/// Without memory.
pub fn without_retired(table: &Table, spare: SpareId) -> Result<Edit, EditError> {
    let mut edit = table.edit()?;
    for entry in table.iter() {
        if matches!(entry.mapping, Mapping::Retired { spare: on, .. } if on == spare) {
            edit.clear(entry.extent)?;
        }
    }
    Ok(edit)
}
