// SPDX-License-Identifier: GPL-2.0

//! An entry of the remap table, and the 16 bytes that stand for it in memory and on disk.
//!
//! | word | bits   | holds |
//! |------|--------|-------|
//! | 0    | 16..64 | first sector on main; for a retired place [`retired_start`] |
//! | 0    | 0..16  | length in sectors, low 16 bits |
//! | 1    | 16..64 | first sector on the spare |
//! | 1    | 12..16 | which spare |
//! | 1    | 8..12  | kind: 0 unused slot, 1 remapped, 2 pending, 3 retired, 4 suspect, 5 lost |
//! | 1    | 0..8   | length in sectors, high 8 bits |
//!
//! Words are little endian. The start has the highest bits of the first word, so packed entries
//! compare by that word as their starts do. An unused slot is all zeroes.

use super::bytes::{FromBytes, Immutable, IntoBytes, KnownLayout};
use core::fmt;
use zerocopy::little_endian::U64;

use super::units::{Extent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES};

/// Bytes that an entry takes.
pub const ENTRY_SIZE: usize = 16;

/// Bytes of a table block that its header takes.
pub const BLOCK_HEADER_SIZE: usize = 64;

/// Entries that a table block holds.
pub const ENTRIES_PER_BLOCK: usize = (super::mem::BLOCK_SIZE - BLOCK_HEADER_SIZE) / ENTRY_SIZE;

/// The sector number behind the last that an entry can name, on main and on a spare.
pub const SECTOR_LIMIT: u64 = 1 << 47;

/// The sector number behind the last of a place that can be retired.
pub const RETIRED_LIMIT: u64 = 1 << 44;

/// Where an entry for a retired place stands among those of main, which all end before
/// [`SECTOR_LIMIT`]: behind them, by spare and place.
pub const fn retired_start(spare: SpareId, at: SpareSector) -> MainSector {
    MainSector(SECTOR_LIMIT | ((spare.0 as u64 % MAX_SPARES as u64) << 44) | at.0)
}

/// The greatest length that an entry can carry.
pub const MAX_ENTRY_LEN: Sectors = Sectors((1 << 24) - 1);

/// Where the table cuts a longer run: the greatest multiple of 1 MiB that an entry can carry, so
/// that the cuts fall on every kind of block.
pub const SPLIT_LEN: Sectors = Sectors((1 << 24) - (1 << 11));

/// The place of a table block among those of its table, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct BlockIndex(pub u32);

impl fmt::Display for BlockIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// What became of an extent of main.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Mapping {
    /// Its data lives on a spare.
    Remapped {
        /// Which spare.
        spare: SpareId,
        /// Where the extent's first sector is there.
        to: SpareSector,
    },
    /// Its data lives on a spare, at a place that failed to read: what is written to it goes
    /// elsewhere.
    Suspect {
        /// Which spare.
        spare: SpareId,
        /// Where the extent's first sector is there.
        to: SpareSector,
    },
    /// It failed to read and has no data elsewhere.
    Pending,
    /// Its data lived on a spare that could not be read and has left: what main has there is older.
    /// Reading it is an error until it is written.
    Lost,
    /// Not of main: a place on a spare that failed and is never used again.
    Retired {
        /// Which spare.
        spare: SpareId,
        /// Where the place begins there.
        at: SpareSector,
    },
}

impl Mapping {
    /// Where its data lives: on which spare, and where there.
    #[inline]
    pub const fn place(self) -> Option<(SpareId, SpareSector)> {
        match self {
            Self::Remapped { spare, to } | Self::Suspect { spare, to } => Some((spare, to)),
            Self::Pending | Self::Lost | Self::Retired { .. } => None,
        }
    }

    /// Whether it could not be read where it is: what is written to it goes elsewhere.
    pub const fn is_bad(self) -> bool {
        matches!(self, Self::Pending | Self::Lost | Self::Suspect { .. })
    }

    /// The mapping of what lies `skip` sectors into an extent that is mapped like this.
    #[inline]
    pub const fn advance(self, skip: Sectors) -> Self {
        match self {
            Self::Remapped { spare, to } => {
                Self::Remapped { spare, to: SpareSector(to.0 + skip.0) }
            }
            Self::Suspect { spare, to } => Self::Suspect { spare, to: SpareSector(to.0 + skip.0) },
            Self::Pending => Self::Pending,
            Self::Lost => Self::Lost,
            Self::Retired { spare, at } => Self::Retired { spare, at: SpareSector(at.0 + skip.0) },
        }
    }
}

/// An extent of main and what became of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Entry {
    /// Where on main.
    pub extent: Extent,
    /// What became of it.
    pub mapping: Mapping,
}

