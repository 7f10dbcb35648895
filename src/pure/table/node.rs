// SPDX-License-Identifier: GPL-2.0

//! The nodes of the table, immutable once made, and the search within one.
//!
//! A node knows for even parts of the sectors that it spans, its buckets, where their entries end
//! in its list, and a search starts from there. Where entries are too uneven for that, and at the
//! fringes, it is done in steps instead: a fixed number for a node's size, without a branch that
//! depends on the keys, three or four instructions a step. An index is put together with `|`, not
//! `+`, from which the compiler sees that it stays within bounds.

use zerocopy::little_endian::U64;

use super::super::digest::Stamp;
use super::super::entry::{BlockIndex, PackedEntry, ENTRIES_PER_BLOCK};
use super::super::mem::{AllocError, Arc, KVec, GFP_KERNEL};
use super::super::units::{MainSector, Sectors};

/// Slots of a leaf in memory: the entries of a block, then the directory. 4096 bytes.
const SLOTS: usize = 256;

/// Words of a leaf, two to a slot.
const WORDS: usize = 2 * SLOTS;

/// The first word of the directory, in a cache line of its own.
const DIRECTORY: usize = 2 * ENTRIES_PER_BLOCK;

/// Entries that one word of the directory stands for.
const GROUP: usize = 32;

const _: () = assert!(WORDS - DIRECTORY == 8 && GROUP * 8 == SLOTS);

/// The most leaves of a branch.
pub(super) const FANOUT: usize = 128;

/// Buckets of a node: the rest of the slab object (512 bytes) that it is in.
const BUCKETS: usize = 440;

/// The most entries of a bucket.
const CROWD: u32 = 8;

/// Sorts behind every key: what fills the rest of a list of keys.
pub(super) const BEHIND: u64 = u64::MAX;

/// What is looked for when the last entry that starts at or before `sector` is wanted: above the
/// keys of entries that start before it, and all but one of those that start there. That one, of a
/// length with sixteen low ones, is then found behind the place. So [`BEHIND`] is greater for the
/// very last sector too.
#[inline(always)]
pub(super) const fn key_of(sector: u64) -> u64 {
    (sector << 16) | 0xfffe
}

/// Where in a sorted list of up to 256 keys to look for one.
///
/// # Invariants
///
/// The first key is not above that of any sector that is `first` or behind it. `shift` is at most
/// 40, so a sector before `first` is far more buckets behind it than there are.
struct Index {
    first: u64,
    shift: u32,
    /// For each bucket the last place of a key in it or in one before it.
    places: [u8; BUCKETS],
}

impl Index {
    /// Has no bucket for any sector.
    const NONE: Self = Self { first: 1 << 63, shift: 0, places: [0; BUCKETS] };

    /// The index of `keys`, with buckets up to the sector `last`. [`NONE`](Self::NONE) if one is
    /// crowded.
    fn new(keys: impl Iterator<Item = u64> + Clone, last: u64) -> Self {
        let Some(first) = keys.clone().next() else { return Self::NONE };
        // Of a first key above that of its own sector, see `key_of`, the next sector is the first.
        let first = first.saturating_add(1) >> 16;
        let mut shift = 0;
        while last.saturating_sub(first) >> shift >= BUCKETS as u64 {
            shift += 1;
        }
        let mut index = Self { first, shift, places: [0; BUCKETS] };
        let mut keys = keys
            .map(|key| ((key >> 16).saturating_sub(first) >> shift) as usize)
            .enumerate()
            .peekable();
        let mut place = 0;
        for (bucket, last) in index.places.iter_mut().enumerate() {
            let mut crowd = 0;
            while let Some((at, _)) = keys.next_if(|(_, there)| *there == bucket) {
                place = at as u8;
                crowd += 1;
            }
            if crowd > CROWD {
                return Self::NONE;
            }
            *last = place;
        }
        index
    }

    /// Where to begin looking downwards for the last key not above [`key_of`] the `sector`; the first
    /// key is not above it then.
    #[inline(always)]
    fn place(&self, sector: u64) -> Option<u8> {
        let sectors = sector.wrapping_sub(self.first);
        self.places.get(sectors.wrapping_shr(self.shift) as usize).copied()
    }
}

/// The keys of the first entries of some nodes, to find one by.
///
/// # Invariants
///
/// `list` has [`FANOUT`] keys: those in order, then [`BEHIND`]. Or none, when there are too many
/// nodes.
pub(super) struct Keys {
    index: Index,
    list: KVec<u64>,
}

impl Keys {
    /// For a table without entries.
    pub(super) const fn none() -> Self {
        Self { index: Index::NONE, list: KVec::new() }
    }

