// SPDX-License-Identifier: GPL-2.0

//! What tests of the remap table share: tables made at random, and what must hold for every one.
#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};

use remap_pure::digest::{digest, Stamp};
use remap_pure::entry::{
    home_on, BlockIndex, Entry, Mapping, PackedEntry, ENTRIES_PER_BLOCK, SPLIT_LEN,
};
use remap_pure::table::{guaranteed_entries, Found, Guess, Table, TableBuilder};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector, MAX_SPARES};

/// Small and the same everywhere (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

pub fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

pub fn suspect(spare: u8, to: u64) -> Mapping {
    Mapping::Suspect { spare: SpareId(spare), to: SpareSector(to) }
}

pub fn remapped(spare: u8, to: u64) -> Mapping {
    Mapping::Remapped { spare: SpareId(spare), to: SpareSector(to) }
}

/// Stands in for the CRC of a block: different for different contents.
pub fn crc(index: BlockIndex, entries: &[PackedEntry]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.0.to_le_bytes());
    crc.update(zerocopy::IntoBytes::as_bytes(entries));
    crc.finalize()
}

pub type Blocks = BTreeMap<u32, (Stamp, Vec<PackedEntry>)>;

pub fn blocks(table: &Table) -> Blocks {
    let mut all = Blocks::new();
    for (index, stamp, entries) in table.blocks() {
        assert!(all.insert(index.0, (stamp, entries.to_vec())).is_none(), "block {index} twice");
    }
    all
}

/// What must hold for every table.
pub fn check(table: &Table) {
    let all = blocks(table);
    assert_eq!(
        all.keys().copied().collect::<Vec<_>>(),
        (0..table.block_count()).collect::<Vec<_>>()
    );
    assert!(table.block_count() <= table.capacity_blocks());
    assert!(all.values().all(|(_, entries)| entries.len() <= ENTRIES_PER_BLOCK));
    let stamps = all.iter().map(|(&index, (stamp, _))| (BlockIndex(index), *stamp));
    assert_eq!(table.digest(), digest(stamps));
    let mut gone = 0;
    let (mut extents, mut lost, mut moved, mut retired, mut on) = (0, 0, 0, 0, [0; 8]);
    let mut unread = [0; 8];
    let mut last: Option<Entry> = None;
    for entry in table.iter() {
        extents += 1;
        match entry.mapping {
            Mapping::Pending => lost += entry.extent.len.0,
            Mapping::Lost => {
                lost += entry.extent.len.0;
                gone += entry.extent.len.0;
            }
            Mapping::Retired { .. } => retired += entry.extent.len.0,
            Mapping::Remapped { spare, .. } | Mapping::Suspect { spare, .. } => {
                moved += entry.extent.len.0;
                if matches!(entry.mapping, Mapping::Suspect { .. }) {
                    unread[spare.0 as usize] += entry.extent.len.0;
                }
                on[spare.0 as usize] += entry.extent.len.0;
            }
        }
        if let Some(last) = last {
            assert!(last.extent.end() <= entry.extent.start);
            assert!(
                !last.continues_in(&entry) || last.extent.len + entry.extent.len > SPLIT_LEN,
                "{last:?} and {entry:?} are one"
            );
        }
        last = Some(entry);
    }
    let totals = table.totals();
    assert_eq!((totals.extents, totals.pending.0, totals.remapped.0), (extents, lost, moved));
    assert_eq!(totals.suspect_on.map(|n| n.0), unread);
    assert_eq!(totals.suspect().0, unread.iter().sum::<u64>());
    assert_eq!(totals.lost.0, gone);
    assert_eq!((totals.retired.0, totals.on_spare.map(|n| n.0)), (retired, on));
    assert_eq!(table.entries_left(), guaranteed_entries(table.capacity_blocks()) - extents);
}

