// SPDX-License-Identifier: GPL-2.0

//! What is found in the remap table, by all its ways to find it.

mod tables;

use std::collections::BTreeMap;

use remap_pure::entry::{Entry, Mapping};
use remap_pure::table::{Guess, Table};
use remap_pure::units::{Extent, MainSector, Sectors, SpareId, SpareSector};
use tables::*;

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
            Guess::Within(found, behind) => Some((place_of(found), behind.0)),
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
        // Of a small main and of a large one; regions like the table's own, smaller ones and larger ones; with fewer bits than main has
        // regions too.
        let sizes = [
            (1 << 14, 8, 1),
            (1 << 23, 8, 512),
            (1 << 31, 16, 512),
            (1 << 24, 10, 100),
            (1 << 18, 3, 512),
            (1 << 24, 6, 4096),
            (1 << 26, 12, 256),
        ];
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
