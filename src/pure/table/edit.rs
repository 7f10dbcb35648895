// SPDX-License-Identifier: GPL-2.0

//! A change of the table: the nodes on the way to what changes are copied, the rest is shared.

use core::fmt;

use super::super::digest::{mix, Stamp};
use super::super::entry::{
    BlockIndex, Entry, EntryError, Mapping, PackedEntry, ENTRIES_PER_BLOCK, MAX_ENTRY_LEN,
    RETIRED_LIMIT, SECTOR_LIMIT, SPLIT_LEN,
};
use super::super::mem::{AllocError, Arc, KVVec, KVec, GFP_KERNEL};
use super::super::units::{Extent, MainSector, Sectors};
use super::node::{sort_by_key, Branch, Leaf, FANOUT};
use super::{guaranteed_entries, FreeBlock, Root, Table, Totals};

/// Free slots that a neighbour must have before a full leaf shares its entries with it.
const WORTH_SHARING: usize = ENTRIES_PER_BLOCK / 8;

/// A leaf with fewer entries than this that lost some looks for a neighbour to join.
const SPARSE: usize = ENTRIES_PER_BLOCK / 4;

/// The most entries of a leaf that two were joined to.
const JOINED: usize = ENTRIES_PER_BLOCK * 3 / 4;

/// The most leaves that are evened out at once when no block is free.
const WINDOW: usize = 8;

/// Free slots for each leaf that make evening out worth it.
const SLACK: usize = 4;

/// Why a change did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EditError {
    /// No room: the table would need more than [`guaranteed_entries`]. The edit is as it was before
    /// the call.
    Full,
    /// No memory. The edit is of no use any more; the table that it began with is untouched.
    NoMemory,
    /// The extent or its place cannot be written down. The edit is as it was before the call.
    Entry(EntryError),
}

impl From<AllocError> for EditError {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room in the remap table"),
            Self::NoMemory => f.write_str("no memory for the remap table"),
            Self::Entry(error) => error.fmt(f),
        }
    }
}

/// A leaf that is being changed.
///
/// # Invariants
///
/// `old` is what the block was in the table that the edit began with, if it was there; `origin` the
/// leaf that was in it, if this is a change of that leaf.
struct Draft {
    block: BlockIndex,
    old: Option<Stamp>,
    origin: Option<Arc<Leaf>>,
    entries: KVec<PackedEntry>,
}

impl Draft {
    fn insert(&mut self, at: usize, entry: PackedEntry) -> Result<(), AllocError> {
        let len = self.entries.len();
        self.entries.push(entry, GFP_KERNEL)?;
        self.entries.copy_within(at..len, at + 1);
        self.entries[at] = entry;
        Ok(())
    }

    fn remove(&mut self, from: usize, n: usize) {
        self.entries.copy_within(from + n.., from);
        self.entries.truncate(self.entries.len() - n);
    }
}

enum LeafSlot {
    Kept(Arc<Leaf>),
    Draft(Draft),
}

impl LeafSlot {
    fn entries(&self) -> &[PackedEntry] {
        match self {
            Self::Kept(leaf) => leaf.entries(),
            Self::Draft(draft) => &draft.entries,
        }
    }
}

enum BranchSlot {
    Kept(Arc<Branch>),
    Draft(KVec<LeafSlot>),
}

impl BranchSlot {
    fn len(&self) -> usize {
        match self {
            Self::Kept(branch) => branch.leaves.len(),
            Self::Draft(leaves) => leaves.len(),
        }
    }

    fn entries(&self, leaf: usize) -> &[PackedEntry] {
        match self {
            Self::Kept(branch) => branch.leaves[leaf].entries(),
            Self::Draft(leaves) => leaves[leaf].entries(),
        }
    }

