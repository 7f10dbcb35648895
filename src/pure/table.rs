// SPDX-License-Identifier: GPL-2.0

//! The remap table: which extents of main are remapped or pending. Ordered, immutable, persistent.
//!
//! A table is a list of branches, a branch a list of leaves, a leaf what one block of the metadata
//! holds. An [`Edit`] makes a new table that shares with the old one all that it does not touch; a
//! [`TableBuilder`] makes one from blocks that were read. Looking up is all that I/O does with a
//! table, so that is what its shape serves: see [`Table::find`].
//!
//! What a table block looks like on disk, and its CRC-32, are left to the metadata format: here a
//! block has an index, a [`Stamp`] and its entries.

mod build;
mod edit;
mod filter;
mod found;
mod node;

pub use build::{BuildError, TableBuilder};
pub use edit::{Changed, Edit, EditError};
pub use filter::words_of;
pub use found::Found;

use super::digest::Stamp;
use super::entry::{BlockIndex, Entry, Mapping, PackedEntry, ENTRIES_PER_BLOCK};
use super::mem::{AllocError, Arc, KVVec, KVec, GFP_KERNEL};
use super::units::{Extent, MainSector, Sectors, MAX_SPARES};
use filter::{Filter, Glance};
use node::{key_of, Branch, Keys, Leaf, BEHIND};

/// How many entries fit a table with room for `capacity_blocks`, whatever the order in which they
/// come: every slot of every block. An edit fails with [`EditError::Full`] when it would need more,
/// and only then.
///
/// A long run takes an entry for each [`SPLIT_LEN`](super::entry::SPLIT_LEN). Close to the end an
/// insertion has to shift entries through more blocks, up to all of them for the last slot.
pub const fn guaranteed_entries(capacity_blocks: u32) -> u64 {
    capacity_blocks as u64 * ENTRIES_PER_BLOCK as u64
}

/// What [`Table::guess`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guess {
    /// No entry touches the sectors.
    Nothing,
    /// They all lie in that entry, the first of them so many sectors behind its start.
    Within(Found, Sectors),
    /// Either, or an entry touches some of them.
    Unknown,
}

/// What a table holds, counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Entries.
    pub extents: u64,
    /// Sectors whose data lives on a spare.
    pub remapped: Sectors,
    /// Sectors that are pending, or lost.
    pub pending: Sectors,
    /// Sectors of `pending` that are lost.
    pub lost: Sectors,
    /// Sectors of places on spares that are retired.
    pub retired: Sectors,
    /// Sectors of `remapped` on each spare.
    pub on_spare: [Sectors; MAX_SPARES],
    /// Sectors of `on_spare` that could not be read there.
    pub suspect_on: [Sectors; MAX_SPARES],
}

impl Totals {
    /// Sectors of `remapped` that could not be read where they are.
    pub fn suspect(&self) -> Sectors {
        Sectors(self.suspect_on.iter().map(|sectors| sectors.0).sum())
    }

    fn add(&mut self, entry: &Entry) {
        self.extents += 1;
        match entry.mapping {
            Mapping::Pending => self.pending += entry.extent.len,
            Mapping::Lost => {
                self.pending += entry.extent.len;
                self.lost += entry.extent.len;
            }
            Mapping::Retired { .. } => self.retired += entry.extent.len,
            Mapping::Remapped { spare, .. } | Mapping::Suspect { spare, .. } => {
                self.remapped += entry.extent.len;
                if matches!(entry.mapping, Mapping::Suspect { .. }) {
                    if let Some(n) = self.suspect_on.get_mut(spare.0 as usize) {
                        *n += entry.extent.len;
                    }
                }
                if let Some(n) = self.on_spare.get_mut(spare.0 as usize) {
                    *n += entry.extent.len;
                }
            }
        }
    }

