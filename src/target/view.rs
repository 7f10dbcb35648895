// SPDX-License-Identifier: GPL-2.0

//! What I/O sees: the committed table, and the ranges that are held. Published as a whole.

use crate::dm::bio::Op;
use crate::pure::{
    mem::{AllocError, KVec},
    table::Table,
    units::{Extent, MainSector, Sectors, SpareId},
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

/// What is written to one spare is written to another too, as far as it has been copied there.
#[derive(Clone)]
pub(crate) struct Mirror {
    /// Where everything lives.
    pub(crate) from: SpareId,
    /// What has been copied, and where to.
    pub(crate) copied: Table,
    /// The [generation](super::spare::Spare::generation) of who joins.
    pub(crate) generation: u8,
    /// Writes there fail: nobody knows which of both is a member.
    pub(crate) frozen: bool,
}

/// What I/O sees.
///
/// # Invariants
///
/// `quiet` says that `table` has no entry, `holds` none either, and that there is no `mirror`; `plain`
/// that `holds` has none and there is no `mirror`.
pub(crate) struct View {
    quiet: bool,
    plain: bool,
    table: Table,
    holds: KVec<Hold>,
    mirror: Option<Mirror>,
}

impl View {
    /// A view of `table` that holds nothing, with memory for `holds` holds.
    pub(crate) fn boxed(table: Table, holds: usize) -> Result<KBox<Self>, AllocError> {
        let holds = KVec::with_capacity(holds, GFP_KERNEL)?;
        let quiet = table.is_empty();
        KBox::new(Self { quiet, plain: true, table, holds, mirror: None }, GFP_KERNEL)
    }

    /// Makes it a view of `table` that holds `holds`, for which there has to be memory, with `mirror`.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is not.
    pub(crate) fn set(
        &mut self,
        table: Table,
        holds: &[Hold],
        mirror: Option<Mirror>,
    ) -> Result<(), AllocError> {
        (self.quiet, self.plain) = (false, false);
        self.holds.clear();
        self.holds.extend_from_slice(holds, GFP_KERNEL)?;
        self.plain = holds.is_empty() && mirror.is_none();
        self.quiet = self.plain && table.is_empty();
        (self.table, self.mirror) = (table, mirror);
        Ok(())
    }

    /// Whether everything goes to main.
    #[inline]
    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// Whether the table is all that says where a bio goes.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        self.plain
    }

    /// Who else is written to.
    pub(crate) fn mirror(&self) -> Option<&Mirror> {
        self.mirror.as_ref()
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
