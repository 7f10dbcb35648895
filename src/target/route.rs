// SPDX-License-Identifier: GPL-2.0

//! The way of a bio: `map`, `end_io`, and the bios that had to wait.
//!
//! A bio is counted ([`Domains`](super::domains::Domains)) before the published view is read and
//! until a device has answered it. A bio that touches a held range is not sent: it goes on the list
//! of held bios and is counted no more. It is put there under the list's lock after the view has
//! been looked at again under that lock, and a view with fewer holds is published under the same
//! lock, so none is left behind.

use super::{
    domains::{Counted, Domains},
    looks::Noted,
    members::Both,
    spare::{Role, Spare},
    view::{Drawn, Mirror, Mode, View},
    Remap,
};
use crate::{
    dm::{
        bio::{Ended, EndedBio, HeldBio, MapBio, Mapped, Op, Status, PLAIN},
        device::BlockDevice,
        held::HeldList,
        published::{Reading, Retired},
    },
    pure::{
        entry::{Entry, Mapping, HOME_LIMIT},
        health::Member,
        store::SpareSet,
        table::Guess,
        units::{Extent, MainSector, Sectors, SpareId, MAX_SPARES},
    },
};
use kernel::{
    prelude::*,
    sync::{
        atomic::Relaxed,
        lock::{spinlock::SpinLockBackend, Guard},
        rcu, ArcBorrow,
    },
};

/// What goes with a bio, in a word: in which count it stands, and what its end has to know.
///
/// | bits   | hold |
/// |--------|------|
/// | 0..2   | of what kind it is: counted, and its end has nothing to do but to count it out; counted, with more to do; kept, or answered by the target; a flush |
/// | 2      | where its data starts has been noted |
/// | 3..10  | for a counted bio: [`Counted`] |
/// | 3..8   | for a flush: 0 for main, 1 and more for a spare, 31 for one that the target has answered |
/// | 10..22 | for a counted bio, or one that is kept: its sectors, as far as they fit; 0 where the target itself answers it |
/// | 22..60 | for a counted bio, or one that is kept: its first sector |
/// | 60..64 | for a counted bio: 0 for main, 1 and more for a spare, 15 for several devices; for one that is kept: 15 if it has failed before and is to be sent again |
/// | 8..16  | for a flush: the [generation](Spare::generation) of a spare |
/// | 16..64 | for a flush: what the device's cache had counted before |
///
/// A device leaves where a bio began, and how long it was, to nobody (`bio_advance`).
pub(super) struct Word;

/// What a counted bio was sent to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Where {
    Main,
    Spare(SpareId),
    Several,
}

/// Main may have so many sectors, that each fits a [`Word`].
pub(super) const MAIN_LIMIT: Sectors = Sectors(1 << 38);

/// A flush comes as so many bios: one for main, and one for each spare that there may be.
pub(super) const FLUSH_PARTS: u32 = 1 + MAX_SPARES as u32;

/// A bio that is not plain, but may have to be sent anew, is cut to this.
const LONG: Sectors = Sectors(2048);

impl Word {
    const KIND: u64 = 3;
    /// Added to a counted bio: its end has more to do than to count it out.
    const SPECIAL: u64 = 1;
    /// Not counted.
    pub(super) const KEPT: u64 = 2;
    const FLUSH: u64 = 3;
    const FLUSH_ANSWERED: u64 = Self::FLUSH | 31 << 3;
    const NOTED: u64 = 1 << 2;
    const LEN: u64 = PLAIN.0 << 10;
    const WHERE: u32 = 60;
    const SEVERAL: u64 = 15 << Self::WHERE;
    const AGAIN: u64 = Self::KEPT | 15 << Self::WHERE;

    #[inline]
    pub(super) fn range(start: MainSector, len: Sectors) -> u64 {
        const { assert!(Counted::BITS.start == 3 && Counted::BITS.end == 10) };
        start.0 << 22 | len.0 << 10
    }

    /// The bio's range, unless the target itself answers it.
    pub(super) fn extent(word: u64) -> Option<Extent> {
        let start = MainSector(word >> 22 & (MAIN_LIMIT.0 - 1));
        Extent::new(start, Sectors((word & Self::LEN) >> 10))
    }

