// SPDX-License-Identifier: GPL-2.0

//! Flushes behind writes.
//!
//! A device that has a cache and cannot write through it gets a FUA write from the core as a write and a flush behind it
//! (`blk_insert_flush`), and what is answered is the error of either. If it was the flush, what others have written may be lost as well, of
//! which they have not been told. So:
//!
//! - When such a write fails, nobody who has just written something to the device, and is about to rely on it, takes the next flush that
//!   succeeds for one of that.
//! - When the device takes it at the second try, it was the flush, for all anybody can tell: who sent the write need not know of it, but
//!   others have to. With a cache in use it is at a flush that most devices find out what they cannot write. Not if the device has said that it is the medium.
//!
//! Where the write is answered with an error, its sender knows, as he would if he used the device by itself.

use super::{
    route::{Where, Word},
    spare::SpareList,
    Remap,
};
use crate::{
    dm::{bio::HeldBio, device::Device},
    pure::{cache::Cache, health::Member, store::SpareSet},
};

/// What is known of the flushes behind a write that has failed and is tried again.
pub(super) struct Behind {
    /// The device that it was sent to, if it was one.
    sent_to: Option<Member>,
    /// Those that have taken some of it now; a bit for each [`Member::index`].
    took: u32,
    /// Those that have not, or were not asked.
    not: u32,
}

impl Behind {
    /// Of a write that has failed, where a flush may be what has.
    pub(super) fn of(bio: &HeldBio<Remap>) -> Option<Self> {
        let by_flush = bio.is_fua() && !bio.status().is_of_the_medium();
        let sent_to = Remap::failing(Word::place(bio.word()));
        by_flush.then_some(Self { sent_to, took: 0, not: 0 })
    }

    /// A part of it was to be written again there: whether the device has taken that.
    pub(super) fn tried(&mut self, member: Member, took: bool) {
        let set = if took { &mut self.took } else { &mut self.not };
        *set |= Self::bit(member);
    }

    const fn bit(member: Member) -> u32 {
        1 << (member.index() & 31)
    }

    /// Whether it was the flush of that device.
    fn is_flush_of(&self, member: Member) -> bool {
        let sent = match self.sent_to {
            Some(sent_to) => sent_to == member,
            None => self.took & Self::bit(member) != 0,
        };
        sent && self.not & Self::bit(member) == 0
    }
}

impl Remap {
    /// A write for FUA has failed that went there, to `parts` of the spares if to several devices. To be called before it leaves the count of
    /// those on their way.
    pub(super) fn doubt_flushes_behind(&self, place: Where, parts: SpareSet) {
        let (main, spares) = match place {
            Where::Main => (true, SpareSet::NONE),
            Where::Spare(spare) => (false, SpareSet::one(spare)),
            Where::Several => (true, parts),
        };
        let doubt = |device: &Device, cache: &Cache| {
            if device.block().flushes_behind_fua() {
                cache.doubt();
            }
        };
        if main {
            doubt(&self.main.device, &self.main.cache);
        }
        spares.iter().filter_map(|id| self.spares.at(id)).for_each(|s| doubt(&s.device, &s.cache));
    }

    /// A write that had failed is where it belongs: tells of the flushes behind it.
    pub(super) fn tell_of_flushes_behind(&self, behind: &Behind) {
        let tell = |member, device: &Device, cache: &Cache| {
            if behind.is_flush_of(member) && device.block().flushes_behind_fua() {
                cache.flush_behind_failed();
            }
        };
        tell(Member::Main, &self.main.device, &self.main.cache);
        self.each_spare().for_each(|(id, s)| tell(Member::Spare(id), &s.device, &s.cache));
    }
}
