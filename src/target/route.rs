// SPDX-License-Identifier: GPL-2.0

//! The way of a bio: `map`, `end_io`, and the bios that had to wait.
//!
//! A bio is counted ([`Domains`](super::domains::Domains)) before the published view is read and
//! until a device has answered it. A bio that touches a held range is not sent: it goes on the list
//! of held bios and is counted no more. It is put there under the list's lock after the view has
//! been looked at again under that lock, and a view with fewer holds is published under the same
//! lock, so none is left behind.

use super::{
    domains::Counted,
    view::{Mode, View},
    Remap,
};
use crate::{
    dm::{
        bio::{EndedBio, HeldBio, HeldList, MapBio, Mapped, Op, Status},
        device::BlockDevice,
        published::{Reading, Retired},
    },
    pure::{
        entry::{Entry, Mapping},
        store::SpareSet,
        units::{MainSector, Sectors, SpareId},
    },
};
use kernel::{
    prelude::*,
    sync::lock::{spinlock::SpinLockBackend, Guard},
};

/// What goes with a bio, in a word: in which count it stands, and what its end has to know.
///
/// | bits   | hold |
/// |--------|------|
/// | 0..2   | [`Word::NOTHING`] and its like |
/// | 2      | for a counted bio: whether it is more than a read or write of main |
/// | 3..8   | for a counted bio: [`Counted`] |
/// | 9      | for a counted bio: it reads a spare |
/// | 10     | for a counted bio: it is answered with an error by the target itself |
/// | 16..24 | for a counted bio: the spares that it writes to |
/// | 2..6   | for a flush of a spare: which |
/// | 8..64  | for a flush: what the device's cache had counted before |
struct Word;

impl Word {
    /// Not counted, nothing to be known.
    const NOTHING: u64 = 0;
    /// Counted.
    const COUNTED: u64 = 1;
    /// A flush of main.
    const FLUSH_MAIN: u64 = 2;
    /// A flush of a spare.
    const FLUSH_SPARE: u64 = 3;
    const KIND: u64 = 3;

    const SPECIAL: u64 = 1 << 2;
    const SPARE_READ: u64 = 1 << 9;
    const REFUSED: u64 = 1 << 10;

    #[inline]
    fn counted(counted: Counted) -> u64 {
        Self::COUNTED | counted.bits() << 3
    }

    /// Only in which count it stands.
    fn counted_of(word: u64) -> u64 {
        Self::counted(Counted::of_bits(word >> 3))
    }

    fn spare_writes(spares: SpareSet) -> u64 {
        Self::SPECIAL | u64::from(spares.0) << 16
    }

    fn spares_written(word: u64) -> SpareSet {
        SpareSet((word >> 16) as u8)
    }

    fn flush_main(written: u64) -> u64 {
        Self::FLUSH_MAIN | written << 8
    }

    fn flush_spare(spare: SpareId, written: u64) -> u64 {
        Self::FLUSH_SPARE | u64::from(spare.0 & 7) << 2 | written << 8
    }
}

/// A part of a bio and where it goes.
struct Leg<'a> {
    device: &'a BlockDevice,
    sector: u64,
    len: Sectors,
    /// What the bio's [`Word`] gets.
    word: u64,
    /// Nothing is sent: what is asked for is done by doing nothing.
    skip: bool,
}

type HeldGuard<'a> = Guard<'a, HeldList<Remap>, SpinLockBackend>;

impl Remap {
    /// `map` of the target. What most bios do is here: reads and writes where nothing is in the way.
    #[inline]
    pub(super) fn route(&self, mut bio: MapBio<'_, Self>) -> Mapped {
        if !bio.is_plain() {
            return self.route_special(bio);
        }
        let (counted, reading) = self.domains.enter(MainSector(bio.sector()), bio.sectors());
        bio.keep_word(Word::counted(counted));
        if !self.published.read(&reading).is_quiet() {
            return self.route_busy(bio, reading);
        }
        // Within main, as the constructor has checked.
        let sector = self.main.start.wrapping_add(bio.sector());
        bio.send_after(reading, self.main.device.block(), sector)
    }

    /// The way of a plain bio when there are entries, or something is held.
    #[inline(never)]
    fn route_busy(&self, mut bio: MapBio<'_, Self>, reading: Reading) -> Mapped {
        let view = self.published.read(&reading);
        if !view.holds().is_empty() {
            return self.route_around_holds(bio, &reading);
        }
        let start = MainSector(bio.sector());
        let found = view.table().find(start, bio.sectors());
        if found.is_none() {
            let sector = self.main.start.wrapping_add(start.0);
            return bio.send_after(reading, self.main.device.block(), sector);
        }
        let behind = start.0.wrapping_sub(found.start().0);
        // A read that lies within one remapped extent, as most do that come here.
        if behind < found.len().0 && bio.sectors().0 <= found.len().0 - behind && bio.is_read() {
            if let Mapping::Remapped { spare, to } = found.mapping() {
                if let Some(spare) = self.spare(spare) {
                    bio.keep_word(bio.word() | Word::SPARE_READ);
                    let sector = spare.sector(to).wrapping_add(behind);
                    return bio.send_after(reading, spare.block(), sector);
                }
            }
        }
        self.route_by_entry(bio, found.entry())
    }

