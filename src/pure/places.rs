// SPDX-License-Identifier: GPL-2.0

//! Places on a spare: which are free, used or retired, and where the next extent goes.
//!
//! Free places are given out in whole units (`remap_block`), aligned on the spare as the extent is
//! on main, so that blocks next to each other can live next to each other; only what is used of a
//! unit is marked. Memory is taken for the parts of the spare where something is.
//!
//! When a place may be used again is for the caller to know.

use core::fmt;

use super::mem::{AllocError, KVVec, KVec, GFP_KERNEL};
use super::units::{MainSector, Sectors, SpareSector};

/// Granules that one chunk of the bitmap covers.
const CHUNK: u64 = 4096;

/// Words of a chunk.
const WORDS: usize = (CHUNK / 64) as usize;

/// A power of two, to round to.
#[derive(Clone, Copy)]
struct Unit {
    shift: u32,
}

impl Unit {
    /// The least that is not below `size`, but no more than `most`.
    fn new(size: u64, most: u64) -> Self {
        Self { shift: size.clamp(1, most).next_power_of_two().trailing_zeros() }
    }

    fn size(self) -> u64 {
        1 << self.shift
    }

    /// How much `x` is behind a multiple.
    fn rest(self, x: u64) -> u64 {
        x & (self.size() - 1)
    }

    fn count(self, x: u64) -> u64 {
        x >> self.shift
    }

    fn down(self, x: u64) -> u64 {
        x - self.rest(x)
    }

    fn up(self, x: u64) -> u64 {
        self.down(x.saturating_add(self.size() - 1))
    }
}

/// A run of neighbouring sectors of a spare.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Place {
    /// Its first sector.
    pub start: SpareSector,
    /// How many sectors it has.
    pub len: Sectors,
}

impl Place {
    /// The sector behind the last one.
    pub const fn end(&self) -> SpareSector {
        SpareSector(self.start.0.saturating_add(self.len.0))
    }
}

/// Why a place cannot be marked. Nothing has changed then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PlaceError {
    /// No memory.
    NoMemory,
    /// It does not begin and end with the spare's granules, or is empty.
    Unaligned,
    /// The sector is not in the data space.
    Outside(SpareSector),
    /// The sector is used or retired already.
    Taken(SpareSector),
    /// The sector is free already.
    Free(SpareSector),
}

impl From<AllocError> for PlaceError {
    fn from(_: AllocError) -> Self {
        Self::NoMemory
    }
}

impl fmt::Display for PlaceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMemory => f.write_str("no memory for the places on a spare"),
            Self::Unaligned => f.write_str("a place on a spare is not one of whole blocks"),
            Self::Outside(at) => write!(f, "sector {at} of the spare is not in its data space"),
            Self::Taken(at) => write!(f, "sector {at} of the spare is in use already"),
            Self::Free(at) => write!(f, "sector {at} of the spare is not in use"),
        }
    }
}

/// The first bit of `words` in `from..to` that is `value`.
fn find(words: &[u64], from: u64, to: u64, value: bool) -> Option<u64> {
    let mut at = from;
    while at < to {
        let word = words[(at / 64) as usize];
        let word = if value { word } else { !word } >> (at % 64);
        if word != 0 {
            let found = at + u64::from(word.trailing_zeros());
            return (found < to).then_some(found);
        }
        at = (at / 64 + 1) * 64;
    }
    None
}

/// Makes the bits of `words` in `from..to` equal `value`. Returns how many were not.
fn fill(words: &mut [u64], from: u64, to: u64, value: bool) -> u32 {
    let mut changed = 0;
    let mut at = from;
    while at < to {
        let word = &mut words[(at / 64) as usize];
        let n = (64 - at % 64).min(to - at);
        let mask = (u64::MAX >> (64 - n)) << (at % 64);
        if value {
            changed += (mask & !*word).count_ones();
            *word |= mask;
        } else {
            changed += (mask & *word).count_ones();
            *word &= !mask;
        }
        at += n;
    }
    changed
}