    fn remove(&mut self, entry: &Entry) {
        self.extents -= 1;
        match entry.mapping {
            Mapping::Pending => self.pending = self.pending - entry.extent.len,
            Mapping::Lost => {
                self.pending = self.pending - entry.extent.len;
                self.lost = self.lost - entry.extent.len;
            }
            Mapping::Retired { .. } => self.retired = self.retired - entry.extent.len,
            Mapping::Remapped { spare, .. } | Mapping::Suspect { spare, .. } => {
                self.remapped = self.remapped - entry.extent.len;
                if matches!(entry.mapping, Mapping::Suspect { .. }) {
                    if let Some(n) = self.suspect_on.get_mut(spare.0 as usize) {
                        *n = *n - entry.extent.len;
                    }
                }
                if let Some(n) = self.on_spare.get_mut(spare.0 as usize) {
                    *n = *n - entry.extent.len;
                }
            }
        }
    }
}

/// A block that is in use on disk and holds no entry.
#[derive(Clone, Copy)]
struct FreeBlock {
    index: BlockIndex,
    stamp: Stamp,
}

/// # Invariants
///
/// `branches` are in the order of their keys, none is empty; `keys` are those of their first
/// entries. `free` is sorted. The leaves' blocks and the free ones together are those below
/// `blocks`, each once; `digest` is the digest over them. `totals` are those of all entries, and
/// `filter` is their filter.
struct Root {
    filter: Filter,
    keys: Keys,
    branches: KVec<Arc<Branch>>,
    free: Arc<KVVec<FreeBlock>>,
    totals: Totals,
    digest: u64,
    blocks: u32,
    capacity: u32,
}

impl Root {
    /// [`Table::find`] by the tree. What takes more than this goes to another function with the same
    /// arguments, so that this one has little to save for later.
    #[inline(never)]
    fn search(&self, start: MainSector, len: Sectors) -> Found {
        let Some((entry, next)) = self.descend(start, Keys::find, Leaf::find) else {
            return self.search_in_steps(start, len);
        };
        if start.0.wrapping_sub(entry.start().0) < entry.len().0 {
            return Found::some(entry);
        }
        if next.key() == BEHIND {
            return self.search_in_steps(start, len);
        }
        begins_within(next, start, len)
    }

    /// [`search`](Self::search) where buckets are of no use.
    #[inline(never)]
    fn search_in_steps(&self, start: MainSector, len: Sectors) -> Found {
        let pair = self.descend(start, Keys::find_in_steps, Leaf::find_in_steps);
        match pair {
            Some((entry, _)) if entry.start() >= start => begins_within(entry, start, len),
            Some((entry, _)) if entry.end() > start => Found::some(entry),
            Some((_, next)) if next.key() != BEHIND => begins_within(next, start, len),
            _ => self.search_on(start, len),
        }
    }

    /// [`search`](Self::search) where the next entry may be in another leaf, and for tables with more
    /// branches than keys are kept of.
    #[cold]
    #[inline(never)]
    fn search_on(&self, start: MainSector, len: Sectors) -> Found {
        let end = start.0.saturating_add(len.0);
        Entries::new(&self.branches, start.0, end).next_packed().map_or(Found::NONE, Found::some)
    }

    /// The last entry that starts at `start` or before it, or one near, and what is in the slot
    /// behind it: by the ways of finding a node in a node and an entry in a leaf.
    #[inline(always)]
    fn descend(
        &self,
        start: MainSector,
        find_node: impl Fn(&Keys, u64) -> Option<usize>,
        find_entry: impl Fn(&Leaf, u64) -> Option<(PackedEntry, PackedEntry)>,
    ) -> Option<(PackedEntry, PackedEntry)> {
        let key = key_of(start.0);
        let (first, others) = self.branches.split_first()?;
        let branch = if others.is_empty() {
            first
        } else {
            self.branches.get(find_node(&self.keys, key)?)?
        };
        find_entry(branch.leaves.get(find_node(&branch.keys, key)?)?, key)
    }
}