impl Entry {
    /// The entry that retires the `len` sectors of `spare` from `at` on.
    pub const fn retired(spare: SpareId, at: SpareSector, len: Sectors) -> Self {
        let extent = Extent { start: retired_start(spare, at), len };
        Self { extent, mapping: Mapping::Retired { spare, at } }
    }

    /// The part of the entry that lies within `window`.
    pub fn clip(&self, window: &Extent) -> Option<Self> {
        let extent = self.extent.intersection(window)?;
        Some(Self { extent, mapping: self.mapping.advance(extent.start - self.extent.start) })
    }

    /// Whether `next` begins where this one ends, on main and, where both have one, on the spare.
    pub fn continues_in(&self, next: &Self) -> bool {
        self.extent.end() == next.extent.start
            && self.mapping.advance(self.extent.len) == next.mapping
    }
}

/// Why 16 bytes are no entry, or an entry does not fit them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EntryError {
    /// The slot is unused, but not all zeroes; or it was asked for as an entry.
    Unused,
    /// A kind that this version does not know.
    Kind(u8),
    /// No sectors, or more than [`MAX_ENTRY_LEN`].
    Length,
    /// It runs past [`SECTOR_LIMIT`] on main.
    MainRange,
    /// It runs past [`SECTOR_LIMIT`] on the spare.
    SpareRange,
    /// There is no such spare: its number is not below [`MAX_SPARES`].
    Spare(u8),
    /// A pending or lost entry names a place on a spare.
    PendingPlace,
    /// A retired place does not stand where it has to, or lies beyond [`RETIRED_LIMIT`].
    RetiredPlace,
}

impl fmt::Display for EntryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unused => f.write_str("the slot holds no entry"),
            Self::Kind(kind) => write!(f, "unknown kind {kind}"),
            Self::Length => f.write_str("length out of range"),
            Self::MainRange => f.write_str("runs past the last sector of main that can be named"),
            Self::SpareRange => f.write_str("runs past the last sector of a spare"),
            Self::Spare(spare) => write!(f, "spare {spare}, of {MAX_SPARES} at most"),
            Self::PendingPlace => f.write_str("pending or lost, but with a place on a spare"),
            Self::RetiredPlace => f.write_str("a retired place out of its order"),
        }
    }
}

const KIND_REMAPPED: u64 = 1;
const KIND_PENDING: u64 = 2;
const KIND_RETIRED: u64 = 3;
const KIND_SUSPECT: u64 = 4;
const KIND_LOST: u64 = 5;

/// What the second byte of the second word is in an entry of what is remapped to a spare.
pub const fn home_on(spare: SpareId) -> u8 {
    (spare.0 << 4) | KIND_REMAPPED as u8
}

/// In every entry, of whatever kind, that byte is less.
pub const HOME_LIMIT: u8 = (MAX_SPARES as u8) << 4;

/// An entry in 16 bytes, as on disk. Any 16 bytes are one; [`unpack`](Self::unpack) checks them.
#[derive(
    Clone, Copy, PartialEq, Eq, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
#[repr(C)]
pub struct PackedEntry {
    main: U64,
    place: U64,
}

impl PackedEntry {
    /// An unused slot.
    pub const UNUSED: Self = Self { main: U64::ZERO, place: U64::ZERO };

    /// What fills the rest of a leaf in memory: it sorts behind every entry.
    pub(super) const BEHIND: Self = Self::numbers(u64::MAX, 0);

    /// A slot that holds two plain numbers instead of an entry.
    pub(super) const fn numbers(first: u64, second: u64) -> Self {
        Self { main: U64::new(first), place: U64::new(second) }
    }

    /// Both words.
    #[inline(always)]
    pub(super) const fn words(&self) -> (u64, u64) {
        (self.main.get(), self.place.get())
    }

    /// What entries are ordered by: the start, above the low bits of the length.
    #[inline(always)]
    pub(super) const fn key(&self) -> u64 {
        self.main.get()
    }

