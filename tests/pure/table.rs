// SPDX-License-Identifier: GPL-2.0

//! The remap table against a plain model: one cell for each sector.

mod tables;

use remap_pure::digest::Stamp;
use remap_pure::entry::{
    BlockIndex, Entry, EntryError, Mapping, PackedEntry, ENTRIES_PER_BLOCK, MAX_ENTRY_LEN,
    RETIRED_LIMIT, SECTOR_LIMIT, SPLIT_LEN,
};
use remap_pure::table::{guaranteed_entries, BuildError, EditError, Table, TableBuilder};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};
use tables::*;

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
        guess_is_right(table, window.start.0, window.len.0, touching.first().copied());
        let found = table.find(window.start, window.len);
        assert_eq!(found.is_none(), touching.is_empty());
        assert_eq!(found.is_empty(), found.is_none());
        if let Some(entry) = touching.first() {
            assert_eq!((found.start(), found.len()), (entry.extent.start, entry.extent.len));
            assert_eq!((found.end(), found.mapping()), (entry.extent.end(), entry.mapping));
        }
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
                4 => Some(Mapping::Pending),
                5 => Some(Mapping::Lost),
                6 => Some(suspect(random.below(2) as u8 * 7, 9000 + start)),
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
            past.push((new.clone(), model.entries(), blocks(&new)));
            table = rebuild(&new, &mut random);
            assert_eq!(table.digest(), new.digest());
        } else {
            table = new;
        }
        compare(&table, &model, &mut random);
    }
    // No edit reached what was there before it.
    for (table, entries, blocks_then) in past {
        check(&table);
        assert!(table.iter().eq(entries));
        assert!(blocks(&table) == blocks_then);
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

#[test]
fn a_million_extents_take_little_memory_and_few_blocks() {
    const N: u64 = 1_000_000;
    let per_extent = |table: &Table| table.memory() as f64 / table.totals().extents as f64;
    let share = |table: &Table| {
        table.totals().extents as f64 / guaranteed_entries(table.block_count()) as f64
    };

    let table = fill(Table::empty(10_000).unwrap(), N, 10_000, |i| i * 16);
    println!("in order: {:.1} bytes an extent, {:.3} full", per_extent(&table), share(&table));
    assert!(per_extent(&table) <= 20.0 && share(&table) > 0.99);
    let mut downwards = fill(Table::empty(10_000).unwrap(), N, 10_000, |i| (N - i) * 16);
    assert!(share(&downwards) > 0.99);
    let mut edit = downwards.edit().unwrap();
    edit.clear(extent(0, 1 << 40)).unwrap();
    downwards = edit.finish(N + 1, |_, _| Ok(0)).unwrap().table;
    assert!(downwards.is_empty() && downwards.block_count() > 3968);
    check(&downwards);

    let mut random = Random(5);
    let mut table = fill(Table::empty(10_000).unwrap(), N, 10_000, |_| random.below(1 << 30) * 16);
    println!("at random: {:.1} bytes an extent, {:.3} full", per_extent(&table), share(&table));
    assert!(per_extent(&table) <= 32.0 && share(&table) >= 0.7);
    check(&table);

    // What is thinned out again does not keep all of its blocks.
    let starts: Vec<Extent> = table.iter().map(|entry| entry.extent).collect();
    let mut edit = table.edit().unwrap();
    for extent in starts.iter().filter(|_| random.below(20) != 0) {
        edit.clear(*extent).unwrap();
    }
    table = edit.finish(N + 1, |index, entries| Ok(crc(index, entries))).unwrap().table;
    println!("one in 20 left: {:.1} bytes an extent", per_extent(&table));
    assert!(per_extent(&table) <= 100.0);
    check(&table);

    let all = blocks(&table);
    let begin = std::time::Instant::now();
    let mut builder = TableBuilder::new(10_000, table.block_count()).unwrap();
    for (index, (stamp, entries)) in &all {
        builder.add(BlockIndex(*index), *stamp, entries).unwrap();
    }
    assert!(builder.finish().unwrap().iter().eq(table.iter()));
    println!("built in {:?}", begin.elapsed());
}

/// What is counted is what the kernel's allocator gives, so the numbers are those of a 64-bit machine.
#[test]
fn the_memory_of_a_table_is_all_that_it_has() {
    let empty = Table::empty(64).unwrap();
    assert_eq!(empty.memory(), 1056);
    let full = fill(empty, 5_000, 100, |i| i * 16);
    assert_eq!(full.memory(), 102_136);
    // With blocks that are in use on disk and hold nothing.
    assert_eq!(change(&full, [(extent(0, 70_000), None)]).memory(), 22_104);
}

#[test]
fn one_change_touches_one_block_or_two() {
    for (seed, descending) in [(1, false), (2, true)] {
        let mut random = Random(seed);
        let mut table = Table::empty(400).unwrap();
        let mut touched = [0u32; 8];
        for version in 0..60_000 {
            let growing = version < 40_000 || random.below(4) == 0;
            let start = if descending && version % 3 == 0 {
                (60_000 - version) * 16
            } else {
                random.below(1 << 20) * 8
            };
            let mut edit = table.edit().unwrap();
            if growing {
                edit.set(extent(start, 8), remapped(1, start / 3 * 8)).unwrap();
            } else {
                let entry = table.iter_from(MainSector(start)).next();
                edit.clear(entry.map_or(extent(start, 8), |entry| entry.extent)).unwrap();
            }
            let changed = edit.finish(version, |index, entries| Ok(crc(index, entries))).unwrap();
            touched[changed.blocks.len()] += 1;
            table = changed.table;
        }
        check(&table);
        println!("blocks touched by a change, from 0 on: {touched:?}");
        assert!(touched[3..].iter().sum::<u32>() <= 60);
        assert!(touched[2] <= 3000);
    }
}

#[test]
fn every_slot_of_every_block_can_be_filled() {
    for (seed, capacity, kind) in (0..12).map(|i| (i, 1 + i as u32 * 3, i % 3)) {
        let mut random = Random(seed);
        let mut table = Table::empty(capacity).unwrap();
        let n = guaranteed_entries(capacity);
        let mut starts: Vec<u64> = (0..n).map(|i| i * 4).collect();
        for i in (1..n as usize).rev() {
            match kind {
                0 => starts.swap(i, random.below(i as u64 + 1) as usize),
                1 => starts.swap(i, i - random.below(30.min(i as u64 + 1)) as usize),
                _ => {}
            }
        }
        let mut rewritten = 0;
        for (version, start) in starts.iter().enumerate() {
            assert_eq!(table.entries_left(), n - version as u64);
            let mut edit = table.edit().unwrap();
            edit.set(extent(*start, 2), Mapping::Pending).unwrap();
            let changed = edit.finish(version as u64, |index, e| Ok(crc(index, e))).unwrap();
            rewritten += changed.blocks.len() as u64;
            table = changed.table;
        }
        println!(
            "{capacity} blocks, kind {kind}: {:.2} written an entry",
            rewritten as f64 / n as f64
        );
        check(&table);
        assert_eq!((table.totals().extents, table.block_count()), (n, capacity));

        // Full: what needs a slot fails and changes nothing, what needs none does not.
        let mut edit = table.edit().unwrap();
        let before = *edit.totals();
        assert_eq!(edit.set(extent(n * 4, 1), Mapping::Pending), Err(EditError::Full));
        assert_eq!(edit.set(extent(1, 1), remapped(0, 0)), Err(EditError::Full));
        edit.clear(extent(1, 1)).unwrap();
        edit.set(extent(1, 1), remapped(0, 7)).unwrap_err();
        edit.set(extent(1, 1), Mapping::Pending).unwrap();
        edit.set(extent(0, 2), Mapping::Pending).unwrap();
        assert_eq!(*edit.totals(), before);
        let changed = edit.finish(n, |_, _| panic!("nothing changed")).unwrap();
        assert!(changed.blocks.is_empty() && changed.table.digest() == table.digest());
    }
}

#[test]
fn long_runs_become_several_entries() {
    let mut table = Table::empty(10).unwrap();
    let whole = extent(8, 3 * SPLIT_LEN.0 + 16);
    let mut edit = table.edit().unwrap();
    edit.set(whole, remapped(7, 800)).unwrap();
    table = finish(&table, edit, 1).0;
    check(&table);
    let entries: Vec<Entry> = table.iter().collect();
    assert_eq!(entries.len(), 4);
    assert!(entries.windows(2).all(|pair| pair[0].continues_in(&pair[1])));
    assert!(entries.iter().all(|entry| entry.extent.start.0 % 8 == 0));
    for skip in [0, 1, SPLIT_LEN.0 - 1, SPLIT_LEN.0, 2 * SPLIT_LEN.0 + 5, 3 * SPLIT_LEN.0 + 15] {
        let got = table.lookup(MainSector(8 + skip), Sectors(1)).unwrap();
        let within = MainSector(8 + skip) - got.extent.start;
        assert_eq!(got.mapping.advance(within), remapped(7, 800 + skip));
    }
    assert_eq!(table.lookup(whole.end(), Sectors(1)), None);

    let mut edit = table.edit().unwrap();
    edit.clear(extent(0, SPLIT_LEN.0 + 100)).unwrap();
    table = finish(&table, edit, 2).0;
    check(&table);
    assert_eq!(table.totals().remapped.0, whole.len.0 - SPLIT_LEN.0 - 92);

    // Each of its pieces needs room; what is there already is not counted twice.
    let mut edit = Table::empty(1).unwrap().edit().unwrap();
    let pieces = |n: u64| extent(1 << 40, n * SPLIT_LEN.0);
    assert_eq!(
        edit.set(pieces(ENTRIES_PER_BLOCK as u64 + 1), Mapping::Pending),
        Err(EditError::Full)
    );
    (0..100).for_each(|n| edit.set(extent(16 * n, 8), Mapping::Pending).unwrap());
    edit.set(pieces(6), Mapping::Pending).unwrap();
    assert_eq!(edit.totals().extents, 106);
    // What continues it is joined to it.
    let mut edit = Table::empty(1).unwrap().edit().unwrap();
    edit.set(extent(0, 5000), remapped(1, 800)).unwrap();
    edit.set(extent(5000, 5000), remapped(1, 5800)).unwrap();
    assert_eq!(edit.totals().extents, 1);

    // What another wrote, with the greatest length there is, can be trimmed.
    let long = Entry { extent: extent(0, MAX_ENTRY_LEN.0), mapping: remapped(0, 0) };
    let mut builder = TableBuilder::new(10, 1).unwrap();
    let packed = [PackedEntry::pack(&long).unwrap()];
    builder.add(BlockIndex(0), Stamp::default(), &packed).unwrap();
    table = builder.finish().unwrap();
    for (i, len) in [1, 1, 1000].into_iter().enumerate() {
        let mut edit = table.edit().unwrap();
        edit.clear(extent(i as u64, len)).unwrap();
        table = finish(&table, edit, 3 + i as u64).0;
        assert_eq!(table.totals().extents, 1);
    }
    assert_eq!(table.totals().remapped.0, MAX_ENTRY_LEN.0 - 1002);
}

#[test]
fn the_last_sectors_that_can_be_named_work_like_others() {
    let mut table = Table::empty(10).unwrap();
    let mut edit = table.edit().unwrap();
    edit.set(extent(SECTOR_LIMIT - 1, 1), Mapping::Pending).unwrap();
    edit.set(extent(SECTOR_LIMIT - 0x20000, 0xffff), Mapping::Pending).unwrap();
    let past = EditError::Entry(EntryError::MainRange);
    assert_eq!(edit.set(extent(SECTOR_LIMIT - 1, 2), Mapping::Pending), Err(past));
    assert_eq!(edit.set(extent(SECTOR_LIMIT, 1), Mapping::Pending), Err(past));
    let past = EditError::Entry(EntryError::SpareRange);
    assert_eq!(edit.set(extent(0, 2), remapped(0, SECTOR_LIMIT - 1)), Err(past));
    let no_spare = EditError::Entry(EntryError::Spare(8));
    assert_eq!(edit.set(extent(0, 1), remapped(8, 0)), Err(no_spare));
    // What is out of range is that first, however many entries it would take.
    let many = 1 << 40;
    let refused = [
        (extent(0, SECTOR_LIMIT + 1), Mapping::Pending, EditError::Entry(EntryError::MainRange)),
        (extent(SECTOR_LIMIT - 8, many), Mapping::Pending, EditError::Entry(EntryError::MainRange)),
        (extent(0, many), remapped(0, SECTOR_LIMIT - many + 1), past),
        (extent(0, SECTOR_LIMIT), Mapping::Pending, EditError::Full),
        (extent(0, many), remapped(0, SECTOR_LIMIT - many), EditError::Full),
        // Beside an entry that it might continue.
        (extent(SECTOR_LIMIT - 9, 8), remapped(0, u64::MAX - 3), past),
    ];
    for (extent, mapping, error) in refused {
        assert_eq!(edit.set(extent, mapping), Err(error), "{extent:?} {mapping:?}");
    }
    edit.set(extent(8, 8), remapped(0, SECTOR_LIMIT - 8)).unwrap();
    edit.clear(extent(8, 8)).unwrap();
    table = finish(&table, edit, 1).0;
    let start = |at: u64, len: u64| {
        table.lookup(MainSector(at), Sectors(len)).map(|entry| entry.extent.start.0)
    };
    let first = SECTOR_LIMIT - 0x20000;
    assert_eq!(start(SECTOR_LIMIT - 1, 1), Some(SECTOR_LIMIT - 1));
    assert_eq!(start(SECTOR_LIMIT - 2, 1), None);
    assert_eq!(start(SECTOR_LIMIT - 2, 2), Some(SECTOR_LIMIT - 1));
    assert_eq!(start(SECTOR_LIMIT, 8), None);
    assert_eq!(start(SECTOR_LIMIT + 5, SECTOR_LIMIT), None);
    assert_eq!(start(u64::MAX, 1), None);
    assert_eq!(start(first, 1), Some(first), "a length with sixteen low ones");
    assert_eq!(start(first + 0xfffe, 1), Some(first));
    assert_eq!(start(first + 0xffff, 1), None);
    assert_eq!(start(0, SECTOR_LIMIT), Some(first));
    assert_eq!(start(0, 8), None);
}

#[test]
fn retired_places_stand_behind_main_and_are_never_found_there() {
    let mut rng = Random(77);
    let mut table = Table::empty(40).unwrap();
    let mut without = Table::empty(40).unwrap();
    for version in 1..200 {
        let (mut edit, mut plain) = (table.edit().unwrap(), without.edit().unwrap());
        let spare = SpareId(rng.below(3) as u8);
        let at = SpareSector(9216 + rng.below(1 << 20) * 8);
        let Entry { extent: place, mapping } = Entry::retired(spare, at, Sectors(8));
        edit.set(place, mapping).unwrap();
        if version % 3 == 0 {
            let moved = extent(rng.below(1 << 30) * 8, 8);
            edit.set(moved, remapped(0, 9216)).unwrap();
            plain.set(moved, remapped(0, 9216)).unwrap();
        }
        table = finish(&table, edit, version).0;
        without = finish(&without, plain, version).0;
        for _ in 0..50 {
            let (start, len) = (MainSector(rng.below(1 << 33)), Sectors(1 + rng.below(1 << 12)));
            assert_eq!(table.lookup(start, len), without.lookup(start, len));
        }
        let near = without.iter().last().map_or(0, |entry| entry.extent.start.0);
        assert_eq!(
            table.lookup(MainSector(near), Sectors(8)),
            without.lookup(MainSector(near), Sectors(8))
        );
        assert!(table.rules_out(MainSector(1 << 36), Sectors(8)), "the filter is of main alone");
    }
    assert!(table.totals().retired.0 > 190 * 8);
    let of_main = |entry: &Entry| !matches!(entry.mapping, Mapping::Retired { .. });
    assert!(table.iter().filter(of_main).eq(without.iter()));
    let forgotten = table.iter().find(|entry| !of_main(entry)).unwrap().extent;
    let mut edit = table.edit().unwrap();
    edit.clear(forgotten).unwrap();
    table = finish(&table, edit, 200).0;
    check(&table);
    let far = SpareSector((1 << 44) - 8);
    let mut edit = table.edit().unwrap();
    let Entry { extent: place, mapping } = Entry::retired(SpareId(7), far, Sectors(8));
    edit.set(place, mapping).unwrap();
    let Entry { extent: place, mapping } = Entry::retired(SpareId(0), far, Sectors(9));
    assert_eq!(edit.set(place, mapping), Err(EditError::Entry(EntryError::RetiredPlace)));
    let elsewhere = Mapping::Retired { spare: SpareId(0), at: SpareSector(8) };
    let wrong = edit.set(extent(16, 8), elsewhere);
    assert_eq!(wrong, Err(EditError::Entry(EntryError::RetiredPlace)), "not where it has to stand");
}

#[test]
fn blocks_that_are_no_table_are_refused() {
    let entry = |start, len| {
        PackedEntry::pack(&Entry { extent: extent(start, len), mapping: Mapping::Pending })
    };
    let entry = |start, len| entry(start, len).unwrap();
    let stamp = Stamp { version: 1, crc: 2 };
    let build = |blocks: &[(u32, &[PackedEntry])], n| {
        let mut builder = TableBuilder::new(8, n)?;
        for (index, entries) in blocks {
            builder.add(BlockIndex(*index), stamp, entries)?;
        }
        builder.finish().map(|table| table.totals().extents)
    };
    let (a, b) = (BlockIndex(0), BlockIndex(1));
    let one = [entry(100, 8)];

    assert_eq!(build(&[], 0), Ok(0));
    assert_eq!(build(&[(1, &one), (0, &[entry(0, 100)])], 2), Ok(2));
    assert_eq!(build(&[], 9), Err(BuildError::Capacity { blocks: 9, capacity: 8 }));
    assert_eq!(build(&[(1, &one)], 1), Err(BuildError::Index(b)));
    assert_eq!(build(&[(0, &one), (0, &[])], 1), Err(BuildError::Twice(a)));
    assert_eq!(build(&[(1, &one), (0, &[]), (1, &[])], 2), Err(BuildError::Twice(b)));
    assert_eq!(build(&[(0, &one)], 2), Err(BuildError::Missing(b)));
    assert_eq!(build(&[(0, &[one[0]; 253])], 1), Err(BuildError::Long(a)));
    let at = |slot, error| Err(BuildError::Entry { block: a, slot, error });
    assert_eq!(build(&[(0, &[one[0], PackedEntry::UNUSED])], 1), at(1, EntryError::Unused));
    let order = Err(BuildError::Order { block: a, slot: 1 });
    assert_eq!(build(&[(0, &[one[0], entry(107, 8)])], 1), order);
    assert_eq!(build(&[(0, &[one[0], entry(0, 8)])], 1), order);
    let overlap = |at| Err(BuildError::Overlap { block: a, other: b, at: MainSector(at) });
    assert_eq!(build(&[(1, &one), (0, &[entry(93, 8)])], 2), overlap(100));
    assert_eq!(build(&[(1, &one), (0, &[entry(0, 8), entry(200, 8)])], 2), overlap(100));
    let same = build(&[(1, &one), (0, &one)], 2);
    assert!(matches!(same, Err(BuildError::Overlap { at: MainSector(100), .. })));
}

#[test]
fn bytes_that_are_no_entry_are_refused() {
    use zerocopy::FromBytes;
    let unpack = |main: u64, place: u64| {
        let bytes = [main.to_le_bytes(), place.to_le_bytes()].concat();
        PackedEntry::read_from_bytes(&bytes).unwrap().unpack()
    };
    let start = |start: u64, len: u64| (start << 16) | len;
    let good = Entry { extent: extent(5, 0x2_0003), mapping: remapped(7, 9) };
    assert_eq!(unpack(start(5, 3), (9 << 16) | (7 << 12) | (1 << 8) | 2), Ok(good));
    let good = Entry { extent: extent(5, 3), mapping: Mapping::Pending };
    assert_eq!(unpack(start(5, 3), 2 << 8), Ok(good));
    assert_eq!(unpack(0, 0), Err(EntryError::Unused));
    assert_eq!(unpack(start(5, 3), 0), Err(EntryError::Unused));
    let good = Entry { extent: extent(5, 3), mapping: suspect(7, 9) };
    assert_eq!(unpack(start(5, 3), (9 << 16) | (7 << 12) | (4 << 8)), Ok(good));
    let good = Entry { extent: extent(5, 3), mapping: Mapping::Lost };
    assert_eq!(unpack(start(5, 3), 5 << 8), Ok(good));
    assert_eq!(unpack(start(5, 3), 6 << 8), Err(EntryError::Kind(6)));
    assert_eq!(unpack(start(5, 3), (1 << 12) | (5 << 8)), Err(EntryError::PendingPlace));
    assert_eq!(unpack(start(5, 3), (1 << 16) | (5 << 8)), Err(EntryError::PendingPlace));
    assert_eq!(unpack(start(5, 0), 2 << 8), Err(EntryError::Length));
    assert_eq!(unpack(start(SECTOR_LIMIT - 1, 2), 2 << 8), Err(EntryError::MainRange));
    assert_eq!(
        unpack(start(5, 2), ((SECTOR_LIMIT - 1) << 16) | (1 << 8)),
        Err(EntryError::SpareRange)
    );
    assert_eq!(unpack(start(5, 3), (8 << 12) | (1 << 8)), Err(EntryError::Spare(8)));
    assert_eq!(unpack(start(5, 3), (1 << 12) | (2 << 8)), Err(EntryError::PendingPlace));
    assert_eq!(unpack(start(5, 3), (1 << 16) | (2 << 8)), Err(EntryError::PendingPlace));
}

#[test]
fn freed_blocks_are_taken_again_the_lowest_first() {
    // Four full blocks, 0 to 3 in the order of main.
    let per_block = ENTRIES_PER_BLOCK as u64;
    let full = fill(Table::empty(10).unwrap(), 4 * per_block, 5000, |i| i * 16);
    let part = |i: u64| extent(i * per_block * 16, per_block * 16);
    let behind = |i: u64| extent((4 * per_block + i) * 16, 8);
    for (first, second) in [(0, 2), (2, 0), (1, 3)] {
        let mut edit = full.edit().unwrap();
        edit.clear(part(first)).unwrap();
        let (table, changed) = finish(&full, edit, 1);
        assert_eq!(changed, [first as u32]);
        assert_eq!(table.block_count(), 4);

        let mut edit = table.edit().unwrap();
        edit.clear(part(second)).unwrap();
        edit.set(behind(0), Mapping::Pending).unwrap();
        let (after, changed) = finish(&table, edit, 2);
        let lowest = first.min(second) as u32;
        assert_eq!(blocks(&after)[&lowest].1.len(), 1);
        assert!(changed.contains(&(second as u32)));
        assert!(blocks(&after)[&(first.max(second) as u32)].1.is_empty());
        check(&after);

        // Taken and given back in one edit: as if nothing had been.
        let mut edit = table.edit().unwrap();
        edit.set(behind(0), Mapping::Pending).unwrap();
        edit.clear(behind(0)).unwrap();
        let (_, changed) = finish(&table, edit, 3);
        assert_eq!(changed, Vec::<u32>::new());
    }
}

#[test]
fn what_does_not_fit_an_entry_is_not_packed() {
    let pack = |start, len, mapping| {
        PackedEntry::pack(&Entry {
            extent: Extent { start: MainSector(start), len: Sectors(len) },
            mapping,
        })
    };
    let retired = |spare, at| Mapping::Retired { spare: SpareId(spare), at: SpareSector(at) };
    assert_eq!(pack(5, 8, remapped(0, SECTOR_LIMIT)), Err(EntryError::SpareRange));
    assert_eq!(pack(5, 8, suspect(8, 9)), Err(EntryError::Spare(8)));
    assert_eq!(pack(5, 8, retired(8, 9)), Err(EntryError::RetiredPlace));
    assert_eq!(pack(5, 8, retired(0, RETIRED_LIMIT)), Err(EntryError::RetiredPlace));
    assert_eq!(pack(5, MAX_ENTRY_LEN.0 + 1, Mapping::Pending), Err(EntryError::Length));
    assert_eq!(pack(2 * SECTOR_LIMIT, 8, Mapping::Pending), Err(EntryError::MainRange));
    let good = pack(5, MAX_ENTRY_LEN.0, Mapping::Lost).unwrap();
    assert!(!good.is_empty() && good.len() == MAX_ENTRY_LEN && PackedEntry::UNUSED.is_empty());
}

#[test]
fn an_extent_has_sectors_and_ends_somewhere() {
    assert_eq!(Extent::new(MainSector(5), Sectors(0)), None);
    assert_eq!(Extent::new(MainSector(u64::MAX), Sectors(1)), None);
    assert_eq!(Extent::new(MainSector(5), Sectors(1)), Some(extent(5, 1)));
}
