// SPDX-License-Identifier: GPL-2.0

//! The devices of a set while it is in use, each with what has to be known of its [cache](crate::pure::cache).
//!
//! # Spares that come and go
//!
//! A device stays in its place as long as the table does, whatever becomes of it ([`Role`]): bios may be
//! on their way to it, and who is asked for the device of a number gets the one that has it now. The
//! flushes of one that had the number before are told by their [generation](Spare::generation).

use super::{live::Part, route::Word};
use crate::{
    dm::{
        bits::Number,
        device::{BlockDevice, Device},
        slots::Slots,
    },
    pure::{
        cache::Cache,
        entry::{home_on, HOME_LIMIT},
        store::SpareSet,
        units::{Sectors, SpareId, SpareSector, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Relaxed},
};

/// Main, as far as it is mapped.
pub(crate) struct Main {
    /// The device.
    pub(crate) device: Device,
    /// Its first sector that is mapped.
    pub(crate) start: u64,
    /// How many are mapped.
    pub(crate) len: Sectors,
    /// Its cache.
    pub(crate) cache: Cache,
    /// It copies one that is being replaced: what is discarded there is not copied, and shows what was on
    /// the new one before. So nothing is.
    pub(crate) copies: bool,
}

/// A spare, as far as the set uses it.
pub(crate) struct Spare {
    /// The device.
    pub(crate) device: Device,
    /// Its first sector that is used.
    pub(crate) start: u64,
    /// How many are used.
    pub(crate) len: Sectors,
    /// Whether the table line names the part.
    pub(crate) part: bool,
    /// Its cache.
    pub(crate) cache: Cache,
    role: Number,
    /// 1 if it has failed in a way that leaves no place to blame: the worker is to find out whether it takes anything.
    suspected: Atomic<u32>,
    /// Told apart from others that had its number in this table, as long as there are not too many.
    pub(crate) generation: u8,
    /// What the [`Word`] of a bio gets that is sent to it.
    pub(super) word: u64,
}

/// What a device is to the set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(crate) enum Role {
    /// A member that every commit reaches.
    Member = 0,
    /// A member that has left; bios may still be on their way to it.
    Left = 1,
    /// A member that the set goes on without.
    Away = 2,
    /// What is to become a member.
    Candidate = 3,
    /// What was to become a member, and did not.
    Refused = 4,
}

impl Role {
    const ALL: [Self; 5] = [Self::Member, Self::Left, Self::Away, Self::Candidate, Self::Refused];
}

/// The spares of a table, each at its number. Those that [take bios](Spare::takes_bios) are shown too under what an entry has that is
/// remapped to them ([`home_on`]), and under what the [`Word`] of a bio has that was sent to them. An entry of another kind has nothing shown
/// under its home: what is there takes the bio.
pub(crate) type Spares = Slots<Spare, MAX_SPARES>;

/// What a spare is shown under. No two spares have one in common.
const fn keys(id: SpareId) -> [u8; 2] {
    [home_on(id), Word::spare_key(Word::on_spare(id))]
}

const _: () = {
    let mut spare = 0;
    while spare < MAX_SPARES as u8 {
        let [home, place] = keys(SpareId(spare));
        assert!(home < HOME_LIMIT && place >= HOME_LIMIT);
        let mut other = 0;
        while other < spare {
            let [other_home, other_place] = keys(SpareId(other));
            assert!(home != other_home && place != other_place);
            other += 1;
        }
        spare += 1;
    }
};

/// Spares by their numbers.
pub(crate) trait SpareList {
    /// The one of that number.
    fn at(&self, spare: SpareId) -> Option<&Spare>;
}

impl SpareList for Spares {
    #[inline]
    fn at(&self, spare: SpareId) -> Option<&Spare> {
        self.get(usize::from(spare.0))
    }
}

impl Spares {
    /// What the one of that number is from now on. One at a time for each.
    pub(crate) fn set_role(&self, id: SpareId, role: Role) {
        if let Some(spare) = self.at(id) {
            spare.role.store(role as i32);
            self.show_if_taking(id);
        }
    }

    fn show_if_taking(&self, id: SpareId) {
        let takes_bios = self.at(id).is_some_and(Spare::takes_bios);
        let at = takes_bios.then_some(usize::from(id.0));
        keys(id).into_iter().for_each(|key| self.show(key, at));
    }
}