    /// The leaf that covers `start`: the last that begins at or before it, or the first.
    fn covering(&self, start: MainSector) -> usize {
        let at_most = |entries: &[PackedEntry]| entries[0].start() <= start;
        let n = match self {
            Self::Kept(branch) => branch.leaves.partition_point(|leaf| at_most(leaf.entries())),
            Self::Draft(leaves) => leaves.partition_point(|leaf| at_most(leaf.entries())),
        };
        n.saturating_sub(1)
    }

    /// The leaves, to be changed.
    fn draft(&mut self) -> Result<&mut KVec<LeafSlot>, AllocError> {
        if let Self::Kept(branch) = self {
            let mut leaves = KVec::with_capacity(FANOUT + 1, GFP_KERNEL)?;
            for leaf in branch.leaves.iter() {
                leaves.push(LeafSlot::Kept(leaf.clone()), GFP_KERNEL)?;
            }
            *self = Self::Draft(leaves);
        }
        match self {
            Self::Draft(leaves) => Ok(leaves),
            Self::Kept(_) => unreachable!(),
        }
    }
}

/// Puts `item` at `at`.
fn insert_at<T>(list: &mut KVec<T>, at: usize, item: T) -> Result<(), AllocError> {
    list.push(item, GFP_KERNEL)?;
    list[at..].rotate_right(1);
    Ok(())
}

/// Takes the item at `at`.
fn remove_at<T>(list: &mut KVec<T>, at: usize) -> Option<T> {
    list[at..].rotate_left(1);
    list.pop()
}

/// Takes what is from `at` on.
fn split_off<T>(list: &mut KVec<T>, at: usize, capacity: usize) -> Result<KVec<T>, AllocError> {
    let mut tail = KVec::with_capacity(capacity, GFP_KERNEL)?;
    while list.len() > at {
        if let Some(item) = list.pop() {
            tail.push(item, GFP_KERNEL)?;
        }
    }
    tail.reverse();
    Ok(tail)
}

/// Which leaf.
#[derive(Clone, Copy, PartialEq, Eq)]
struct At {
    branch: usize,
    leaf: usize,
}

/// A block that the edit freed.
struct Freed {
    index: BlockIndex,
    old: Option<Stamp>,
}

/// A change that is being put together from any number of steps.
///
/// The steps see each other. Nothing reaches the table that it began with; dropping the edit gives
/// it up.
pub struct Edit {
    base: Table,
    branches: KVec<BranchSlot>,
    freed: KVec<Freed>,
    /// How many of the base's free blocks are in use now: the lowest are taken first.
    taken: usize,
    blocks: u32,
    totals: Totals,
    /// Where entries may have come or gone. What happens elsewhere only cuts or joins them.
    touched: KVVec<Extent>,
    broken: bool,
}

/// What an edit came to.
pub struct Changed {
    /// The new table; the old one itself when nothing changed.
    pub table: Table,
    /// The blocks that are no longer as they were, those that became empty too, sorted.
    pub blocks: KVec<BlockIndex>,
}

impl Edit {
    pub(super) fn new(base: &Table) -> Result<Self, EditError> {
        let root = &*base.0;
        let mut branches = KVec::with_capacity(root.branches.len() + 1, GFP_KERNEL)?;
        for branch in root.branches.iter() {
            branches.push(BranchSlot::Kept(branch.clone()), GFP_KERNEL)?;
        }
        Ok(Self {
            base: base.clone(),
            branches,
            freed: KVec::new(),
            taken: 0,
            blocks: root.blocks,
            totals: root.totals,
            touched: KVVec::new(),
            broken: false,
        })
    }

    /// What the table would hold now.
    pub fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Gives `extent` a new mapping, whatever parts of it had before. Joins it with neighbours that
    /// continue it, on main and on the spare.
    ///
    /// # Errors
    ///
    /// See [`EditError`].
    pub fn set(&mut self, extent: Extent, mapping: Mapping) -> Result<(), EditError> {
        self.change(extent, Some(Entry { extent, mapping }))
    }

    /// Takes `extent` out of the table: it is as main has it.
    ///
    /// # Errors
    ///
    /// See [`EditError`]; [`EditError::Full`] too, when it splits an entry.
    pub fn clear(&mut self, extent: Extent) -> Result<(), EditError> {
        self.change(extent, None)
    }

