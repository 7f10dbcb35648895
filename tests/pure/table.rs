// SPDX-License-Identifier: GPL-2.0

//! The remap table against a plain model: one cell for each sector.

use std::collections::{BTreeMap, BTreeSet};

use remap_pure::digest::{digest, Stamp};
use remap_pure::entry::{
    BlockIndex, Entry, EntryError, Mapping, PackedEntry, ENTRIES_PER_BLOCK, MAX_ENTRY_LEN,
    SECTOR_LIMIT, SPLIT_LEN,
};
use remap_pure::table::{guaranteed_entries, BuildError, EditError, Table, TableBuilder};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

/// Small and the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

fn remapped(spare: u8, to: u64) -> Mapping {
    Mapping::Remapped { spare: SpareId(spare), to: SpareSector(to) }
}

/// Stands in for the CRC of a block: different for different contents.
fn crc(index: BlockIndex, entries: &[PackedEntry]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&index.0.to_le_bytes());
    crc.update(zerocopy::IntoBytes::as_bytes(entries));
    crc.finalize()
}

type Blocks = BTreeMap<u32, (Stamp, Vec<PackedEntry>)>;

fn blocks(table: &Table) -> Blocks {
    let mut all = Blocks::new();
    for (index, stamp, entries) in table.blocks() {
        assert!(all.insert(index.0, (stamp, entries.to_vec())).is_none(), "block {index} twice");
    }
    all
}

/// What must hold for every table.
fn check(table: &Table) {
    let all = blocks(table);
    assert_eq!(
        all.keys().copied().collect::<Vec<_>>(),
        (0..table.block_count()).collect::<Vec<_>>()
    );
    assert!(table.block_count() <= table.capacity_blocks());
    assert!(all.values().all(|(_, entries)| entries.len() <= ENTRIES_PER_BLOCK));
    let stamps = all.iter().map(|(&index, (stamp, _))| (BlockIndex(index), *stamp));
    assert_eq!(table.digest(), digest(stamps));
    let (mut extents, mut lost, mut moved, mut on) = (0, 0, 0, [0; 8]);
    let mut last: Option<Entry> = None;
    for entry in table.iter() {
        extents += 1;
        match entry.mapping {
            Mapping::Pending => lost += entry.extent.len.0,
            Mapping::Remapped { spare, .. } => {
                moved += entry.extent.len.0;
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
    assert_eq!(totals.on_spare.map(|n| n.0), on);
    assert_eq!(table.entries_left(), guaranteed_entries(table.capacity_blocks()) - extents);
}

/// Ends an edit, and checks that it says exactly what it changed.
fn finish(before: &Table, edit: remap_pure::table::Edit, version: u64) -> (Table, Vec<u32>) {
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

fn rebuild(table: &Table, order: &mut Random) -> Table {
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

/// Each sector's mapping, or none.
#[derive(Clone)]
struct Model(Vec<Option<Mapping>>);

impl Model {
    fn put(&mut self, extent: Extent, mapping: Option<Mapping>) {
        for i in 0..extent.len.0 {
            self.0[(extent.start.0 + i) as usize] = mapping.map(|m| m.advance(Sectors(i)));
        }
    }

    /// The runs that one entry each stands for.
    fn entries(&self) -> Vec<Entry> {
        let mut all: Vec<Entry> = Vec::new();
        for (sector, mapping) in self.0.iter().enumerate() {
            let Some(mapping) = *mapping else { continue };
            let one = Entry { extent: extent(sector as u64, 1), mapping };
            match all.last_mut() {
                Some(last) if last.continues_in(&one) => last.extent.len += Sectors(1),
                _ => all.push(one),
            }
        }
        all
    }
}

fn compare(table: &Table, model: &Model, random: &mut Random) {
    check(table);
    let expected = model.entries();
    assert!(table.iter().eq(expected.iter().copied()));
    assert_eq!(table.is_empty(), expected.is_empty());
    let size = model.0.len() as u64;
    for _ in 0..40 {
        let window = extent(random.below(size + 20), 1 + random.below(40));
        let touching: Vec<Entry> =
            expected.iter().copied().filter(|e| e.extent.overlaps(&window)).collect();
        assert_eq!(table.lookup(window.start, window.len), touching.first().copied());
        assert!(table.iter_in(window).eq(touching));
        let behind = expected.iter().copied().filter(|e| e.extent.end() > window.start);
        assert!(table.iter_from(window.start).eq(behind));
    }
}

/// A random life of a table in `size` sectors with `capacity` blocks, in `edits` edits.
fn live(seed: u64, size: u64, capacity: u32, edits: u64, steps: u64, longest: u64) {
    let mut random = Random(seed);
    let mut table = Table::empty(capacity).unwrap();
    let mut model = Model(vec![None; size as usize]);
    let mut past = Vec::new();
    for version in 1..=edits {
        let mut edit = table.edit().unwrap();
        for _ in 0..1 + random.below(steps) {
            let start = random.below(size);
            let longest = if random.below(50) == 0 { size } else { longest };
            let len = 1 + random.below(longest.min(size - start));
            let extent = extent(start, len);
            let mapping = match random.below(10) {
                0..=3 => None,
                4 | 5 => Some(Mapping::Pending),
                // Often what continues a neighbour.
                _ => Some(remapped(random.below(2) as u8 * 7, 9000 + start + 64 * random.below(2))),
            };
            let room = guaranteed_entries(capacity) - edit.totals().extents;
            let result = match mapping {
                Some(mapping) => edit.set(extent, mapping),
                None => edit.clear(extent),
            };
            match result {
                Ok(()) => model.put(extent, mapping),
                Err(error) => {
                    assert_eq!(error, EditError::Full);
                    assert!(room < 2);
                }
            }
            assert_eq!(edit.totals().extents, model.entries().len() as u64);
        }
        let (new, _) = finish(&table, edit, version);
        if random.below(8) == 0 {
            past.push((table.clone(), model.entries(), random.below(u64::MAX)));
            table = rebuild(&new, &mut random);
            assert_eq!(table.digest(), new.digest());
        } else {
            table = new;
        }
        compare(&table, &model, &mut random);
    }
    drop(past.iter().map(|(table, ..)| check(table)).collect::<Vec<_>>());
    for (table, entries, _) in past.iter().take(1) {
        assert!(table.iter().count() <= entries.len() + guaranteed_entries(capacity) as usize);
    }
}

#[test]
fn small_tables_do_what_the_model_does() {
    for seed in 0..3000 {
        live(seed, 64, 2, 6, 4, 12);
    }
}

#[test]
fn tables_of_some_blocks_do_what_the_model_does() {
    for seed in 0..60 {
        live(seed, 3000, 20, 40, 60, 4);
    }
}

#[test]
fn a_table_that_is_always_nearly_full_does_what_the_model_does() {
    for seed in 0..60 {
        live(seed, 1600, 2, 40, 80, 3);
    }
}
