// SPDX-License-Identifier: GPL-2.0

//! The remap table against a plain model: one cell for each sector.

use std::collections::{BTreeMap, BTreeSet};

use remap_pure::digest::{digest, Stamp};
use remap_pure::entry::{
    BlockIndex, Entry, EntryError, Mapping, PackedEntry, ENTRIES_PER_BLOCK, MAX_ENTRY_LEN,
    RETIRED_LIMIT, SECTOR_LIMIT, SPLIT_LEN,
};
use remap_pure::table::{guaranteed_entries, BuildError, EditError, Guess, Table, TableBuilder};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};

/// Small and the same everywhere (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

fn extent(start: u64, len: u64) -> Extent {
    Extent::new(MainSector(start), Sectors(len)).unwrap()
}

fn suspect(spare: u8, to: u64) -> Mapping {
    Mapping::Suspect { spare: SpareId(spare), to: SpareSector(to) }
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

/// What `guess` says is true, which `expected` is, the first entry that touches the sectors. Returns
/// whether it has said anything.
fn guess_is_right(table: &Table, start: u64, len: u64, expected: Option<Entry>) -> bool {
    match table.guess(MainSector(start), Sectors(len)) {
        Guess::Unknown => return false,
        Guess::Nothing => assert_eq!(expected, None, "{len} sectors from {start} on"),
        Guess::Within(found, behind) => {
            assert_eq!(found.entry(), expected, "{len} sectors from {start} on");
            let Entry { extent, mapping } = expected.unwrap();
            assert_eq!(extent.start.0 + behind.0, start);
            assert!(start + len <= extent.end().0, "{len} sectors from {start} on in {extent:?}");
            let good = matches!(mapping, Mapping::Remapped { .. });
            assert_eq!(found.place(), mapping.place().filter(|_| good));
        }
    }
    true
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
        guess_is_right(table, window.start.0, window.len.0, touching.first().copied());
        let found = table.find(window.start, window.len);
        assert_eq!(found.is_none(), touching.is_empty());
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

/// `n` extents of 8 sectors, in edits of `batch`, where `place` says.
fn fill(table: Table, n: u64, batch: u64, mut place: impl FnMut(u64) -> u64) -> Table {
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

#[test]
fn lookups_in_large_tables_agree_with_a_map() {
    // Over 128 branches, and with one, and with some.
    for (seed, n) in [(1, 60_000), (2, 300_000), (3, 4_300_000)] {
        let mut random = Random(seed);
        // Not in the order of main, so that extents touch across leaves too.
        let mut map = BTreeMap::new();
        let step = 12;
        let table = fill(Table::empty(20_000).unwrap(), n, n, |i| {
            let start = i * step;
            map.insert(start, start + 8);
            start
        });
        for _ in 0..200_000 {
            let start = random.below(n * step + 30);
            let len = 1 + random.below(8);
            let before = map.range(..=start).next_back().filter(|(_, end)| **end > start);
            let expected = before.or(map.range(start..start + len).next()).map(|(s, _)| *s);
            let got = table.lookup(MainSector(start), Sectors(len));
            assert_eq!(got.map(|entry| entry.extent.start.0), expected, "{start} {len}");
        }
    }
}

/// What `find` says, which the filter has a part in, against a walk through the tree, which it has
/// not. Returns whether the filter alone said that there is nothing.
fn find_like_the_tree(table: &Table, start: u64, len: u64) -> bool {
    let expected = table.iter_in(extent(start, len)).next();
    let found = table.find(MainSector(start), Sectors(len)).entry();
    assert_eq!(found, expected, "{len} sectors from {start} on");
    guess_is_right(table, start, len, expected);
    let ruled_out = table.rules_out(MainSector(start), Sectors(len));
    assert!(!ruled_out || expected.is_none());
    ruled_out
}

/// One edit, of a batch of changes.
fn change(table: &Table, changes: impl IntoIterator<Item = (Extent, Option<Mapping>)>) -> Table {
    let mut edit = table.edit().unwrap();
    for (extent, mapping) in changes {
        match mapping {
            Some(mapping) => edit.set(extent, mapping).unwrap(),
            None => edit.clear(extent).unwrap(),
        }
    }
    edit.finish(1, |index, entries| Ok(crc(index, entries))).unwrap().table
}

#[test]
fn what_is_in_the_table_is_found_wherever_regions_of_main_end() {
    let mut random = Random(11);
    for seed in 0..120 {
        // Of all sizes, so that extents have to do with parts of a region, with several, with pages
        // of them; some with a far one that comes and goes, so that regions grow.
        let unit = 1 << random.below(24);
        let mut table = Table::empty(2000).unwrap();
        let mut past = Vec::new();
        for _ in 0..30 {
            let mut changes = Vec::new();
            for _ in 0..1 + random.below(60) {
                let edge = |random: &mut Random| match random.below(3) {
                    0 => random.below(256) * unit,
                    1 => (random.below(256) * unit + random.below(3)).saturating_sub(1),
                    _ => random.below(256 * unit),
                };
                let (a, b) = (edge(&mut random), edge(&mut random));
                let far = if random.below(200) == 0 { 1 << (30 + random.below(14)) } else { 0 };
                let len = match random.below(4) {
                    0 => a.abs_diff(b) + 1,
                    1 => random.below(unit) + 1,
                    _ => random.below(20) + 1,
                };
                let mapping = (random.below(5) < 3).then_some(Mapping::Pending);
                changes.push((extent(a.min(b) + far, len), mapping));
            }
            let new = change(&table, changes.iter().copied());
            if random.below(4) == 0 {
                past.push(std::mem::replace(&mut table, new));
            } else {
                table = new;
            }
            let mut probe = |table: &Table, around: u64| {
                let start = (around + random.below(20)).saturating_sub(10);
                find_like_the_tree(table, start, 1 + random.below(16));
                find_like_the_tree(table, start & !7, 8);
            };
            for (extent, _) in &changes {
                for table in past.iter().rev().take(2).chain([&table]) {
                    probe(table, extent.start.0);
                    probe(table, extent.end().0);
                    probe(table, extent.start.0 + extent.len.0 / 2);
                }
            }
            for at in 0..256 {
                probe(&table, at * unit);
            }
        }
        let rebuilt = rebuild(&table, &mut Random(seed));
        for at in 0..2000 {
            find_like_the_tree(&rebuilt, at * unit / 8, 8);
        }
    }
}

/// In what share of 20,000 tries `guess` knows where a part of an entry lives, both chosen at random.
fn guessed(table: &Table, random: &mut Random) -> f64 {
    let entries: Vec<Entry> = table.iter().collect();
    let (mut known, mut all) = (0, 0);
    for _ in 0..20_000 {
        let entry = entries[random.below(entries.len() as u64) as usize];
        let Extent { start, len } = entry.extent;
        let skip = random.below(len.0);
        let part = 1 + random.below(len.0 - skip);
        known += u32::from(guess_is_right(table, start.0 + skip, part, Some(entry)));
        all += 1;
    }
    f64::from(known) / f64::from(all)
}

#[test]
fn what_lives_on_a_spare_is_nearly_always_found_at_once() {
    let mut random = Random(23);
    let empty = Table::empty(20_000).unwrap();
    // One leaf, one branch, several; then changed all over, so that leaves and branches come, go and move.
    for n in [100, 20_000, 300_000] {
        let mut table = fill(empty.clone(), n, n, |i| i * 64);
        let mut share = 0.0;
        for round in 0..6 {
            share = guessed(&table, &mut random);
            println!("{n} extents, {round} rounds of changes: {:.1} %", 100.0 * share);
            // One that begins close behind another of which a part is looked for is in the way.
            let least = if round == 0 { 0.95 } else { 0.85 };
            assert!(share > least, "{n} extents, round {round}: {share}");
            let begin = random.below(n) * 64;
            let changes: Vec<_> = (0..n / 8)
                .map(|_| {
                    let start = begin + random.below(n * 4) * 16;
                    (extent(start, 16), (random.below(3) != 0).then(|| remapped(1, start)))
                })
                .collect();
            table = change(&table, changes);
        }
        let share = guessed(&table, &mut random).min(share);
        // In one change each, far from each other: who is not touched is found as before.
        for _ in 0..n.min(2000) / 20 {
            let start = random.below(n * 64 / 16) * 16;
            table = change(&table, [(extent(start, 8), Some(remapped(2, start)))]);
        }
        let after = guessed(&table, &mut random);
        assert!(after > share - 0.1, "{n} extents, after single changes: {after}, not {share}");
    }
}

#[test]
fn a_guess_is_not_taken_in_by_what_is_near() {
    let place = |from: u64, size: u64, mapping: Mapping, start: u64, len: u64| {
        let table = change(&Table::empty(100).unwrap(), [(extent(from, size), Some(mapping))]);
        match table.guess(MainSector(start), Sectors(len)) {
            Guess::Within(found, behind) => Some((found.place(), behind.0)),
            _ => None,
        }
    };
    let short = |start, len| place(1000, 24, remapped(7, 4096), start, len);
    let seventh = Some((SpareId(7), SpareSector(4096)));
    assert_eq!(short(1000, 24), Some((seventh, 0)));
    assert_eq!(short(1016, 8), Some((seventh, 16)));
    // Into it, out of it, over it: not by one sector.
    for (start, len) in [(999, 1), (999, 2), (992, 16), (1001, 24), (1023, 2), (1024, 1), (990, 60)]
    {
        assert_eq!(short(start, len), None, "{len} sectors from {start} on");
    }
    // Of one that is longer than what is looked at, not all is known at once; nothing of it is wrong.
    let long = |start, len| place(1 << 20, 0x1_0008, remapped(3, 8192), start, len);
    assert_eq!(long(1 << 20, 8), Some((Some((SpareId(3), SpareSector(8192))), 0)));
    assert_eq!(long((1 << 20) + 8, 8), None);
    // What has no place, or none where all of it is good.
    for mapping in [suspect(1, 80), Mapping::Pending, Mapping::Lost] {
        assert_eq!(place(1 << 30, 8, mapping, 1 << 30, 8), Some((None, 0)), "{mapping:?}");
    }
}

/// The part of `n` aligned pages below `end`, chosen at random, about which the filter alone says
/// that there is nothing, among those about which that is true.
fn ruled_out(table: &Table, end: u64, n: u64) -> f64 {
    let mut random = Random(17);
    let (mut free, mut out) = (0, 0);
    for _ in 0..n {
        let start = random.below(end / 8) * 8;
        out += u32::from(find_like_the_tree(table, start, 8));
        free += u32::from(table.iter_in(extent(start, 8)).next().is_none());
    }
    f64::from(out) / f64::from(free)
}

#[test]
fn the_filter_says_of_nearly_all_free_places_that_they_are() {
    let mut random = Random(3);
    let empty = Table::empty(10_000).unwrap();
    assert_eq!(ruled_out(&empty, 1 << 40, 1000), 1.0);

    // A full slot, an extent of a page in each 32 KiB of a GiB: every page that is free.
    let spread = fill(empty.clone(), 32_000, 1000, |i| i * 64 + 8 * (i % 8));
    assert_eq!(ruled_out(&spread, 32_000 * 64, 100_000), 1.0);
    // The same on 16 TiB, in any order.
    let thin = fill(empty.clone(), 32_000, 1000, |_| random.below(1 << 31) * 16);
    let part = ruled_out(&thin, 1 << 35, 100_000);
    println!("32,000 extents at random: {part:.3}");
    assert!(part > 0.85);
    // Few, and in few places.
    let few = fill(empty.clone(), 1000, 10, |i| (1 << 34) + ((i % 10) << 20) + i * 16);
    let part = ruled_out(&few, 1 << 35, 100_000);
    println!("1000 extents in clusters: {part:.5}");
    assert!(part > 0.999);

    // What was cleared is free again, without regions of another size.
    let mut half = change(&thin, [(extent(1 << 34, 1 << 34), None)]);
    assert!(ruled_out(&half, 1 << 34, 50_000) > 0.85);
    for i in 0..50_000 {
        let start = (1 << 34) + (1 << 25) + i * 8 * 4001;
        assert!(find_like_the_tree(&half, start, 8));
    }
    // One by one too; and what was cleared of a region that another entry touches is not.
    let starts: Vec<Entry> = half.iter().collect();
    for some in starts.chunks(2) {
        half = change(&half, some.iter().skip(1).map(|entry| (entry.extent, None)));
    }
    let part = ruled_out(&half, 1 << 34, 100_000);
    println!("half of the half left: {part:.3}");
    assert!(part > 0.92);

    // Where the table has shrunk or grown much, regions follow.
    let far = change(&few, [(extent(1 << 44, 8), Some(Mapping::Pending))]);
    let far = change(&far, [(extent(1 << 44, 8), None)]);
    let more = fill(far, 400_000, 10_000, |_| random.below(1 << 30) * 16);
    let part = ruled_out(&more, 1 << 34, 100_000);
    println!("400,000 extents at random: {part:.3}");
    assert!(part > 0.85);
}

/// In which regions there are entries, by asking the table for each.
fn regions(table: &Table, shift: u32, words: usize) -> Vec<u64> {
    let touched = |region: u64| {
        let region = extent(region << shift, 1 << shift);
        table.iter_in(region).any(|entry| !matches!(entry.mapping, Mapping::Retired { .. }))
    };
    let word = |n| (0..64).fold(0, |word, bit| word | (u64::from(touched(n * 64 + bit)) << bit));
    (0..words as u64).map(word).collect()
}

#[test]
fn regions_with_entries_are_followed_through_every_change() {
    for seed in 0..40 {
        let mut random = Random(seed);
        // Of a small main and of a large one; with fewer bits than main has regions too.
        let sizes = [(1 << 14, 8, 1), (1 << 23, 8, 512), (1 << 31, 16, 512), (1 << 24, 10, 100)];
        let (size, shift, words) = sizes[seed as usize % sizes.len()];
        let mut table = Table::empty(400).unwrap();
        let mut followed = vec![0; words];
        let mut before = None;
        for version in 1..=60 {
            let mut edit = table.edit().unwrap();
            // Now and then far away, or all at once, so that the table's own regions change.
            let within = if random.below(4) == 0 { size } else { size >> random.below(12) };
            if random.below(12) == 0 {
                edit.clear(extent(0, size)).unwrap();
            }
            for _ in 0..random.below(200) {
                let start = random.below(within);
                let longest = if random.below(30) == 0 { size } else { 20 };
                let extent = extent(start, 1 + random.below(longest.min(size - start)));
                match random.below(3) {
                    0 => edit.clear(extent).unwrap(),
                    1 => edit.set(extent, Mapping::Pending).unwrap(),
                    _ => edit.set(extent, remapped(0, 9000 + start)).unwrap(),
                }
            }
            table = finish(&table, edit, version).0;
            // Sometimes what is followed is some changes behind.
            if random.below(3) > 0 {
                table.project(shift, &mut followed, before.as_ref());
                assert_eq!(followed, regions(&table, shift, words), "seed {seed}, {version}");
                before = Some(table.clone());
            }
        }
    }
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
fn lengths_with_sixteen_low_ones_are_found_at_the_start_of_leaves_and_branches() {
    let len = 0x1ffff;
    let mut table = Table::empty(300).unwrap();
    let mut edit = table.edit().unwrap();
    for i in 0..40_000 {
        edit.set(extent(i << 20, len), Mapping::Pending).unwrap();
    }
    table = finish(&table, edit, 1).0;
    for i in 0..40_000 {
        let expected = Some(extent(i << 20, len));
        for at in [i << 20, (i << 20) + 1, (i << 20) + len - 1] {
            assert_eq!(table.lookup(MainSector(at), Sectors(1)).map(|e| e.extent), expected);
        }
        assert_eq!(table.lookup(MainSector((i << 20) + len), Sectors(1)), None);
    }
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
