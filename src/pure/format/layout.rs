// SPDX-License-Identifier: GPL-2.0

//! Where on a spare the copies of the metadata stand, and what is left for data.
//!
//! | sectors        | hold |
//! |----------------|------|
//! | 0..1024        | copy 0: the header, then table blocks 0 to 126 |
//! | 1024..2048     | copy 1 |
//! | 2048..3072     | copy 2 |
//! | 3072..4096     | data |
//! | 4096..5120     | copy 3 |
//! | 5120..8192     | data |
//! | 8192..9216     | copy 4 |
//! | 9216..9216+5n  | the extension areas of copies 0 to 4, n sectors each: table blocks from 127 on |
//! | 9216+5n..      | data |
//!
//! With no more than 127 table blocks there are no extension areas: n is 0.

use super::super::entry::{BlockIndex, ENTRIES_PER_BLOCK};
use super::super::mem::BLOCK_SIZE;
use super::super::units::{Sectors, SpareId, SpareSector, SECTOR_SIZE};

/// Entries that are left to writes that failed when a table fills up.
pub const RESERVED_ENTRIES: u64 = 16;

/// Copies on every spare.
pub const COPIES: usize = 5;
/// Where the copies' slots start.
pub const SLOTS: [SpareSector; COPIES] =
    [SpareSector(0), SpareSector(1024), SpareSector(2048), SpareSector(4096), SpareSector(8192)];
/// How long a slot is.
pub const SLOT_SECTORS: Sectors = Sectors(1024);
/// Sectors of a block of metadata.
pub const BLOCK_SECTORS: Sectors = Sectors((BLOCK_SIZE / SECTOR_SIZE) as u64);
/// Table blocks that a slot holds behind its header.
pub const SLOT_BLOCKS: u32 = (SLOT_SECTORS.0 / BLOCK_SECTORS.0) as u32 - 1;
/// Where the extension areas start.
pub const EXTENSIONS: SpareSector = SpareSector(9216);
/// The most table blocks that a header may speak of: room for over a hundred million entries.
pub const MAX_BLOCKS: u32 = 1 << 19;
/// The smallest spare.
pub const MIN_SPARE: Sectors = Sectors(16384);

/// One of the copies on the spares.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CopyId {
    /// On which spare.
    pub spare: SpareId,
    /// Which of its copies, 0 to 4.
    pub copy: u8,
}

impl core::fmt::Display for CopyId {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "copy {} on spare {}", self.copy, self.spare)
    }
}

/// Where everything stands on the spares of a set; the same on each of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Layout {
    capacity: u32,
}

impl Layout {
    /// The layout that needs no extension areas.
    pub const STANDARD: Self = Self { capacity: SLOT_BLOCKS };

    /// The layout with room for `capacity` table blocks; `None` above [`MAX_BLOCKS`]. The slots
    /// are never made smaller.
    pub const fn new(capacity: u32) -> Option<Self> {
        if capacity > MAX_BLOCKS {
            return None;
        }
        if capacity < SLOT_BLOCKS {
            return Some(Self::STANDARD);
        }
        Some(Self { capacity })
    }

    /// The layout for `max_remaps` entries, and [`RESERVED_ENTRIES`]; `None` where that is too much.
    pub const fn for_max_remaps(max_remaps: u64) -> Option<Self> {
        let entries = max_remaps.saturating_add(RESERVED_ENTRIES);
        let full = entries.div_ceil(ENTRIES_PER_BLOCK as u64);
        if full > MAX_BLOCKS as u64 {
            return None;
        }
        Self::new(full as u32)
    }

    /// Table blocks that each copy has room for.
    pub const fn capacity(&self) -> u32 {
        self.capacity
    }

    /// How long each extension area is.
    pub const fn extension(&self) -> Sectors {
        Sectors((self.capacity - SLOT_BLOCKS) as u64 * BLOCK_SECTORS.0)
    }

    /// Where the header of copy `copy` stands.
    ///
    /// # Panics
    ///
    /// With a copy number above 4.
    pub const fn header(copy: u8) -> SpareSector {
        SLOTS[copy as usize]
    }

    /// Where table block `index` of copy `copy` stands; `None` where there is no room for it.
    ///
    /// # Panics
    ///
    /// With a copy number above 4.
    pub const fn block(&self, copy: u8, index: BlockIndex) -> Option<SpareSector> {
        if index.0 >= self.capacity {
            return None;
        }
        let start = SLOTS[copy as usize].0;
        Some(SpareSector(if index.0 < SLOT_BLOCKS {
            start + (1 + index.0 as u64) * BLOCK_SECTORS.0
        } else {
            EXTENSIONS.0
                + copy as u64 * self.extension().0
                + (index.0 - SLOT_BLOCKS) as u64 * BLOCK_SECTORS.0
        }))
    }

    /// The sector behind all metadata.
    pub const fn end(&self) -> SpareSector {
        SpareSector(EXTENSIONS.0 + COPIES as u64 * self.extension().0)
    }

    /// Whether a spare of `sectors` has room for the metadata and for data.
    pub const fn fits(&self, sectors: Sectors) -> bool {
        sectors.0 >= MIN_SPARE.0 && sectors.0 > self.end().0
    }

    /// The runs of data space on a spare of `sectors`, each as its first sector and length, in
    /// ascending order.
    pub fn data_space(
        &self,
        sectors: Sectors,
    ) -> impl Iterator<Item = (SpareSector, Sectors)> + Clone {
        let gap = |i: usize| (SLOTS[i] + SLOT_SECTORS, SLOTS[i + 1]);
        [gap(2), gap(3), (self.end(), SpareSector(sectors.0))]
            .into_iter()
            .filter(|(start, end)| start < end)
            .map(|(start, end)| (start, end - start))
    }

    /// Whether any of the `len` sectors from `start` holds metadata.
    pub fn is_metadata(&self, start: SpareSector, len: Sectors) -> bool {
        if start >= self.end() {
            return false;
        }
        let touches = |from: SpareSector, to: SpareSector| start < to && from < start + len;
        SLOTS.iter().any(|&slot| touches(slot, slot + SLOT_SECTORS))
            || touches(EXTENSIONS, self.end())
    }
}
