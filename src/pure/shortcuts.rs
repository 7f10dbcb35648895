// SPDX-License-Identifier: GPL-2.0

//! Short cuts to the entries of a table that has few: an array of slots, in which what a sector is remapped to
//! is found in one step.
//!
//! The slot of a sector is told by some bits of its number. Which bits is chosen for the table, so that as
//! few entries as can be share a slot. One of those that do has it, and the others are found in the table.

use super::entry::{home_on, Mapping};
use super::mem::{AllocError, KVVec, GFP_KERNEL};
use super::table::Table;
use super::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

/// Slots: 96 KiB of them.
const SLOTS: usize = 1 << 12;

/// The most entries of a table that is given short cuts: with more there would be few slots left for some.
const MOST: u64 = SLOTS as u64;

/// The fewest sectors of a slot, as a power of two: 4 KiB.
const MIN_SHIFT: u8 = 3;

/// An extent that is remapped, and where to.
#[derive(Clone, Copy)]
struct Slot {
    start: u64,
    to: u64,
    /// 0 for a slot that nobody has.
    len: u32,
    /// [`home_on`] the spare.
    home: u8,
}

impl Slot {
    const EMPTY: Self = Self { start: 0, to: 0, len: 0, home: 0 };
}

/// Where some sectors of main live.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Way {
    /// [`home_on`] the spare.
    pub home: u8,
    /// Where the first of them is there.
    pub to: SpareSector,
}

/// # Invariants
///
/// Each slot that is not empty is an entry of the table that they were [filled](Self::fill) for, which is remapped
/// to a place that is not bad.
pub struct Shortcuts {
    slots: KVVec<Slot>,
    shift: u8,
}

impl Shortcuts {
    /// Memory for them. There are none yet.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn new() -> Result<Self, AllocError> {
        let mut slots = KVVec::with_capacity(SLOTS, GFP_KERNEL)?;
        slots.resize(SLOTS, Slot::EMPTY, GFP_KERNEL)?;
        Ok(Self { slots, shift: MIN_SHIFT })
    }

    /// Whether a table is one to have them.
    pub fn suit(table: &Table) -> bool {
        (1..=MOST).contains(&table.totals().extents)
    }

    /// Makes them those of `table`, and says whether most of what is remapped has one.
    pub fn fill(&mut self, table: &Table) -> bool {
        let all = remapped(table).count();
        let (shift, alone) = best_shift(table, all);
        self.shift = shift;
        self.slots.iter_mut().for_each(|slot| *slot = Slot::EMPTY);
        // Each gets the slot of its first sector before any gets a second one.
        for further in [false, true] {
            for (extent, spare, to) in remapped(table) {
                let (start, len) = (extent.start.0, extent.len.0 as u32);
                let slot = Slot { start, to: to.0, len, home: home_on(spare) };
                let (first, last) = (start >> shift, (extent.end().0 - 1) >> shift);
                let these = if further { first + 1..=last } else { first..=first };
                for at in these.take(SLOTS) {
                    match self.slots.get_mut(at as usize % SLOTS) {
                        Some(free) if free.len == 0 => *free = slot,
                        _ => {}
                    }
                }
            }
        }
        all > 0 && 4 * alone >= 3 * all
    }

    /// Where the `len` sectors from `start` on live, if all of them are in one slot. `None`: to be looked for in the
    /// table.
    #[inline(always)]
    pub fn find(&self, start: MainSector, len: Sectors) -> Option<Way> {
        let slot = self.slots.get((start.0 >> (self.shift & 63)) as usize % SLOTS)?;
        let behind = start.0.checked_sub(slot.start)?;
        if behind.wrapping_add(len.0) > u64::from(slot.len) {
            return None;
        }
        let to = SpareSector(slot.to.wrapping_add(behind));
        Some(Way { home: slot.home, to })
    }
}

/// What a table says is remapped, to places that are not bad.
fn remapped(table: &Table) -> impl Iterator<Item = (Extent, SpareId, SpareSector)> + '_ {
    table.iter().filter_map(|entry| match entry.mapping {
        Mapping::Remapped { spare, to } => Some((entry.extent, spare, to)),
        _ => None,
    })
}

/// By which bits the most of what is remapped, `all` of them, have a slot that none in front of them has, and how
/// many do then. The larger slots are of two ways as good, as fewer extents lie across their borders.
fn best_shift(table: &Table, all: usize) -> (u8, usize) {
    let last = remapped(table).last().map_or(0, |(extent, ..)| extent.end().0 - 1);
    let bits = (u64::BITS - last.leading_zeros()) as u8;
    let largest = bits.saturating_sub(SLOTS.ilog2() as u8).max(MIN_SHIFT);
    let mut best = (largest, 0);
    for shift in (MIN_SHIFT..=largest).rev() {
        let mut taken = [0u64; SLOTS / 64];
        for (extent, ..) in remapped(table) {
            let at = (extent.start.0 >> shift) as usize % SLOTS;
            taken[at / 64] |= 1 << (at % 64);
        }
        let alone = taken.iter().map(|word| word.count_ones() as usize).sum();
        if alone > best.1 {
            best = (shift, alone);
        }
        if alone == all {
            break;
        }
    }
    best
}