    #[inline]
    fn is_counted(word: u64) -> bool {
        word & Self::KEPT == 0
    }

    /// Whether a device has failed it, rather than the target kept it before it was sent.
    pub(super) fn is_failed(word: u64) -> bool {
        Self::is_counted(word)
    }

    /// Whether it has been noted where the data starts.
    pub(super) fn is_noted(word: u64) -> bool {
        word & Self::NOTED != 0
    }

    #[inline]
    pub(super) const fn on_spare(spare: SpareId) -> u64 {
        (spare.0 as u64 + 1) << Self::WHERE
    }

    /// What the spare is [shown](super::spare::Spares) under that it was sent to. Nothing is under that of any other word, but for one of a bio that
    /// is not counted. No entry has it as its home.
    #[inline(always)]
    pub(super) const fn spare_key(word: u64) -> u8 {
        const { assert!(HOME_LIMIT & 15 == 0) };
        HOME_LIMIT | (word >> Self::WHERE) as u8
    }

    pub(super) fn place(word: u64) -> Where {
        match word >> Self::WHERE {
            0 => Where::Main,
            n @ 1..=8 => Where::Spare(SpareId(n as u8 - 1)),
            _ => Where::Several,
        }
    }

    /// Whether it is the word of a read of a block that is known to fail.
    fn is_marked(word: u64) -> bool {
        word & Self::SPECIAL != 0 && Self::place(word) != Where::Several
    }

    /// For a flush of the device with that number: 0 for main, 1 and more for a spare.
    fn flush(device: u32, generation: u8, written: u64) -> u64 {
        const { assert!(MAX_SPARES < 31) };
        Self::FLUSH | u64::from(device & 31) << 3 | u64::from(generation) << 8 | written << 16
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
    /// What is written here goes elsewhere.
    moves: bool,
    /// It lives on a spare that the set goes on without.
    gone: bool,
}

type HeldGuard<'a> = Guard<'a, HeldList<Remap>, SpinLockBackend>;

impl Remap {
    /// `map` of the target. What most bios do is here: reads and writes where nothing is in the way.
    #[inline]
    pub(super) fn route(this: ArcBorrow<'_, Self>, mut bio: MapBio<'_, Self>) -> Mapped {
        if !bio.is_plain() {
            return Self::route_special(this, bio);
        }
        let (start, len) = (MainSector(bio.sector()), bio.sectors());
        let last = MainSector(start.0.wrapping_add(len.0).wrapping_sub(1));
        if !this.front.is_narrow(start, last) {
            return Self::route_wide(this, bio, start, last);
        }
        let counted = this.domains.enter_chunk(start);
        bio.keep_word(counted.bits() | Word::range(start, len));
        if this.front.is_clear(start) {
            // Within main, as the constructor has checked.
            return bio.send(this.main.device.block(), this.main.start.wrapping_add(start.0));
        }
        let reading = Reading::begin();
        let Some(shortcuts) = this.front.read(&reading).shortcuts() else {
            return Self::route_busy(this, bio, reading, start);
        };
        match shortcuts.find(start, len).and_then(|way| Some((way, this.spares.shown(way.home)?))) {
            Some((way, spare)) => {
                bio.keep_word(bio.word() | spare.word | Self::of_write(&bio));
                bio.end_and_send(reading, spare.block(), spare.sector(way.to))
            }
            None => Self::route_busy(this, bio, reading, start),
        }
    }

    /// The way of a plain bio that lies in several regions or chunks, from `start` to `last`.
    #[inline(never)]
    fn route_wide(
        this: ArcBorrow<'_, Self>,
        mut bio: MapBio<'_, Self>,
        start: MainSector,
        last: MainSector,
    ) -> Mapped {
        if !Domains::is_chunk(start, last) {
            return Self::route_long(this, bio);
        }
        let counted = this.domains.enter_chunk(start);
        bio.keep_word(counted.bits() | Word::range(start, bio.sectors()));
        if !this.front.is_clear_across(start, last) {
            return Self::route_busy(this, bio, Reading::begin(), start);
        }
        bio.send(this.main.device.block(), this.main.start.wrapping_add(start.0))
    }

