// SPDX-License-Identifier: GPL-2.0

//! The short cuts to a small table against the table itself.

mod tables;

use remap_pure::entry::{home_on, Entry, Mapping, SECTOR_LIMIT};
use remap_pure::shortcuts::{Shortcuts, Way};
use remap_pure::table::Table;
use remap_pure::units::{MainSector, Sectors, SpareId, SpareSector};
use tables::{extent, remapped, Random};

/// Sectors of an extent with many slots.
const LONG: u64 = 4096 * 8 - 64;

/// A table in which these are mapped like that, each elsewhere on the spare.
fn table(all: impl IntoIterator<Item = (u64, u64, Mapping)>) -> Table {
    let empty = Table::empty(64).unwrap();
    let mut edit = empty.edit().unwrap();
    for (start, len, mapping) in all {
        edit.set(extent(start, len), mapping).unwrap();
    }
    edit.finish(1, |_, _| Ok(0)).unwrap().table
}

/// So many of a length, one in each `stride` sectors, each to a place of its own.
fn evenly(count: u64, stride: u64, len: u64) -> Table {
    table((0..count).map(|n| (n * stride, len, remapped((n % 8) as u8, 3 * n * len))))
}

/// Where the table says that these sectors live, if they live in one entry and can be read there.
fn by_table(table: &Table, start: u64, len: u64) -> Option<Way> {
    let entry = table.lookup(MainSector(start), Sectors(len))?;
    let behind = start.checked_sub(entry.extent.start.0)?;
    match entry.mapping.advance(Sectors(behind)) {
        Mapping::Remapped { spare, to } if behind + len <= entry.extent.len.0 => {
            Some(Way { home: home_on(spare), to })
        }
        _ => None,
    }
}

/// How many of these are found by short cuts. What is found is what the table says.
fn found(table: &Table, shortcuts: &Shortcuts, all: impl Iterator<Item = (u64, u64)>) -> usize {
    let mut found = 0;
    for (start, len) in all {
        if let Some(way) = shortcuts.find(MainSector(start), Sectors(len)) {
            assert_eq!(Some(way), by_table(table, start, len), "{start}+{len}");
            found += 1;
        }
    }
    found
}

/// The first sectors of all that is remapped.
fn firsts(table: &Table) -> impl Iterator<Item = (u64, u64)> + '_ {
    let good = |entry: &Entry| matches!(entry.mapping, Mapping::Remapped { .. });
    table.iter().filter(good).map(|entry| (entry.extent.start.0, entry.extent.len.0.min(8)))
}

#[test]
fn extents_at_even_distances_each_have_one() {
    for count in [1, 10, 1000, 4096] {
        for stride in [8, 16, 24, 2048, 1 << 20] {
            let table = evenly(count, stride, 8);
            let mut shortcuts = Shortcuts::new().unwrap();
            assert!(Shortcuts::suit(&table));
            assert!(shortcuts.fill(&table), "{count} by {stride}");
            let n = found(&table, &shortcuts, firsts(&table));
            let extents = table.totals().extents as usize;
            // Odd distances do not fill the slots evenly.
            let least = if stride == 24 { extents * 3 / 4 } else { extents };
            assert!(n >= least, "{n} of {count} by {stride}");
        }
    }
}

#[test]
fn extents_close_together_in_a_large_main_have_one() {
    // A scratch: blocks that touch nothing else, at the far end of 16 TiB.
    let at = (1 << 35) + 8000;
    let scratch = (0..300).map(|n| (at - 16 * n, 8, remapped(1, 64 * n)));
    let table = table(scratch.chain([(0, 8, remapped(0, 0))]));
    let mut shortcuts = Shortcuts::new().unwrap();
    assert!(shortcuts.fill(&table));
    assert_eq!(found(&table, &shortcuts, firsts(&table)), 301);
}

