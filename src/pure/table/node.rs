// SPDX-License-Identifier: GPL-2.0

//! The nodes of the table, immutable once made, and the search within one.
//!
//! Searches have a fixed number of steps for a node's size, without a branch that depends on the
//! keys: three or four instructions a step. An index is put together with `|`, not `+`, from which
//! the compiler sees that it stays within bounds.

use zerocopy::little_endian::U64;

use super::super::digest::Stamp;
use super::super::entry::{BlockIndex, PackedEntry, ENTRIES_PER_BLOCK};
use super::super::mem::{AllocError, Arc, KVec, GFP_KERNEL};

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

/// The most leaves of a branch with a short list of keys.
const SHORT: usize = 8;

/// Sorts behind every key: what fills the rest of a list of keys.
const BEHIND: u64 = u64::MAX;

/// What is looked for when the last entry that starts at or before `sector` is wanted: above the
/// keys of entries that start before it, and all but one of those that start there. That one, of a
/// length with sixteen low ones, is then found behind the place. So [`BEHIND`] is greater for the
/// very last sector too.
#[inline(always)]
pub(super) const fn key_of(sector: u64) -> u64 {
    sector << 16 | 0xfffe
}

/// One step of a search: whether the wanted key is at `$try` or behind it.
macro_rules! step {
    ($keys:expr, $at:ident, $try:expr, $key:ident) => {
        let there = $try;
        $at = if $keys[there] <= $key { there } else { $at };
    };
}

/// The last of `keys` that is not above `key`; 0 if all are. `keys` is sorted, its first counts as
/// not above anything, and it is as long as [`padded`] says. `None`: there are too many of them.
#[inline(always)]
pub(super) fn last_not_above(keys: &[u64], key: u64) -> Option<usize> {
    let mut at = 0;
    if let Ok(keys) = <&[u64; FANOUT]>::try_from(keys) {
        step!(keys, at, at | 64, key);
        step!(keys, at, at | 32, key);
        step!(keys, at, at | 16, key);
        step!(keys, at, at | 8, key);
        step!(keys, at, at | 4, key);
        step!(keys, at, at | 2, key);
        step!(keys, at, at | 1, key);
    } else {
        let keys = <&[u64; SHORT]>::try_from(keys).ok()?;
        step!(keys, at, at | 4, key);
        step!(keys, at, at | 2, key);
        step!(keys, at, at | 1, key);
    }
    Some(at)
}

/// A list of keys to search in: as long as one of the kinds that [`last_not_above`] knows, or empty
/// when there are too many.
pub(super) fn padded(keys: impl ExactSizeIterator<Item = u64>) -> Result<KVec<u64>, AllocError> {
    let room = match keys.len() {
        n if n <= SHORT => SHORT,
        n if n <= FANOUT => FANOUT,
        _ => return Ok(KVec::new()),
    };
    let mut list = KVec::with_capacity(room, GFP_KERNEL)?;
    for key in keys {
        list.push(key, GFP_KERNEL)?;
    }
    list.resize(room, BEHIND, GFP_KERNEL)?;
    Ok(list)
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
        entries.resize(ENTRIES_PER_BLOCK, PackedEntry::BEHIND, GFP_KERNEL)?;
        for group in (0..8).step_by(2) {
            let first = if group == 0 { BEHIND } else { entries[GROUP * group].key() };
            let second = entries[GROUP * (group + 1)].key();
            entries.push(PackedEntry::numbers(first, second), GFP_KERNEL)?;
        }
        Ok(Self { slots: entries, len, block, stamp })
    }

    pub(super) fn entries(&self) -> &[PackedEntry] {
        &self.slots[..self.len as usize]
    }

    /// The last entry not above `key`, or the first if all are, and what is in the slot behind it.
    #[inline(always)]
    pub(super) fn pair(&self, key: u64) -> Option<(PackedEntry, PackedEntry)> {
        let slots: &[PackedEntry; SLOTS] = self.slots.first_chunk()?;
        let words: &[U64; WORDS] = zerocopy::transmute_ref!(slots);
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
        let next = (at + 2) % WORDS;
        Some((
            PackedEntry::numbers(words[at].get(), words[at | 1].get()),
            PackedEntry::numbers(words[next].get(), words[next | 1].get()),
        ))
    }

    /// What it takes of memory.
    pub(super) fn memory(&self) -> usize {
        slab::<PackedEntry>(self.slots.capacity()) + arc::<Self>()
    }
}

/// Some neighbouring leaves.
///
/// # Invariants
///
/// There are 1 to [`FANOUT`] leaves, in the order of their keys; `keys` are those of their first
/// entries, padded.
pub(super) struct Branch {
    pub(super) keys: KVec<u64>,
    pub(super) leaves: KVec<Arc<Leaf>>,
}

impl Branch {
    pub(super) fn new(leaves: KVec<Arc<Leaf>>) -> Result<Self, AllocError> {
        let keys = padded(leaves.iter().map(|leaf| leaf.entries()[0].key()))?;
        Ok(Self { keys, leaves })
    }

    /// What it takes of memory, its leaves too.
    pub(super) fn memory(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.memory()).sum::<usize>()
            + slab::<u64>(self.keys.capacity())
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