/// The [failures](Cache::failures) of the spares, as they were at some time.
#[derive(Clone, Copy)]
pub(crate) struct Failures([u64; MAX_SPARES]);

impl Failures {
    /// As they are now.
    pub(crate) fn of(spares: &dyn SpareList) -> Self {
        let of = |n| spares.at(SpareId(n as u8)).map_or(0, |spare| spare.cache.failures());
        Self(core::array::from_fn(of))
    }

    /// Those of `which` are as they are now.
    pub(crate) fn renew(&mut self, spares: &dyn SpareList, which: SpareSet) {
        let now = Self::of(spares);
        for id in which.iter() {
            let at = usize::from(id.0);
            if let (Some(was), Some(is)) = (self.0.get_mut(at), now.0.get(at)) {
                *was = *is;
            }
        }
    }

    /// Those of `which` that have more now: what was written to them meanwhile may be lost, although it has been flushed.
    pub(crate) fn since(&self, spares: &dyn SpareList, which: SpareSet) -> SpareSet {
        let now = Self::of(spares);
        let more = |id: &SpareId| {
            let at = usize::from(id.0);
            now.0.get(at) != self.0.get(at)
        };
        let mut found = SpareSet::NONE;
        which.iter().filter(more).for_each(|id| found.add(id));
        found
    }
}

impl SpareList for KVec<Option<Spare>> {
    fn at(&self, spare: SpareId) -> Option<&Spare> {
        self.get(usize::from(spare.0))?.as_ref()
    }
}

impl Main {
    /// The part of the device.
    pub(crate) fn as_part(&self) -> Part {
        Part { device: self.device.block().number(), start: self.start, len: self.len }
    }
}

impl Spare {
    /// The part of the device.
    pub(crate) fn as_part(&self) -> Part {
        Part { device: self.block().number(), start: self.start, len: self.len }
    }

    /// A spare; its part of the device is `len` sectors from `start` on.
    pub(crate) fn new(device: Device, start: u64, len: Sectors, part: bool) -> Self {
        let role = Number::new(Role::Member as i32);
        let (cache, suspected) = (Cache::of_opened(), Atomic::new(0));
        Self { device, start, len, part, cache, role, suspected, generation: 0, word: 0 }
    }

    /// The set uses this part of the device. Where the line names none, as the device was no longer then, that is what is meant.
    pub(crate) fn fit(&mut self, (start, len): (u64, Sectors)) {
        if !self.part && start == self.start && len < self.len {
            self.len = len;
        }
    }

    /// Puts it into its place among others.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(crate) fn put(mut self, id: SpareId, spares: &Spares) -> Result {
        self.word = Word::on_spare(id);
        // The one of before is not what is looked for there any more.
        keys(id).into_iter().for_each(|key| spares.show(key, None));
        let done = spares.put(usize::from(id.0), self);
        spares.show_if_taking(id);
        done
    }

    /// What it is to the set.
    pub(crate) fn role(&self) -> Role {
        let role = self.role.load();
        Role::ALL.into_iter().find(|&r| r as i32 == role).unwrap_or(Role::Left)
    }

    /// Whether bios go to it. To one that has left, those go that the table of before has sent there.
    #[inline]
    pub(crate) fn takes_bios(&self) -> bool {
        const { assert!(Role::Member as i32 == 0 && Role::Left as i32 == 1) };
        (self.role.load() as u32) < 2
    }

    /// Whether it is a member that commits reach.
    pub(crate) fn is_member(&self) -> bool {
        self.role.load() == Role::Member as i32
    }

    /// The same with that role, before it is [put](Self::put).
    pub(crate) fn with_role(mut self, role: Role) -> Self {
        self.role = Number::new(role as i32);
        self
    }

    /// Notes that it may take nothing any more.
    pub(crate) fn suspect(&self) {
        self.suspected.store(1, Relaxed);
    }

    /// Whether that was noted since this was asked last.
    pub(crate) fn was_suspected(&self) -> bool {
        self.suspected.load(Relaxed) != 0 && self.suspected.xchg(0, Relaxed) != 0
    }

    /// The block device.
    #[inline]
    pub(crate) fn block(&self) -> &BlockDevice {
        self.device.block()
    }

    /// The sector of the device at which `at` lies, which is within its part.
    #[inline]
    pub(crate) fn sector(&self, at: SpareSector) -> u64 {
        self.start.wrapping_add(at.0)
    }
}