    /// The bytes of `entry`.
    ///
    /// # Errors
    ///
    /// What does not fit its field: see [`EntryError`].
    pub fn pack(entry: &Entry) -> Result<Self, EntryError> {
        let (start, len) = (entry.extent.start.0, entry.extent.len.0);
        let place = match entry.mapping {
            Mapping::Pending => KIND_PENDING << 8,
            Mapping::Lost => KIND_LOST << 8,
            Mapping::Remapped { spare, to } | Mapping::Suspect { spare, to } => {
                if to.0 >= SECTOR_LIMIT {
                    return Err(EntryError::SpareRange);
                }
                if spare.0 as usize >= MAX_SPARES {
                    return Err(EntryError::Spare(spare.0));
                }
                let kind = match entry.mapping {
                    Mapping::Suspect { .. } => KIND_SUSPECT,
                    _ => KIND_REMAPPED,
                };
                (to.0 << 16) | (u64::from(spare.0) << 12) | (kind << 8)
            }
            Mapping::Retired { spare, at } => {
                if spare.0 as usize >= MAX_SPARES || at.0 >= RETIRED_LIMIT {
                    return Err(EntryError::RetiredPlace);
                }
                (at.0 << 16) | (u64::from(spare.0) << 12) | (KIND_RETIRED << 8)
            }
        };
        if len > MAX_ENTRY_LEN.0 {
            return Err(EntryError::Length);
        }
        if start >= 2 * SECTOR_LIMIT {
            return Err(EntryError::MainRange);
        }
        let packed = Self {
            main: U64::new((start << 16) | len & 0xffff),
            place: U64::new(place | (len >> 16)),
        };
        packed.unpack().map(|_| packed)
    }

    /// The entry, with everything about it checked.
    ///
    /// # Errors
    ///
    /// What makes the bytes no entry; an unused slot is none.
    pub fn unpack(&self) -> Result<Entry, EntryError> {
        let kind = (self.place.get() >> 8) & 0xf;
        let spare = self.spare();
        let to = self.place.get() >> 16;
        match kind {
            0 => return Err(EntryError::Unused),
            KIND_REMAPPED | KIND_SUSPECT if spare.0 as usize >= MAX_SPARES => {
                return Err(EntryError::Spare(spare.0));
            }
            KIND_REMAPPED | KIND_SUSPECT if to + self.len().0 > SECTOR_LIMIT => {
                return Err(EntryError::SpareRange);
            }
            KIND_PENDING | KIND_LOST if spare.0 != 0 || to != 0 => {
                return Err(EntryError::PendingPlace);
            }
            KIND_RETIRED => {
                let last = to + self.len().0;
                let stands = self.start() == retired_start(spare, SpareSector(to));
                if spare.0 as usize >= MAX_SPARES || last > RETIRED_LIMIT || !stands {
                    return Err(EntryError::RetiredPlace);
                }
            }
            KIND_REMAPPED | KIND_SUSPECT | KIND_PENDING | KIND_LOST => {}
            _ => return Err(EntryError::Kind(kind as u8)),
        }
        if self.len().0 == 0 {
            return Err(EntryError::Length);
        }
        if kind != KIND_RETIRED && self.end().0 > SECTOR_LIMIT {
            return Err(EntryError::MainRange);
        }
        Ok(self.entry())
    }

    /// The entry, for bytes that were checked when they came in.
    #[inline(always)]
    pub(super) fn entry(&self) -> Entry {
        let place = SpareSector(self.place.get() >> 16);
        let mapping = match (self.place.get() >> 8) & 0xf {
            KIND_REMAPPED => Mapping::Remapped { spare: self.spare(), to: place },
            KIND_RETIRED => Mapping::Retired { spare: self.spare(), at: place },
            KIND_SUSPECT => Mapping::Suspect { spare: self.spare(), to: place },
            KIND_LOST => Mapping::Lost,
            _ => Mapping::Pending,
        };
        Entry { extent: Extent { start: self.start(), len: self.len() }, mapping }
    }

    /// What it is, and on which spare: [`home_on`] one, where it is remapped.
    #[inline(always)]
    pub(super) const fn home(&self) -> u8 {
        (self.place.get() >> 8) as u8
    }

    /// First sector on the spare.
    #[inline(always)]
    pub(super) const fn to(&self) -> SpareSector {
        SpareSector(self.place.get() >> 16)
    }

    /// First sector on main.
    #[inline(always)]
    pub const fn start(&self) -> MainSector {
        MainSector(self.main.get() >> 16)
    }

    /// Length, zero in an unused slot.
    #[inline(always)]
    pub const fn len(&self) -> Sectors {
        Sectors(((self.place.get() & 0xff) << 16) | self.main.get() & 0xffff)
    }

    /// The sector of main behind the last.
    #[inline(always)]
    pub const fn end(&self) -> MainSector {
        MainSector(self.start().0.wrapping_add(self.len().0))
    }

    /// Whether it has no sectors; an entry always has some.
    pub const fn is_empty(&self) -> bool {
        self.len().0 == 0
    }

    #[inline(always)]
    const fn spare(&self) -> SpareId {
        SpareId(((self.place.get() >> 12) & 0xf) as u8)
    }
}
