// SPDX-License-Identifier: GPL-2.0

//! What stands in front of the tree: a bit for each region of main, set where an entry touches it.
//!
//! Most I/O goes to regions without an entry, and costs no more than to see that. Regions have a
//! power of two of sectors, at least a page's worth, so that an aligned page lies in one; I/O across
//! the border of two goes to the tree.
//!
//! Bits are kept in pages, which the filters of a table and of the one edited from it share where
//! they agree; empty ones are all the same page. How large a region is goes by how many entries
//! there are and where the last one ends, and changes when their number doubles. Retired places,
//! which stand behind what main can have, are not in it.

use super::super::entry::{PackedEntry, SECTOR_LIMIT};
use super::super::mem::{AllocError, Arc, KVVec, KVec, GFP_KERNEL};
use super::super::units::{Extent, MainSector, Sectors};
use super::node::{self, Branch};
use super::Entries;
use core::ops::RangeInclusive;

/// Words of a page: a KiB, as pages go over the stack on their way into the heap.
const WORDS: usize = 1 << 7;

/// Regions of a page, as a power of two.
const PAGE_SHIFT: u32 = 7 + 6;

/// The fewest sectors of a region, as a power of two: 4 KiB.
const MIN_SHIFT: u32 = 3;

/// The fewest bits that are thought of, for however few entries.
const MIN_BITS: u64 = 1 << 18;

/// The most, for however many.
const MAX_BITS: u64 = 1 << 24;

/// Bits for each entry, or down to half of them.
const BITS_PER_ENTRY: u64 = 16;

struct Page([u64; WORDS]);

/// # Invariants
///
/// The bit of every region that an entry of main touches is set, and of no other. `pages` are all that
/// regions below `end` need, and every entry ends at `end` or before it. An empty table's has none.
pub(super) struct Filter {
    shift: u32,
    pages: KVVec<Arc<Page>>,
    /// Behind the last sector in use, now or at any time since `shift` was chosen.
    end: u64,
    blank: Option<Arc<Page>>,
}

/// How many sectors a region should have, as a power of two, for `entries` that end at `end`.
fn shift_for(end: u64, entries: u64) -> u32 {
    let bits = (BITS_PER_ENTRY * entries).clamp(MIN_BITS, MAX_BITS);
    let mut shift = MIN_SHIFT;
    while end >> shift > bits {
        shift += 1;
    }
    shift
}

impl Filter {
    /// The filter of a table without entries.
    pub(super) const fn empty() -> Self {
        Self { shift: u64::BITS - 1, pages: KVVec::new(), end: 0, blank: None }
    }

    /// Whether no entry touches the `len` sectors from `start` on. `false`: one may.
    #[inline(always)]
    pub(super) fn rules_out(&self, start: MainSector, len: Sectors) -> bool {
        let first = start.0.wrapping_shr(self.shift);
        let last = start.0.wrapping_add(len.0).wrapping_sub(1).wrapping_shr(self.shift);
        if first != last {
            return false;
        }
        match self.pages.get((first >> PAGE_SHIFT) as usize) {
            Some(page) => (page.0[(first >> 6) as usize % WORDS] >> (first & 63)) & 1 == 0,
            None => true,
        }
    }

    /// The filter of the table of `branches` with `entries` entries.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(super) fn new(branches: &[Arc<Branch>], entries: u64) -> Result<Self, AllocError> {
        let end = end_of(branches);
        if end == 0 {
            return Ok(Self::empty());
        }
        let none = Self { shift: shift_for(end, entries), ..Self::empty() };
        let mut draft = Draft::new(&none, end)?;
        let mut all = Entries::new(branches, 0, SECTOR_LIMIT);
        while let Some(entry) = all.next_packed() {
            let (first, last) = draft.regions(&entry);
            draft.mark(first, last, true)?;
        }
        draft.finish()
    }

    /// The filter of the table of `branches` with `entries` entries, which differs only within
    /// `touched` from the one that this is the filter of.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(super) fn edited(
        &self,
        branches: &[Arc<Branch>],
        entries: u64,
        touched: &[Extent],
    ) -> Result<Self, AllocError> {
        let end = self.end.max(end_of(branches));
        if end == 0 {
            return Ok(Self::empty());
        }
        let shift = shift_for(end, entries);
        // Not at once when there are fewer, so that it takes many changes to have to again.
        if entries == 0 || shift < self.shift || shift > self.shift + 1 {
            return Self::new(branches, entries);
        }
        let mut draft = Draft::new(self, end)?;
        for extent in touched {
            draft.follow(branches, extent)?;
        }
        draft.finish()
    }

    /// What [`Table::project`](super::Table::project) does.
    pub(super) fn project(&self, shift: u32, words: &mut [u64], than: Option<&Self>) {
        let than = than.filter(|than| than.shift == self.shift);
        if than.is_none() {
            words.fill(0);
        }
        let before = than.map_or(0, |than| than.pages.len());
        let mut next = 0;
        for at in 0..self.pages.len().max(before) {
            let old = than.and_then(|than| than.pages.get(at));
            match (self.pages.get(at), old) {
                (Some(new), Some(old)) if Arc::ptr_eq(new, old) => continue,
                (Some(new), None) if self.is_blank(new) => continue,
                _ => {}
            }
            let begins = |page: usize| (page as u64) << PAGE_SHIFT << self.shift;
            let (first, last) = (begins(at) >> shift, (begins(at + 1) - 1) >> shift);
            for larger in first.max(next)..=last {
                let Some(word) = words.get_mut((larger >> 6) as usize) else { return };
                let bit = 1 << (larger & 63);
                let regions =
                    larger << shift >> self.shift..=(((larger + 1) << shift) - 1) >> self.shift;
                *word = if self.any(regions) { *word | bit } else { *word & !bit };
            }
            next = last + 1;
        }
    }

    /// Whether an entry touches one of these regions.
    fn any(&self, regions: RangeInclusive<u64>) -> bool {
        let mut words = words_of(regions);
        words.any(|(word, mask)| {
            let page = self.pages.get(word / WORDS);
            page.is_some_and(|page| page.0[word % WORDS] & mask != 0)
        })
    }

    fn is_blank(&self, page: &Arc<Page>) -> bool {
        matches!(&self.blank, Some(blank) if Arc::ptr_eq(page, blank))
    }

    /// What it takes of memory.
    pub(super) fn memory(&self) -> usize {
        let own = self.pages.iter().filter(|page| !self.is_blank(page)).count();
        (own + usize::from(self.blank.is_some())) * node::arc::<Page>()
            + node::slab::<Arc<Page>>(self.pages.capacity())
    }
}