    fn change(&mut self, extent: Extent, new: Option<Entry>) -> Result<(), EditError> {
        if self.broken {
            return Err(EditError::NoMemory);
        }
        if let Some(new) = &new {
            check(new)?;
        }
        let plan = self.plan(extent, new)?;
        let Some(plan) = plan else { return Ok(()) };
        self.broken = true;
        self.touch(extent)?;
        let shrinks = plan.new.len() < plan.old;
        self.replace(plan.at, plan.slot, plan.old, &plan.new)?;
        if shrinks {
            self.join_sparse(extent.start)?;
            self.join_sparse(extent.end())?;
        }
        self.totals = plan.totals;
        self.broken = false;
        Ok(())
    }

    fn touch(&mut self, extent: Extent) -> Result<(), AllocError> {
        match self.touched.last_mut() {
            // What comes in order is one run.
            Some(last) if last.end() == extent.start => {
                last.len += extent.len;
                Ok(())
            }
            _ => Ok(self.touched.push(extent, GFP_KERNEL)?),
        }
    }

    /// What a step comes to: which run of entries gives way to which. `None`: to nothing.
    fn plan(&self, extent: Extent, new: Option<Entry>) -> Result<Option<Plan>, EditError> {
        let mut plan = Plan {
            at: At { branch: 0, leaf: 0 },
            slot: 0,
            old: 0,
            new: KVVec::new(),
            totals: self.totals,
        };
        // Neighbours that only touch the extent count too: they may continue it.
        let (mut before, mut behind) = (None, None);
        if !self.branches.is_empty() {
            plan.at = self.covering(MainSector(extent.start.0.saturating_sub(1)));
            plan.slot = self.entries(plan.at).partition_point(|e| e.end() < extent.start);
            let (mut at, mut slot) = (plan.at, plan.slot);
            loop {
                let Some(packed) = self.entries(at).get(slot) else {
                    match self.next(at) {
                        Some(next) => {
                            if plan.old == 0 {
                                (plan.at, plan.slot) = (next, 0);
                            }
                            (at, slot) = (next, 0);
                            continue;
                        }
                        None => break,
                    }
                };
                if packed.start() > extent.end() {
                    break;
                }
                let entry = packed.entry();
                let touches_only = !entry.extent.overlaps(&extent);
                if touches_only && entry.extent.start < extent.start {
                    if new.as_ref().is_some_and(|new| joins(&entry, new)) {
                        before = Some(entry);
                    } else {
                        slot += 1;
                        (plan.at, plan.slot) = (at, slot);
                        continue;
                    }
                } else if touches_only {
                    // Whether it is joined depends on what is in front by then.
                    let so_far = match (new, before) {
                        (Some(new), Some(before)) if joins(&before, &new) => {
                            Some(join(&before, &new))
                        }
                        (new, _) => new,
                    };
                    if !so_far.is_some_and(|front| joins(&front, &entry)) {
                        break;
                    }
                    behind = Some(entry);
                } else {
                    if entry.extent.start < extent.start {
                        let len = extent.start - entry.extent.start;
                        let part = Extent { start: entry.extent.start, len };
                        before = entry.clip(&part);
                    }
                    if entry.extent.end() > extent.end() {
                        let len = entry.extent.end() - extent.end();
                        behind = entry.clip(&Extent { start: extent.end(), len });
                    }
                }
                plan.old += 1;
                plan.totals.remove(&entry);
                slot += 1;
            }
        }
        if plan.old == 0 && new.is_none() {
            return Ok(None);
        }
        plan.add(self.limit(), before, new, behind)?;
        Ok(Some(plan))
    }

    fn limit(&self) -> u64 {
        guaranteed_entries(self.base.0.capacity)
    }

    fn entries(&self, at: At) -> &[PackedEntry] {
        self.branches[at.branch].entries(at.leaf)
    }

