// SPDX-License-Identifier: GPL-2.0

//! What has to be known of the volatile caches of a set's devices, so that nobody is told that something is durable which may not be.
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
//! # What may be lost
//!
//! A flush that fails may have lost what was written before. If it is a caller's, the caller knows. The core loses the error of a
//! flush that it sends ahead of data (`REQ_PREFLUSH` with `REQ_FUA`), so a failed flush is remembered: it counts as a write, and FUA
//! writes to whatever device fail until a caller's flush that was sent after it has succeeded. They may be what was to come after the
//! flush. As that data comes only when all parts of the failed flush have ended, one that was begun before is no such flush ([`Flushes`]).
//! The core queues the data then: a flush that is begun and succeeds before it has come out of the queue does count, as nobody can tell. And the data of a flush without FUA is a
//! write like any other, so who sends that does not hear of it.
//!
//! A flush of our own may fail too, and take what callers have written along: those are not asked. So the next flush of
//! a caller fails, whether or not the device flushes again by then, and FUA writes do until a caller's flush has succeeded.
//! What nobody but this module has written is left out of that: who wrote it sees to it. It may have gone with a flush of a caller as well,
//! of which only he hears ([`Cache::failures`]). (Not with one of somebody who uses the same device for something else: nobody but him hears
//! of that. Nor is one told of whose failure is heard of later than the success of one that was sent after it.)
//!
//! To a device with a cache and without FUA the core sends a flush behind each FUA write, and gives the error of either. A write that fails so is
//! tried again, and who sent it need not hear of it. If the device takes it then, the flush is what has failed, as far as anybody can tell: that is one of our own.
//! (The device may say that it was the medium, which is no answer to a flush. A flush of a caller that comes and goes before the second try has
//! ended is not told of it; the next one is.)
//!
//! Whether callers have written anything that no flush has taken in, and no caller was told of, is in `acknowledged`, the stage of their
//! last write. A write may have been done by the device, and not have come that far, when a flush of our own fails: so who notes the
//! failure leaves word in `silent` before it looks at `acknowledged`, and who acknowledges looks there after it has changed that.
//! One of both sees the other. (What is acknowledged only after a later flush has succeeded, or after a caller was told, was under way during both, and is not told
//! of.)
//!
//! # Spares that are away
//!
//! Nothing is read from or written to a spare that is away. What callers have written to it and never flushed
//! may be lost: that is a flush of our own that has failed. What was on its way to it then is acknowledged later, and lost too:
//! `gone` is for that what `silent` is for a failed flush, until the spare is back.
//!
//! The orders are tried, all of them, in `tests/interleavings`.

use super::atomic::{barrier, Count};

/// What a [`Cache`] had counted when a flush was sent.
#[derive(Clone, Copy, Default)]
pub struct Sent {
    written: u64,
    flushed: u64,
}

/// The state of a device's volatile cache, as far as we caused it: counted in stages, each of which ends when a flush is sent
/// after something was written.
#[derive(Default)]
pub struct Cache {
    /// The stage of the last write that was acknowledged.
    written: Count,
    /// The last stage that a flush was sent for.
    sent: Count,
    /// The last stage that a flush has succeeded for.
    flushed: Count,
    /// What `written` was after the last flush that failed.
    failed: Count,
    /// How many have failed.
    failures: Count,
    /// The stage of the last write of a caller that was acknowledged.
    acknowledged: Count,
    /// What `written` was after the last flush of our own that failed.
    silent: Count,
    /// 1 for a device that nothing goes to any more.
    gone: Count,
    /// 1 if no caller has been told of what is lost.
    untold: Count,
    /// What `written` was after a caller was told the last time that something may be lost.
    lost: Count,
    /// The last stage of which callers know that it was flushed.
    known: Count,
}

impl Cache {
    /// The cache of a device that has just been opened.
    pub fn of_opened() -> Self {
        Self::written_to(0)
    }

    /// The same of one that callers are taken to write to all the time: nobody says when.
    pub fn always_written() -> Self {
        Self::written_to(u64::MAX)
    }

    fn written_to(acknowledged: u64) -> Self {
        let acknowledged = Count::new(acknowledged);
        Self { written: Count::new(1), acknowledged, ..Self::default() }
    }

