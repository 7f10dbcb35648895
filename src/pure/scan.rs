// SPDX-License-Identifier: GPL-2.0

//! What the background scan reads next, how fast, when it makes way for others, and what it takes
//! for a block that was read only with effort. Times are nanoseconds of whatever clock the caller
//! has; nothing here reads one.

use super::entry::Mapping;
use super::format::raw::RawScan;
use super::health::Member;
use super::places::Places;
use super::table::Table;
use super::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1000 * MILLISECOND;

/// Sectors of a piece while nobody else uses the drive.
pub const PIECE: Sectors = Sectors(2048);

/// Pieces that are read at once then.
pub const AT_ONCE: usize = 2;

/// Sectors of a piece while others use it.
pub const SMALL: Sectors = Sectors(512);

/// Sectors in which what has failed or was slow is looked at again.
pub const UNIT: Sectors = Sectors(128);

/// Pieces are of whole runs of so many sectors: 4 KiB, the largest logical block.
const GRAIN: u64 = 8;

/// Where a run is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum State {
    /// There is none.
    #[default]
    Idle,
    /// It is under way.
    Running,
    /// It waits for a person to have it go on.
    Paused,
}

impl State {
    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Running => "running",
            Self::Paused => "paused",
        }
    }
}

/// A run of the scan, or the last one, as the header keeps it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Run {
    /// Where it is.
    pub state: State,
    /// The device that is being read, as [`Member::index`] has it; one of which there is none is the
    /// end.
    pub device: u64,
    /// The first sector there that has not been read.
    pub position: u64,
    /// When it began, in seconds since 1970.
    pub started: u64,
    /// When the last run came to its end; 0 for never.
    pub ended: u64,
    /// Sectors that could not be read.
    pub unreadable: u64,
    /// Sectors that were read only with effort.
    pub slow: u64,
}

impl Run {
    /// The device that stands for the end.
    pub const END: u64 = u32::MAX as u64;

    /// What a header says. A state that is not known here is none.
    pub fn from_raw(raw: &RawScan) -> Self {
        Self {
            state: match raw.state.get() {
                1 => State::Running,
                2 => State::Paused,
                _ => State::Idle,
            },
            device: raw.device.get().into(),
            position: raw.position.get(),
            started: raw.started.get(),
            ended: raw.ended.get(),
            unreadable: raw.unreadable.get(),
            slow: raw.slow.get(),
        }
    }

    /// Puts it into a header.
    pub fn put_into(&self, raw: &mut RawScan) {
        raw.state.set(self.state as u32);
        raw.device.set(self.device as u32);
        raw.position.set(self.position);
        raw.started.set(self.started);
        raw.ended.set(self.ended);
        raw.unreadable.set(self.unreadable);
        raw.slow.set(self.slow);
    }

    /// A new one, from the start of main, at `now`.
    pub fn begin(&mut self, now: u64) {
        *self = Self { state: State::Running, started: now, ended: self.ended, ..Self::default() };
    }

    /// It has come to its end at `now`.
    pub fn finish(&mut self, now: u64) {
        *self = Self { state: State::Idle, device: Self::END, position: 0, ended: now, ..*self };
    }

    /// It is given up.
    pub fn give_up(&mut self) {
        *self = Self { state: State::Idle, device: 0, position: 0, ..*self };
    }

    /// How much of it is done, in percent, where the devices have so many sectors: main first, then
    /// the spares by their numbers.
    pub fn percent(&self, sizes: &[u64]) -> u64 {
        if self.device == Self::END {
            return 100;
        }
        let device = (self.device as usize).min(sizes.len());
        let all: u64 = sizes.iter().sum();
        let before: u64 = sizes.iter().take(device).sum();
        let here = sizes.get(device).map_or(0, |&size| self.position.min(size));
        // Shown as done only when it is.
        (before + here).saturating_mul(100).checked_div(all).unwrap_or(0).min(99)
    }

    /// In how many seconds the next run is due, where they are to begin every `interval` seconds; 0
    /// for now, `None` for never. The first is due that long after the set was `created`.
    pub fn due_in(&self, interval: u64, created: u64, now: u64) -> Option<u64> {
        let since = if self.started == 0 { created } else { self.started };
        let past = now.saturating_sub(since);
        (interval > 0 && self.state == State::Idle).then(|| interval.saturating_sub(past))
    }
}