/// Ends an edit, and checks that it says exactly what it changed.
pub fn finish(before: &Table, edit: remap_pure::table::Edit, version: u64) -> (Table, Vec<u32>) {
    let mut encoded = BTreeMap::new();
    let changed = edit
        .finish(version, |index, entries| {
            assert!(encoded.insert(index.0, entries.to_vec()).is_none());
            Ok(crc(index, entries))
        })
        .unwrap();
    let told: Vec<u32> = changed.blocks.iter().map(|index| index.0).collect();
    let (old, new) = (blocks(before), blocks(&changed.table));
    let differs: BTreeSet<u32> =
        old.keys().chain(new.keys()).copied().filter(|i| old.get(i) != new.get(i)).collect();
    assert_eq!(told, differs.iter().copied().collect::<Vec<_>>());
    assert_eq!(told, encoded.keys().copied().collect::<Vec<_>>());
    for (index, entries) in encoded {
        let stamp = Stamp { version, crc: crc(BlockIndex(index), &entries) };
        assert_eq!(new[&index], (stamp, entries.clone()));
        if let Some((_, old)) = old.get(&index) {
            assert!(*old != entries || old.is_empty() || told.len() > 1, "block {index} unchanged");
        }
    }
    (changed.table, told)
}

pub fn rebuild(table: &Table, order: &mut Random) -> Table {
    let mut all: Vec<_> = blocks(table).into_iter().collect();
    for i in (1..all.len()).rev() {
        all.swap(i, order.below(i as u64 + 1) as usize);
    }
    let mut builder = TableBuilder::new(table.capacity_blocks(), table.block_count()).unwrap();
    for (index, (stamp, entries)) in all {
        builder.add(BlockIndex(index), stamp, &entries).unwrap();
    }
    builder.finish().unwrap()
}

/// Where the target sends what it has found by a guess, if it does.
pub fn place_of(found: Found) -> Option<(SpareId, SpareSector)> {
    let on = (0..MAX_SPARES as u8).map(SpareId).find(|id| home_on(*id) == found.home())?;
    Some((on, found.to()))
}

/// What `guess` says is true, which `expected` is, the first entry that touches the sectors. Returns
/// whether it has said anything.
pub fn guess_is_right(table: &Table, start: u64, len: u64, expected: Option<Entry>) -> bool {
    match table.guess(MainSector(start), Sectors(len)) {
        Guess::Unknown => return false,
        Guess::Nothing => assert_eq!(expected, None, "{len} sectors from {start} on"),
        Guess::Within(found, behind) => {
            assert_eq!(found.entry(), expected, "{len} sectors from {start} on");
            let Entry { extent, mapping } = expected.unwrap();
            assert_eq!(extent.start.0 + behind.0, start);
            assert!(start + len <= extent.end().0, "{len} sectors from {start} on in {extent:?}");
            let good = matches!(mapping, Mapping::Remapped { .. });
            assert_eq!(place_of(found), mapping.place().filter(|_| good));
        }
    }
    true
}

/// `n` extents of 8 sectors, in edits of `batch`, where `place` says.
pub fn fill(table: Table, n: u64, batch: u64, mut place: impl FnMut(u64) -> u64) -> Table {
    let mut table = table;
    let mut done = 0;
    while done < n {
        let mut edit = table.edit().unwrap();
        for i in done..n.min(done + batch) {
            let start = place(i);
            edit.set(extent(start, 8), remapped(0, start / 3 * 8)).unwrap();
        }
        done += batch;
        table = edit.finish(done, |index, entries| Ok(crc(index, entries))).unwrap().table;
    }
    table
}

/// One edit, of a batch of changes.
pub fn change(
    table: &Table,
    changes: impl IntoIterator<Item = (Extent, Option<Mapping>)>,
) -> Table {
    let mut edit = table.edit().unwrap();
    for (extent, mapping) in changes {
        match mapping {
            Some(mapping) => edit.set(extent, mapping).unwrap(),
            None => edit.clear(extent).unwrap(),
        }
    }
    edit.finish(1, |index, entries| Ok(crc(index, entries))).unwrap().table
}
