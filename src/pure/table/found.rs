// SPDX-License-Identifier: GPL-2.0

//! What a search came to.

use super::super::entry::{Entry, Mapping, PackedEntry};
use super::super::units::{MainSector, Sectors, SpareSector};

/// An entry of the table, or none: the entry's two words as they are packed, or zeroes.
///
/// Two plain words, so that a function returns it in two registers; an `Option<Entry>` goes through
/// memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found(u64, u64);

impl Found {
    /// No entry.
    pub const NONE: Self = Self(0, 0);

    #[inline(always)]
    pub(super) fn some(packed: PackedEntry) -> Self {
        let (main, place) = packed.words();
        Self(main, place)
    }

    #[inline(always)]
    const fn packed(self) -> PackedEntry {
        PackedEntry::numbers(self.0, self.1)
    }

    /// Whether there is no entry. All else is asked only when there is one.
    #[inline(always)]
    pub const fn is_none(self) -> bool {
        // An entry's kind is in it.
        self.1 == 0
    }

    /// First sector on main.
    #[inline(always)]
    pub const fn start(self) -> MainSector {
        self.packed().start()
    }

    /// Length.
    #[inline(always)]
    pub const fn len(self) -> Sectors {
        self.packed().len()
    }

    /// Whether it has all of the `len` sectors that begin `behind` its first, which end as those of
    /// [`Table::find`](super::Table::find) do. `false`, wrongly, for some in one that is longer than 65535
    /// sectors: of its length the low bits are looked at, which is less than all.
    #[inline(always)]
    pub(super) const fn reaches(self, behind: Sectors, len: Sectors) -> bool {
        behind.0.wrapping_add(len.0) <= self.0 & 0xffff
    }

    /// [`home_on`](super::super::entry::home_on) the spare where its data lives, if it does and could be read
    /// whenever that was tried. Else what that is for no spare.
    #[inline(always)]
    pub const fn home(self) -> u8 {
        self.packed().home()
    }

    /// Where its first sector is on the spare.
    #[inline(always)]
    pub const fn to(self) -> SpareSector {
        self.packed().to()
    }

    /// Whether it has no sectors: only none has.
    #[inline(always)]
    pub const fn is_empty(self) -> bool {
        self.is_none()
    }

    /// The sector of main behind the last.
    #[inline(always)]
    pub const fn end(self) -> MainSector {
        self.packed().end()
    }

    /// What became of the extent, from its first sector on.
    #[inline(always)]
    pub fn mapping(self) -> Mapping {
        self.packed().entry().mapping
    }

    /// The entry.
    #[inline(always)]
    pub fn entry(self) -> Option<Entry> {
        if self.is_none() {
            None
        } else {
            Some(self.packed().entry())
        }
    }
}