/// The bitmap of [`CHUNK`] granules.
///
/// # Invariants
///
/// `taken` has [`WORDS`] words: the granules that are used, retired, or not in the data space.
/// `retired` has as many or none: those retired, all of them taken too. `free` is the number of the
/// others. No free, aligned run of `barren` granules is there, if that is not 0.
struct Chunk {
    index: u64,
    taken: KVec<u64>,
    retired: KVec<u64>,
    free: u32,
    barren: u32,
}

impl Chunk {
    /// Whether it covers all the granules in `from..to`.
    fn has(&self, from: u64, to: u64) -> bool {
        let first = self.index * CHUNK;
        first <= from && to <= first + CHUNK
    }

    /// Makes the granules in `from..to` of it taken. Returns how many were not.
    fn take(&mut self, from: u64, to: u64) -> u64 {
        let taken = fill(&mut self.taken, from, to, true);
        self.free -= taken;
        taken.into()
    }

    /// Whether it is known to have no free aligned unit.
    fn lacks(&self, unit: Unit) -> bool {
        let unit = unit.size();
        u64::from(self.free) < unit || (self.barren != 0 && unit >= u64::from(self.barren))
    }

    /// The first free aligned unit that begins at `from` or behind it.
    fn unit_from(&mut self, from: u64, unit: Unit) -> Option<u64> {
        if self.lacks(unit) {
            return None;
        }
        let mut at = from;
        while let Some(free) = find(&self.taken, at, CHUNK, false) {
            let start = unit.up(free);
            if start + unit.size() > CHUNK {
                break;
            }
            match find(&self.taken, start, start + unit.size(), true) {
                None => return Some(start),
                Some(taken) => at = taken,
            }
        }
        if from == 0 {
            self.barren = unit.size() as u32;
        }
        None
    }
}

/// The places of one spare.
///
/// Everything is counted in granules, the set's logical block, inside.
pub struct Places {
    granule: Unit,
    /// The data space, sorted and apart.
    regions: KVec<(u64, u64)>,
    /// Those with anything taken, sorted.
    chunks: KVVec<Chunk>,
    /// Where the next search begins.
    cursor: u64,
    /// Which of the chunks a place was last marked in, or any.
    recent: usize,
    room: u64,
    used: u64,
    retired: u64,
}

