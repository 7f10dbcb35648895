// SPDX-License-Identifier: GPL-2.0

//! The copies of the metadata: what is known about each, and which are written first.

use super::format::layout::{CopyId, COPIES};
use super::store::SpareSet;
use super::units::{SpareId, MAX_SPARES};

/// Some of the copies on all spares.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CopySet(u64);

const fn bit(id: CopyId) -> u64 {
    1 << (id.spare.0 as u64 % MAX_SPARES as u64 * 8 + id.copy as u64 % 8)
}

impl CopySet {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// All copies on `spares`.
    pub fn all(spares: SpareSet) -> Self {
        let mut set = Self::NONE;
        for spare in spares.iter() {
            (0..COPIES as u8).for_each(|copy| set.add(CopyId { spare, copy }));
        }
        set
    }

    /// This one.
    pub const fn one(id: CopyId) -> Self {
        Self(bit(id))
    }

    /// Whether `id` is among them.
    pub const fn has(self, id: CopyId) -> bool {
        self.0 & bit(id) != 0
    }

    /// Takes `id` in.
    pub fn add(&mut self, id: CopyId) {
        self.0 |= bit(id);
    }

    /// Those that are not in `other`.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Those that are in one of both.
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Those that are in both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Those with an odd number, which a group of the others leaves alone.
    pub const fn odd(self) -> Self {
        Self(self.0 & 0x0a0a_0a0a_0a0a_0a0a)
    }

    /// Those that are left alone until the others have been written, so that something is whole on
    /// each spare: those of `keep`, or, where it has all or none, those with an odd number.
    pub fn to_keep(self, keep: Self) -> Self {
        let mut last = Self::NONE;
        for spare in self.spares().iter() {
            let (all, kept) = (self.on(spare), keep.and(self).on(spare));
            let some = !kept.is_empty() && kept != all;
            last = last.with(if some { kept } else { all.odd() });
        }
        last
    }

    /// The first on each of `spares`.
    pub fn on_each(self, spares: SpareSet) -> Self {
        let firsts = spares.iter().filter_map(|spare| self.on(spare).iter().next());
        firsts.fold(Self::NONE, |set, id| set.with(Self::one(id)))
    }

    /// How many there are.
    pub const fn count(self) -> usize {
        self.0.count_ones() as usize
    }

    /// Whether there is none.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The spares on which one of them stands.
    pub fn spares(self) -> SpareSet {
        let mut set = SpareSet::NONE;
        self.iter().for_each(|id| set.add(id.spare));
        set
    }

    /// Those on one spare.
    pub const fn on(self, spare: SpareId) -> Self {
        Self(self.0 & (0xff << (spare.0 as u64 % MAX_SPARES as u64 * 8)))
    }

    /// Each of them, by spare and copy number.
    pub fn iter(self) -> impl Iterator<Item = CopyId> + Clone {
        (0..(MAX_SPARES * COPIES) as u8)
            .map(|i| CopyId { spare: SpareId(i / COPIES as u8), copy: i % COPIES as u8 })
            .filter(move |&id| self.has(id))
    }
}

/// What is known about a copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum CopyState {
    /// Its spare is not there.
    #[default]
    Absent,
    /// It is whole and carries the newest durable version.
    Good,
    /// It does not, or it is not known whether it does. Its place is not known to be bad; it takes
    /// part again after all of it was written anew.
    Stale,
    /// Its place failed to be read or written.
    Bad,
}

/// What is known about all of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Copies([[CopyState; COPIES]; MAX_SPARES]);

impl Copies {
    /// The state of a copy.
    pub fn state(&self, id: CopyId) -> CopyState {
        self.0
            .get(id.spare.0 as usize)
            .and_then(|s| s.get(id.copy as usize))
            .copied()
            .unwrap_or_default()
    }

    /// Notes the state of a copy.
    pub fn note(&mut self, id: CopyId, state: CopyState) {
        if let Some(s) =
            self.0.get_mut(id.spare.0 as usize).and_then(|s| s.get_mut(id.copy as usize))
        {
            *s = state;
        }
    }

    /// Notes the state of several.
    pub fn note_all(&mut self, ids: CopySet, state: CopyState) {
        ids.iter().for_each(|id| self.note(id, state));
    }

    /// Those of that state.
    pub fn in_state(&self, state: CopyState) -> CopySet {
        let mut set = CopySet::NONE;
        for spare in (0..MAX_SPARES as u8).map(SpareId) {
            for copy in 0..COPIES as u8 {
                let id = CopyId { spare, copy };
                if self.state(id) == state {
                    set.add(id);
                }
            }
        }
        set
    }

    /// Those whose spare is there.
    pub fn present(&self) -> CopySet {
        let mut all = SpareSet::NONE;
        (0..MAX_SPARES as u8).map(SpareId).for_each(|s| all.add(s));
        CopySet::all(all).without(self.in_state(CopyState::Absent))
    }
}

/// Draws the two groups from the good copies, which all carry the same version: on each spare the
/// first, third and fifth good one make group A, the others group B.
///
/// A commit overwrites a group in place, so the other one has to hold the version before, whole, on
/// some spare: `None` when there would be nothing in B.
pub fn draw_groups(good: CopySet) -> Option<(CopySet, CopySet)> {
    let (mut a, mut b) = (CopySet::NONE, CopySet::NONE);
    for spare in good.spares().iter() {
        for (i, id) in good.on(spare).iter().enumerate() {
            if i % 2 == 0 {
                a.add(id);
            } else {
                b.add(id);
            }
        }
    }
    (!b.is_empty()).then_some((a, b))
}
