// SPDX-License-Identifier: GPL-2.0

//! The devices of a set while it is in use, and what has to be known of their caches.
//!
//! # Flushes
//!
//! A flush of the target goes to main, and to every spare written since its last flush that
//! succeeded. `written` is the stage of the last write that a spare has acknowledged, `sent` the last
//! stage that a flush was sent for. A write that finds them equal begins the next stage, before its
//! caller hears of it; one that finds them different is behind the flush that is still to be sent for
//! that stage, and writes to nothing that processors share. A flush takes the stage before it is sent,
//! and stores it in `flushed` when it has succeeded. So a spare needs no flush exactly when `written`
//! and `flushed` are equal: then every write that was acknowledged was so before some flush that has
//! since succeeded. A flush that is still under way does not excuse another.
//!
//! What a device has in its cache when it is opened is not known: whoever used it before, this module
//! with another table perhaps, need not have flushed. So it begins with one write.
//!
//! The core loses the error of a flush that it sends ahead of data (`REQ_PREFLUSH` with `REQ_FUA`),
//! so a failed flush is remembered: it counts as a write, and until a caller's flush that was sent after it
//! has succeeded, FUA writes to whatever device fail. They may be what was to come after the flush.
//!
//! A flush of our own may fail too, and take what callers have written along: those are not asked, so the next flush of
//! a caller fails, whether or not the device flushes again by then, and FUA writes do until a caller's flush has succeeded.
//! What nobody but this module has written is left out of that: who wrote it sees to it.
//!
//! # Spares that are away
//!
//! Nothing is read from or written to a spare that is away. What was written to it and never flushed
//! may be lost: that is a flush that has failed, and the next one needs the spare no more.
//!
//! # Spares that come and go
//!
//! A device stays in its place as long as the table does, whatever becomes of it ([`Role`]): bios may be
//! on their way to it, and who is asked for the device of a number gets the one that has it now. The
//! flushes of one that had the number before are told by their [generation](Spare::generation).