impl Places {
    /// The places in the data space `regions` of a spare, sorted and apart, all of them free.
    /// `granule` is the set's logical block, a power of two. What does not fill one is left out.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn new(regions: &[Place], granule: Sectors) -> Result<Self, AllocError> {
        let granule = Unit::new(granule.0, CHUNK);
        let mut places = Self {
            granule,
            regions: KVec::with_capacity(regions.len(), GFP_KERNEL)?,
            chunks: KVVec::new(),
            cursor: 0,
            recent: 0,
            room: 0,
            used: 0,
            retired: 0,
        };
        for region in regions {
            let (from, to) =
                (granule.count(granule.up(region.start.0)), granule.count(region.end().0));
            if from >= to {
                continue;
            }
            places.room += to - from;
            match places.regions.as_mut_slice().last_mut() {
                Some(last) if last.1 == from => last.1 = to,
                _ => places.regions.push((from, to), GFP_KERNEL)?,
            }
        }
        Ok(places)
    }

    /// Sectors that the data space has.
    pub fn room(&self) -> Sectors {
        self.sectors(self.room)
    }

    /// Sectors in use.
    pub fn used(&self) -> Sectors {
        self.sectors(self.used)
    }

    /// Sectors that are retired.
    pub fn retired(&self) -> Sectors {
        self.sectors(self.retired)
    }

    /// Sectors that are free, whether in whole units or not.
    pub fn free_sectors(&self) -> Sectors {
        self.sectors(self.room - self.used - self.retired)
    }

    /// How many whole units are free. Looks at all of the bitmap.
    pub fn free_units(&self, unit: Sectors) -> u64 {
        let unit = self.granules_of(unit);
        let (mut units, mut at) = (0, 0);
        while let Some((free, region)) = self.next_free(at) {
            let end = self.taken_in(free, region).unwrap_or(region);
            units += unit.count(end).saturating_sub(unit.count(unit.up(free)));
            at = end;
        }
        units
    }

    /// A free place for `len` sectors from `start` of main on, in whole units of `unit` sectors (a
    /// power of two) that hold nothing yet: its place in its unit is that of `start` on main.
    /// `None`: there is no such place in one piece.
    ///
    /// # Errors
    ///
    /// No memory; `start` and `len` are not of whole granules.
    pub fn allocate(
        &mut self,
        unit: Sectors,
        start: MainSector,
        len: Sectors,
    ) -> Result<Option<SpareSector>, PlaceError> {
        let place = self.take(unit, start, len, true)?;
        Ok(place.map(|place| place.start))
    }

    /// Like [`allocate`](Self::allocate), but content with a place for the first part of it: as much
    /// as is free in the first run of units that is found.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn allocate_up_to(
        &mut self,
        unit: Sectors,
        start: MainSector,
        len: Sectors,
    ) -> Result<Option<Place>, PlaceError> {
        self.take(unit, start, len, false)
    }

    /// The place for `len` sectors from `start` of main on that is to `near` as they are to
    /// `near_main`, which is remapped there and in the same unit of main. `None`: not the same
    /// unit, or not free.
    ///
    /// # Errors
    ///
    /// No memory; `start` and `len` are not of whole granules.
    pub fn allocate_beside(
        &mut self,
        unit: Sectors,
        (near_main, near): (MainSector, SpareSector),
        start: MainSector,
        len: Sectors,
    ) -> Result<Option<SpareSector>, PlaceError> {
        let unit = Unit { shift: self.granules_of(unit).shift + self.granule.shift };
        if unit.count(start.0) != unit.count(near_main.0)
            || len.0 > unit.size() - unit.rest(start.0)
            || unit.rest(near.0) != unit.rest(near_main.0)
        {
            return Ok(None);
        }
        let place = Place { start: SpareSector(unit.down(near.0) + unit.rest(start.0)), len };
        match self.mark_used(place) {
            Ok(()) => Ok(Some(place.start)),
            Err(PlaceError::Taken(_) | PlaceError::Outside(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Marks a free place as used.
    ///
    /// # Errors
    ///
    /// See [`PlaceError`]: above all, that it is not free.
    pub fn mark_used(&mut self, place: Place) -> Result<(), PlaceError> {
        let (from, to) = self.check(place)?;
        // Most places are in the chunk of the one before: a table is gone through in its order.
        let granule = self.granule;
        if let Some(chunk) = self.chunks.get_mut(self.recent).filter(|chunk| chunk.has(from, to)) {
            let base = chunk.index * CHUNK;
            if let Some(taken) = find(&chunk.taken, from - base, to - base, true) {
                return Err(PlaceError::Taken(SpareSector((base + taken) << granule.shift)));
            }
            self.used += chunk.take(from - base, to - base);
            return Ok(());
        }
        if let Some(taken) = self.taken_in(from, to) {
            return Err(PlaceError::Taken(self.sector(taken)));
        }
        self.make_chunks(from, to)?;
        self.recent = self.chunk_at(from);
        self.used += self.each_chunk(from, to, Chunk::take);
        Ok(())
    }

    /// Takes a place out of use for good, whatever it was before.
    ///
    /// # Errors
    ///
    /// See [`PlaceError`].
    pub fn retire(&mut self, place: Place) -> Result<(), PlaceError> {
        let (from, to) = self.check(place)?;
        self.make_chunks(from, to)?;
        let first = self.chunk_at(from);
        for chunk in self.chunks[first..].iter_mut().take_while(|c| c.index * CHUNK < to) {
            if chunk.retired.is_empty() {
                chunk.retired = KVec::from_elem(0, WORDS, GFP_KERNEL)?;
            }
        }
        let mut new = 0;
        let free = self.each_chunk(from, to, |chunk, from, to| {
            new += u64::from(fill(&mut chunk.retired, from, to, true));
            chunk.take(from, to)
        });
        self.retired += new;
        self.used -= new - free;
        Ok(())
    }

    /// Gives back a place that is used. What was retired of it stays so.
    ///
    /// # Errors
    ///
    /// See [`PlaceError`]: above all, that it is free already.
    pub fn free(&mut self, place: Place) -> Result<(), PlaceError> {
        let (from, to) = self.check(place)?;
        if let Some(free) = self.free_in(from, to) {
            return Err(PlaceError::Free(self.sector(free)));
        }
        self.used -= self.each_chunk(from, to, |chunk, from, to| {
            let mut freed = 0;
            let mut at = from;
            while at < to {
                let end = if chunk.retired.is_empty() {
                    to
                } else {
                    find(&chunk.retired, at, to, true).unwrap_or(to)
                };
                freed += fill(&mut chunk.taken, at, end, false);
                at = end + 1;
            }
            chunk.free += freed;
            chunk.barren = 0;
            u64::from(freed)
        });
        Ok(())
    }

    /// The retired places, in order.
    pub fn retired_places(&self) -> impl Iterator<Item = Place> + '_ {
        self.chunks.iter().filter(|chunk| !chunk.retired.is_empty()).flat_map(move |chunk| {
            let mut at = 0;
            core::iter::from_fn(move || {
                let from = find(&chunk.retired, at, CHUNK, true)?;
                at = find(&chunk.retired, from, CHUNK, false).unwrap_or(CHUNK);
                let start = self.sector(chunk.index * CHUNK + from);
                Some(Place { start, len: self.sectors(at - from) })
            })
        })
    }

    /// The next run of the data space, from `from` on, that is not retired, used or not.
    pub fn next_sound(&self, from: SpareSector) -> Option<Place> {
        let mut at = self.granule.count(from.0);
        loop {
            let (begin, end) = self.region_at(at)?;
            at = at.max(begin);
            match self.retired_from(at) {
                Some((bad, behind)) if bad <= at => at = behind,
                bad => {
                    let end = bad.map_or(end, |(bad, _)| bad.min(end));
                    return Some(Place { start: self.sector(at), len: self.sectors(end - at) });
                }
            }
        }
    }

    /// The first run of retired granules of one chunk that ends behind `at`.
    fn retired_from(&self, at: u64) -> Option<(u64, u64)> {
        self.chunks[self.chunk_at(at)..].iter().filter(|c| !c.retired.is_empty()).find_map(|c| {
            let base = c.index * CHUNK;
            let bad = find(&c.retired, at.saturating_sub(base), CHUNK, true)?;
            let behind = find(&c.retired, bad, CHUNK, false).unwrap_or(CHUNK);
            Some((base + bad, base + behind))
        })
    }

    /// Bytes of memory that the bitmaps take.
    pub fn memory(&self) -> usize {
        let bitmap = |words: &KVec<u64>| words.capacity() * 8;
        self.chunks.capacity() * core::mem::size_of::<Chunk>()
            + self.chunks.iter().map(|c| bitmap(&c.taken) + bitmap(&c.retired)).sum::<usize>()
    }

    fn sector(&self, granule: u64) -> SpareSector {
        SpareSector(granule << self.granule.shift)
    }

    fn sectors(&self, granules: u64) -> Sectors {
        Sectors(granules << self.granule.shift)
    }

    /// A unit in granules: a power of two, no more than a chunk.
    fn granules_of(&self, unit: Sectors) -> Unit {
        Unit::new(self.granule.count(unit.0), CHUNK)
    }

    fn check(&self, place: Place) -> Result<(u64, u64), PlaceError> {
        let (start, end) = (place.start.0, place.end().0);
        if place.len.0 == 0 || self.granule.rest(start | end) != 0 {
            return Err(PlaceError::Unaligned);
        }
        let (from, to) = (self.granule.count(start), self.granule.count(end));
        // Nearly all of the data space is the last region.
        let region = match self.regions.last() {
            Some(&(begin, end)) if begin <= from && from < end => Some((begin, end)),
            _ => self.region_at(from),
        };
        match region {
            Some((begin, end)) if begin <= from && to <= end => Ok((from, to)),
            Some((begin, end)) if begin <= from => Err(PlaceError::Outside(self.sector(end))),
            _ => Err(PlaceError::Outside(place.start)),
        }
    }

    /// The first region that ends behind `at`.
    fn region_at(&self, at: u64) -> Option<(u64, u64)> {
        self.regions.get(self.regions.partition_point(|(_, end)| *end <= at)).copied()
    }

    /// The first chunk that ends behind the granule `at`.
    fn chunk_at(&self, at: u64) -> usize {
        self.chunks.partition_point(|chunk| chunk.index < at / CHUNK)
    }

    /// The first granule in `from..to`, all of it in one region, that is taken.
    fn taken_in(&self, from: u64, to: u64) -> Option<u64> {
        self.chunks[self.chunk_at(from)..].iter().take_while(|c| c.index * CHUNK < to).find_map(
            |chunk| {
                let base = chunk.index * CHUNK;
                let (from, to) = (from.max(base) - base, (to - base).min(CHUNK));
                find(&chunk.taken, from, to, true).map(|at| base + at)
            },
        )
    }

    /// The first granule in `from..to`, all of it in one region, that is free.
    fn free_in(&self, from: u64, to: u64) -> Option<u64> {
        let mut at = from;
        for chunk in self.chunks[self.chunk_at(from)..].iter() {
            let base = chunk.index * CHUNK;
            if at >= to || base > at {
                break;
            }
            if let Some(free) = find(&chunk.taken, at - base, (to - base).min(CHUNK), false) {
                return Some(base + free);
            }
            at = base + CHUNK;
        }
        (at < to).then_some(at)
    }

    /// The first free granule from `at` on, and the end of its region.
    fn next_free(&self, mut at: u64) -> Option<(u64, u64)> {
        let mut next = self.chunk_at(at);
        loop {
            let (begin, end) = self.region_at(at)?;
            at = at.max(begin);
            while self.chunks.get(next).is_some_and(|chunk| chunk.index < at / CHUNK) {
                next += 1;
            }
            let Some(chunk) = self.chunks.get(next).filter(|c| c.index == at / CHUNK) else {
                return Some((at, end));
            };
            let base = chunk.index * CHUNK;
            let found =
                if chunk.free == 0 { None } else { find(&chunk.taken, at - base, CHUNK, false) };
            match found {
                Some(found) => {
                    let found = base + found;
                    return self.region_at(found).map(|(_, end)| (found, end));
                }
                None => at = base + CHUNK,
            }
        }
    }

    /// Makes the chunks that `from..to` touches.
    fn make_chunks(&mut self, from: u64, to: u64) -> Result<(), AllocError> {
        for (at, index) in (self.chunk_at(from)..).zip(from / CHUNK..to.div_ceil(CHUNK)) {
            if self.chunks.get(at).is_none_or(|chunk| chunk.index != index) {
                let mut taken = KVec::from_elem(u64::MAX, WORDS, GFP_KERNEL)?;
                let (base, end) = (index * CHUNK, (index + 1) * CHUNK);
                let mut free = 0;
                let first = self.regions.partition_point(|(_, end)| *end <= base);
                for region in self.regions[first..].iter().take_while(|r| r.0 < end) {
                    let (from, to) = (region.0.max(base) - base, region.1.min(end) - base);
                    free += fill(&mut taken, from, to, false);
                }
                let chunk = Chunk { index, taken, retired: KVec::new(), free, barren: 0 };
                self.chunks.push(chunk, GFP_KERNEL)?;
                self.chunks[at..].rotate_right(1);
            }
        }
        Ok(())
    }

    /// Calls `change` for the part of `from..to` in each chunk, and adds up what it returns.
    fn each_chunk(
        &mut self,
        from: u64,
        to: u64,
        mut change: impl FnMut(&mut Chunk, u64, u64) -> u64,
    ) -> u64 {
        let first = self.chunk_at(from);
        let mut sum = 0;
        for chunk in self.chunks[first..].iter_mut().take_while(|c| c.index * CHUNK < to) {
            let base = chunk.index * CHUNK;
            sum += change(chunk, from.max(base) - base, (to - base).min(CHUNK));
        }
        sum
    }

    fn take(
        &mut self,
        unit: Sectors,
        start: MainSector,
        len: Sectors,
        whole: bool,
    ) -> Result<Option<Place>, PlaceError> {
        if len.0 == 0 || self.granule.rest(start.0 | len.0) != 0 {
            return Err(PlaceError::Unaligned);
        }
        let unit = self.granules_of(unit);
        let skip = unit.rest(self.granule.count(start.0));
        let wanted = self.granule.count(len.0);
        let span = unit.up(skip + wanted);
        let cursor = self.cursor;
        let found = match self.search(cursor, u64::MAX, unit, span, whole) {
            None => self.search(0, cursor, unit, span, whole),
            found => found,
        };
        let Some((at, run)) = found else { return Ok(None) };
        let taken = wanted.min(run - skip);
        let len = self.sectors(taken);
        let place = Place { start: self.sector(at + skip), len };
        self.mark_used(place)?;
        // What is left of the last unit is not for others.
        self.cursor = unit.up(at + skip + taken);
        Ok(Some(place))
    }

    /// `at`, or the first granule behind it that is not in a chunk known to lack a free unit.
    fn behind_barren(&self, mut at: u64, unit: Unit) -> u64 {
        for chunk in self.chunks[self.chunk_at(at)..].iter() {
            if chunk.index != at / CHUNK || !chunk.lacks(unit) {
                break;
            }
            at = (chunk.index + 1) * CHUNK;
        }
        at
    }

    /// The first run of free units that begins in `from..to`: one of `span` granules, or any, then
    /// as long as it is, up to `span`.
    fn search(
        &mut self,
        from: u64,
        to: u64,
        unit: Unit,
        span: u64,
        whole: bool,
    ) -> Option<(u64, u64)> {
        let mut at = from;
        loop {
            at = self.behind_barren(at, unit);
            let (free, mut region) = self.next_free(at)?;
            let mut start = unit.up(free);
            let chunk = self.chunk_at(start);
            if let Some(chunk) = self.chunks.get_mut(chunk).filter(|c| c.index == start / CHUNK) {
                let base = chunk.index * CHUNK;
                // From its beginning where that makes no difference, to learn about all of it.
                let from = if at <= base { 0 } else { start - base };
                let Some(found) = chunk.unit_from(from, unit) else {
                    at = base + CHUNK;
                    continue;
                };
                start = base + found;
                region = self.region_at(start)?.1;
            }
            if start >= to {
                return None;
            }
            let end = start.saturating_add(span).min(region);
            let run = match self.taken_in(start, end.max(start)) {
                Some(taken) => taken,
                None => end,
            };
            let run = unit.down(run.saturating_sub(start));
            if run == span || (!whole && run > 0) {
                return Some((start, run));
            }
            at = (start + run).max(free) + 1;
        }
    }
}