    fn room(&self, at: Option<At>) -> usize {
        at.map_or(0, |at| ENTRIES_PER_BLOCK - self.entries(at).len())
    }

    fn covering(&self, start: MainSector) -> At {
        let branch = self
            .branches
            .partition_point(|branch| branch.entries(0)[0].start() <= start)
            .saturating_sub(1);
        At { branch, leaf: self.branches[branch].covering(start) }
    }

    fn next(&self, at: At) -> Option<At> {
        if at.leaf + 1 < self.branches[at.branch].len() {
            Some(At { leaf: at.leaf + 1, ..at })
        } else if at.branch + 1 < self.branches.len() {
            Some(At { branch: at.branch + 1, leaf: 0 })
        } else {
            None
        }
    }

    fn prev(&self, at: At) -> Option<At> {
        if at.leaf > 0 {
            Some(At { leaf: at.leaf - 1, ..at })
        } else {
            let branch = at.branch.checked_sub(1)?;
            Some(At { branch, leaf: self.branches[branch].len() - 1 })
        }
    }

    fn draft(&mut self, at: At) -> Result<&mut Draft, AllocError> {
        let slot = &mut self.branches[at.branch].draft()?[at.leaf];
        if let LeafSlot::Kept(leaf) = slot {
            let mut entries = Leaf::room()?;
            entries.extend_from_slice(leaf.entries(), GFP_KERNEL)?;
            *slot = LeafSlot::Draft(Draft {
                block: leaf.block,
                old: Some(leaf.stamp),
                origin: Some(leaf.clone()),
                entries,
            });
        }
        match slot {
            LeafSlot::Draft(draft) => Ok(draft),
            LeafSlot::Kept(_) => unreachable!(),
        }
    }

    /// Puts `new` in the place of the `old` entries from `slot` of `at` on.
    fn replace(
        &mut self,
        at: At,
        slot: usize,
        old: usize,
        new: &[PackedEntry],
    ) -> Result<(), EditError> {
        let mut rest = old;
        let mut done = 0;
        if old > 0 {
            let len = self.entries(at).len();
            let here = old.min(len - slot);
            done = here.min(new.len());
            rest -= here;
            let behind = if done == 0 && here == len {
                self.remove_leaf(at)?
            } else {
                let draft = self.draft(at)?;
                draft.entries[slot..slot + done].copy_from_slice(&new[..done]);
                draft.remove(slot + done, here - done);
                self.next(at)
            };
            let mut behind = behind;
            while let (Some(at), true) = (behind, rest > 0) {
                let len = self.entries(at).len();
                if len <= rest {
                    behind = self.remove_leaf(at)?;
                    rest -= len;
                } else {
                    self.draft(at)?.remove(0, rest);
                    rest = 0;
                }
            }
        }
        debug_assert_eq!(rest, 0);
        for &entry in &new[done..] {
            self.insert(entry)?;
        }
        Ok(())
    }

    /// Takes the leaf out and frees its block. Returns which leaf is behind it then.
    fn remove_leaf(&mut self, at: At) -> Result<Option<At>, AllocError> {
        let leaves = self.branches[at.branch].draft()?;
        let freed = match remove_at(leaves, at.leaf) {
            Some(LeafSlot::Kept(leaf)) => Freed { index: leaf.block, old: Some(leaf.stamp) },
            Some(LeafSlot::Draft(draft)) => Freed { index: draft.block, old: draft.old },
            None => return Ok(None),
        };
        let left = leaves.len();
        self.freed.push(freed, GFP_KERNEL)?;
        Ok(if left == 0 {
            remove_at(&mut self.branches, at.branch);
            (at.branch < self.branches.len()).then_some(At { leaf: 0, ..at })
        } else if at.leaf < left {
            Some(at)
        } else {
            (at.branch + 1 < self.branches.len()).then_some(At { branch: at.branch + 1, leaf: 0 })
        })
    }

    fn block_left(&self) -> bool {
        !self.freed.is_empty()
            || self.taken < self.base.0.free.len()
            || self.blocks < self.base.0.capacity
    }