    /// The way of a plain bio that lies in more than a chunk.
    #[inline(never)]
    fn route_long(this: ArcBorrow<'_, Self>, mut bio: MapBio<'_, Self>) -> Mapped {
        let (start, len) = (MainSector(bio.sector()), bio.sectors());
        if len > PLAIN {
            return Self::route_special(this, bio);
        }
        let counted = this.domains.enter(start, len);
        bio.keep_word(counted.bits() | Word::range(start, len));
        if !this.front.is_clear_along(Extent { start, len }) {
            return Self::route_busy(this, bio, Reading::begin(), start);
        }
        bio.send(this.main.device.block(), this.main.start.wrapping_add(start.0))
    }

    /// The way of a plain bio where there may be entries, or something is held. What takes more than this
    /// goes to other functions with the same arguments, so that this one has nothing to save for later.
    /// `start` is where it begins, which the caller has in a register.
    #[inline(never)]
    fn route_busy(
        this: ArcBorrow<'_, Self>,
        mut bio: MapBio<'_, Self>,
        reading: Reading,
        start: MainSector,
    ) -> Mapped {
        let view = this.front.read(&reading);
        if !view.is_plain() {
            return Self::route_read(this, bio, reading);
        }
        match view.table().guess(start, bio.sectors()) {
            // Who is counted keeps the devices in place.
            Guess::Nothing => {
                let sector = this.main.start.wrapping_add(start.0);
                bio.end_and_send(reading, this.main.device.block(), sector)
            }
            Guess::Within(found, behind) => match this.spares.shown(found.home()) {
                Some(spare) => {
                    let sector = spare.sector(found.to()).wrapping_add(behind.0);
                    bio.keep_word(bio.word() | spare.word | Self::of_write(&bio));
                    bio.end_and_send(reading, spare.block(), sector)
                }
                None => Self::route_read(this, bio, reading),
            },
            Guess::Unknown => Self::route_read(this, bio, reading),
        }
    }

    /// With a write to a spare there is more to do at its end.
    #[inline(always)]
    fn of_write(bio: &MapBio<'_, Self>) -> u64 {
        const { assert!(Word::SPECIAL == 1) };
        bio.is_write_bit()
    }

    /// The way of a plain bio when more has to be looked at.
    #[inline(never)]
    fn route_read(
        this: ArcBorrow<'_, Self>,
        mut bio: MapBio<'_, Self>,
        reading: Reading,
    ) -> Mapped {
        let view = this.front.read(&reading);
        if !view.is_plain() {
            drop(reading);
            return Self::route_around_holds(this, bio);
        }
        let start = MainSector(bio.sector());
        let found = view.table().search(start, bio.sectors());
        if found.is_none() {
            let sector = this.main.start.wrapping_add(start.0);
            return bio.end_and_send(reading, this.main.device.block(), sector);
        }
        let behind = start.0.wrapping_sub(found.start().0);
        if behind < found.len().0 && bio.sectors().0 <= found.len().0 - behind {
            if let Some(spare) = this.spares.shown(found.home()) {
                bio.keep_word(bio.word() | spare.word | Self::of_write(&bio));
                let sector = spare.sector(found.to()).wrapping_add(behind);
                return bio.end_and_send(reading, spare.block(), sector);
            }
        }
        drop(reading);
        Self::route_by_entry(this, bio, found.entry(), 0)
    }

    /// Sends as much of the bio as goes to one place; `entry` is the first that touches it. `watch`
    /// is [`Word::SPECIAL`] where main's answer to a write is of interest.
    fn route_by_entry(
        this: ArcBorrow<'_, Self>,
        mut bio: MapBio<'_, Self>,
        entry: Option<Entry>,
        watch: u64,
    ) -> Mapped {
        let (op, start) = (bio.op(), MainSector(bio.sector()));
        let leg = this.leg(op, start, bio.sectors(), entry);
        bio.accept_partial(leg.len);
        let counted = Counted::of_word(bio.word());
        // A discard may be longer than what fits; nobody asks for its range.
        let word = counted.bits() | Word::range(start, leg.len.min(PLAIN));
        bio.keep_word(word | bio.word() & Word::NOTED | leg.word | watch);
        if leg.skip {
            return bio.complete(Status::OK);
        }
        if bio.is_fua() && this.flush_failed() {
            bio.keep_word(bio.word() & !Word::LEN);
            return bio.complete(Status::IOERR);
        }
        if leg.moves && matches!(op, Op::Write | Op::WriteZeroes) {
            if bio.is_nowait() {
                bio.keep_word(bio.word() & !Word::LEN);
                return bio.complete(Status::AGAIN);
            }
            this.domains.leave(counted);
            bio.keep_word(Word::KEPT | Word::range(start, leg.len));
            return bio.keep(|bio| Self::rescue_later(this, bio));
        }
        if leg.gone {
            bio.keep_word(bio.word() & !Word::LEN);
            return bio.complete(Status::IOERR);
        }
        if leg.moves {
            bio.alone();
        }
        bio.send(leg.device, leg.sector)
    }

