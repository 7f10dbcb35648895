//! What a drive does: a pure model of a disk with a volatile cache and failing places.
//!
//! The medium is what survives a power cut. Writes go to the cache and are visible at once; a flush makes all of them durable, FUA its
//! own write. A cut keeps of the cached writes what the seed decides: some whole, some torn between sectors, some not at all,
//! regardless of the order they came in. The drive never lies: what it confirms to have flushed is on the medium, and a request
//! that touches a failing place is an error.

use crate::rng::Rng;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;

/// The unit that a write is torn at, in bytes.
pub const SECTOR: usize = 512;

/// Beyond this many sectors in the cache the oldest writes find their way to the medium by themselves, as in any drive.
const CACHE_SECTORS: usize = 128 * 1024;

/// Where durable sectors are kept.
pub trait Medium {
    /// Size in sectors.
    fn sectors(&self) -> u64;
    /// Reads whole sectors.
    fn read(&self, sector: u64, into: &mut [u8]) -> std::io::Result<()>;
    /// Writes whole sectors.
    fn write(&mut self, sector: u64, from: &[u8]) -> std::io::Result<()>;
}

/// What a request of the drive's user can end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A place that fails, a drive that is gone, a flush that was told to fail.
    Io,
    /// Outside the drive, or not whole sectors.
    Invalid,
}

/// What happens to requests that touch a range.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ill {
    /// Reads fail.
    pub reads: bool,
    /// Writes, discards and write zeroes fail.
    pub writes: bool,
    /// How long each request takes.
    pub delay: Duration,
    /// A write of that many sectors at a multiple of them heals them, as in a drive that gives a block another place by itself; one
    /// of less than that fails, because the rest of the block cannot be read. At 0 no write heals.
    pub heals: u64,
    /// How many requests fail before the place is well again; at 0 all do.
    pub times: u64,
}

/// Writes that a drive counts, and when it stops answering for them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    /// Bytes, and where in one of a write's blocks of 4 KiB they stand.
    pub carries: Vec<(usize, Vec<u8>)>,
    /// It stops at that many of such writes; at 0 it only counts them,
    pub nth: u64,
    /// or at that many more writes, flushes and discards of any kind.
    pub more: u64,
    /// The request that it stops at is carried out first. Nobody hears of that.
    pub carried_out: bool,
}

impl Watch {
    fn is_for(&self, data: &[u8]) -> bool {
        let carries = |block: &[u8]| {
            let stands = |(at, bytes): &(usize, Vec<u8>)| {
                block.get(*at..*at + bytes.len()) == Some(&bytes[..])
            };
            self.carries.iter().all(stands)
        };
        !self.carries.is_empty() && data.chunks(8 * SECTOR).any(carries)
    }
}

/// How often the drive was asked what, since it was switched on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Read requests.
    pub reads: u64,
    /// Write requests, write zeroes included.
    pub writes: u64,
    /// Flushes, and writes with FUA.
    pub flushes: u64,
    /// Discards.
    pub discards: u64,
    /// Requests that were answered with an error.
    pub errors: u64,
}

/// The drive.
#[derive(Clone)]
pub struct Drive<M> {
    medium: M,
    /// Cached writes, oldest first. The key is the write's number, and where it begins: a write that FUA cut a piece out of is in
    /// several parts.
    cache: BTreeMap<(u64, u64), Vec<u8>>,
    /// Sectors in the cache, overwritten ones included.
    cached_sectors: usize,
    /// For each sector whose newest content is in the cache, the number of the write that holds it.
    newest: HashMap<u64, u64>,
    next: u64,
    ills: Vec<(Range<u64>, Ill)>,
    gone: bool,
    fail_flushes: bool,
    lose_flush: bool,
    freeze_after: Option<u64>,
    frozen: bool,
    watch: Watch,
    /// Writes seen that it is for.
    watched: u64,
    counters: Counters,
}