    /// An unused block, the lowest there is.
    fn take_block(&mut self) -> Result<(BlockIndex, Option<Stamp>), EditError> {
        let free = self.base.0.free.get(self.taken);
        let freed = self.freed.iter().enumerate().min_by_key(|(_, freed)| freed.index);
        match (free, freed) {
            (Some(free), freed) if freed.is_none_or(|(_, f)| f.index > free.index) => {
                self.taken += 1;
                Ok((free.index, Some(free.stamp)))
            }
            (_, Some((at, _))) => match remove_at(&mut self.freed, at) {
                Some(freed) => Ok((freed.index, freed.old)),
                None => Err(EditError::Full),
            },
            _ if self.blocks < self.base.0.capacity => {
                self.blocks += 1;
                Ok((BlockIndex(self.blocks - 1), None))
            }
            _ => Err(EditError::Full),
        }
    }

    /// Puts a leaf of `entries` in front of the one at `at`, which may be the one behind the last of
    /// its branch.
    fn add_leaf(&mut self, at: At, entries: KVec<PackedEntry>) -> Result<(), EditError> {
        let (block, old) = self.take_block()?;
        let leaf = LeafSlot::Draft(Draft { block, old, origin: None, entries });
        if self.branches.is_empty() {
            let mut leaves = KVec::with_capacity(FANOUT + 1, GFP_KERNEL)?;
            leaves.push(leaf, GFP_KERNEL)?;
            self.branches.push(BranchSlot::Draft(leaves), GFP_KERNEL)?;
            return Ok(());
        }
        let leaves = self.branches[at.branch].draft()?;
        insert_at(leaves, at.leaf, leaf)?;
        if leaves.len() > FANOUT {
            // Where leaves are added at the end, full branches stay behind.
            let keep = if at.leaf == FANOUT { FANOUT } else { FANOUT / 2 };
            let tail = split_off(leaves, keep, FANOUT + 1)?;
            insert_at(&mut self.branches, at.branch + 1, BranchSlot::Draft(tail))?;
        }
        Ok(())
    }

    fn insert(&mut self, new: PackedEntry) -> Result<(), EditError> {
        loop {
            if self.branches.is_empty() {
                let mut entries = Leaf::room()?;
                entries.push(new, GFP_KERNEL)?;
                return self.add_leaf(At { branch: 0, leaf: 0 }, entries);
            }
            let at = self.covering(new.start());
            let slot = self.entries(at).partition_point(|e| e.start() < new.start());
            if self.room(Some(at)) > 0 {
                return Ok(self.draft(at)?.insert(slot, new)?);
            }
            let (prev, next) = (self.prev(at), self.next(at));
            // In front of or behind all: what comes in order leaves full leaves behind.
            let behind = slot == ENTRIES_PER_BLOCK;
            if let (true, Some(next), true) = (behind, next, self.room(next) > 0) {
                return Ok(self.draft(next)?.insert(0, new)?);
            }
            if (behind || slot == 0) && self.block_left() {
                let mut entries = Leaf::room()?;
                entries.push(new, GFP_KERNEL)?;
                return self.add_leaf(At { leaf: at.leaf + usize::from(behind), ..at }, entries);
            }
            if let (Some(next), true) = (next, self.room(next) >= WORTH_SHARING) {
                self.even_out(at, next)?;
            } else if let (Some(prev), true) = (prev, self.room(prev) >= WORTH_SHARING) {
                self.even_out(prev, at)?;
            } else if self.block_left() {
                let mut upper = Leaf::room()?;
                let draft = self.draft(at)?;
                let half = ENTRIES_PER_BLOCK / 2;
                upper.extend_from_slice(&draft.entries[half..], GFP_KERNEL)?;
                draft.entries.truncate(half);
                self.add_leaf(At { leaf: at.leaf + 1, ..at }, upper)?;
            } else if let Some((from, to)) = self.window(at) {
                self.even_out(from, to)?;
            } else {
                return self.squeeze_in(at, slot, new);
            }
        }
    }

