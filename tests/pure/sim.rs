// SPDX-License-Identifier: GPL-2.0

//! A disk that loses power: what was not flushed may be lost, torn at sectors and reordered. It
//! keeps a log of what was done to it, so that the power can be cut at every point of that.

#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::{NewSet, NewSpare};
use remap_pure::format::layout::Layout;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{CommitKind, MemberUuid, SetUuid};
use remap_pure::mem::BLOCK_SIZE;
use remap_pure::store::{IoError, Read, SpareSet, Store, Write};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector, SECTOR_SIZE};

pub fn crc(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Random numbers from a seed (xorshift64*).
#[derive(Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        (0..8).for_each(|_| {
            rng.next();
        });
        rng
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 16) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

type Bytes = Rc<[u8; BLOCK_SIZE]>;
type Blocks = BTreeMap<u64, Bytes>;

#[derive(Clone)]
enum Event {
    Write(u64, Bytes),
    Flush,
    /// A flush that failed: the writes that wait for one are lost where this says so.
    Lost(Vec<bool>),
}

/// One disk. Positions are in blocks.
#[derive(Clone)]
pub struct Disk {
    sectors: u64,
    /// What a power cut cannot take, as of the beginning of the log.
    base: Blocks,
    log: Vec<Event>,
    /// What a read returns.
    now: Blocks,
    /// Blocks that cannot be written.
    pub no_write: BTreeSet<u64>,
    /// Blocks that cannot be read.
    pub no_read: BTreeSet<u64>,
    /// Blocks that can be read so many times more.
    pub fading: BTreeMap<u64, usize>,
    /// Which flushes fail: the next one if bit 0 is set, the one after it if bit 1 is, and so on.
    pub failing_flushes: u64,
    /// After so many writes and flushes it answers nothing any more, and loses what was not flushed.
    pub dies_after: Option<u64>,
    /// How many writes and flushes it was asked for.
    pub asked: u64,
    /// Makes failures what they are.
    pub rng: Rng,
}

fn put(blocks: &mut Blocks, at: u64, bytes: Bytes) {
    blocks.insert(at, bytes);
}

fn torn(old: Option<&Bytes>, new: &Bytes, rng: &mut Rng) -> Bytes {
    let mut mixed = old.map_or([0; BLOCK_SIZE], |old| **old);
    let sectors = rng.next();
    for i in (0..BLOCK_SIZE / SECTOR_SIZE).filter(|i| (sectors >> i) & 1 != 0) {
        let at = i * SECTOR_SIZE..(i + 1) * SECTOR_SIZE;
        mixed[at.clone()].copy_from_slice(&new[at]);
    }
    Rc::new(mixed)
}

impl Disk {
    pub fn new(sectors: u64, seed: u64) -> Self {
        Self {
            sectors,
            base: Blocks::new(),
            log: Vec::new(),
            now: Blocks::new(),
            no_write: BTreeSet::new(),
            no_read: BTreeSet::new(),
            fading: BTreeMap::new(),
            failing_flushes: 0,
            dies_after: None,
            asked: 0,
            rng: Rng::new(seed),
        }
    }

    /// Whether it answers nothing any more.
    pub fn is_dead(&self) -> bool {
        self.dies_after == Some(0)
    }

