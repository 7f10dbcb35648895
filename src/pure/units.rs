// SPDX-License-Identifier: GPL-2.0

//! Quantities with their units in their types, so that the compiler keeps them apart.
//!
//! A sector is 512 bytes, as everywhere in the block layer (`SECTOR_SHIFT`).

use core::fmt;
use core::ops::{Add, AddAssign, Sub};

/// Bytes in a sector.
pub const SECTOR_SIZE: usize = 512;

/// A number of sectors.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct Sectors(pub u64);

/// A sector of main, counted from the first sector that the target maps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct MainSector(pub u64);

/// A sector of a spare, counted from the first sector of the part that the set uses.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct SpareSector(pub u64);

/// Which member of the set a spare is: its place in the header's list, 0 to 7.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default, Hash)]
#[repr(transparent)]
pub struct SpareId(pub u8);

/// The most spares that a set has.
pub const MAX_SPARES: usize = 8;

/// A run of neighbouring sectors of main. Never empty, never past `u64::MAX`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Extent {
    /// Its first sector.
    pub start: MainSector,
    /// How many sectors it has; at least one.
    pub len: Sectors,
}

impl Extent {
    /// An extent, or `None` where it would be empty or run past the last sector number.
    pub const fn new(start: MainSector, len: Sectors) -> Option<Self> {
        if len.0 == 0 || start.0.checked_add(len.0).is_none() {
            return None;
        }
        Some(Self { start, len })
    }

    /// The sector behind the last one.
    #[inline]
    pub const fn end(&self) -> MainSector {
        MainSector(self.start.0 + self.len.0)
    }

    /// Whether both have a sector in common.
    #[inline]
    pub const fn overlaps(&self, other: &Self) -> bool {
        self.start.0 < other.end().0 && other.start.0 < self.end().0
    }

    /// What both have in common.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let start = self.start.max(other.start);
        let end = self.end().min(other.end());
        (start < end).then(|| Self { start, len: Sectors(end.0 - start.0) })
    }
}

macro_rules! position {
    ($name:ident) => {
        impl Add<Sectors> for $name {
            type Output = Self;
            #[inline]
            fn add(self, n: Sectors) -> Self {
                Self(self.0 + n.0)
            }
        }
        impl Sub for $name {
            type Output = Sectors;
            #[inline]
            fn sub(self, other: Self) -> Sectors {
                Sectors(self.0 - other.0)
            }
        }
        impl $name {
            /// How many sectors this one lies behind `earlier`; `None` if it lies before it.
            #[inline]
            pub const fn since(self, earlier: Self) -> Option<Sectors> {
                match self.0.checked_sub(earlier.0) {
                    Some(n) => Some(Sectors(n)),
                    None => None,
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

position!(MainSector);
position!(SpareSector);

impl Add for Sectors {
    type Output = Self;
    #[inline]
    fn add(self, n: Self) -> Self {
        Self(self.0 + n.0)
    }
}

impl AddAssign for Sectors {
    #[inline]
    fn add_assign(&mut self, n: Self) {
        self.0 += n.0;
    }
}

impl Sub for Sectors {
    type Output = Self;
    #[inline]
    fn sub(self, n: Self) -> Self {
        Self(self.0 - n.0)
    }
}

impl fmt::Display for Sectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Display for SpareId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
