// SPDX-License-Identifier: GPL-2.0

//! What I/O sees: the committed table, and the ranges that are held. Published as a whole.

use crate::dm::bio::Op;
use crate::pure::{
    mem::{AllocError, KVec},
    table::Table,
    units::{Extent, MainSector, Sectors},
};
use kernel::prelude::*;

/// What happens to bios that touch a held range.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// Everything but reads waits: the data is being copied.
    Writes,
    /// Everything waits: where the data lives is about to change back.
    All,
    /// Everything is answered with an error: a commit that concerns the range is in doubt.
    Failing,
}

impl Mode {
    /// Whether a bio of that kind goes its way all the same.
    pub(crate) fn lets_pass(self, op: Op) -> bool {
        self == Self::Writes && op == Op::Read
    }
}

/// A held range. Ranges that are held do not overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hold {
    /// The range.
    pub(crate) extent: Extent,
    /// What happens there.
    pub(crate) mode: Mode,
}

/// What I/O sees.
///
/// # Invariants
///
/// `quiet` says that `table` has no entry and `holds` none either.
pub(crate) struct View {
    quiet: bool,
    table: Table,
    holds: KVec<Hold>,
}

impl View {
    /// A view of `table` that holds nothing, with memory for `holds` holds.
    pub(crate) fn boxed(table: Table, holds: usize) -> Result<KBox<Self>, AllocError> {
        let holds = KVec::with_capacity(holds, GFP_KERNEL)?;
        KBox::new(Self { quiet: table.is_empty(), table, holds }, GFP_KERNEL)
    }

    /// Makes it a view of `table` that holds `holds`, for which there has to be memory.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is not.
    pub(crate) fn set(&mut self, table: Table, holds: &[Hold]) -> Result<(), AllocError> {
        self.quiet = false;
        self.holds.clear();
        self.holds.extend_from_slice(holds, GFP_KERNEL)?;
        self.quiet = table.is_empty() && holds.is_empty();
        self.table = table;
        Ok(())
    }

    /// Whether everything goes to main.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Where things are.
    #[inline]
    pub(crate) fn table(&self) -> &Table {
        &self.table
    }

    /// What is held.
    #[inline]
    pub(crate) fn holds(&self) -> &[Hold] {
        &self.holds
    }

    /// The held ranges that touch the `len` sectors from `start` on, in no order.
    pub(crate) fn holds_of(
        &self,
        start: MainSector,
        len: Sectors,
    ) -> impl Iterator<Item = Hold> + '_ {
        let window = Extent { start, len };
        self.holds.iter().copied().filter(move |hold| hold.extent.overlaps(&window))
    }

    /// The first of them.
    pub(crate) fn first_hold(&self, start: MainSector, len: Sectors) -> Option<Hold> {
        self.holds_of(start, len).min_by_key(|hold| hold.extent.start)
    }
}