#[test]
fn a_long_extent_is_found_all_along() {
    let table = table([(4096, LONG, remapped(2, 800))]);
    let mut shortcuts = Shortcuts::new().unwrap();
    assert!(shortcuts.fill(&table));
    let end = 4096 + LONG;
    let all = (4096..end - 8).step_by(8).map(|start| (start, 8));
    assert_eq!(found(&table, &shortcuts, all), LONG as usize / 8 - 1);
    for (start, len) in [(4088, 8), (4092, 8), (end - 4, 8), (end, 8), (end - 8, 16), (0, 8)] {
        assert_eq!(shortcuts.find(MainSector(start), Sectors(len)), None, "{start}+{len}");
    }
}

#[test]
fn what_is_not_well_has_none() {
    let to = SpareSector(80);
    let suspect = Mapping::Suspect { spare: SpareId(0), to };
    let all = [(0, 8, Mapping::Pending), (64, 8, Mapping::Lost), (128, 8, suspect)];
    let ill = table(all);
    let mut shortcuts = Shortcuts::new().unwrap();
    assert!(shortcuts.fill(&evenly(3, 64, 8)));
    // What they were filled for before is forgotten.
    shortcuts.fill(&ill);
    for start in (0..256).step_by(8) {
        assert_eq!(shortcuts.find(MainSector(start), Sectors(8)), None, "{start}");
    }
    let retired = Entry::retired(SpareId(0), to, Sectors(8));
    assert!(retired.extent.start.0 >= SECTOR_LIMIT);
    let mixed = table(
        all.into_iter()
            .chain([(192, 8, remapped(1, 8)), (retired.extent.start.0, 8, retired.mapping)]),
    );
    assert!(shortcuts.fill(&mixed), "the one that is well has one");
    assert_eq!(found(&mixed, &shortcuts, (0..256).step_by(8).map(|start| (start, 8))), 1);
}

#[test]
fn a_table_without_entries_or_with_many_is_not_suited() {
    assert!(!Shortcuts::suit(&Table::empty(64).unwrap()));
    assert!(Shortcuts::suit(&evenly(4096, 64, 8)));
    assert!(!Shortcuts::suit(&evenly(4097, 64, 8)));
}

#[test]
fn what_hardly_helps_is_said_to() {
    // Eight extents in each 4 KiB, which is the smallest slot.
    let crowded = table((0..4000).map(|n| (n * 2, 1, remapped(0, 5 * n))));
    let mut shortcuts = Shortcuts::new().unwrap();
    assert!(!shortcuts.fill(&crowded));
    found(&crowded, &shortcuts, (0..8000).map(|start| (start, 1)));
}

#[test]
fn they_never_say_what_the_table_does_not() {
    let mut random = Random(1);
    for round in 0..60 {
        let main = 1 << (12 + random.below(24));
        let mut all = Vec::new();
        let mut at = random.below(64);
        for n in 0..1 + random.below(600) {
            let len = 1 + random.below([8, 64, 2048][round % 3]);
            if at + len > main {
                break;
            }
            let to = SpareSector(n << 12);
            let mapping = match random.below(8) {
                0 => Mapping::Pending,
                1 => Mapping::Suspect { spare: SpareId(1), to },
                2 => Mapping::Lost,
                spare => Mapping::Remapped { spare: SpareId(spare as u8), to },
            };
            all.push((at, len, mapping));
            at += len + random.below(main / 256);
        }
        let table = table(all);
        let mut shortcuts = Shortcuts::new().unwrap();
        shortcuts.fill(&table);
        let near: Vec<_> = table.iter().map(|entry| entry.extent).collect();
        let somewhere = (0..4000).map(|n| match n % 4 {
            0 => (random.below(main), 1 + random.below(256)),
            _ => {
                let Some(extent) = near.get(random.below(near.len().max(1) as u64) as usize) else {
                    return (0, 1);
                };
                let at = (extent.start.0 + random.below(extent.len.0 + 8)).saturating_sub(4);
                (at, 1 + random.below(16))
            }
        });
        found(&table, &shortcuts, somewhere);
    }
}