    /// Where the sectors from `start` on go, and how many of `len` go there.
    fn leg(&self, op: Op, start: MainSector, len: Sectors, entry: Option<Entry>) -> Leg<'_> {
        let main = |len| Leg {
            device: self.main.device.block(),
            sector: self.main.start + start.0,
            len,
            word: 0,
            skip: op == Op::Discard && self.main.copies,
            moves: false,
            gone: false,
        };
        let Some(entry) = entry else { return main(len) };
        if entry.extent.start > start {
            return main(len.min(entry.extent.start - start));
        }
        let len = len.min(entry.extent.end() - start);
        let mapping = entry.mapping.advance(start - entry.extent.start);
        let bad = mapping.is_bad();
        match mapping.place().map(|(id, to)| (id, self.usable(id), to)) {
            Some((id, Some(spare), to)) => Leg {
                device: spare.block(),
                sector: spare.sector(to),
                len,
                word: match op {
                    Op::Read if !bad => Word::on_spare(id),
                    _ => Word::on_spare(id) | Word::SPECIAL,
                },
                skip: op == Op::Discard && spare.block().max_discard_sectors() == 0,
                moves: bad,
                gone: false,
            },
            // Nobody knows what it holds until its spare is back; what is written moves.
            Some((_, None, _)) => {
                Leg { skip: op == Op::Discard, moves: true, gone: true, ..main(len) }
            }
            // What main has there is not what was written last.
            None if mapping == Mapping::Lost => {
                Leg { skip: op == Op::Discard, moves: true, gone: true, ..main(len) }
            }
            // That it can be read this time is of interest.
            None if bad => Leg { moves: true, word: Word::SPECIAL, ..main(len) },
            None => main(len),
        }
    }

    /// Whether a flush of any device failed and none has succeeded since: the core does not say with
    /// a FUA write whether a flush went ahead of it.
    pub(crate) fn flush_failed(&self) -> bool {
        let failed = |(_, spare): (usize, &Spare)| match spare.role() {
            Role::Member => spare.cache.flush_failed(),
            Role::Away => spare.cache.has_lost(),
            _ => false,
        };
        self.flushes.has_failed()
            || self.main.cache.flush_failed()
            || self.spares.iter().any(failed)
    }