/// The words that these bits are in, each with a mask of those that it has.
pub fn words_of(bits: RangeInclusive<u64>) -> impl Iterator<Item = (usize, u64)> {
    let (first, last) = bits.into_inner();
    (first >> 6..=last >> 6).map(move |word| {
        let from = if word == first >> 6 { first & 63 } else { 0 };
        let to = if word == last >> 6 { last & 63 } else { 63 };
        (word as usize, (u64::MAX << from) & (u64::MAX >> (63 - to)))
    })
}

/// Behind the last sector of the last entry of main.
fn end_of(branches: &[Arc<Branch>]) -> u64 {
    let of_main = |entry: &PackedEntry| entry.start().0 < SECTOR_LIMIT;
    let last = |n: usize| n.checked_sub(1);
    let branch = last(branches.partition_point(|b| of_main(&b.leaves[0].entries()[0])));
    let Some(leaves) = branch.map(|at| &branches[at].leaves) else { return 0 };
    let leaf = last(leaves.partition_point(|leaf| of_main(&leaf.entries()[0])));
    let Some(entries) = leaf.map(|at| leaves[at].entries()) else { return 0 };
    last(entries.partition_point(of_main)).map_or(0, |at| entries[at].end().0)
}

/// A filter that is being made of another.
///
/// # Invariants
///
/// There are as many `pages` as the new filter has. One that is not empty takes the place of what
/// the old filter has there.
struct Draft<'a> {
    old: &'a Filter,
    end: u64,
    pages: KVVec<KVec<u64>>,
}

impl<'a> Draft<'a> {
    /// `end` is not 0, and not below that of `old`.
    fn new(old: &'a Filter, end: u64) -> Result<Self, AllocError> {
        let last = (end - 1) >> old.shift >> PAGE_SHIFT;
        let mut pages = KVVec::with_capacity(last as usize + 1, GFP_KERNEL)?;
        for _ in 0..=last {
            pages.push(KVec::new(), GFP_KERNEL)?;
        }
        Ok(Self { old, end, pages })
    }

    /// The first and the last region that `entry` touches.
    fn regions(&self, entry: &PackedEntry) -> (u64, u64) {
        (entry.start().0 >> self.old.shift, (entry.end().0 - 1) >> self.old.shift)
    }

    /// Gives the regions that `touched` touches the bits that they have by `branches`.
    fn follow(&mut self, branches: &[Arc<Branch>], touched: &Extent) -> Result<(), AllocError> {
        let shift = self.old.shift;
        let first = touched.start.0 >> shift;
        let last = (touched.end().0.min(self.end) - 1) >> shift;
        if first > last {
            return Ok(());
        }
        self.mark(first, last, false)?;
        let mut next = first;
        while next <= last {
            let within = Entries::new(branches, next << shift, (last + 1) << shift).next_packed();
            let Some(entry) = within else { break };
            let (from, to) = self.regions(&entry);
            self.mark(from.max(next), to.min(last), true)?;
            next = to + 1;
        }
        Ok(())
    }

    /// Sets the bits of the regions `first` to `last`, or clears them: words at a time, as an entry
    /// may be long.
    fn mark(&mut self, first: u64, last: u64, set: bool) -> Result<(), AllocError> {
        if set && first == last {
            let word = (first >> 6) as usize;
            self.page(word / WORDS)?[word % WORDS] |= 1 << (first & 63);
            return Ok(());
        }
        for (word, mask) in words_of(first..=last) {
            let bits = &mut self.page(word / WORDS)?[word % WORDS];
            *bits = if set { *bits | mask } else { *bits & !mask };
        }
        Ok(())
    }

    /// The words of the page `at`, to be changed.
    fn page(&mut self, at: usize) -> Result<&mut [u64], AllocError> {
        let page = &mut self.pages[at];
        if page.is_empty() {
            match self.old.pages.get(at) {
                Some(old) => page.extend_from_slice(&old.0, GFP_KERNEL)?,
                None => page.resize(WORDS, 0, GFP_KERNEL)?,
            }
        }
        Ok(page)
    }

    fn finish(self) -> Result<Filter, AllocError> {
        let blank = match &self.old.blank {
            Some(blank) => blank.clone(),
            None => Arc::new(Page([0; WORDS]), GFP_KERNEL)?,
        };
        let mut pages = KVVec::with_capacity(self.pages.len(), GFP_KERNEL)?;
        for (at, draft) in self.pages.iter().enumerate() {
            let page = match draft.first_chunk() {
                Some(words) if words.iter().any(|word| *word != 0) => {
                    Arc::new(Page(*words), GFP_KERNEL)?
                }
                Some(_) => blank.clone(),
                None => self.old.pages.get(at).unwrap_or(&blank).clone(),
            };
            pages.push(page, GFP_KERNEL)?;
        }
        Ok(Filter { shift: self.old.shift, pages, end: self.end, blank: Some(blank) })
    }
}