/// What is to be read in one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// On which device.
    pub on: Member,
    /// Its first sector there.
    pub start: u64,
    /// How many.
    pub len: Sectors,
    /// It is known to have failed: what it says is of interest only if it can be read.
    pub pending: bool,
}

impl Piece {
    /// The sector behind it.
    pub fn end(&self) -> u64 {
        self.start + self.len.0
    }

    /// The units in which it is looked at again.
    pub fn units(self) -> impl Iterator<Item = Self> {
        let mut at = self.start;
        core::iter::from_fn(move || {
            let len = UNIT.min(Sectors(self.end().checked_sub(at)?));
            let unit = Self { start: at, len, ..self };
            at += len.0;
            (len.0 > 0).then_some(unit)
        })
    }
}

/// The next piece of a main of `len` sectors from `from` on, of up to `most`: what lives there, and
/// what is pending. What is remapped is read where it lives.
pub fn next_on_main(table: &Table, from: u64, len: Sectors, most: Sectors) -> Option<Piece> {
    let mut at = from;
    let piece = |start: u64, end: u64, pending| {
        let end = end.min(len.0);
        let n = most.min(Sectors(end.checked_sub(start)?));
        (n.0 > 0).then_some(Piece { on: Member::Main, start, len: n, pending })
    };
    for entry in table.iter_from(MainSector(from)) {
        let (start, end) = (entry.extent.start.0, entry.extent.end().0);
        if start > at {
            return piece(at, start, false);
        }
        if entry.mapping == Mapping::Pending {
            // One after the other, as each may be well again by itself.
            return piece(at, end.min((at | (GRAIN - 1)) + 1), true);
        }
        at = end;
    }
    piece(at, len.0, false)
}

/// The next piece of a spare from `from` on, of up to `most`: all of its data space that is not
/// retired, used or not.
pub fn next_on_spare(places: &Places, id: SpareId, from: u64, most: Sectors) -> Option<Piece> {
    let place = places.next_sound(SpareSector(from))?;
    let len = place.len.min(most);
    Some(Piece { on: Member::Spare(id), start: place.start.0, len, pending: false })
}

/// The extents of main that live in the `len` sectors of a spare from `at` on, and whether each is
/// known to have failed there.
pub fn living_at(
    table: &Table,
    id: SpareId,
    at: u64,
    len: Sectors,
) -> impl Iterator<Item = (Extent, bool)> + '_ {
    table.iter().filter_map(move |entry| {
        let (spare, to) = entry.mapping.place()?;
        let start = to.0.max(at);
        let end = (to.0 + entry.extent.len.0).min(at + len.0);
        if spare != id || start >= end {
            return None;
        }
        let first = entry.extent.start + Sectors(start - to.0);
        Some((Extent::new(first, Sectors(end - start))?, entry.mapping.is_bad()))
    })
}

/// What to do now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Read so many pieces of up to so many sectors at once.
    Read(usize, Sectors),
    /// Wait that long, and ask again.
    Wait(u64),
}

/// When the scan reads: no faster than it may, and hardly at all while others use the drive.
///
/// Others are seen by what the drive has done that the scan has not asked for. From then on the scan
/// reads a small piece at a time, and waits many times as long as that took; when nobody has been
/// seen for a moment, it has the drive for itself.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    /// It may read nothing before, to keep to its rate.
    ready: u64,
    /// It may read nothing before, to make way for others.
    yields: u64,
    /// When others were last seen.
    seen: Option<u64>,
}

/// The scan has the drive for itself when nobody else has been seen for that long.
const QUIET: u64 = 200 * MILLISECOND;

/// How often it looks whether somebody is there.
const SLICE: u64 = 50 * MILLISECOND;

/// How many times as long as it has read it waits while others use the drive.
const SHARE: u64 = 32;

/// It waits at least that long, and at most that long.
const YIELD: (u64, u64) = (100 * MILLISECOND, 10 * SECOND);

