//! Spares that are blocks in memory, and sets on them.

use crate::patch::{crc, Bytes};
use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::{NewSet, NewSpare};
use remap_pure::format::layout::Layout;
use remap_pure::format::{CommitKind, SetUuid};
use remap_pure::identity::{fingerprint, Facts};
use remap_pure::store::{IoError, Read, SpareSet, Store, Write};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

/// Sectors of main.
pub const MAIN: u64 = 1 << 21;
/// Sectors of a spare.
pub const SPARE: u64 = 1 << 16;
/// The set's UUID.
pub const UUID: SetUuid = SetUuid(*b"fuzz of a set...");

/// The spares of a set, block by block; what is not there reads as zeroes.
#[derive(Clone, Default)]
pub struct Disks {
    spares: Vec<BTreeMap<u64, Arc<Bytes>>>,
    /// Blocks that cannot be read until they are written.
    pub unreadable: BTreeSet<(usize, u64)>,
}

impl Disks {
    /// So many, with nothing on them.
    pub fn blank(spares: usize) -> Self {
        Self { spares: vec![BTreeMap::new(); spares], unreadable: BTreeSet::new() }
    }

    /// How many spares there are.
    pub fn count(&self) -> usize {
        self.spares.len()
    }

    /// A block.
    pub fn block(&self, spare: usize, at: u64) -> Bytes {
        self.spares[spare].get(&at).map_or([0; 4096], |bytes| **bytes)
    }

    /// Makes a block another.
    pub fn put(&mut self, spare: usize, at: u64, bytes: Bytes) {
        self.spares[spare].insert(at, Arc::new(bytes));
    }
}

impl Store for Disks {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        (0..self.spares.len() as u8).for_each(|n| set.add(SpareId(n)));
        set
    }

    fn sectors(&self, _: SpareId) -> Sectors {
        Sectors(SPARE)
    }

    fn read(&mut self, batch: &mut [Read]) {
        for read in batch {
            let (spare, at) = (usize::from(read.spare.0), read.at.0 / 8);
            assert!(read.at.0 % 8 == 0 && read.at.0 + 8 <= SPARE, "read at {}", read.at);
            if self.unreadable.contains(&(spare, at)) {
                read.result = Err(IoError::EIO);
            } else {
                read.block.copy_from_slice(&self.block(spare, at));
                read.result = Ok(());
            }
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        for write in batch {
            let (spare, at) = (usize::from(write.spare.0), write.at.0 / 8);
            assert!(write.at.0 % 8 == 0 && write.at.0 + 8 <= SPARE, "written at {}", write.at);
            let mut bytes = [0; 4096];
            bytes.copy_from_slice(&write.block[..]);
            self.put(spare, at, bytes);
            self.unreadable.remove(&(spare, at));
            write.result = Ok(());
        }
    }

    fn flush(&mut self, _: SpareSet) -> SpareSet {
        SpareSet::NONE
    }
}

/// A set as it was at several moments of its life, the last one last.
pub struct Life {
    /// Where its metadata stands.
    pub layout: Layout,
    /// Its spares.
    pub moments: Vec<Disks>,
}

/// Sets of several kinds.
pub fn lives() -> &'static [Life] {
    static LIVES: OnceLock<Vec<Life>> = OnceLock::new();
    LIVES
        .get_or_init(|| [(1, 127, 0), (1, 127, 600), (2, 127, 300), (1, 140, 300)].map(live).into())
}

fn live((spares, capacity, extents): (usize, u32, u64)) -> Life {
    let layout = Layout::new(capacity).unwrap();
    let mut disks = Disks::blank(spares);
    let mut moments = vec![disks.clone()];
    let facts = |sectors| Facts {
        partition_uuid: Some("0c1e39a6-03c1-4b95-a2c9-0d2a4c3ed6a3"),
        path: "/dev/some",
        ..Facts::of_size(Sectors(sectors), 512, 4096)
    };
    let set = NewSet {
        uuid: UUID,
        history: 7,
        name: "fuzz",
        time: 1,
        layout,
        main_sectors: Sectors(MAIN),
        main_start: Sectors(0),
        line: "/dev/main /dev/spare",
    };
    let member = NewSpare {
        uuid: *b"fuzz of a spare.",
        fingerprint: fingerprint(&facts(SPARE)),
        used_start: Sectors(0),
        used_sectors: Sectors(SPARE),
    };
    let members = vec![member; spares];
    let main = fingerprint(&facts(MAIN));
    let update = |header: &mut remap_pure::format::header::Header| header.raw_mut().main = main;
    let mut meta = create(&mut disks, &set, &members, SpareSet::NONE, crc, update).unwrap();
    moments.push(disks.clone());
    for (kind, from, n) in [
        (CommitKind::Remap, 0, extents),
        (CommitKind::Auto, extents, 4),
        (CommitKind::Unremap, 2, 2),
        (CommitKind::Save, 0, 0),
    ] {
        commit(&mut disks, &mut meta, kind, from..from + n, spares as u64, &mut moments);
    }
    Life { layout, moments }
}

fn commit(
    disks: &mut Disks,
    meta: &mut Metadata,
    kind: CommitKind,
    which: std::ops::Range<u64>,
    spares: u64,
    moments: &mut Vec<Disks>,
) {
    let mut edit = meta.table().edit().unwrap();
    for i in which {
        let extent = Extent { start: MainSector(i * 100), len: Sectors(8) };
        let to = meta.header().layout().end() + Sectors(i / spares * 8);
        let (spare, to) = (SpareId((i % spares) as u8), SpareSector(to.0));
        let mapping = match i % 50 {
            7 => Mapping::Pending,
            8 => Mapping::Lost,
            9 => Mapping::Suspect { spare, to },
            _ => Mapping::Remapped { spare, to },
        };
        match kind {
            CommitKind::Unremap => edit.clear(extent).unwrap(),
            _ => edit.set(extent, mapping).unwrap(),
        }
        if kind == CommitKind::Auto {
            let place = Sectors(SPARE - 8 * (i % 50 + 1));
            let entry = Entry::retired(SpareId(0), SpareSector(place.0), Sectors(8));
            edit.set(entry.extent, entry.mapping).unwrap();
        }
    }
    let in_a = meta.begin(kind, 2, Some(edit), |_| {}).unwrap().write_group_a(disks).unwrap();
    moments.push(disks.clone());
    in_a.write_group_b(disks);
    moments.push(disks.clone());
}