    /// Sends as much of the bio as goes to one place; `entry` is the first that touches it.
    fn route_by_entry(&self, mut bio: MapBio<'_, Self>, entry: Option<Entry>) -> Mapped {
        let leg = self.leg(bio.op(), MainSector(bio.sector()), bio.sectors(), entry);
        bio.accept_partial(leg.len);
        bio.keep_word(bio.word() | leg.word);
        if leg.skip {
            return bio.complete(Status::OK);
        }
        if bio.is_fua() && self.flush_failed() {
            bio.keep_word(Word::counted_of(bio.word()) | Word::REFUSED);
            return bio.complete(Status::IOERR);
        }
        bio.send(leg.device, leg.sector)
    }

    /// Where the sectors from `start` on go, and how many of `len` go there.
    fn leg(&self, op: Op, start: MainSector, len: Sectors, entry: Option<Entry>) -> Leg<'_> {
        let main = |len| Leg {
            device: self.main.device.block(),
            sector: self.main.start + start.0,
            len,
            word: Word::NOTHING,
            skip: false,
        };
        let Some(entry) = entry else { return main(len) };
        if entry.extent.start > start {
            return main(len.min(entry.extent.start - start));
        }
        let len = len.min(entry.extent.end() - start);
        match entry.mapping.advance(start - entry.extent.start) {
            Mapping::Pending => main(len),
            Mapping::Remapped { spare, to } => match self.spare(spare) {
                Some(device) => Leg {
                    device: device.block(),
                    sector: device.sector(to),
                    len,
                    word: match op {
                        Op::Read => Word::SPARE_READ,
                        _ => Word::spare_writes(SpareSet(1 << (spare.0 & 7))),
                    },
                    skip: op == Op::Discard && device.block().max_discard_sectors() == 0,
                },
                // Activation does not let a table name a spare that is not there.
                None => main(len),
            },
        }
    }

    /// Whether a flush of any device failed and none has succeeded since: the core does not say with
    /// a FUA write whether a flush went ahead of it.
    fn flush_failed(&self) -> bool {
        self.main.cache.flush_failed() || self.spares.iter().any(|s| s.cache.flush_failed())
    }

    /// The way of a bio that is counted, with all that may be in it.
    #[cold]
    #[inline(never)]
    fn route_around_holds(&self, mut bio: MapBio<'_, Self>, reading: &Reading) -> Mapped {
        let op = bio.op();
        let start = MainSector(bio.sector());
        let mut held: Option<HeldGuard<'_>> = None;
        let view = loop {
            let view = self.published.read(reading);
            let Some(hold) = view.first_hold(start, bio.sectors()) else { break view };
            if hold.extent.start > start {
                // What is in front of the held range goes its way; the rest comes as another bio.
                bio.accept_partial(hold.extent.start - start);
                break view;
            }
            bio.accept_partial(hold.extent.end() - start);
            if hold.mode.lets_pass(op) {
                break view;
            }
            let refused = match hold.mode {
                Mode::Failing => Some(Status::IOERR),
                _ if bio.is_nowait() => Some(Status::AGAIN),
                _ => None,
            };
            if let Some(status) = refused {
                // It is counted until its end, as any that is sent.
                bio.keep_word(bio.word() | Word::REFUSED);
                return bio.complete(status);
            }
            let Some(list) = &mut held else {
                held = Some(self.held.lock());
                continue;
            };
            // Looked at again under the lock, and still held.
            self.domains.leave(Counted::of_bits(bio.word() >> 3));
            bio.keep_word(Word::NOTHING);
            return bio.keep(|bio| list.push(bio));
        };
        drop(held);
        let entry = view.table().find(start, bio.sectors()).entry();
        self.route_by_entry(bio, entry)
    }

    /// The way of everything but plain reads and writes.
    #[cold]
    fn route_special(&self, mut bio: MapBio<'_, Self>) -> Mapped {
        match bio.op() {
            Op::Flush => self.route_flush(bio),
            Op::Other => bio.complete(Status::NOTSUPP),
            // What has to be durable, discards, zeroes.
            _ => {
                let (start, len) = (MainSector(bio.sector()), bio.sectors());
                let (counted, reading) = self.domains.enter(start, len);
                bio.keep_word(Word::counted(counted));
                self.route_around_holds(bio, &reading)
            }
        }
    }

    fn route_flush(&self, mut bio: MapBio<'_, Self>) -> Mapped {
        let number = bio.flush_number();
        if number == 0 {
            bio.keep_word(Word::flush_main(self.main.cache.count()));
            return bio.send(self.main.device.block(), 0);
        }
        let spare = SpareId((number - 1) as u8);
        match self.spare(spare).and_then(|s| Some((s, s.cache.needs_flush()?))) {
            Some((device, written)) => {
                bio.keep_word(Word::flush_spare(spare, written));
                bio.send(device.block(), 0)
            }
            None => bio.complete(Status::OK),
        }
    }

    /// `end_io` of the target.
    #[inline]
    pub(super) fn ended(&self, bio: EndedBio<'_, Self>, status: Status) -> Status {
        let word = bio.word();
        // Both at once: this is on the way of every bio.
        if ((word & (Word::KIND | Word::SPECIAL)) ^ Word::COUNTED) | u64::from(status.code()) != 0 {
            return self.ended_special(&bio, status);
        }
        self.domains.leave(Counted::of_bits(word >> 3));
        status
    }

    #[inline(never)]
    fn ended_special(&self, bio: &EndedBio<'_, Self>, status: Status) -> Status {
        let word = bio.word();
        let mut on_spare = false;
        match word & Word::KIND {
            Word::COUNTED => {
                let written = Word::spares_written(word);
                on_spare = !written.is_empty() || word & Word::SPARE_READ != 0;
                self.spares_of(written).for_each(|spare| spare.cache.wrote());
                self.domains.leave(Counted::of_bits(word >> 3));
            }
            Word::FLUSH_MAIN => self.main.cache.flushed(word >> 8, status.is_ok()),
            Word::FLUSH_SPARE => {
                on_spare = true;
                if let Some(spare) = self.spare(SpareId((word >> 2 & 7) as u8)) {
                    spare.cache.flushed(word >> 8, status.is_ok());
                }
            }
            // Answered by the target itself.
            _ => return status,
        }
        if !status.is_ok() && word & Word::REFUSED == 0 {
            self.counters.error(on_spare, bio.is_read());
        }
        status
    }

    /// Publishes `view`, and gives the one of before and the bios that were held. Those are to be
    /// [sent on](Self::send_on) once no lock is held.
    #[must_use]
    pub(super) fn publish(&self, view: KBox<View>) -> (Retired<View>, HeldList<Self>) {
        let mut held = self.held.lock();
        let retired = self.published.replace(view);
        (retired, held.take())
    }

    /// Maps bios again that were held. Sleeps.
    pub(super) fn send_on(&self, mut waiting: HeldList<Self>) {
        while let Some(bio) = waiting.pop() {
            self.send_on_one(bio);
        }
    }

    /// Maps a bio that was held. Its parts may go to several places now.
    fn send_on_one(&self, mut bio: HeldBio<Self>) {
        let op = bio.op();
        let (mut start, mut len) = (MainSector(bio.sector()), bio.sectors());
        let (counted, reading) = self.domains.enter(start, len);
        let mut list = self.held.lock();
        let view = self.published.read(&reading);
        let failing = view.holds_of(start, len).any(|hold| hold.mode == Mode::Failing);
        if !failing && view.holds_of(start, len).any(|hold| !hold.mode.lets_pass(op)) {
            self.domains.leave(counted);
            list.push(bio);
            return;
        }
        // All parts are sent by this table, even if another is published meanwhile: who holds the
        // range next waits for the whole bio.
        let table = view.table().clone();
        drop(list);
        drop(reading);
        let mut word = Word::counted(counted);
        bio.keep_word(word);
        if failing {
            bio.keep_word(word | Word::REFUSED);
            return bio.complete(Status::IOERR);
        }
        loop {
            let leg = self.leg(op, start, len, table.find(start, len).entry());
            let last = leg.len >= len;
            if !leg.skip && bio.is_fua() && self.flush_failed() {
                return bio.complete(Status::IOERR);
            }
            word |= leg.word;
            bio.keep_word(word);
            match (leg.skip, last) {
                (true, true) => return bio.complete(Status::OK),
                (true, false) => bio.skip_front(leg.len),
                (false, true) => return bio.send(leg.device, leg.sector),
                (false, false) => {
                    if bio.send_front(leg.len, leg.device, leg.sector, &self.pool).is_err() {
                        return bio.complete(Status::IOERR);
                    }
                }
            }
            start = start + leg.len;
            len = len - leg.len;
        }
    }
}