    /// Counts a write or a flush; `false` when it is not answered.
    fn lives(&mut self) -> bool {
        self.asked += 1;
        match &mut self.dies_after {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    self.lose();
                    return false;
                }
                true
            }
        }
    }

    /// Forgets the log: all that was written is taken to be safe.
    pub fn settle(&mut self) {
        self.base = self.now.clone();
        self.log.clear();
    }

    /// How many points there are to cut the power at.
    pub fn steps(&self) -> usize {
        self.log.len()
    }

    /// The disk as it may be found when the power is cut after `steps` steps of the log.
    pub fn cut(&self, steps: usize, rng: &mut Rng) -> Self {
        let mut stable = self.base.clone();
        let mut waiting: Vec<(u64, Bytes)> = Vec::new();
        for event in &self.log[..steps] {
            match event {
                Event::Write(at, bytes) => waiting.push((*at, bytes.clone())),
                Event::Flush => waiting.drain(..).for_each(|(at, b)| put(&mut stable, at, b)),
                Event::Lost(which) => {
                    let mut which = which.iter();
                    waiting.retain(|_| !which.next().copied().unwrap_or(false));
                }
            }
        }
        // Most writes lost, most kept, or half of them.
        let kept = [10, 50, 90, 50][rng.below(4) as usize];
        let tear = [0, 10, 50][rng.below(3) as usize];
        while !waiting.is_empty() {
            let (at, bytes) = waiting.swap_remove(rng.below(waiting.len() as u64) as usize);
            if rng.chance(tear) {
                let mixed = torn(stable.get(&at), &bytes, rng);
                put(&mut stable, at, mixed);
            } else if rng.chance(kept) {
                put(&mut stable, at, bytes);
            }
        }
        Self {
            base: stable.clone(),
            now: stable,
            log: Vec::new(),
            failing_flushes: 0,
            dies_after: self.dies_after,
            asked: 0,
            no_read: self.no_read.clone(),
            fading: self.fading.clone(),
            no_write: self.no_write.clone(),
            rng: Rng::new(rng.next()),
            sectors: self.sectors,
        }
    }

    pub fn block(&self, at: u64) -> [u8; BLOCK_SIZE] {
        self.now.get(&at).map_or([0; BLOCK_SIZE], |b| **b)
    }

    pub fn set_block(&mut self, at: u64, bytes: [u8; BLOCK_SIZE]) {
        put(&mut self.now, at, Rc::new(bytes));
        self.settle();
    }

    /// It has fewer sectors than it had.
    pub fn shrink(&mut self, sectors: u64) {
        self.sectors = sectors;
    }

    /// Every block that was ever written.
    pub fn written(&self) -> impl Iterator<Item = (u64, &[u8; BLOCK_SIZE])> {
        self.now.iter().map(|(at, bytes)| (*at, &**bytes))
    }

    /// Whether a block can be read, this time.
    fn can_read(&mut self, at: u64) -> bool {
        let left = self.fading.get_mut(&at);
        let faded = left.is_some_and(|left| match left.checked_sub(1) {
            Some(less) => {
                *left = less;
                false
            }
            None => true,
        });
        !self.is_dead() && !self.no_read.contains(&at) && !faded
    }

    fn write(&mut self, at: u64, bytes: &[u8; BLOCK_SIZE]) -> Result<(), IoError> {
        let new: Bytes = Rc::new(*bytes);
        if !self.lives() {
            return Err(IoError::EIO);
        }
        if self.no_write.contains(&at) {
            // What a failed write leaves: nothing, all, or some sectors of it.
            let left = match self.rng.below(3) {
                0 => return Err(IoError::EIO),
                1 => new,
                _ => torn(self.now.get(&at), &new, &mut self.rng),
            };
            self.log.push(Event::Write(at, left.clone()));
            put(&mut self.now, at, left);
            return Err(IoError::EIO);
        }
        self.log.push(Event::Write(at, new.clone()));
        put(&mut self.now, at, new);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), IoError> {
        if !self.lives() {
            return Err(IoError::EIO);
        }
        let fails = self.failing_flushes & 1 != 0;
        self.failing_flushes >>= 1;
        if !fails {
            self.log.push(Event::Flush);
            return Ok(());
        }
        self.lose();
        Err(IoError::EIO)
    }

    /// Some of what waits for a flush is lost.
    fn lose(&mut self) {
        let lost = (0..self.log.len()).map(|_| self.rng.chance(50)).collect();
        self.log.push(Event::Lost(lost));
        // What reads see from now on is what is left.
        let mut sure = self.clone();
        sure.log.push(Event::Flush);
        let mut rng = Rng::new(1);
        self.now = sure.cut(sure.log.len(), &mut rng).now;
    }
}

/// The spares of a set.
#[derive(Clone)]
pub struct Sim {
    pub disks: Vec<Disk>,
    /// The disks that are there; the others are somewhere else.
    pub here: SpareSet,
    /// Of each step, whose log it is in.
    order: Vec<usize>,
    pub blocks_written: usize,
    /// How often blocks were to be written, some at once.
    pub batches: usize,
    pub flushes: usize,
}

impl Sim {
    pub fn new(disks: usize, sectors: u64, seed: u64) -> Self {
        let here = SpareSet(((1u32 << disks) - 1) as u8);
        let disks = (0..disks).map(|i| Disk::new(sectors, seed + i as u64)).collect();
        Self { disks, here, order: Vec::new(), blocks_written: 0, batches: 0, flushes: 0 }
    }

    /// What was bad is good again; the disks that are dead stay so.
    pub fn heal(&mut self) {
        for disk in &mut self.disks {
            disk.no_write.clear();
            disk.no_read.clear();
            disk.failing_flushes = 0;
        }
    }

    /// The same, and only these disks are there.
    pub fn with_only(&self, here: SpareSet) -> Self {
        Self { here, ..self.clone() }
    }

    /// The disks that are there and answer.
    pub fn alive(&self) -> SpareSet {
        let mut alive = SpareSet::NONE;
        let dead = |spare: SpareId| self.disks[spare.0 as usize].is_dead();
        self.here.iter().filter(|&spare| !dead(spare)).for_each(|spare| alive.add(spare));
        alive
    }

    /// Forgets the log: all that was written is taken to be safe.
    pub fn settle(&mut self) {
        self.order.clear();
        self.disks.iter_mut().for_each(Disk::settle);
    }

