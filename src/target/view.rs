// SPDX-License-Identifier: GPL-2.0

//! What I/O sees: the committed table, and the ranges that are held. Published as a whole.
//!
//! In front of it stand bits that are changed where they are ([`Front`]): one for each region of main, set where a bio has to look at what
//! is published. Where it is not set the bio goes to main, and that is all that most bios ever see. A bit is set before a view is
//! published that has something there, and cleared after one that has not. Who reads it as it was before is as one who read the view of
//! before: it was counted first ([`Domains`](super::domains::Domains)), and who relies on the new view waits for those.

use super::domains::CHUNK;
use crate::dm::{
    bio::Op,
    bits::Bits,
    published::{Published, Retired, Section},
};
use crate::pure::{
    mem::{AllocError, KVVec, KVec},
    shortcuts::Shortcuts,
    table::{words_of, Table},
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

/// Words of the bits in front: 32 KiB.
const WORDS: usize = 4096;

/// The fewest sectors of a region, as a power of two: 4 KiB. So those of a chunk are in one word.
const MIN_SHIFT: u32 = 3;

const _: () = assert!(CHUNK - MIN_SHIFT <= 6);

/// How many sectors a region of main has: a power of two, as few as there are bits for.
#[derive(Clone, Copy)]
pub(crate) struct Regions {
    shift: u32,
    /// What of a sector's number says where it lies in its region, or in its chunk where that is smaller.
    narrow: u64,
}

impl Regions {
    /// Those of a main of so many sectors.
    pub(crate) fn of(main: Sectors) -> Self {
        let bits = (main.0.max(1) - 1).checked_ilog2().map_or(0, |log| log + 1);
        let shift = bits.saturating_sub(Bits::<WORDS>::COUNT.ilog2()).max(MIN_SHIFT);
        Self { shift, narrow: (1 << shift.min(CHUNK)) - 1 }
    }

    #[inline(always)]
    fn region(self, start: MainSector) -> u64 {
        start.0 >> (self.shift & 63)
    }

    fn regions(self, extent: Extent) -> core::ops::RangeInclusive<u64> {
        self.region(extent.start)..=self.region(MainSector(extent.end().0.wrapping_sub(1)))
    }
}

/// In which regions a view has something: a bit for each in which its table has an entry or a hold has a sector.
pub(crate) struct Drawn {
    regions: Regions,
    /// Those of the table.
    words: KVVec<u64>,
    of: Option<Table>,
    /// With those of the holds.
    watched: KVVec<u64>,
}

impl Drawn {
    /// Of no view yet.
    pub(crate) fn new(regions: Regions) -> Result<Self, AllocError> {
        let words = |()| {
            let mut words = KVVec::with_capacity(WORDS, GFP_KERNEL)?;
            words.resize(WORDS, 0, GFP_KERNEL)?;
            Ok(words)
        };
        Ok(Self { regions, words: words(())?, of: None, watched: words(())? })
    }

    fn draw(&mut self, table: &Table, holds: &[Hold]) {
        table.project(self.regions.shift, &mut self.words, self.of.as_ref());
        self.of = Some(table.clone());
        self.watched.copy_from_slice(&self.words);
        for hold in holds {
            for (word, mask) in words_of(self.regions.regions(hold.extent)) {
                if let Some(bits) = self.watched.get_mut(word) {
                    *bits |= mask;
                }
            }
        }
    }
}

/// What a bio meets first: the bits, and behind them what is published.
pub(crate) struct Front {
    regions: Regions,
    bits: KVBox<Bits<WORDS>>,
    published: Published<View>,
}

impl Front {
    /// A view of nothing is published.
    pub(crate) fn new(regions: Regions) -> impl Init<Self, Error> {
        try_init!(Self {
            regions,
            bits: KVBox::init(Bits::none(), GFP_KERNEL)?,
            published: Published::new(View::boxed(Table::empty(0)?, 0)?),
        }? Error)
    }

    /// Whether the sectors from `start` to `last` lie in one chunk and in one region, as those of most bios do.
    #[inline(always)]
    pub(crate) fn is_narrow(&self, start: MainSector, last: MainSector) -> bool {
        start.0 ^ last.0 <= self.regions.narrow
    }

    /// Whether a bio of such sectors goes to main.
    #[inline(always)]
    pub(crate) fn is_clear(&self, start: MainSector) -> bool {
        !self.bits.has(self.regions.region(start))
    }

    /// Whether one of the sectors from `start` to `last`, which lie in a chunk, does.
    #[inline(always)]
    pub(crate) fn is_clear_across(&self, start: MainSector, last: MainSector) -> bool {
        let region = self.regions.region(start);
        let others = self.regions.region(last).wrapping_sub(region);
        self.bits.from(region) & 2u64.wrapping_shl(others as u32).wrapping_sub(1) == 0
    }

    /// Whether one of any length does.
    pub(crate) fn is_clear_along(&self, extent: Extent) -> bool {
        let mut words = words_of(self.regions.regions(extent));
        words.all(|(word, mask)| self.bits.word(word) & mask == 0)
    }

    /// What is published.
    #[inline]
    pub(crate) fn read<'a>(&'a self, reading: &'a impl Section) -> &'a View {
        self.published.read(reading)
    }

    /// Publishes `view`, which has been [drawn](View::set). One at a time.
    pub(crate) fn replace(&self, view: KBox<View>, drawn: &Drawn) -> Retired<View> {
        self.bits.add(&drawn.watched);
        let retired = self.published.replace(view);
        self.bits.become_those(&drawn.watched);
        retired
    }
}

/// What I/O sees.
///
/// # Invariants
///
/// `plain` says that `holds` has none and there is no `mirror`, which is only of what is in the table. `shortcuts` are those of `table`;
/// there are none unless it is `plain`.
pub(crate) struct View {
    shortcuts: Option<Shortcuts>,
    plain: bool,
    table: Table,
    holds: KVec<Hold>,
    mirror: Option<Mirror>,
}

impl View {
    /// A view that has nothing, to be [set](Self::set), with memory for `holds` holds.
    pub(crate) fn boxed(none: Table, holds: usize) -> Result<KBox<Self>, AllocError> {
        let holds = KVec::with_capacity(holds, GFP_KERNEL)?;
        let view = Self { shortcuts: None, plain: true, table: none, holds, mirror: None };
        KBox::new(view, GFP_KERNEL)
    }

    /// Makes it a view of `table` that holds `holds`, for which there has to be memory, with `mirror`; and `drawn` says where it has something.
    ///
    /// # Errors
    ///
    /// `ENOMEM` where there is not.
    pub(crate) fn set(
        &mut self,
        table: Table,
        holds: &[Hold],
        mirror: Option<Mirror>,
        drawn: &mut Drawn,
    ) -> Result<(), AllocError> {
        self.plain = false;
        self.holds.clear();
        self.holds.extend_from_slice(holds, GFP_KERNEL)?;
        drawn.draw(&table, holds);
        self.plain = holds.is_empty() && mirror.is_none();
        (self.table, self.mirror) = (table, mirror);
        Ok(())
    }

    /// Gives it short cuts, which are those of its table. It is [plain](Self::is_plain).
    pub(crate) fn shorten(&mut self, shortcuts: Shortcuts) {
        self.shortcuts = self.plain.then_some(shortcuts);
    }

    /// Takes its short cuts away.
    pub(crate) fn take_shortcuts(&mut self) -> Option<Shortcuts> {
        self.shortcuts.take()
    }

    /// Its short cuts. Where there are any, the view is [plain](Self::is_plain).
    #[inline(always)]
    pub(crate) fn shortcuts(&self) -> Option<&Shortcuts> {
        self.shortcuts.as_ref()
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