use super::{live::Part, route::Word};
use crate::{
    dm::{
        bio::{BioPool, Status},
        bits::Number,
        compat::smp_mb,
        device::{BlockDevice, Device},
        io::{self, Io, What},
        slots::Slots,
    },
    pure::{
        entry::home_on,
        units::{Sectors, SpareId, SpareSector, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::atomic::{Atomic, Full, Relaxed},
};

/// The state of a device's volatile cache, as far as we caused it: counted in stages, each of which ends when a flush is sent
/// after something was written.
pub(crate) struct Cache {
    /// The stage of the last write that was acknowledged.
    written: Atomic<u64>,
    /// The last stage that a flush was sent for.
    sent: Atomic<u64>,
    /// The last stage that a flush has succeeded for.
    flushed: Atomic<u64>,
    /// What `written` was after the last flush that failed.
    failed: Atomic<u64>,
    /// The stage of the last write of a caller that was acknowledged.
    acknowledged: Atomic<u64>,
    /// What `written` was after the last flush that failed and may have lost what callers wrote.
    lost: Atomic<u64>,
    /// The last stage of which callers know that it was flushed.
    known: Atomic<u64>,
    /// 1 if no caller has been told of what is lost.
    untold: Atomic<u32>,
}

impl Cache {
    /// The cache of a device that has just been opened.
    pub(crate) fn new() -> Self {
        Self {
            written: Atomic::new(1),
            sent: Atomic::new(0),
            flushed: Atomic::new(0),
            failed: Atomic::new(0),
            acknowledged: Atomic::new(0),
            lost: Atomic::new(0),
            known: Atomic::new(0),
            untold: Atomic::new(0),
        }
    }

    /// The same of one that callers are taken to write to all the time: nobody says when.
    pub(crate) fn always_written() -> Self {
        Self { acknowledged: Atomic::new(u64::MAX), ..Self::new() }
    }

    /// A caller's write is about to be acknowledged.
    pub(crate) fn acknowledge(&self) {
        self.wrote();
        let written = self.written.load(Relaxed);
        if self.acknowledged.load(Relaxed) < written {
            raise(&self.acknowledged, written);
        }
    }

    /// A write has been done; to be called before anybody relies on it.
    pub(crate) fn wrote(&self) {
        // The device had done the write before this looks. If no flush was sent for the stage by then, the one that will be is sent after it.
        smp_mb(Full);
        if self.sent.load(Relaxed) >= self.written.load(Relaxed) {
            self.written.fetch_add(1u64, Full);
        }
    }

    /// The count to give to [`flushed`](Self::flushed) or [`answered`](Self::answered) after a flush that is sent now.
    pub(crate) fn count(&self) -> u64 {
        let written = self.written.fetch_add(0u64, Full);
        raise(&self.sent, written);
        // Nobody who sees a count from before this wrote after the flush.
        smp_mb(Full);
        written
    }

    /// Whether there may be something to flush, and the count to give to [`answered`](Self::answered)
    /// once that has been done.
    pub(crate) fn needs_flush(&self) -> Option<u64> {
        // `flushed` first: read the other way round, it could be newer than `written`.
        let flushed = self.flushed.load(Relaxed);
        let written = self.count();
        (flushed != written).then_some(written)
    }

    /// A flush of our own, sent after `written` was taken, has ended.
    pub(crate) fn flushed(&self, written: u64, ok: bool) {
        if ok {
            raise(&self.flushed, written);
        } else if self.acknowledged.load(Relaxed) > self.flushed.load(Relaxed) {
            self.owe();
        } else {
            self.fail();
        }
    }

    /// Callers' next flush is to fail, as one that they have not heard of did.
    pub(crate) fn owe(&self) {
        self.lose();
        self.untold.store(1, Relaxed);
    }

    /// Whether callers do not know yet of something that may be lost, or have not flushed anew since they do.
    pub(crate) fn owes(&self) -> bool {
        self.untold.load(Relaxed) != 0 || self.has_lost()
    }

    /// Flushes the device, for us; says how it went.
    pub(crate) fn flush(&self, device: &BlockDevice, pool: &BioPool) -> Status {
        let written = self.count();
        let mut flush = [Io::new(device, 0, What::Flush)];
        io::run(pool, &mut flush);
        let status = flush[0].status();
        self.flushed(written, status.is_ok());
        status
    }

    /// A flush of a caller, sent after `written` was taken, has ended. Returns whether it may be said to have succeeded.
    pub(crate) fn answered(&self, written: u64, ok: bool) -> bool {
        if !ok {
            self.lose();
        } else {
            raise(&self.flushed, written);
            // What one of our own has lost meanwhile may be what this was to make durable.
            if self.is_to_be_told() {
                return false;
            }
            raise(&self.known, written);
        }
        ok
    }

    /// The device is gone, with what has not been flushed by the time of `written`. It needs no flush from now on. Returns whether that may
    /// be something of callers, so that who asks for a flush is to be told.
    pub(crate) fn gone(&self, written: u64) -> bool {
        let lost = self.acknowledged.load(Relaxed) > self.flushed.load(Relaxed);
        raise(&self.flushed, if lost { self.lose() } else { written });
        lost
    }

    /// The same where the set goes on without the device from now on, whoever asks for a flush next, and whether or not it is back by then.
    pub(crate) fn put_away(&self) {
        if self.gone(self.count()) {
            self.untold.store(1, Relaxed);
        }
    }

    /// A flush of a caller finds all of it flushed.
    pub(crate) fn is_flushed(&self) {
        raise(&self.known, self.flushed.load(Relaxed));
    }

    /// Whether a caller has to be told that something is lost; the one who asks is.
    pub(crate) fn is_to_be_told(&self) -> bool {
        self.untold.load(Relaxed) != 0 && self.untold.xchg(0, Full) != 0
    }

    /// Whether a flush has failed, and none that was sent later has succeeded; one of a caller, if something may be lost.
    pub(crate) fn flush_failed(&self) -> bool {
        self.failed.load(Relaxed) > self.flushed.load(Relaxed) || self.has_lost()
    }

    /// Whether something may be lost, and no flush of a caller has succeeded since.
    pub(crate) fn has_lost(&self) -> bool {
        self.lost.load(Relaxed) > self.known.load(Relaxed)
    }

    fn fail(&self) -> u64 {
        let stage = self.written.fetch_add(1u64, Full) + 1;
        raise(&self.failed, stage);
        stage
    }

    fn lose(&self) -> u64 {
        let stage = self.fail();
        raise(&self.lost, stage);
        stage
    }
}

/// Makes `count` at least `least`.
fn raise(count: &Atomic<u64>, least: u64) {
    let mut seen = count.load(Relaxed);
    while seen < least {
        match count.cmpxchg(seen, least, Full) {
            Ok(_) => break,
            Err(now) => seen = now,
        }
    }
}

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
/// remapped to them ([`home_on`]).
pub(crate) type Spares = Slots<Spare, MAX_SPARES>;

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
        self.show(home_on(id), takes_bios.then_some(usize::from(id.0)));
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
        let (cache, suspected) = (Cache::new(), Atomic::new(0));
        Self { device, start, len, part, cache, role, suspected, generation: 0, word: 0 }
    }

    /// Puts it into its place among others.
    ///
    /// # Errors
    ///
    /// No memory.
    pub(crate) fn put(mut self, id: SpareId, spares: &Spares) -> Result {
        self.word = Word::on_spare(id);
        // The one of before is not what is looked for there any more.
        spares.show(home_on(id), None);
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