    /// How many points there are to cut the power at.
    pub fn steps(&self) -> usize {
        self.order.len()
    }

    /// All disks as they may be found when the power is cut after `steps` steps.
    pub fn cut(&self, steps: usize, rng: &mut Rng) -> Self {
        let disk = |i: usize| {
            let own = self.order[..steps].iter().filter(|&&disk| disk == i).count();
            self.disks[i].cut(own, rng)
        };
        let disks = (0..self.disks.len()).map(disk).collect();
        Self { disks, order: Vec::new(), ..*self }
    }

    fn on<T>(&mut self, spare: SpareId, work: impl FnOnce(&mut Disk) -> T) -> T {
        assert!(self.here.has(spare), "disk {spare} is not there");
        let i = spare.0 as usize;
        let steps = self.disks[i].steps();
        let result = work(&mut self.disks[i]);
        (steps..self.disks[i].steps()).for_each(|_| self.order.push(i));
        result
    }
}

impl Store for Sim {
    fn spares(&self) -> SpareSet {
        self.here
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        Sectors(self.disks[spare.0 as usize].sectors)
    }

    fn read(&mut self, batch: &mut [Read]) {
        for read in batch {
            assert_eq!(read.at.0 % 8, 0);
            assert!(self.here.has(read.spare), "disk {} is not there", read.spare);
            let (disk, at) = (&mut self.disks[read.spare.0 as usize], read.at.0 / 8);
            assert!(read.at.0 + 8 <= disk.sectors, "read behind the end");
            read.result = if !disk.can_read(at) {
                read.block.fill(0xa5);
                Err(IoError::EIO)
            } else {
                match disk.now.get(&at) {
                    Some(bytes) => read.block.copy_from_slice(&bytes[..]),
                    None => read.block.fill(0),
                }
                Ok(())
            };
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        self.batches += 1;
        for write in batch {
            write.result = self.on(write.spare, |disk| {
                assert!(write.at.0 + 8 <= disk.sectors, "write behind the end");
                disk.write(write.at.0 / 8, write.block)
            });
            self.blocks_written += 1;
        }
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        self.flushes += 1;
        let mut failed = SpareSet::NONE;
        for spare in spares.iter() {
            if self.on(spare, Disk::flush).is_err() {
                failed.add(spare);
            }
        }
        failed
    }
}

pub const SECTORS: u64 = 32768;
pub const MAIN: u64 = 1 << 24;
pub const UUID: SetUuid = SetUuid(*b"sixteen bytes ok");

pub fn new_set(layout: Layout) -> NewSet<'static> {
    NewSet {
        uuid: UUID,
        history: 0x1234_5678_9abc_def0,
        name: "test set",
        time: 1_700_000_000,
        layout,
        main_sectors: Sectors(MAIN),
        main_start: Sectors(0),
        line: "/dev/main /dev/spare",
    }
}

pub fn new_spare(i: usize) -> NewSpare {
    NewSpare {
        uuid: [i as u8 + 1; 16],
        fingerprint: RawFingerprint::unknown(),
        used_start: Sectors(0),
        used_sectors: Sectors(SECTORS),
    }
}

/// What [`new_spare`] gives this one.
pub fn uuid(spare: SpareId) -> MemberUuid {
    MemberUuid([spare.0 + 1; 16])
}

pub fn create_on(sim: &mut Sim) -> Metadata {
    let spares: Vec<_> = (0..sim.disks.len()).map(new_spare).collect();
    let set = new_set(Layout::STANDARD);
    create(sim, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap()
}

pub fn content(metadata: &Metadata) -> Vec<Entry> {
    metadata.table().iter().collect()
}

pub fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

/// Some extent of main, and a mapping for it that lies in the data space of one of the spares.
pub fn some_change(rng: &mut Rng, spares: SpareSet) -> (Extent, Option<Mapping>) {
    let spares: Vec<SpareId> = spares.iter().collect();
    let len = 8 << rng.below(4);
    let extent = extent(rng.below(MAIN / 64) * 64, len);
    let mapping = match rng.below(4) {
        0 => None,
        1 => Some(Mapping::Pending),
        _ => Some(Mapping::Remapped {
            spare: spares[rng.below(spares.len() as u64) as usize],
            to: SpareSector(9216 + rng.below((SECTORS - 9216 - 64) / 8) * 8),
        }),
    };
    (extent, mapping)
}

/// A commit of so many changes, with all of it safe after.
pub fn commit(sim: &mut Sim, metadata: &mut Metadata, changes: usize, rng: &mut Rng) {
    let mut edit = metadata.table().edit().unwrap();
    for _ in 0..changes {
        match some_change(rng, sim.here) {
            (extent, Some(mapping)) => edit.set(extent, mapping).unwrap(),
            (extent, None) => edit.clear(extent).unwrap(),
        }
    }
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(sim).unwrap().write_group_b(sim);
    sim.settle();
}