    /// The least run of leaves around `at` that has room enough to be worth evening out.
    fn window(&self, at: At) -> Option<(At, At)> {
        let (mut from, mut to) = (at, at);
        let (mut leaves, mut room) = (1, 0);
        while leaves < WINDOW {
            let (prev, next) = (self.prev(from), self.next(to));
            if next.is_some() && (leaves % 2 == 1 || prev.is_none()) {
                room += self.room(next);
                to = next?;
            } else {
                room += self.room(prev);
                from = prev?;
            }
            leaves += 1;
            if room >= leaves * SLACK {
                return Some((from, to));
            }
        }
        None
    }

    /// Spreads the entries of the leaves `from` to `to` over them evenly.
    fn even_out(&mut self, from: At, to: At) -> Result<(), AllocError> {
        let mut all = KVVec::new();
        let mut leaves = 0;
        let mut at = Some(from);
        while let Some(this) = at {
            all.extend_from_slice(self.entries(this), GFP_KERNEL)?;
            leaves += 1;
            at = if this == to { None } else { self.next(this) };
        }
        let mut rest = all.as_slice();
        let mut at = Some(from);
        while let Some(this) = at {
            let (part, others) = rest.split_at(rest.len() / leaves);
            let draft = self.draft(this)?;
            draft.entries.clear();
            draft.entries.extend_from_slice(part, GFP_KERNEL)?;
            rest = others;
            leaves -= 1;
            at = if this == to { None } else { self.next(this) };
        }
        Ok(())
    }

    /// Puts `new` at `slot` of the full leaf `at`, with one entry of each leaf on the way to the
    /// nearest one with room moved over.
    fn squeeze_in(&mut self, at: At, slot: usize, new: PackedEntry) -> Result<(), EditError> {
        let (mut left, mut right) = (self.prev(at), self.next(at));
        let rightwards = loop {
            if self.room(right) > 0 {
                break true;
            }
            if self.room(left) > 0 {
                break false;
            }
            if left.is_none() && right.is_none() {
                return Err(EditError::Full);
            }
            left = left.and_then(|at| self.prev(at));
            right = right.and_then(|at| self.next(at));
        };
        let mut carry = new;
        let mut slot = slot;
        let mut at = at;
        loop {
            let draft = self.draft(at)?;
            let len = draft.entries.len();
            if len < ENTRIES_PER_BLOCK {
                return Ok(draft.insert(slot, carry)?);
            }
            if rightwards {
                if slot < len {
                    let last = draft.entries[len - 1];
                    draft.remove(len - 1, 1);
                    draft.insert(slot, carry)?;
                    carry = last;
                }
                let Some(next) = self.next(at) else { return Err(EditError::Full) };
                (at, slot) = (next, 0);
            } else {
                if slot > 0 {
                    let first = draft.entries[0];
                    draft.remove(0, 1);
                    draft.insert(slot - 1, carry)?;
                    carry = first;
                }
                let Some(prev) = self.prev(at) else { return Err(EditError::Full) };
                (at, slot) = (prev, self.entries(prev).len());
            }
        }
    }

    /// Joins the leaf that covers `start` with a neighbour if both have few entries.
    fn join_sparse(&mut self, start: MainSector) -> Result<(), AllocError> {
        if self.branches.is_empty() {
            return Ok(());
        }
        let at = self.covering(start);
        let len = self.entries(at).len();
        if len >= SPARSE {
            return Ok(());
        }
        let fits = |other: &At| len + self.entries(*other).len() <= JOINED;
        let (left, right) = if let Some(next) = self.next(at).filter(fits) {
            (at, next)
        } else if let Some(prev) = self.prev(at).filter(fits) {
            (prev, at)
        } else {
            return Ok(());
        };
        let mut moved = KVec::with_capacity(JOINED, GFP_KERNEL)?;
        moved.extend_from_slice(self.entries(right), GFP_KERNEL)?;
        self.draft(left)?.entries.extend_from_slice(&moved, GFP_KERNEL)?;
        self.remove_leaf(right)?;
        Ok(())
    }