/// `entry`, if it begins within the `len` sectors from `start` on.
#[inline(always)]
fn begins_within(entry: PackedEntry, start: MainSector, len: Sectors) -> Found {
    // A difference rather than an end: one below `start` wraps, and is greater than any length.
    if entry.start().0.wrapping_sub(start.0) < len.0 {
        Found::some(entry)
    } else {
        Found::NONE
    }
}

/// The table. A clone is the same table, and costs a count.
pub struct Table(Arc<Root>);

impl Clone for Table {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Table {
    /// A table without entries and without blocks, with room for `capacity_blocks`.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn empty(capacity_blocks: u32) -> Result<Self, AllocError> {
        let root = Root {
            filter: Filter::empty(),
            keys: Keys::none(),
            branches: KVec::new(),
            free: Arc::new(KVVec::new(), GFP_KERNEL)?,
            totals: Totals::default(),
            digest: 0,
            blocks: 0,
            capacity: capacity_blocks,
        };
        Ok(Self(Arc::new(root, GFP_KERNEL)?))
    }

    /// The first entry, in the order of main, that has a sector in common with the `len` sectors
    /// from `start` on, which end at [`SECTOR_LIMIT`](super::entry::SECTOR_LIMIT) or before it.
    ///
    /// This is what every I/O waits for. Nothing near: the filter says so, at once. Else one search
    /// among the branches when there are several, one in a branch, one in a leaf.
    #[inline(always)]
    pub fn find(&self, start: MainSector, len: Sectors) -> Found {
        if self.rules_out(start, len) {
            return Found::NONE;
        }
        self.0.search(start, len)
    }

    /// What can be said in few steps of the sectors that [`find`](Self::find) is asked for: most of the time, all.
    #[inline(always)]
    pub fn guess(&self, start: MainSector, len: Sectors) -> Guess {
        let root = &*self.0;
        let (branch, leaf) = match root.filter.glance(start, len) {
            Glance::Nothing => return Guess::Nothing,
            Glance::Across => return Guess::Unknown,
            Glance::Leaf { branch, leaf } => (branch, leaf),
        };
        let leaf = root.branches.get(branch).and_then(|branch| branch.leaves.get(leaf));
        match leaf.and_then(|leaf| leaf.last_before(start)) {
            Some((entry, behind)) if Found::some(entry).reaches(behind, len) => {
                Guess::Within(Found::some(entry), behind)
            }
            _ => Guess::Unknown,
        }
    }

    /// [`find`](Self::find) for what [`guess`](Self::guess) has said nothing of.
    pub fn search(&self, start: MainSector, len: Sectors) -> Found {
        self.0.search(start, len)
    }

    /// Whether the filter alone says that no entry touches the `len` sectors from `start` on.
    /// `false`: one may.
    #[inline(always)]
    pub fn rules_out(&self, start: MainSector, len: Sectors) -> bool {
        self.0.filter.rules_out(start, len)
    }

    /// Says in which regions of main, of `2^shift` sectors each, there are entries: `words` get a bit for each of them, in their order, as
    /// many as fit. If they have those of the table `than`, only what differs is looked at.
    ///
    /// `shift` is below 64.
    pub fn project(&self, shift: u32, words: &mut [u64], than: Option<&Self>) {
        self.0.filter.project(shift, words, than.map(|than| &than.0.filter));
    }

    /// [`find`](Self::find), unpacked.
    pub fn lookup(&self, start: MainSector, len: Sectors) -> Option<Entry> {
        self.find(start, len).entry()
    }