    /// The `keys`; `last` is the last sector that an entry under the nodes has.
    pub(super) fn new(
        keys: impl ExactSizeIterator<Item = u64> + Clone,
        last: u64,
    ) -> Result<Self, AllocError> {
        if keys.len() > FANOUT {
            return Ok(Self::none());
        }
        let index = Index::new(keys.clone(), last);
        let mut list = KVec::with_capacity(FANOUT, GFP_KERNEL)?;
        for key in keys {
            list.push(key, GFP_KERNEL)?;
        }
        list.resize(FANOUT, BEHIND, GFP_KERNEL)?;
        Ok(Self { index, list })
    }

    /// The last not above `key`. `None`: to be found in steps.
    #[inline(always)]
    pub(super) fn find(&self, key: u64) -> Option<usize> {
        let list: &[u64; FANOUT] = self.list.first_chunk()?;
        let mut at = usize::from(self.index.place(key >> 16)?) % FANOUT;
        while list[at] > key {
            at = at.wrapping_sub(1) % FANOUT;
        }
        Some(at)
    }

    /// The last not above `key`, or the first if all are. `None`: there are too many.
    #[inline(always)]
    pub(super) fn find_in_steps(&self, key: u64) -> Option<usize> {
        let list: &[u64; FANOUT] = self.list.first_chunk()?;
        let mut at = 0;
        macro_rules! step {
            ($n:literal) => {
                let there = at | $n;
                at = if list[there] <= key { there } else { at };
            };
        }
        step!(64);
        step!(32);
        step!(16);
        step!(8);
        step!(4);
        step!(2);
        step!(1);
        Some(at)
    }

    /// The last not above `key`, or the first if all are, when that is `at` or behind it. For a branch,
    /// which has them all.
    pub(super) fn onwards(&self, at: Option<usize>, key: u64) -> usize {
        let mut at = at.or_else(|| self.find_in_steps(key)).unwrap_or(0);
        while self.list.get(at + 1).is_some_and(|next| *next <= key) {
            at += 1;
        }
        at
    }

    /// The first.
    pub(super) fn first(&self) -> u64 {
        self.list.first().copied().unwrap_or(BEHIND)
    }

    /// What it takes of memory, besides itself.
    pub(super) fn memory(&self) -> usize {
        slab::<u64>(self.list.capacity())
    }
}

/// A block of the table.
///
/// # Invariants
///
/// `slots` has [`SLOTS`] elements: `len` entries, at least one, sorted and apart; then
/// [`PackedEntry::BEHIND`]; from [`ENTRIES_PER_BLOCK`] on, the directory: eight words, the nth the
/// key of the 32nth entry, the first [`BEHIND`], so that a search never runs into it.
pub(super) struct Leaf {
    slots: KVec<PackedEntry>,
    index: Index,
    len: u32,
    pub(super) block: BlockIndex,
    pub(super) stamp: Stamp,
}

impl Leaf {
    /// An empty list that [`new`](Self::new) takes without another allocation.
    pub(super) fn room() -> Result<KVec<PackedEntry>, AllocError> {
        KVec::with_capacity(SLOTS, GFP_KERNEL)
    }

    /// The leaf of `entries`, which are valid, sorted and apart, and at most
    /// [`ENTRIES_PER_BLOCK`].
    pub(super) fn new(
        mut entries: KVec<PackedEntry>,
        block: BlockIndex,
        stamp: Stamp,
    ) -> Result<Self, AllocError> {
        let len = entries.len() as u32;
        let last = entries.last().map_or(0, |entry| entry.end().0 - 1);
        let index = Index::new(entries.iter().map(PackedEntry::key), last);
        entries.resize(ENTRIES_PER_BLOCK, PackedEntry::BEHIND, GFP_KERNEL)?;
        for group in (0..8).step_by(2) {
            let first = if group == 0 { BEHIND } else { entries[GROUP * group].key() };
            let second = entries[GROUP * (group + 1)].key();
            entries.push(PackedEntry::numbers(first, second), GFP_KERNEL)?;
        }
        Ok(Self { slots: entries, index, len, block, stamp })
    }

    pub(super) fn entries(&self) -> &[PackedEntry] {
        &self.slots[..self.len as usize]
    }

    /// The last sector of the last entry.
    pub(super) fn last_sector(&self) -> u64 {
        self.entries().last().map_or(0, |entry| entry.end().0 - 1)
    }

    #[inline(always)]
    fn words(&self) -> Option<&[U64; WORDS]> {
        let slots: &[PackedEntry; SLOTS] = self.slots.first_chunk()?;
        Some(zerocopy::transmute_ref!(slots))
    }

    /// The last entry that starts at `sector` or before it, and how far before; unless another starts
    /// behind it in the same bucket. `None`: to be found otherwise.
    #[inline(always)]
    pub(super) fn last_before(&self, sector: MainSector) -> Option<(PackedEntry, Sectors)> {
        let entry = *self.slots.get(usize::from(self.index.place(sector.0)?))?;
        Some((entry, Sectors(sector.0.checked_sub(entry.start().0)?)))
    }