    /// The way of a bio that is counted, with all that may be in it.
    #[cold]
    #[inline(never)]
    fn route_around_holds(this: ArcBorrow<'_, Self>, mut bio: MapBio<'_, Self>) -> Mapped {
        let reading = rcu::read_lock();
        let op = bio.op();
        let start = MainSector(bio.sector());
        let mut held: Option<HeldGuard<'_>> = None;
        let view = loop {
            let view = this.front.read(&reading);
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
                bio.keep_word(bio.word() & !Word::LEN);
                return bio.complete(status);
            }
            let Some(list) = &mut held else {
                held = Some(this.held.lock());
                continue;
            };
            // Looked at again under the lock, and still held.
            this.domains.leave(Counted::of_word(bio.word()));
            bio.keep_word(Word::KEPT);
            return bio.keep(|bio| list.push(bio));
        };
        drop(held);
        let entry = view.table().find(start, bio.sectors()).entry();
        if let Some(mirror) = view.mirror().filter(|_| matches!(op, Op::Write | Op::WriteZeroes)) {
            let here = entry.filter(|entry| entry.extent.start <= start && !entry.mapping.is_bad());
            let from =
                here.filter(|entry| entry.mapping.place().is_some_and(|p| p.0 == mirror.from));
            if let Some(entry) = from {
                bio.accept_partial(entry.extent.end() - start);
                if mirror.frozen || bio.is_nowait() {
                    bio.keep_word(bio.word() & !Word::LEN);
                    let status = if mirror.frozen { Status::IOERR } else { Status::AGAIN };
                    return bio.complete(status);
                }
                // Sending it twice takes memory, which may have to be waited for.
                this.domains.leave(Counted::of_word(bio.word()));
                bio.keep_word(Word::KEPT);
                return bio.keep(|bio| Self::mirror_later(this, bio));
            }
        }
        // Who holds a range may wonder whether main still takes writes.
        let watch = if op == Op::Write && !view.holds().is_empty() { Word::SPECIAL } else { 0 };
        Self::route_by_entry(this, bio, entry, watch)
    }

    /// The way of everything but plain reads and writes.
    #[cold]
    fn route_special(this: ArcBorrow<'_, Self>, mut bio: MapBio<'_, Self>) -> Mapped {
        bio.keep_word(Word::KEPT);
        match bio.op() {
            Op::Flush => this.route_flush(bio),
            Op::Other => bio.complete(Status::NOTSUPP),
            // What has to be durable, discards, zeroes, what is long.
            op => {
                if op != Op::Discard && bio.sectors() > LONG {
                    bio.accept_partial(LONG);
                }
                let (start, len) = (MainSector(bio.sector()), bio.sectors());
                let counted = this.domains.enter(start, len);
                let noted = if bio.note_start() { Word::NOTED } else { 0 };
                bio.keep_word(counted.bits() | Word::range(start, len.min(PLAIN)) | noted);
                Self::route_around_holds(this, bio)
            }
        }
    }

    /// One part of a flush: it comes as one for each device that there may be, in order, main's first.
    fn route_flush(&self, mut bio: MapBio<'_, Self>) -> Mapped {
        let number = bio.flush_number();
        let main = &self.main;
        bio.keep_word(Word::FLUSH_ANSWERED);
        if number == 0 {
            self.flushes.begin(FLUSH_PARTS.into(), &main.cache);
            if main.cache.is_to_be_told() {
                return bio.complete(Status::IOERR);
            }
            bio.keep_word(Word::flush(0, 0, main.cache.count()));
            return bio.send(main.device.block(), 0);
        }
        let Some(spare) = self.spare(SpareId((number - 1) as u8)) else {
            return bio.complete(Status::OK);
        };
        let (cache, role) = (&spare.cache, spare.role());
        let well = match role {
            Role::Away => cache.is_done_without(),
            Role::Member if cache.is_to_be_told() => false,
            Role::Member | Role::Candidate => match cache.needs_flush() {
                Some(written) => {
                    bio.keep_word(Word::flush(number, spare.generation, written));
                    return bio.send(spare.block(), 0);
                }
                None => cache.is_flushed() || role == Role::Candidate,
            },
            // Nothing of one that has left is used any more.
            Role::Left | Role::Refused => true,
        };
        bio.complete(if well { Status::OK } else { Status::IOERR })
    }

    /// `ended_well` of the target.
    #[inline]
    pub(super) fn passed_well(this: ArcBorrow<'_, Self>, bio: &EndedBio<'_, Self>) -> bool {
        let word = bio.word();
        let passed = match word & Word::KIND {
            0 => true,
            Word::SPECIAL => Self::is_written(this, bio, word),
            _ => false,
        };
        if passed {
            this.domains.leave(Counted::of_word(word));
        }
        passed
    }

    /// Whether it was written to one spare, and nothing has to be noted of that.
    #[inline(always)]
    fn is_written(this: ArcBorrow<'_, Self>, bio: &EndedBio<'_, Self>, word: u64) -> bool {
        let spare = this.spares.shown(Word::spare_key(word));
        bio.changes() && spare.is_some_and(|spare| spare.cache.is_acknowledged())
    }

    /// `end_io` of the target.
    pub(super) fn ended(
        this: ArcBorrow<'_, Self>,
        bio: EndedBio<'_, Self>,
        status: Status,
    ) -> Ended {
        let word = bio.word();
        if Word::is_counted(word) {
            return Self::ended_counted(this, bio, status);
        }
        // What the target has answered itself ends here too.
        if word & Word::KIND == Word::FLUSH {
            let status = match word {
                Word::FLUSH_ANSWERED => status,
                _ => Self::flushed(this, word, status),
            };
            this.flushes.ended(status.is_ok());
            return Ended::with(status);
        }
        Ended::with(status)
    }

    /// A flush of one device has ended; what its caller is to see of it.
    fn flushed(this: ArcBorrow<'_, Self>, word: u64, status: Status) -> Status {
        let device = (word >> 3 & 31) as u8;
        let ours = |spare: &&Spare| u64::from(spare.generation) == word >> 8 & 0xff;
        let (written, ok) = (word >> 16, status.is_ok());
        let cache = match device.checked_sub(1).map(|id| this.spare(SpareId(id)).filter(ours)) {
            None => &this.main.cache,
            Some(Some(spare)) => {
                match spare.role() {
                    Role::Member | Role::Away => {}
                    // Nothing that counts is there. If it becomes a member all the same, by a commit that is under way, the next is told.
                    Role::Candidate => {
                        if !ok || !spare.cache.answered(written, ok) {
                            spare.cache.owe();
                            this.mirror_broke.store(true, Relaxed);
                        }
                        return Status::OK;
                    }
                    Role::Refused | Role::Left => return Status::OK,
                }
                &spare.cache
            }
            // Another has its number now.
            Some(None) => return Status::OK,
        };
        let done = cache.answered(written, ok);
        if !ok {
            let member = Member::of_index(device.into());
            this.counters.error(member, false);
            Self::suspect(this, member);
            return status;
        }
        match done {
            true => Status::OK,
            false => Status::IOERR,
        }
    }

    fn ended_counted(this: ArcBorrow<'_, Self>, bio: EndedBio<'_, Self>, status: Status) -> Ended {
        let word = bio.word();
        let (place, read) = (Word::place(word), bio.is_read());
        if !read {
            match place {
                Where::Main => {}
                Where::Spare(spare) => {
                    this.spares_of(SpareSet(1 << (spare.0 & 7)))
                        .for_each(|s| s.cache.acknowledge());
                }
                Where::Several => {
                    this.spares_of(SpareSet(bio.parts())).for_each(|s| s.cache.acknowledge());
                }
            }
        }
        if bio.is_write() && !status.is_ok() {
            return Self::write_failed(this, bio, status);
        }
        this.domains.leave(Counted::of_word(word));
        let Some(extent) = Word::extent(word) else { return Ended::with(status) };
        let on_main = place == Where::Main;
        let again = read && Word::is_noted(word) && bio.had_failed();
        if again {
            this.unread.ended_again();
        }
        if status.is_ok() {
            if read && this.was_marked(word, extent, again) {
                Self::look_later(this, extent, Noted::Worked);
            } else if on_main && bio.is_write() {
                this.main_writes.fetch_add(1u64, Relaxed);
            }
            return Ended::with(status);
        }
        if read {
            let waited_for = !bio.is_read_ahead();
            if status.counts() && waited_for && !again {
                return bio.keep(status, |bio| Self::read_again(this, bio));
            }
            if status.counts() {
                Self::failed_too(this);
            }
            let look = waited_for && (again || !Word::is_marked(word));
            Self::failed_to_read(this, word, status, look);
            return Ended::with(status);
        }
        Ended::with(status)
    }

    /// A write has failed. If it is to be tried again, it does not leave the count before it is where who holds its range, and has drained it,
    /// finds it ([`take_in_failed`](Self::take_in_failed)).
    fn write_failed(this: ArcBorrow<'_, Self>, bio: EndedBio<'_, Self>, status: Status) -> Ended {
        let word = bio.word();
        let place = Word::place(word);
        // What the target has refused itself has no range, and is not tried again.
        let tried = Word::extent(word).is_some();
        let failed = tried && status.is_an_error();
        if failed && bio.is_fua() && !status.is_of_the_medium() {
            let parts = if place == Where::Several { bio.parts() } else { 0 };
            this.doubt_flushes_behind(place, SpareSet(parts));
        }
        // As in `rescue_later`.
        let reading = rcu::read_lock();
        if failed {
            this.counters.error(Self::failing(place), false);
            Self::suspect_gone(this, place, status);
        }
        // A second spare may have taken it, and what that one has is not what is read here.
        let mirrored = || place != Where::Main && this.front.read(&reading).mirror().is_some();
        let ended = match tried && (this.is_rescued(status) || mirrored()) {
            true => bio.keep(status, |bio| Self::rescue_later(this, bio)),
            false => Ended::with(status),
        };
        this.domains.leave(Counted::of_word(word));
        ended
    }

    /// Whether a read that went well was of blocks of which some are known to fail; `again`: it had failed before.
    fn was_marked(&self, word: u64, extent: Extent, again: bool) -> bool {
        if !again && Word::place(word) != Where::Several {
            return Word::is_marked(word);
        }
        // The word of one that was sent again, or in parts, is the same whatever was there.
        let reading = rcu::read_lock();
        self.front.read(&reading).table().iter_in(extent).any(|entry| entry.mapping.is_bad())
    }

    /// Which device has failed, if it is clear which.
    pub(super) fn failing(place: Where) -> Option<Member> {
        match place {
            Where::Main => Some(Member::Main),
            Where::Spare(spare) => Some(Member::Spare(spare)),
            Where::Several => None,
        }
    }

    /// An error that says nothing of the medium: the spare may be gone.
    fn suspect_gone(this: ArcBorrow<'_, Self>, place: Where, status: Status) {
        if !status.counts() {
            Self::suspect(this, Self::failing(place));
        }
    }

    /// Has the worker find out whether a spare takes anything.
    fn suspect(this: ArcBorrow<'_, Self>, member: Option<Member>) {
        let Some(Member::Spare(id)) = member else { return };
        if let Some(spare) = this.spare(id).filter(|spare| spare.is_member()) {
            spare.suspect();
            // As in `rescue_later`.
            let _reading = rcu::read_lock();
            Self::wake_worker(&this.into());
        }
    }

    /// Takes in that a read has failed for good; with `look`, it is looked at for what of it cannot be read.
    fn failed_to_read(this: ArcBorrow<'_, Self>, word: u64, status: Status, look: bool) {
        if status.is_an_error() {
            let place = Word::place(word);
            this.counters.error(Self::failing(place), true);
            Self::suspect_gone(this, place, status);
        }
        if let Some(extent) = Word::extent(word).filter(|_| look && this.is_rescued(status)) {
            Self::look_later(this, extent, Noted::Failed);
        }
    }

    /// Answers a read that was kept with its error.
    pub(super) fn not_read(this: ArcBorrow<'_, Self>, mut bio: HeldBio<Self>) {
        let (word, status) = (bio.word(), bio.status());
        // What is marked already is not looked at again.
        Self::failed_to_read(this, word, status, !Word::is_marked(word));
        bio.keep_word(Word::KEPT);
        bio.complete_anew(status);
    }

    /// Sends a read that failed once more, by itself.
    pub(super) fn send_again(&self, mut bio: HeldBio<Self>) {
        let (word, status) = (bio.word(), bio.status());
        let Some(extent) = Word::extent(word) else {
            bio.keep_word(Word::KEPT);
            return bio.complete_anew(status);
        };
        bio.rewind(extent.len, Word::is_noted(word));
        bio.again_alone(extent.start.0);
        bio.keep_word(Word::AGAIN);
        self.send_on_one(bio);
    }

    /// Publishes `view`, and gives the one of before and the bios that were held. Those are to be
    /// [sent on](Self::send_on) once no lock is held.
    #[must_use]
    pub(super) fn publish(
        &self,
        view: KBox<View>,
        drawn: &Drawn,
    ) -> (Retired<View>, HeldList<Self>) {
        let mut held = self.held.lock();
        let retired = self.front.replace(view, drawn);
        (retired, held.take())
    }

    /// Maps bios again that were held. Sleeps.
    pub(super) fn send_on(&self, mut waiting: HeldList<Self>) {
        while let Some(bio) = waiting.pop() {
            self.send_on_one(bio);
        }
    }

    /// Sends the first part of a write, which lives where `entry` says, to a second spare too if it has been
    /// copied there; `leg` is cut to what goes the same way. `false`: it must not be written.
    fn send_to_both(
        &self,
        bio: &mut HeldBio<Self>,
        mirror: &Mirror,
        start: MainSector,
        entry: Option<Entry>,
        leg: &mut Leg<'_>,
    ) -> bool {
        match mirror.both(start, leg.len, entry) {
            Both::Only(len) => leg.len = len,
            Both::Lost(len) => {
                leg.len = len;
                self.forget_copied(Extent { start, len });
            }
            Both::Also(len, id, at) => {
                leg.len = len;
                let spare = self.spare(id).filter(|spare| spare.generation == mirror.generation);
                let sent = spare.ok_or(EINVAL).and_then(|spare| {
                    let sector = spare.sector(at);
                    bio.send_also(len, spare.block(), sector, &self.pool, self, id.0)
                });
                if sent.is_err() {
                    self.mirror_broke.store(true, Relaxed);
                }
            }
            Both::Refused => return false,
        }
        true
    }

    /// Maps a bio that was held. Its parts may go to several places now.
    fn send_on_one(&self, mut bio: HeldBio<Self>) {
        let op = bio.op();
        let (mut start, mut len) = (MainSector(bio.sector()), bio.sectors());
        let whole = Extent { start, len };
        let range = Word::range(start, len.min(PLAIN));
        let counted = self.domains.enter(start, len);
        let reading = rcu::read_lock();
        let mut list = self.held.lock();
        let view = self.front.read(&reading);
        let failing = view.holds_of(start, len).any(|hold| hold.mode == Mode::Failing);
        if !failing && view.holds_of(start, len).any(|hold| !hold.mode.lets_pass(op)) {
            self.domains.leave(counted);
            list.push(bio);
            return;
        }
        // All parts are sent by this table, even if another is published meanwhile: who holds the
        // range next waits for the whole bio.
        let (table, mirror) = (view.table().clone(), view.mirror().cloned());
        drop(list);
        drop(reading);
        let mut word = counted.bits() | range;
        if bio.word() == Word::AGAIN {
            bio.note_again();
            // Its end is looked at, however it ends.
            word |= Word::NOTED | Word::SPECIAL;
        } else if op != Op::Read {
            bio.note_whole();
            word |= Word::NOTED;
        } else if bio.note_start() {
            word |= Word::NOTED;
        }
        bio.keep_word(word);
        if failing {
            bio.keep_word(word & !Word::LEN);
            return bio.complete(Status::IOERR);
        }
        if bio.is_fua() && self.flush_failed() {
            bio.keep_word(word & !Word::LEN);
            return bio.complete(Status::IOERR);
        }
        let gone = |(id, _)| self.usable(id).is_none();
        let bad = |mapping: Mapping| mapping.is_bad() || mapping.place().is_some_and(gone);
        let moves = || table.iter_in(whole).any(|entry| bad(entry.mapping));
        let writes = matches!(op, Op::Write | Op::WriteZeroes);
        if writes && moves() {
            self.domains.leave(counted);
            bio.keep_word(Word::KEPT | range);
            // Whoever sends on sees to those afterwards.
            return self.failed.push(bio);
        }
        loop {
            let entry = table.find(start, len).entry();
            let mut leg = self.leg(op, start, len, entry);
            if !leg.skip && (leg.gone || bio.is_fua() && self.flush_failed()) {
                return self.refuse_rest(bio, whole);
            }
            if let Some(mirror) = mirror.as_ref().filter(|_| writes) {
                if !self.send_to_both(&mut bio, mirror, start, entry, &mut leg) {
                    return self.refuse_rest(bio, whole);
                }
            }
            let last = leg.len >= len;
            // The whole of it ends as one, wherever its parts were.
            let all = start == whole.start && last;
            word |= if all { leg.word } else { Word::SEVERAL | Word::SPECIAL };
            bio.keep_word(word);
            if let Where::Spare(id) = Word::place(leg.word) {
                if op != Op::Read {
                    bio.note_part(id.0);
                }
            }
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

    /// Answers a bio over `whole` with an error, of which parts may have been sent, to two spares perhaps.
    fn refuse_rest(&self, mut bio: HeldBio<Self>, whole: Extent) {
        self.forget_copied(whole);
        bio.keep_word(bio.word() & !Word::LEN);
        bio.complete(Status::IOERR);
    }
}