    /// All entries in the order of main.
    pub fn iter(&self) -> Entries<'_> {
        self.iter_from(MainSector(0))
    }

    /// The entries that end behind `start`, in the order of main: the first may begin before it.
    pub fn iter_from(&self, start: MainSector) -> Entries<'_> {
        self.entries(start.0, u64::MAX)
    }

    /// The entries that have a sector in common with `extent`, whole, in the order of main.
    pub fn iter_in(&self, extent: Extent) -> Entries<'_> {
        self.entries(extent.start.0, extent.end().0)
    }

    fn entries(&self, start: u64, end: u64) -> Entries<'_> {
        Entries::new(&self.0.branches, start, end)
    }

    /// Every block in use: first those with entries in the order of main, then those without.
    pub fn blocks(&self) -> impl Iterator<Item = (BlockIndex, Stamp, &[PackedEntry])> {
        let root = &*self.0;
        root.branches
            .iter()
            .flat_map(|branch| branch.leaves.iter())
            .map(|leaf| (leaf.block, leaf.stamp, leaf.entries()))
            .chain(root.free.iter().map(|block| (block.index, block.stamp, [].as_slice())))
    }

    /// How many blocks are in use: those below this index. They never get fewer.
    pub fn block_count(&self) -> u32 {
        self.0.blocks
    }

    /// How many blocks there is room for.
    pub fn capacity_blocks(&self) -> u32 {
        self.0.capacity
    }

    /// How many more entries fit. A change in the middle of an entry needs room for two.
    pub fn entries_left(&self) -> u64 {
        guaranteed_entries(self.0.capacity).saturating_sub(self.0.totals.extents)
    }

    /// The digest over all blocks in use.
    pub fn digest(&self) -> u64 {
        self.0.digest
    }

    /// What it holds, counted.
    pub fn totals(&self) -> &Totals {
        &self.0.totals
    }

    /// Whether it has no entry.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.0.branches.is_empty()
    }

    /// Begins a change.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn edit(&self) -> Result<Edit, EditError> {
        Edit::new(self)
    }

    /// Bytes that the table takes in the kernel, as its slabs round them, with what it shares with
    /// other tables.
    pub fn memory(&self) -> usize {
        let root = &*self.0;
        root.branches.iter().map(|branch| branch.memory()).sum::<usize>()
            + root.filter.memory()
            + root.keys.memory()
            + node::slab::<Arc<Branch>>(root.branches.capacity())
            + node::slab::<FreeBlock>(root.free.capacity())
            + node::arc::<KVVec<FreeBlock>>()
            + node::arc::<Root>()
    }
}

/// Entries of a table in the order of main.
#[derive(Clone)]
pub struct Entries<'a> {
    branches: &'a [Arc<Branch>],
    branch: usize,
    leaf: usize,
    slot: usize,
    end: u64,
}

impl<'a> Entries<'a> {
    /// The entries that end behind `start` and begin before `end`.
    fn new(branches: &'a [Arc<Branch>], start: u64, end: u64) -> Self {
        let branch = branches
            .partition_point(|branch| branch.leaves[0].entries()[0].start().0 <= start)
            .saturating_sub(1);
        let (mut leaf, mut slot) = (0, 0);
        if let Some(branch) = branches.get(branch) {
            leaf = branch
                .leaves
                .partition_point(|leaf| leaf.entries()[0].start().0 <= start)
                .saturating_sub(1);
            slot = branch.leaves[leaf].entries().partition_point(|entry| entry.end().0 <= start);
        }
        Self { branches, branch, leaf, slot, end }
    }

    fn next_packed(&mut self) -> Option<PackedEntry> {
        loop {
            let branch = self.branches.get(self.branch)?;
            let Some(leaf) = branch.leaves.get(self.leaf) else {
                (self.branch, self.leaf, self.slot) = (self.branch + 1, 0, 0);
                continue;
            };
            let Some(entry) = leaf.entries().get(self.slot) else {
                (self.leaf, self.slot) = (self.leaf + 1, 0);
                continue;
            };
            self.slot += 1;
            return (entry.start().0 < self.end).then_some(*entry);
        }
    }
}

impl Iterator for Entries<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        self.next_packed().map(|packed| packed.entry())
    }
}