    /// Joins branches with few leaves.
    fn join_branches(&mut self) -> Result<(), AllocError> {
        let mut at = 1;
        while at < self.branches.len() {
            let (a, b) = (self.branches[at - 1].len(), self.branches[at].len());
            if a.min(b) < FANOUT / 4 && a + b <= FANOUT * 3 / 4 {
                let Some(mut right) = remove_at(&mut self.branches, at) else { break };
                let right = core::mem::take(right.draft()?);
                let left = self.branches[at - 1].draft()?;
                for leaf in right {
                    left.push(leaf, GFP_KERNEL)?;
                }
            } else {
                at += 1;
            }
        }
        Ok(())
    }

    /// Makes the new table. `encode` is called once for every block that changed, in no order, with
    /// the entries that it holds now, none for one that became empty; it returns the CRC-32 of the
    /// block as it will be written with `version`.
    ///
    /// # Errors
    ///
    /// No memory, also where `encode` says so.
    pub fn finish(
        mut self,
        version: u64,
        mut encode: impl FnMut(BlockIndex, &[PackedEntry]) -> Result<u32, AllocError>,
    ) -> Result<Changed, EditError> {
        if self.broken {
            return Err(EditError::NoMemory);
        }
        self.join_branches()?;
        let base = self.base.0.clone();
        let mut digest = base.digest;
        let mut changed = KVec::new();
        let mut rewrite = |index, old: Option<Stamp>, entries: &[PackedEntry]| {
            let stamp = Stamp { version, crc: encode(index, entries)? };
            changed.push(index, GFP_KERNEL)?;
            digest = digest
                .wrapping_sub(old.map_or(0, |old| mix(index, old)))
                .wrapping_add(mix(index, stamp));
            Ok::<Stamp, AllocError>(stamp)
        };

        let mut branches = KVec::with_capacity(self.branches.len(), GFP_KERNEL)?;
        for branch in self.branches {
            let branch = match branch {
                BranchSlot::Kept(branch) => branch,
                BranchSlot::Draft(slots) => {
                    let mut leaves = KVec::with_capacity(slots.len(), GFP_KERNEL)?;
                    for slot in slots {
                        let leaf = match slot {
                            LeafSlot::Kept(leaf) => leaf,
                            LeafSlot::Draft(Draft { block, old, origin, entries }) => {
                                match origin.filter(|leaf| leaf.entries() == entries.as_slice()) {
                                    Some(leaf) => leaf,
                                    None => {
                                        let stamp = rewrite(block, old, &entries)?;
                                        Arc::new(Leaf::new(entries, block, stamp)?, GFP_KERNEL)?
                                    }
                                }
                            }
                        };
                        leaves.push(leaf, GFP_KERNEL)?;
                    }
                    Arc::new(Branch::new(leaves)?, GFP_KERNEL)?
                }
            };
            branches.push(branch, GFP_KERNEL)?;
        }

        let (taken, left) = base.free.split_at(self.taken);
        let free = if self.freed.is_empty() && taken.is_empty() {
            base.free.clone()
        } else {
            let mut free = KVVec::with_capacity(left.len() + self.freed.len(), GFP_KERNEL)?;
            free.extend_from_slice(left, GFP_KERNEL)?;
            for Freed { index, old } in self.freed {
                // One that was taken and given back is what it was.
                let was_free = taken.binary_search_by_key(&index, |block| block.index);
                let stamp = match was_free {
                    Ok(at) => taken[at].stamp,
                    Err(_) => rewrite(index, old, &[])?,
                };
                free.push(FreeBlock { index, stamp }, GFP_KERNEL)?;
            }
            sort_by_key(&mut free, |block: &FreeBlock| block.index.0.into());
            Arc::new(free, GFP_KERNEL)?
        };

        if changed.is_empty() {
            return Ok(Changed { table: self.base, blocks: changed });
        }
        sort_by_key(&mut changed, |index| index.0.into());
        let root = Root {
            filter: base.filter.edited(
                &base.branches,
                &branches,
                self.totals.extents,
                &self.touched,
            )?,
            keys: Branch::keys_of(&branches)?,
            branches,
            free,
            totals: self.totals,
            digest,
            blocks: self.blocks,
            capacity: base.capacity,
        };
        Ok(Changed { table: Table(Arc::new(root, GFP_KERNEL)?), blocks: changed })
    }
}

