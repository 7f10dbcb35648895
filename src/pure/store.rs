// SPDX-License-Identifier: GPL-2.0

//! How pure code reaches the spares: batches of blocks to read and to write, and flushes.
//!
//! The kernel implements [`Store`] with bios, the tool with files, the tests with disks that lose,
//! reorder and tear what was not flushed.

use core::fmt;

use super::mem::{AllocError, Block};
use super::units::{Sectors, SpareId, SpareSector, MAX_SPARES};

/// A device did not do what it was asked to: a positive errno.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct IoError(pub i32);

impl IoError {
    /// The general one (`EIO`).
    pub const EIO: Self = Self(5);
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "I/O error {}", self.0)
    }
}

/// Some of the spares of a set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SpareSet(pub u8);

impl SpareSet {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// Only `spare`.
    pub fn one(spare: SpareId) -> Self {
        let mut set = Self::NONE;
        set.add(spare);
        set
    }

    /// Whether `spare` is among them.
    pub const fn has(self, spare: SpareId) -> bool {
        (spare.0 as usize) < MAX_SPARES && self.0 & (1 << spare.0) != 0
    }

    /// Takes `spare` in.
    pub fn add(&mut self, spare: SpareId) {
        if (spare.0 as usize) < MAX_SPARES {
            self.0 |= 1 << spare.0;
        }
    }

    /// Those that are in one of both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Each of them, in ascending order.
    pub fn iter(self) -> impl Iterator<Item = SpareId> {
        (0..MAX_SPARES as u8).map(SpareId).filter(move |&s| self.has(s))
    }
}

/// A block to be read, and what became of it.
pub struct Read {
    /// From which spare.
    pub spare: SpareId,
    /// Its first sector.
    pub at: SpareSector,
    /// Takes the data.
    pub block: Block,
    /// How it went; what `block` holds counts only after `Ok`.
    pub result: Result<(), IoError>,
}

impl Read {
    /// A block to be read from there.
    pub fn new(spare: SpareId, at: SpareSector) -> Result<Self, AllocError> {
        Ok(Self { spare, at, block: Block::zeroed()?, result: Err(IoError::EIO) })
    }
}

/// A block to be written, and what became of it.
pub struct Write<'a> {
    /// To which spare.
    pub spare: SpareId,
    /// Its first sector.
    pub at: SpareSector,
    /// The data.
    pub block: &'a Block,
    /// How it went: whether the device has acknowledged it.
    pub result: Result<(), IoError>,
}

impl<'a> Write<'a> {
    /// A block to be written there.
    pub fn new(spare: SpareId, at: SpareSector, block: &'a Block) -> Self {
        Self { spare, at, block, result: Err(IoError::EIO) }
    }
}

/// The spares of a set, as the pure code sees them.
///
/// A position is a sector of the part of the spare that the set uses. A batch may be done in any
/// order and in parallel; the call returns when all of it has been answered, and has set the
/// `result` of every item. What was written may be lost, whole or in sectors, until a
/// [`flush`](Self::flush) of its spare that began after it was acknowledged has succeeded.
pub trait Store {
    /// The spares that are there.
    fn spares(&self) -> SpareSet;

    /// How many sectors the set uses of a spare that is there.
    fn sectors(&self, spare: SpareId) -> Sectors;

    /// How many sectors the device has that the set uses whole: it leaves out less than a block of 4 KiB at the end,
    /// where others may have signed. Of one that it uses in part, what it [uses](Self::sectors).
    fn whole(&self, spare: SpareId) -> Sectors {
        self.sectors(spare)
    }

    /// Reads a batch.
    fn read(&mut self, batch: &mut [Read]);

    /// Writes a batch.
    fn write(&mut self, batch: &mut [Write<'_>]);

    /// Flushes the caches of `spares`, in parallel, and says of which that failed.
    fn flush(&mut self, spares: SpareSet) -> SpareSet;
}