impl Pace {
    /// What to do at `now`; `others`: somebody has used the drive since the last question. `rate` is
    /// in sectors a second, 0 for as fast as can be.
    pub fn next(&mut self, now: u64, others: bool, rate: u64) -> Next {
        if others {
            self.seen = Some(now);
        } else if self.seen.is_some_and(|seen| now.saturating_sub(seen) >= QUIET) {
            self.seen = None;
        }
        let wait = |until: u64| Next::Wait((until - now).min(SLICE));
        if now < self.ready && rate > 0 {
            return wait(self.ready);
        }
        if self.seen.is_some() && now < self.yields {
            return wait(self.yields);
        }
        // About eight pieces a second, so that a slow scan does not come in bursts.
        let most = match rate {
            0 => PIECE.0,
            rate => (rate / 8).max(GRAIN) & !(GRAIN - 1),
        };
        match self.seen {
            None if rate == 0 => Next::Read(AT_ONCE, PIECE),
            None => Next::Read(1, PIECE.min(Sectors(most))),
            Some(_) => Next::Read(1, SMALL.min(Sectors(most))),
        }
    }

    /// Whether nobody else was seen lately: what took long was not for having to wait.
    pub fn is_alone(&self) -> bool {
        self.seen.is_none()
    }

    /// So many sectors have been read from `began` to `now`.
    pub fn has_read(&mut self, began: u64, now: u64, read: Sectors, rate: u64) {
        let took = now.saturating_sub(began);
        self.yields = now + took.saturating_mul(SHARE).clamp(YIELD.0, YIELD.1);
        let cost = read.0.saturating_mul(SECOND).checked_div(rate).unwrap_or(0);
        self.ready = self.ready.max(began).saturating_add(cost);
    }
}

/// Reads that are looked back on.
const NEIGHBOURS: usize = 15;

/// The least of them that say anything.
const FEW: usize = 7;

/// By how much a read has to be slower, whatever the others took: less is not worth a move.
const SLOWER: u64 = 50 * MILLISECOND;

/// How long the last reads took, to tell what is far slower.
#[derive(Clone, Copy, Debug, Default)]
pub struct Neighbours {
    took: [u64; NEIGHBOURS],
    count: usize,
}

impl Neighbours {
    /// A read took that long.
    pub fn add(&mut self, took: u64) {
        if let Some(slot) = self.took.get_mut(self.count % NEIGHBOURS) {
            *slot = took;
        }
        self.count += 1;
    }

    /// The middle one of them.
    fn median(&self) -> Option<u64> {
        let known = self.took.iter().take(self.count);
        let n = known.clone().count();
        // That which has half of the others before it, in the order of time, and then of place.
        let before = |i: usize, took: u64| {
            let less = |&(j, other): &(usize, &u64)| (*other, j) < (took, i);
            known.clone().enumerate().filter(less).count()
        };
        let mut all = known.clone().enumerate();
        all.find(|&(i, took)| before(i, *took) == n / 2).map(|(_, took)| *took)
    }

    /// Whether a read that `took` so long is to be judged later: it is outdone, or took long while too
    /// little was known.
    pub fn may_be_outdone(&self, took: u64, threshold: u64) -> bool {
        let early = threshold > 0 && self.count < FEW && took >= SLOWER;
        early || self.are_outdone(took, threshold)
    }

    /// Whether a read that `took` so long was `threshold` times as slow as the others; never where
    /// that is 0.
    pub fn are_outdone(&self, took: u64, threshold: u64) -> bool {
        let Some(median) = self.median().filter(|_| threshold > 0 && self.count >= FEW) else {
            return false;
        };
        took >= median.saturating_mul(threshold) && took >= median.saturating_add(SLOWER)
    }
}

/// Pieces that were slow, or failed once. They are read again when so much has been read since that
/// the drive has them in its cache no more, or at the end of the device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Suspects {
    list: [Option<(Piece, u64)>; 8],
    read: u64,
}

/// Sectors that are read before a suspect is looked at again: 256 MiB.
const LATER: u64 = 512 * 1024;

impl Suspects {
    /// Another one; forgotten, until the next run, where there are too many.
    pub fn add(&mut self, piece: Piece) {
        if let Some(slot) = self.list.iter_mut().find(|slot| slot.is_none()) {
            *slot = Some((piece, self.read + LATER));
        }
    }

    /// So much has been read.
    pub fn has_read(&mut self, read: Sectors) {
        self.read += read.0;
    }

    /// One that is due, or any if this is the `end`.
    pub fn take(&mut self, end: bool) -> Option<Piece> {
        let due = |slot: &&mut Option<(Piece, u64)>| {
            slot.is_some_and(|(_, when)| end || when <= self.read)
        };
        self.list.iter_mut().find(due)?.take().map(|(piece, _)| piece)
    }
}
