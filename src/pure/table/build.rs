// SPDX-License-Identifier: GPL-2.0

//! A table from blocks that were read, which may hold anything.

use core::fmt;

use super::super::digest::{mix, Stamp};
use super::super::entry::{BlockIndex, EntryError, PackedEntry, ENTRIES_PER_BLOCK};
use super::super::mem::{AllocError, Arc, KVVec, KVec, GFP_KERNEL};
use super::super::units::MainSector;
use super::filter::Filter;
use super::node::{sort_by_key, Branch, Leaf, FANOUT};
use super::{FreeBlock, Root, Table, Totals};

/// Why blocks are no table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BuildError {
    /// No memory.
    NoMemory,
    /// More blocks are said to be in use than there is room for.
    Capacity {
        /// Blocks in use.
        blocks: u32,
        /// Blocks that there is room for.
        capacity: u32,
    },
    /// The index is not one of the blocks in use.
    Index(BlockIndex),
    /// The block came twice.
    Twice(BlockIndex),
    /// The block never came.
    Missing(BlockIndex),
    /// More entries than a block holds.
    Long(BlockIndex),
    /// A slot of the block holds no valid entry.
    Entry {
        /// The block.
        block: BlockIndex,
        /// Which entry of it.
        slot: usize,
        /// What is wrong with it.
        error: EntryError,
    },
    /// An entry begins before the one in front of it ends.
    Order {
        /// The block.
        block: BlockIndex,
        /// Which entry of it.
        slot: usize,
    },
    /// Two blocks have entries for the same sectors, or the entries of one lie between those of the
    /// other.
    Overlap {
        /// The block that begins first.
        block: BlockIndex,
        /// The other.
        other: BlockIndex,
        /// Where the other begins, on main.
        at: MainSector,
    },
}

impl From<AllocError> for BuildError {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for the remap table"),
            Self::Capacity { blocks, capacity } => {
                write!(f, "{blocks} table blocks in use, but room for {capacity}")
            }
            Self::Index(block) => write!(f, "table block {block} is not among those in use"),
            Self::Twice(block) => write!(f, "table block {block} is there twice"),
            Self::Missing(block) => write!(f, "table block {block} is missing"),
            Self::Long(block) => {
                write!(f, "table block {block} has more than {ENTRIES_PER_BLOCK} entries")
            }
            Self::Entry { block, slot, error } => {
                write!(f, "table block {block}, entry {slot}: {error}")
            }
            Self::Order { block, slot } => write!(
                f,
                "table block {block}, entry {slot}: begins before the entry in front of it ends"
            ),
            Self::Overlap { block, other, at } => {
                write!(f, "table blocks {block} and {other} overlap at sector {at} of main")
            }
        }
    }
}

/// Makes a table of blocks that come in any order.
///
/// Costs a look at each entry, and sorting the blocks at the end.
pub struct TableBuilder {
    capacity: u32,
    blocks: u32,
    seen: KVVec<u8>,
    leaves: KVVec<Arc<Leaf>>,
    free: KVVec<FreeBlock>,
    totals: Totals,
    digest: u64,
}

impl TableBuilder {
    /// For a table of `blocks` blocks, with room for `capacity_blocks`.
    ///
    /// # Errors
    ///
    /// No memory, or more blocks than there is room for.
    pub fn new(capacity_blocks: u32, blocks: u32) -> Result<Self, BuildError> {
        if blocks > capacity_blocks {
            return Err(BuildError::Capacity { blocks, capacity: capacity_blocks });
        }
        Ok(Self {
            capacity: capacity_blocks,
            blocks,
            seen: KVVec::from_elem(0, blocks.div_ceil(8) as usize, GFP_KERNEL)?,
            leaves: KVVec::with_capacity(blocks as usize, GFP_KERNEL)?,
            free: KVVec::new(),
            totals: Totals::default(),
            digest: 0,
        })
    }

    /// Adds the block `index`, as `stamp` says it was written, with its used slots.
    ///
    /// # Errors
    ///
    /// What is wrong with the block; the builder is of no use then.
    pub fn add(
        &mut self,
        index: BlockIndex,
        stamp: Stamp,
        entries: &[PackedEntry],
    ) -> Result<(), BuildError> {
        if index.0 >= self.blocks {
            return Err(BuildError::Index(index));
        }
        let seen = &mut self.seen[(index.0 / 8) as usize];
        if *seen & (1 << (index.0 % 8)) != 0 {
            return Err(BuildError::Twice(index));
        }
        *seen |= 1 << (index.0 % 8);
        if entries.len() > ENTRIES_PER_BLOCK {
            return Err(BuildError::Long(index));
        }
        let mut end = MainSector(0);
        for (slot, packed) in entries.iter().enumerate() {
            let entry =
                packed.unpack().map_err(|error| BuildError::Entry { block: index, slot, error })?;
            if entry.extent.start < end {
                return Err(BuildError::Order { block: index, slot });
            }
            end = entry.extent.end();
            self.totals.add(&entry);
        }
        self.digest = self.digest.wrapping_add(mix(index, stamp));
        if entries.is_empty() {
            self.free.push(FreeBlock { index, stamp }, GFP_KERNEL)?;
        } else {
            let mut list = Leaf::room()?;
            list.extend_from_slice(entries, GFP_KERNEL)?;
            let leaf = Arc::new(Leaf::new(list, index, stamp)?, GFP_KERNEL)?;
            self.leaves.push(leaf, GFP_KERNEL)?;
        }
        Ok(())
    }

    /// The table of all the blocks.
    ///
    /// # Errors
    ///
    /// A block is missing, or two do not go together.
    pub fn finish(mut self) -> Result<Table, BuildError> {
        let seen = |index: u32| self.seen[(index / 8) as usize] & (1 << (index % 8)) != 0;
        if let Some(missing) = (0..self.blocks).find(|&index| !seen(index)) {
            return Err(BuildError::Missing(BlockIndex(missing)));
        }
        sort_by_key(&mut self.leaves, |leaf| leaf.entries()[0].key());
        sort_by_key(&mut self.free, |block| block.index.0.into());
        for pair in self.leaves.windows(2) {
            let at = pair[1].entries()[0].start();
            if pair[0].entries().last().is_some_and(|entry| entry.end() > at) {
                let (block, other) = (pair[0].block, pair[1].block);
                return Err(BuildError::Overlap { block, other, at });
            }
        }
        let mut branches = KVec::with_capacity(self.leaves.len().div_ceil(FANOUT), GFP_KERNEL)?;
        for some in self.leaves.chunks(FANOUT) {
            let mut leaves = KVec::with_capacity(some.len(), GFP_KERNEL)?;
            leaves.extend_from_slice(some, GFP_KERNEL)?;
            branches.push(Arc::new(Branch::new(leaves)?, GFP_KERNEL)?, GFP_KERNEL)?;
        }
        let root = Root {
            filter: Filter::new(&branches, self.totals.extents)?,
            keys: Branch::keys_of(&branches)?,
            branches,
            free: Arc::new(self.free, GFP_KERNEL)?,
            totals: self.totals,
            digest: self.digest,
            blocks: self.blocks,
            capacity: self.capacity,
        };
        Ok(Table(Arc::new(root, GFP_KERNEL)?))
    }
}