    /// A caller's write is about to be acknowledged.
    pub fn acknowledge(&self) {
        if self.is_acknowledged() {
            return;
        }
        self.wrote();
        self.acknowledged.raise(self.written.get());
        barrier();
        let silent = self.silent.get();
        if self.gone.get() != 0 || silent > self.flushed.get() && silent > self.lost.get() {
            self.owe();
        }
    }

    /// Whether nothing has to be changed for a caller's write that is about to be acknowledged: as others have been since the last flush was sent.
    ///
    /// One barrier does for both that [`acknowledge`](Self::acknowledge) has. The device had done the write before this looks whether a flush was
    /// sent; and who leaves word of a failure that is not seen here sees what was seen of `acknowledged`.
    #[inline(always)]
    pub fn is_acknowledged(&self) -> bool {
        let acknowledged = self.acknowledged.get();
        barrier();
        let written = self.written.get();
        self.sent.get() < written
            && acknowledged >= written
            && self.gone.get() | self.silent.get() == 0
    }

    /// A write has been done; to be called before anybody relies on it.
    pub fn wrote(&self) {
        // The device had done the write before this looks. If no flush was sent for the stage by then, the one that will be is sent after it.
        barrier();
        if self.sent.get() >= self.written.get() {
            self.written.add(1);
        }
    }

    /// For [`flushed`](Self::flushed), after a flush of our own that is sent now.
    pub fn send(&self) -> Sent {
        let flushed = self.flushed.get();
        Sent { written: self.count(), flushed }
    }

    /// The count to give to [`answered`](Self::answered) after a flush that is sent now.
    pub fn count(&self) -> u64 {
        let written = self.written.add(0);
        self.sent.raise(written);
        // Nobody who sees a count from before this wrote after the flush.
        barrier();
        written
    }

    /// Whether there may be something to flush, and the count to give to [`answered`](Self::answered)
    /// once that has been done.
    pub fn needs_flush(&self) -> Option<u64> {
        // `flushed` first: read the other way round, it could be newer than `written`.
        let flushed = self.flushed.get();
        let written = self.count();
        (flushed != written).then_some(written)
    }

    /// A flush of our own has ended. To be called before any that is sent later can end: a caller is told that that went well, although this
    /// may have lost what it was to flush, and the next one is told.
    pub fn flushed(&self, sent: Sent, ok: bool) {
        if ok {
            self.flushed.raise(sent.written);
            return;
        }
        self.failures.add(1);
        self.fail_silently(sent.flushed);
    }

    fn fail_silently(&self, flushed: u64) {
        self.silent.raise(self.fail());
        barrier();
        if self.is_unflushed_since(flushed) {
            self.owe();
        }
    }

    /// A write of a caller has failed, or a flush that the core has sent behind it.
    pub fn doubt(&self) {
        self.failures.add(1);
    }

    /// It was that flush, and the caller is told that all is well. Others are told.
    pub fn flush_behind_failed(&self) {
        self.fail_silently(0);
    }

    /// A flush of a caller, sent after `written` was taken, has ended. Returns whether it may be said to have succeeded.
    #[must_use]
    pub fn answered(&self, written: u64, ok: bool) -> bool {
        if !ok {
            self.failures.add(1);
            self.lose();
            return false;
        }
        self.flushed.raise(written);
        // What one of our own has lost meanwhile may be what this was to make durable.
        self.know_unless_told(written)
    }

