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
//!
//! Beside the bits stands in which leaf of the tree their entries are. That is a hint: it may be wrong where
//! leaves or branches meet, and who follows it has to look at what is found there.

use super::super::entry::{PackedEntry, SECTOR_LIMIT};
use super::super::mem::{AllocError, Arc, KVVec, KVec, GFP_KERNEL};
use super::super::units::{Extent, MainSector, Sectors};
use super::node::{self, key_of, Branch, FANOUT};
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

/// In place of the number of a leaf: its branch is another than the page's. Greater than any.
const ELSEWHERE: u8 = u8::MAX;

const _: () = assert!(FANOUT <= ELSEWHERE as usize);

/// The bits of some regions, and where the entries are that they are set for.
struct Page {
    words: [u64; WORDS],
    /// For each word the leaf of the entry, or the last of several, in the middle one of its regions that have one: where two leaves meet
    /// in a word, most of its entries are in that.
    leaves: [u8; WORDS],
    /// The branch of these leaves.
    branch: u32,
}

/// What stands in front of the tree for some sectors of main.
pub(super) enum Glance {
    /// No entry touches them.
    Nothing,
    /// One touches the region of the first. If it has that one, it is likely to be in that leaf.
    Leaf {
        /// The branch.
        branch: usize,
        /// Which of its leaves.
        leaf: usize,
    },
    /// None touches the first, and the others lie in other regions.
    Across,
}

/// # Invariants
///
/// The bit of every region that an entry of main touches is set, and of no other. `pages` are all that
/// regions below `end` need, and every entry ends at `end` or before it. An empty table's has none.
pub(super) struct Filter {
    shift: u32,
    /// The last sector of the first region: what of a sector's number says where in its region it lies.
    within: u64,
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
        Self::of_regions(u64::BITS - 1)
    }

    /// One without pages, whose regions have `2^shift` sectors; `shift` is below 64.
    const fn of_regions(shift: u32) -> Self {
        Self { shift, within: (1 << shift) - 1, pages: KVVec::new(), end: 0, blank: None }
    }

    /// Whether no entry touches the `len` sectors from `start` on. `false`: one may.
    #[inline(always)]
    pub(super) fn rules_out(&self, start: MainSector, len: Sectors) -> bool {
        matches!(self.glance(start, len), Glance::Nothing)
    }

    /// What it says of the `len` sectors from `start` on.
    #[inline(always)]
    pub(super) fn glance(&self, start: MainSector, len: Sectors) -> Glance {
        let first = start.0.wrapping_shr(self.shift);
        // Asked for last: where there is an entry, it does not matter.
        let across = || (start.0 & self.within).wrapping_add(len.0).wrapping_sub(1) > self.within;
        let nothing = || if across() { Glance::Across } else { Glance::Nothing };
        let Some(page) = self.pages.get((first >> PAGE_SHIFT) as usize) else { return nothing() };
        let word = (first >> 6) as usize % WORDS;
        if (page.words[word] >> (first & 63)) & 1 == 0 {
            return nothing();
        }
        Glance::Leaf { branch: page.branch as usize, leaf: usize::from(page.leaves[word]) }
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
        let none = Self::of_regions(shift_for(end, entries));
        let mut draft = Draft::new(&none, end)?;
        let mut all = Entries::new(branches, 0, SECTOR_LIMIT);
        while let Some(entry) = all.next_packed() {
            let (first, last) = draft.regions(&entry);
            draft.mark(first, last, true)?;
        }
        draft.finish(branches, &[])
    }

    /// The filter of the table of `branches` with `entries` entries, which differs only within
    /// `touched` from the one of the branches `before` that this is the filter of.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(super) fn edited(
        &self,
        before: &[Arc<Branch>],
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
        draft.finish(branches, before)
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
            // The first of them may have been drawn with the page before.
            let first = (begins(at) >> shift).max(next);
            let last = (begins(at + 1) - 1) >> shift;
            next = last + 1;
            if first <= last {
                self.draw(first..=last, shift, words);
            }
        }
    }

    /// Gives the regions `of`, of `2^shift` sectors each, the bits in `words` that they have by this.
    fn draw(&self, of: RangeInclusive<u64>, shift: u32, words: &mut [u64]) {
        for (word, mask) in words_of(of.clone()) {
            let Some(bits) = words.get_mut(word) else { break };
            *bits &= !mask;
        }
        let (first, last) = of.into_inner();
        let own = first << shift >> self.shift..=(((last + 1) << shift) - 1) >> self.shift;
        for (word, mask) in words_of(own) {
            let Some(page) = self.pages.get(word / WORDS) else { return };
            let mut set = page.words[word % WORDS] & mask;
            while set != 0 {
                let region = ((word as u64) << 6) | u64::from(set.trailing_zeros());
                let ends = ((region + 1) << self.shift) - 1;
                let (from, to) = (region << self.shift >> shift, ends >> shift);
                for (word, mask) in words_of(from.max(first)..=to.min(last)) {
                    let Some(bits) = words.get_mut(word) else { return };
                    *bits |= mask;
                }
                set &= set - 1;
            }
        }
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
                Some(old) => page.extend_from_slice(&old.words, GFP_KERNEL)?,
                None => page.resize(WORDS, 0, GFP_KERNEL)?,
            }
        }
        Ok(page)
    }

    /// The filter of the table of `branches`; the old one is that of the table of the branches `before`.
    fn finish(
        self,
        branches: &[Arc<Branch>],
        before: &[Arc<Branch>],
    ) -> Result<Filter, AllocError> {
        let blank = match &self.old.blank {
            Some(blank) => blank.clone(),
            None => Page::boxed(&[0; WORDS], &Hints::NONE)?,
        };
        let same =
            |at: usize| matches!(before.get(at), Some(old) if Arc::ptr_eq(old, &branches[at]));
        let mut pages = KVVec::with_capacity(self.pages.len(), GFP_KERNEL)?;
        // The last branch that begins before the page, or the first.
        let mut branch = 0;
        for (at, draft) in self.pages.iter().enumerate() {
            let begins = |page: usize| (page as u64) << PAGE_SHIFT << self.old.shift;
            let starts = |branch: usize| branches.get(branch).map_or(u64::MAX, |b| b.start());
            while starts(branch + 1) <= begins(at) {
                branch += 1;
            }
            let page = match (draft.first_chunk(), self.old.pages.get(at)) {
                (Some(words), _) if words.iter().all(|word| *word == 0) => blank.clone(),
                (Some(words), _) => {
                    Page::boxed(words, &Hints::new(words, at, self.old.shift, branches, branch))?
                }
                (None, None) => blank.clone(),
                (None, Some(old)) if Arc::ptr_eq(old, &blank) => blank.clone(),
                (None, Some(old)) => {
                    let mut within = (branch..).take_while(|b| starts(*b) < begins(at + 1));
                    let hints =
                        |branch| Hints::new(&old.words, at, self.old.shift, branches, branch);
                    match within.all(same) {
                        true => old.clone(),
                        false => match hints(branch) {
                            hints if hints.are_those_of(old) => old.clone(),
                            hints => Page::boxed(&old.words, &hints)?,
                        },
                    }
                }
            };
            pages.push(page, GFP_KERNEL)?;
        }
        let blank = Some(blank);
        Ok(Filter { pages, end: self.end, blank, ..Filter::of_regions(self.old.shift) })
    }
}