    /// The last entry not above `key` and what is in the slot behind it. `None`: to be found in
    /// steps.
    #[inline(always)]
    pub(super) fn find(&self, key: u64) -> Option<(PackedEntry, PackedEntry)> {
        let words = self.words()?;
        let mut at = 2 * usize::from(self.index.place(key >> 16)?);
        while words[at].get() > key {
            at = at.wrapping_sub(2) % WORDS;
        }
        Some(pair(words, at))
    }

    /// The last entry not above `key`, or the first if all are, and what is in the slot behind it.
    #[inline(always)]
    pub(super) fn find_in_steps(&self, key: u64) -> Option<(PackedEntry, PackedEntry)> {
        let words = self.words()?;
        let mut group = 0;
        macro_rules! group_step {
            ($n:literal) => {
                let there = group | $n;
                group = if words[DIRECTORY + there].get() <= key { there } else { group };
            };
        }
        group_step!(4);
        group_step!(2);
        group_step!(1);
        let mut at = group * (2 * GROUP);
        macro_rules! entry_step {
            ($n:literal) => {
                let there = at | (2 * $n);
                at = if words[there].get() <= key { there } else { at };
            };
        }
        entry_step!(16);
        entry_step!(8);
        entry_step!(4);
        entry_step!(2);
        entry_step!(1);
        Some(pair(words, at))
    }

    /// What it takes of memory.
    pub(super) fn memory(&self) -> usize {
        slab::<PackedEntry>(self.slots.capacity()) + arc::<Self>()
    }
}

/// The slot at the word `at`, an even one, and the slot behind it.
#[inline(always)]
fn pair(words: &[U64; WORDS], at: usize) -> (PackedEntry, PackedEntry) {
    let next = (at + 2) % WORDS;
    (
        PackedEntry::numbers(words[at].get(), words[at | 1].get()),
        PackedEntry::numbers(words[next].get(), words[next | 1].get()),
    )
}

/// Some neighbouring leaves.
///
/// # Invariants
///
/// There are 1 to [`FANOUT`] leaves, in the order of their keys; `keys` are those of their first
/// entries.
pub(super) struct Branch {
    pub(super) keys: Keys,
    pub(super) leaves: KVec<Arc<Leaf>>,
}

impl Branch {
    pub(super) fn new(leaves: KVec<Arc<Leaf>>) -> Result<Self, AllocError> {
        let last = leaves.last().map_or(0, |leaf| leaf.last_sector());
        let keys = Keys::new(leaves.iter().map(|leaf| leaf.entries()[0].key()), last)?;
        Ok(Self { keys, leaves })
    }

    /// The first sector of its first entry.
    pub(super) fn start(&self) -> u64 {
        self.keys.first() >> 16
    }

    /// The keys of `branches`.
    pub(super) fn keys_of(branches: &[Arc<Self>]) -> Result<Keys, AllocError> {
        let last = branches.last().and_then(|branch| branch.leaves.last());
        let last = last.map_or(0, |leaf| leaf.last_sector());
        Keys::new(branches.iter().map(|branch| branch.keys.first()), last)
    }

    /// What it takes of memory, its leaves too.
    pub(super) fn memory(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.memory()).sum::<usize>()
            + self.keys.memory()
            + slab::<Arc<Leaf>>(self.leaves.capacity())
            + arc::<Self>()
    }
}

/// Sorts by `key`, in place: a heap sort. `core`'s own sorts may panic, in functions that the kernel's
/// objtool does not know to end there.
pub(super) fn sort_by_key<T>(list: &mut [T], key: impl Fn(&T) -> u64) {
    let sift = |list: &mut [T], from: usize| {
        let mut at = from;
        loop {
            let mut greatest = at;
            for child in [2 * at + 1, 2 * at + 2] {
                if child < list.len() && key(&list[child]) > key(&list[greatest]) {
                    greatest = child;
                }
            }
            if greatest == at {
                return;
            }
            list.swap(at, greatest);
            at = greatest;
        }
    };
    for from in (0..list.len() / 2).rev() {
        sift(list, from);
    }
    for len in (1..list.len()).rev() {
        list.swap(0, len);
        sift(&mut list[..len], 0);
    }
}

/// Bytes of the slab object (`kmalloc`) that holds `n` of `T`.
pub(super) fn slab<T>(n: usize) -> usize {
    match n * core::mem::size_of::<T>() {
        0 => 0,
        65..=96 => 96,
        129..=192 => 192,
        bytes => bytes.next_power_of_two().max(8),
    }
}

/// Bytes of the slab object that holds a counted `T`.
pub(super) fn arc<T>() -> usize {
    slab::<u8>(core::mem::size_of::<T>() + 8)
}