    /// A flush of a caller finds nothing to flush. Returns whether it may be said to have succeeded.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        self.know_unless_told(self.flushed.get())
    }

    /// The set goes on without the device, with what has not been flushed, whoever asks for a flush next, and whether or not it is back by
    /// then. To be called before flushes do without it.
    pub fn put_away(&self) {
        // Who has written something and relies on it later may find it back by then, without that.
        self.failures.add(1);
        self.gone.set(1);
        barrier();
        if self.is_unflushed_since(self.flushed.get()) {
            self.owe();
        }
    }

    /// It is back. To be called before anything goes to it.
    pub fn take_back(&self) {
        self.gone.set(0);
    }

    /// What callers have written to it so far is nothing to them: they have it elsewhere. To be called when nothing is under way to it.
    pub fn begin_anew(&self) {
        self.acknowledged.set(0);
        self.silent.set(0);
        self.untold.set(0);
        self.known.raise(self.lost.get());
    }

    /// A flush of a caller does without the device. Returns whether it may be said to have succeeded.
    #[must_use]
    pub fn is_done_without(&self) -> bool {
        self.know_unless_told(self.written.get())
    }

    /// Callers' next flush is to fail, as one that they have not heard of did.
    pub fn owe(&self) {
        self.untold.set(1);
    }

    /// Whether a caller has to be told that something is lost; the one who asks is.
    #[must_use]
    pub fn is_to_be_told(&self) -> bool {
        if self.untold.get() == 0 {
            return false;
        }
        // There is no moment at which nothing says so.
        self.lose();
        self.untold.take() != 0
    }

    /// How many flushes have failed, whoever sent them, or were done without. Who relies on what it writes asks before that, and once more when a
    /// flush of its own has succeeded: if it is another, what was written may have gone with the one that failed, and the device does not say so twice.
    pub fn failures(&self) -> u64 {
        self.failures.get()
    }

    /// Whether a flush has failed, and none that was sent later has succeeded; one of a caller, if something may be lost.
    pub fn flush_failed(&self) -> bool {
        self.failed.get() > self.flushed.get() || self.has_lost()
    }

    /// Whether something may be lost, and no flush of a caller has succeeded since one was told.
    pub fn has_lost(&self) -> bool {
        if self.untold.get() != 0 {
            return true;
        }
        // What was told meanwhile is lost.
        barrier();
        self.lost.get() > self.known.get()
    }

    /// Callers know, or are told, that something may be lost: until a flush of theirs that is sent from now on succeeds, [it is](Self::has_lost).
    pub fn lose(&self) {
        self.lost.raise(self.fail());
    }

    /// A caller's flush has come to that stage, which callers know now, unless this one has to be told of something else.
    fn know_unless_told(&self, stage: u64) -> bool {
        let told = self.is_to_be_told();
        if !told {
            self.known.raise(stage);
        }
        !told
    }

    fn fail(&self) -> u64 {
        let stage = self.written.add(1) + 1;
        self.failed.raise(stage);
        stage
    }

    /// Whether callers have written what no flush has taken in, where that is what had been flushed, and none of them was told of.
    fn is_unflushed_since(&self, flushed: u64) -> bool {
        let acknowledged = self.acknowledged.get();
        acknowledged > flushed && acknowledged >= self.lost.get()
    }
}

/// The flushes of callers that are under way, each in so many parts.
///
/// One that fails may be one of which the core tells nobody. It sends the data that was to follow when all parts have ended, and that is to
/// fail then. So one that succeeds meanwhile, which may have been sent to the device that failed after it did, says nothing of that: what
/// does is the next one that is begun when no other is under way. Where callers never leave off, it is the next after so many have ended
/// that the one that failed has too: a device does those that wait for it together.
#[derive(Default)]
pub struct Flushes {
    left: Count,
    ended: Count,
    refused: Count,
    forgiven: Count,
    /// The parts that have to have ended.
    due: Count,
}

impl Flushes {
    /// Parts that end after one that has failed, until the flush that it was of has ended in all likelihood.
    const MANY: u64 = 1000;

    /// One is begun, of so many parts. `main` is the cache of a device that each flush goes to, which has not been asked yet for this one.
    pub fn begin(&self, parts: u64, main: &Cache) {
        let refused = self.refused.get();
        let alone = self.left.add(parts) == 0;
        if refused > self.forgiven.get() && (alone || self.ended.get() >= self.due.get()) {
            main.lose();
            self.forgiven.raise(refused);
        }
    }

    /// A part of one has ended.
    pub fn ended(&self, ok: bool) {
        let ended = self.ended.add(1);
        if !ok {
            self.due.raise(ended + Self::MANY);
            self.refused.add(1);
        }
        self.left.add(u64::MAX);
    }

    /// Whether one has failed, and none was begun after its end. To be asked before main's cache whether [it has](Cache::flush_failed).
    pub fn has_failed(&self) -> bool {
        let failed = self.refused.get() > self.forgiven.get();
        // Who has forgiven it has told main's cache before.
        barrier();
        failed
    }
}