/// A run of `old` entries from `slot` of the leaf `at` on gives way to `new`.
struct Plan {
    at: At,
    slot: usize,
    old: usize,
    new: KVVec<PackedEntry>,
    totals: Totals,
}

impl Plan {
    /// Puts down what comes into the place of the old entries.
    fn add(
        &mut self,
        limit: u64,
        mut before: Option<Entry>,
        mut new: Option<Entry>,
        mut behind: Option<Entry>,
    ) -> Result<(), EditError> {
        if let (Some(a), Some(b)) = (before, new) {
            if joins(&a, &b) {
                (before, new) = (None, Some(join(&a, &b)));
            }
        }
        if let (Some(a), Some(b)) = (new, behind) {
            if joins(&a, &b) {
                (new, behind) = (Some(join(&a, &b)), None);
            }
        }
        let pieces = new.map_or(0, |new| new.extent.len.0.div_ceil(SPLIT_LEN.0));
        let others = u64::from(before.is_some()) + u64::from(behind.is_some());
        if self.totals.extents + pieces + others > limit {
            return Err(EditError::Full);
        }
        self.new.reserve((pieces + others) as usize, GFP_KERNEL)?;
        for whole in [before, new, behind].into_iter().flatten() {
            let mut start = whole.extent.start;
            while start < whole.extent.end() {
                // What was there before is not cut anew: it may be longer than a cut would be.
                let left = whole.extent.end() - start;
                let len = if left <= MAX_ENTRY_LEN && new != Some(whole) {
                    left
                } else {
                    left.min(SPLIT_LEN)
                };
                let extent = Extent { start, len };
                let mapping = whole.mapping.advance(start - whole.extent.start);
                let piece = Entry { extent, mapping };
                self.new.push(PackedEntry::pack(&piece).map_err(EditError::Entry)?, GFP_KERNEL)?;
                self.totals.add(&piece);
                start = start + len;
            }
        }
        Ok(())
    }
}

/// Whether both make one entry, no longer than entries are made.
fn joins(a: &Entry, b: &Entry) -> bool {
    a.continues_in(b) && a.extent.len.0 + b.extent.len.0 <= SPLIT_LEN.0
}

fn join(a: &Entry, b: &Entry) -> Entry {
    let len = Sectors(a.extent.len.0 + b.extent.len.0);
    Entry { extent: Extent { start: a.extent.start, len }, mapping: a.mapping }
}

/// Whether all of an entry of any length can be written down.
fn check(entry: &Entry) -> Result<(), EditError> {
    let len = entry.extent.len.0;
    if let Mapping::Retired { at, .. } = entry.mapping {
        if at.0.checked_add(len).is_none_or(|end| end > RETIRED_LIMIT) {
            return Err(EditError::Entry(EntryError::RetiredPlace));
        }
    } else if len > SECTOR_LIMIT || entry.extent.start.0 > SECTOR_LIMIT - len {
        return Err(EditError::Entry(EntryError::MainRange));
    }
    if let Some((_, to)) = entry.mapping.place() {
        if to.0 > SECTOR_LIMIT - len {
            return Err(EditError::Entry(EntryError::SpareRange));
        }
    }
    let one = Extent { start: entry.extent.start, len: Sectors(1) };
    let one = Entry { extent: one, mapping: entry.mapping };
    PackedEntry::pack(&one).map(|_| ()).map_err(EditError::Entry)
}