fn overlap(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// What is left of the sectors when they are cut to multiples of a unit.
fn whole_units(sectors: &Range<u64>, unit: u64) -> Range<u64> {
    sectors.start.next_multiple_of(unit)..sectors.end / unit * unit
}

fn sectors_of(data: &[u8]) -> u64 {
    (data.len() / SECTOR) as u64
}

impl<M: Medium> Drive<M> {
    /// A drive that was just switched on.
    pub fn new(medium: M) -> Self {
        Drive {
            medium,
            cache: BTreeMap::new(),
            cached_sectors: 0,
            newest: HashMap::new(),
            next: 0,
            ills: Vec::new(),
            gone: false,
            fail_flushes: false,
            lose_flush: false,
            freeze_after: None,
            frozen: false,
            watch: Watch::default(),
            watched: 0,
            counters: Counters::default(),
        }
    }

    /// Makes requests that touch the sectors fail or wait. Of ranges that overlap, all count.
    pub fn ail(&mut self, sectors: Range<u64>, ill: Ill) {
        self.ills.push((sectors, ill));
    }

    /// Heals the sectors; what is left of ranges beside them stays ill.
    pub fn heal(&mut self, sectors: Range<u64>) {
        let mut left = Vec::new();
        for (range, ill) in self.ills.drain(..) {
            if !overlap(&range, &sectors) {
                left.push((range, ill));
                continue;
            }
            left.push((range.start..sectors.start, ill));
            left.push((sectors.end..range.end, ill));
        }
        left.retain(|(range, _)| !range.is_empty());
        self.ills = left;
    }

    /// Takes the drive away (every request is an error), or brings it back with its cache as it was.
    pub fn set_gone(&mut self, gone: bool) {
        self.gone = gone;
    }

    /// Makes flushes fail. What they were to make durable stays in the cache.
    pub fn set_fail_flushes(&mut self, fail: bool) {
        self.fail_flushes = fail;
    }

    /// Makes the next flush fail, and lose what it was to make durable: the medium has what it had.
    pub fn lose_flush(&mut self) {
        self.lose_flush = true;
    }

    /// With the last of that many more writes and flushes the drive stops answering, until it is switched off: 0 is at once. `None`
    /// calls it off. The request that it stops at is not carried out.
    pub fn freeze_after(&mut self, requests: Option<u64>) {
        self.freeze_after = requests;
        self.frozen = requests == Some(0);
        if requests.is_none() {
            self.watch = Watch::default();
        }
    }

    /// Begins to watch for some writes, in place of those before.
    pub fn watch(&mut self, watch: Watch) {
        self.freeze_after(None);
        self.watch = watch;
        self.watched = 0;
    }

    /// Writes that came in of those that are watched for.
    pub fn watched(&self) -> u64 {
        self.watched
    }

    /// Whether the drive has stopped answering.
    pub fn frozen(&self) -> bool {
        self.frozen
    }

    /// Counts a write of this, a flush or a discard that has come in, towards the point where the drive freezes. Whether that is
    /// when it has been carried out.
    #[must_use]
    pub fn count_down(&mut self, data: &[u8]) -> bool {
        let mut is_it = false;
        if let Some(left) = self.freeze_after.as_mut().filter(|left| **left > 0) {
            *left -= 1;
            is_it = *left == 0;
        }
        if self.watch.is_for(data) {
            self.watched += 1;
            if self.watched == self.watch.nth {
                self.freeze_after = Some(self.watch.more);
                is_it |= self.watch.more == 0;
            }
        }
        self.frozen |= is_it && !self.watch.carried_out;
        is_it && self.watch.carried_out
    }

    /// It stops answering.
    pub fn freeze(&mut self) {
        self.frozen = true;
    }

    /// What was asked of the drive so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// How long a request to these sectors has to wait before it is carried out.
    pub fn delay(&self, sectors: Range<u64>) -> Duration {
        let touched = self.ills.iter().filter(|(range, _)| overlap(range, &sectors));
        touched.map(|(_, ill)| ill.delay).max().unwrap_or_default()
    }

    /// What is ill.
    pub fn ills(&self) -> &[(Range<u64>, Ill)] {
        &self.ills
    }

    /// The first sector at which a request fails, counted for the places that fail so many times.
    fn strike(
        &mut self,
        sectors: &Range<u64>,
        hurts: impl Fn(&Range<u64>, &Ill) -> bool,
    ) -> Option<u64> {
        let mut first = None;
        for (range, ill) in &mut self.ills {
            if !overlap(range, sectors) || !hurts(range, ill) {
                continue;
            }
            let at = range.start.max(sectors.start);
            first = Some(first.map_or(at, |first: u64| first.min(at)));
            if ill.times == 1 {
                range.end = range.start;
            }
            ill.times = ill.times.saturating_sub(1);
        }
        self.ills.retain(|(range, _)| !range.is_empty());
        first
    }

    /// Heals what a write of these sectors heals.
    fn rewrite(&mut self, sectors: &Range<u64>) {
        let healed: Vec<Range<u64>> = (self.ills.iter())
            .filter(|(range, ill)| ill.heals > 0 && overlap(range, sectors))
            .map(|(_, ill)| whole_units(sectors, ill.heals))
            .collect();
        let (mut kept, weak) =
            self.ills.drain(..).partition::<Vec<_>, _>(|(_, ill)| ill.heals == 0);
        self.ills = weak;
        healed.into_iter().filter(|range| !range.is_empty()).for_each(|range| self.heal(range));
        self.ills.append(&mut kept);
    }

    fn range(&self, sector: u64, bytes: usize) -> Result<Range<u64>, Fault> {
        let end = sector.checked_add((bytes / SECTOR) as u64).ok_or(Fault::Invalid)?;
        if bytes % SECTOR != 0 || end > self.medium.sectors() {
            return Err(Fault::Invalid);
        }
        Ok(sector..end)
    }

    fn note<T>(&mut self, result: Result<T, Fault>) -> Result<T, Fault> {
        self.counters.errors += u64::from(result.is_err());
        result
    }

    /// Reads what was last written, durable or not.
    pub fn read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), Fault> {
        self.counters.reads += 1;
        let result = self.try_read(sector, into);
        self.note(result)
    }

    fn try_read(&mut self, sector: u64, into: &mut [u8]) -> Result<(), Fault> {
        let range = self.range(sector, into.len())?;
        if self.gone || self.strike(&range, |_, ill| ill.reads).is_some() {
            return Err(Fault::Io);
        }
        self.medium.read(sector, into).map_err(|_| Fault::Io)?;
        if !self.newest.is_empty() {
            for (number, bytes) in range.zip(into.chunks_mut(SECTOR)) {
                if let Some(data) = self.cached(number) {
                    bytes.copy_from_slice(data);
                }
            }
        }
        Ok(())
    }

    fn cached(&self, sector: u64) -> Option<&[u8]> {
        let number = *self.newest.get(&sector)?;
        let ((_, first), data) = self.cache.range((number, 0)..=(number, sector)).next_back()?;
        let at = (sector - first) as usize * SECTOR;
        data.get(at..at + SECTOR)
    }

    /// Writes; with `fua` the write is durable when it returns. When a place in it fails, what stands before that place is written.
    pub fn write(&mut self, sector: u64, from: &[u8], fua: bool) -> Result<(), Fault> {
        self.counters.writes += 1;
        self.counters.flushes += u64::from(fua);
        let result = self.try_write(sector, from, fua);
        self.note(result)
    }

    fn try_write(&mut self, sector: u64, from: &[u8], fua: bool) -> Result<(), Fault> {
        let range = self.range(sector, from.len())?;
        if self.gone {
            return Err(Fault::Io);
        }
        let failing = self.strike(&range, |bad, ill| {
            let healed = if ill.heals == 0 { 0..0 } else { whole_units(&range, ill.heals) };
            let within = bad.start.max(range.start)..bad.end.min(range.end);
            ill.writes || ill.heals > 0 && (within.start < healed.start || healed.end < within.end)
        });
        let good = failing.map_or(from.len(), |at| (at - sector) as usize * SECTOR);
        if good > 0 {
            self.rewrite(&(sector..sector + (good / SECTOR) as u64));
            self.put(sector, &from[..good])?;
        }
        if failing.is_some() {
            return Err(Fault::Io);
        }
        if fua {
            self.make_durable(range)?;
        }
        Ok(())
    }

    fn put(&mut self, sector: u64, data: &[u8]) -> Result<(), Fault> {
        let number = self.next;
        self.next += 1;
        for i in 0..sectors_of(data) {
            self.newest.insert(sector + i, number);
        }
        self.keep(number, sector, data.to_vec());
        while self.cached_sectors > CACHE_SECTORS {
            self.destage_oldest()?;
        }
        Ok(())
    }

    fn keep(&mut self, number: u64, sector: u64, data: Vec<u8>) {
        self.cached_sectors += data.len() / SECTOR;
        self.cache.insert((number, sector), data);
    }

    fn forget(&mut self, key: (u64, u64)) -> Vec<u8> {
        let data = self.cache.remove(&key).unwrap_or_default();
        self.cached_sectors -= data.len() / SECTOR;
        data
    }

    /// Moves the oldest write to the medium.
    fn destage_oldest(&mut self) -> Result<(), Fault> {
        let Some((&key, data)) = self.cache.first_key_value() else { return Ok(()) };
        let (number, first) = key;
        self.medium.write(first, data).map_err(|_| Fault::Io)?;
        for sector in first..first + sectors_of(data) {
            if self.newest.get(&sector) == Some(&number) {
                self.newest.remove(&sector);
            }
        }
        self.forget(key);
        Ok(())
    }

    /// Moves the newest content of the sectors to the medium. What older writes wanted there must not come back at a cut, so it is
    /// cut out of them.
    fn make_durable(&mut self, sectors: Range<u64>) -> Result<(), Fault> {
        for sector in sectors.clone() {
            if let Some(data) = self.cached(sector).map(<[u8]>::to_vec) {
                self.medium.write(sector, &data).map_err(|_| Fault::Io)?;
            }
        }
        for sector in sectors.clone() {
            self.newest.remove(&sector);
        }
        let touching: Vec<(u64, u64)> = (self.cache.iter())
            .filter(|((_, first), data)| {
                *first < sectors.end && sectors.start < first + sectors_of(data)
            })
            .map(|(key, _)| *key)
            .collect();
        for key in touching {
            let (number, first) = key;
            let data = self.forget(key);
            let end = first + sectors_of(&data);
            for part in [first..sectors.start, sectors.end..end] {
                if !part.is_empty() {
                    let bytes = (part.start - first) as usize * SECTOR
                        ..(part.end - first) as usize * SECTOR;
                    self.keep(number, part.start, data[bytes].to_vec());
                }
            }
        }
        Ok(())
    }

    /// Makes everything durable that was written before.
    pub fn flush(&mut self) -> Result<(), Fault> {
        self.counters.flushes += 1;
        let result = self.try_flush();
        self.note(result)
    }

    fn try_flush(&mut self) -> Result<(), Fault> {
        if self.gone || self.fail_flushes {
            return Err(Fault::Io);
        }
        if std::mem::take(&mut self.lose_flush) {
            self.cache.clear();
            self.newest.clear();
            self.cached_sectors = 0;
            return Err(Fault::Io);
        }
        while !self.cache.is_empty() {
            self.destage_oldest()?;
        }
        Ok(())
    }

    /// Writes zeroes.
    pub fn write_zeroes(&mut self, sector: u64, sectors: u64, fua: bool) -> Result<(), Fault> {
        self.write(sector, &vec![0; sectors as usize * SECTOR], fua)
    }

    /// Discards: zeroes are read there afterwards, and before a flush nobody knows what a cut leaves.
    pub fn discard(&mut self, sector: u64, sectors: u64) -> Result<(), Fault> {
        self.counters.discards += 1;
        let result = self.try_write(sector, &vec![0; sectors as usize * SECTOR], false);
        self.note(result)
    }

    /// Cuts the power: the cache is lost but for what the seed lets through, and the medium is given back.
    pub fn cut(mut self, seed: u64) -> M {
        let mut rng = Rng::new(seed);
        let mut writes: Vec<((u64, u64), Vec<u8>)> =
            std::mem::take(&mut self.cache).into_iter().collect();
        // Some cuts lose nearly all and some nearly nothing, or cases that need many writes kept would never be seen.
        let keep = rng.below(9);
        rng.shuffle(&mut writes);
        for ((_, first), data) in writes {
            if rng.below(8) >= keep {
                continue;
            }
            let sectors = sectors_of(&data);
            let (from, to) = match rng.below(4) {
                // Something from within, or the head; else all of it.
                0 => {
                    let (a, b) = (rng.below(sectors + 1), rng.below(sectors + 1));
                    (a.min(b), a.max(b))
                }
                1 => (0, rng.below(sectors + 1)),
                _ => (0, sectors),
            };
            if from < to {
                // What a medium refuses at this moment is lost like the rest.
                let _ = self
                    .medium
                    .write(first + from, &data[from as usize * SECTOR..to as usize * SECTOR]);
            }
        }
        self.medium
    }

    /// Switches the drive off in order: everything is durable.
    pub fn switch_off(mut self) -> M {
        self.fail_flushes = false;
        self.lose_flush = false;
        self.gone = false;
        let _ = self.try_flush();
        self.medium
    }

    /// The durable sectors.
    pub fn medium(&self) -> &M {
        &self.medium
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A medium in memory that counts in bytes.
    struct Memory(Vec<u8>);

    impl Medium for Memory {
        fn sectors(&self) -> u64 {
            sectors_of(&self.0)
        }
        fn read(&self, sector: u64, into: &mut [u8]) -> std::io::Result<()> {
            let at = sector as usize * SECTOR;
            into.copy_from_slice(&self.0[at..at + into.len()]);
            Ok(())
        }
        fn write(&mut self, sector: u64, from: &[u8]) -> std::io::Result<()> {
            let at = sector as usize * SECTOR;
            self.0[at..at + from.len()].copy_from_slice(from);
            Ok(())
        }
    }

    fn drive(sectors: usize) -> Drive<Memory> {
        Drive::new(Memory(vec![0; sectors * SECTOR]))
    }

    fn seen(drive: &mut Drive<Memory>, sector: u64) -> u8 {
        let mut bytes = [0; SECTOR];
        drive.read(sector, &mut bytes).unwrap();
        bytes[0]
    }

    #[test]
    fn a_write_is_seen_at_once_and_durable_after_a_flush() {
        let mut drive = drive(64);
        drive.write(8, &[1; 4 * SECTOR], false).unwrap();
        assert_eq!(seen(&mut drive, 9), 1);
        assert_eq!(drive.medium().0[9 * SECTOR], 0);
        drive.flush().unwrap();
        assert_eq!(drive.medium().0[9 * SECTOR], 1);
    }

    #[test]
    fn a_cut_loses_nothing_flushed_and_makes_nothing_up() {
        for seed in 0..2000 {
            let mut rng = Rng::new(seed);
            let mut drive = drive(32);
            // For each sector: what is durable for sure, and what a cut may leave there.
            let mut allowed = vec![vec![0u8]; 32];
            for value in 1..=60u8 {
                let first = rng.below(32);
                let count = 1 + rng.below(32 - first).min(6);
                let fua = rng.one_in(6);
                drive.write(first, &vec![value; count as usize * SECTOR], fua).unwrap();
                for set in &mut allowed[first as usize..(first + count) as usize] {
                    if fua {
                        set.clear();
                    }
                    set.push(value);
                }
                for (sector, set) in allowed.iter().enumerate() {
                    assert_eq!(Some(&seen(&mut drive, sector as u64)), set.last(), "seed {seed}");
                }
                if rng.one_in(8) {
                    drive.flush().unwrap();
                    allowed.iter_mut().for_each(|set| drop(set.drain(..set.len() - 1)));
                }
            }
            let medium = drive.cut(seed).0;
            for (sector, set) in allowed.iter().enumerate() {
                assert!(set.contains(&medium[sector * SECTOR]), "seed {seed}: sector {sector}");
            }
        }
    }

    #[test]
    fn cuts_drop_tear_and_reorder() {
        let (mut dropped, mut torn, mut reordered) = (false, false, false);
        for seed in 0..200 {
            let mut drive = drive(16);
            drive.write(0, &[1; 8 * SECTOR], false).unwrap();
            drive.write(8, &[2; 8 * SECTOR], false).unwrap();
            let medium = drive.cut(seed).0;
            let kept: Vec<bool> = medium.chunks(SECTOR).map(|s| s[0] != 0).collect();
            let whole = |half: &[bool]| half.iter().all(|k| *k);
            let none = |half: &[bool]| half.iter().all(|k| !*k);
            dropped |= none(&kept);
            torn |= !whole(&kept[..8]) && !none(&kept[..8]);
            reordered |= none(&kept[..8]) && whole(&kept[8..]);
        }
        assert!(dropped && torn && reordered);
    }

    #[test]
    fn a_failing_place_is_an_error_for_what_touches_it_until_it_heals() {
        let mut drive = drive(64);
        drive.write(0, &[3; 32 * SECTOR], false).unwrap();
        drive.ail(10..12, Ill { reads: true, writes: true, ..Ill::default() });
        assert_eq!(drive.read(9, &mut [0; 2 * SECTOR]), Err(Fault::Io));
        assert_eq!(drive.read(8, &mut [0; 2 * SECTOR]), Ok(()));
        assert_eq!(drive.write(8, &[4; 8 * SECTOR], false), Err(Fault::Io));
        drive.heal(10..11);
        assert_eq!(drive.read(10, &mut [0; SECTOR]), Ok(()));
        assert_eq!(drive.read(11, &mut [0; SECTOR]), Err(Fault::Io));
        drive.heal(0..64);
        assert_eq!([8, 9, 10, 11, 12].map(|s| seen(&mut drive, s)), [4, 4, 3, 3, 3]);
        assert_eq!(drive.counters().errors, 3);
    }

    #[test]
    fn a_place_that_fails_so_many_times_is_well_after_that() {
        let mut drive = drive(64);
        drive.ail(8..16, Ill { writes: true, times: 2, ..Ill::default() });
        let mut write = || drive.write(10, &[1; SECTOR], false);
        assert_eq!([write(), write(), write()], [Err(Fault::Io), Err(Fault::Io), Ok(())]);
        assert!(drive.ills().is_empty());
    }

    #[test]
    fn a_place_that_a_write_heals_takes_whole_units_only() {
        let mut drive = drive(64);
        drive.ail(8..24, Ill { reads: true, heals: 8, ..Ill::default() });
        assert_eq!(drive.write(10, &[1; SECTOR], false), Err(Fault::Io));
        assert_eq!(drive.write(12, &[1; 8 * SECTOR], false), Err(Fault::Io));
        assert_eq!(drive.read(8, &mut [0; SECTOR]), Err(Fault::Io));
        assert_eq!(drive.write(8, &[2; 8 * SECTOR], false), Ok(()));
        assert_eq!(seen(&mut drive, 8), 2);
        assert_eq!(drive.read(16, &mut [0; SECTOR]), Err(Fault::Io));
        drive.write(0, &[3; 64 * SECTOR], false).unwrap();
        assert!(drive.ills().is_empty());
    }

    #[test]
    fn a_drive_stops_at_the_write_that_is_watched_for_or_so_many_later() {
        let mut wanted = [0; 16 * SECTOR];
        wanted[8 * SECTOR + 3..8 * SECTOR + 5].copy_from_slice(b"it");
        let carries = vec![(3, b"it".to_vec())];
        // The bytes elsewhere, or some of them, are not it.
        let mut other = [0; 8 * SECTOR];
        other[4..6].copy_from_slice(b"it");
        for (more, carried_out) in [(0, false), (0, true), (2, false), (2, true)] {
            let mut drive = drive(64);
            drive.watch(Watch { carries: carries.clone(), nth: 2, more, carried_out });
            let mut stops = |data: &[u8]| (drive.count_down(data), drive.frozen());
            assert_eq!([&wanted[..], &other, &[]].map(&mut stops), [(false, false); 3]);
            for left in (0..=more).rev() {
                let it = left == 0;
                let data = if left == more { &wanted[..] } else { &[] };
                assert_eq!(stops(data), (it && carried_out, it && !carried_out), "{left}");
            }
            assert_eq!(drive.watched(), 2);
            drive.freeze();
            assert!(drive.frozen());
            drive.freeze_after(None);
            assert!(!drive.count_down(&wanted) && !drive.frozen());
        }
        let mut drive = drive(64);
        drive.watch(Watch { carries, ..Watch::default() });
        (0..5).for_each(|_| assert!(!drive.count_down(&wanted)));
        assert_eq!((drive.watched(), drive.frozen()), (5, false));
    }

    #[test]
    fn a_drive_that_is_gone_or_cannot_flush_says_so() {
        let mut drive = drive(8);
        drive.write(0, &[1; SECTOR], false).unwrap();
        drive.set_fail_flushes(true);
        assert_eq!(drive.flush(), Err(Fault::Io));
        drive.set_fail_flushes(false);
        drive.set_gone(true);
        assert_eq!(drive.read(0, &mut [0; SECTOR]), Err(Fault::Io));
        drive.set_gone(false);
        drive.flush().unwrap();
        assert_eq!(drive.medium().0[0], 1);
        assert_eq!(drive.write(7, &[0; 2 * SECTOR], false), Err(Fault::Invalid));
    }

    #[test]
    fn a_flush_that_loses_what_it_was_for_says_so_once() {
        let mut drive = drive(8);
        drive.write(0, &[1; SECTOR], false).unwrap();
        drive.flush().unwrap();
        drive.write(0, &[2; SECTOR], false).unwrap();
        drive.lose_flush();
        assert_eq!(drive.flush(), Err(Fault::Io));
        let mut is = [0; SECTOR];
        drive.read(0, &mut is).unwrap();
        assert_eq!(is, [1; SECTOR]);
        drive.write(1, &[3; SECTOR], false).unwrap();
        drive.flush().unwrap();
        assert_eq!((drive.medium().0[0], drive.medium().0[SECTOR]), (1, 3));
    }
}