/// Which of the bits that are set in `word`, which is not 0, has as many of them below as above, or one fewer.
fn middle_bit(word: u64) -> u32 {
    let below = (word.count_ones() - 1) / 2;
    (0..below).fold(word, |left, _| left & (left - 1)).trailing_zeros()
}

/// Where the entries of a page are.
struct Hints {
    leaves: [u8; WORDS],
    branch: u32,
}

impl Hints {
    const NONE: Self = Self { leaves: [ELSEWHERE; WORDS], branch: 0 };

    /// For the page `at` of regions of `2^shift` sectors, with those `words`. `branch` is the last of the
    /// `branches` that begins before the page, or the first.
    fn new(
        words: &[u64; WORDS],
        at: usize,
        shift: u32,
        branches: &[Arc<Branch>],
        mut branch: usize,
    ) -> Self {
        let mut hints = Self::NONE;
        let mut of = None;
        let mut leaf = None;
        let used = words.iter().zip(&mut hints.leaves).enumerate().filter(|(_, (w, _))| **w != 0);
        for (n, (word, hint)) in used {
            let region = (((at * WORDS + n) as u64) << 6) | u64::from(middle_bit(*word));
            let last = ((region + 1) << shift) - 1;
            while branches.get(branch + 1).is_some_and(|next| next.start() <= last) {
                branch += 1;
                leaf = None;
            }
            let Some(keys) = branches.get(branch).map(|branch| &branch.keys) else { break };
            let here = keys.onwards(leaf, key_of(last));
            leaf = Some(here);
            if *of.get_or_insert(branch) == branch {
                *hint = here as u8;
            }
        }
        hints.branch = of.unwrap_or(0) as u32;
        hints
    }

    fn are_those_of(&self, page: &Page) -> bool {
        (self.branch, &self.leaves) == (page.branch, &page.leaves)
    }
}

impl Page {
    fn boxed(words: &[u64; WORDS], hints: &Hints) -> Result<Arc<Self>, AllocError> {
        let page = Self { words: *words, leaves: hints.leaves, branch: hints.branch };
        Arc::new(page, GFP_KERNEL)
    }
}
