// SPDX-License-Identifier: GPL-2.0

//! How entries are shared out among the blocks of a table: which blocks a change fills, splits, evens out and joins.

mod tables;

use remap_pure::digest::Stamp;
use remap_pure::entry::{BlockIndex, Entry, Mapping, PackedEntry, ENTRIES_PER_BLOCK};
use remap_pure::table::{Table, TableBuilder};
use remap_pure::units::Extent;
use tables::{crc, extent};

const FULL: usize = ENTRIES_PER_BLOCK;

/// Where entry `n` of leaf `leaf` begins; between two of them there is room for others.
fn start(leaf: usize, n: usize) -> u64 {
    1_000_000 * leaf as u64 + 32 * n as u64
}

fn at(leaf: usize, n: usize) -> Extent {
    extent(start(leaf, n), 8)
}

/// A table of blocks with so many entries each, and of room for many more.
fn table(leaves: &[usize]) -> Table {
    table_with(500, leaves)
}

/// The same, with so many blocks in all.
fn table_with(capacity: u32, leaves: &[usize]) -> Table {
    let mut builder = TableBuilder::new(capacity, leaves.len() as u32).unwrap();
    for (leaf, &len) in leaves.iter().enumerate() {
        let entry =
            |n| PackedEntry::pack(&Entry { extent: at(leaf, n), mapping: Mapping::Pending });
        let entries: Vec<_> = (0..len).map(|n| entry(n).unwrap()).collect();
        let index = BlockIndex(leaf as u32);
        let stamp = Stamp { version: 1, crc: crc(index, &entries) };
        builder.add(index, stamp, &entries).unwrap();
    }
    builder.finish().unwrap()
}

/// How many entries the blocks have that have any, in the order of main.
fn sizes(table: &Table) -> Vec<usize> {
    let all = table.blocks().map(|(_, _, entries)| entries.len());
    all.filter(|&len| len > 0).collect()
}

/// What has become of these after something was marked.
fn marked(leaves: &[usize], what: impl IntoIterator<Item = Extent>) -> Vec<usize> {
    let mut edit = table(leaves).edit().unwrap();
    what.into_iter().for_each(|extent| edit.set(extent, Mapping::Pending).unwrap());
    sizes(&edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap().table)
}

/// What has become of these, which are all the blocks there are, after something inside of one was marked.
fn crowded(leaves: &[usize], inside: usize) -> Vec<usize> {
    let mut edit = table_with(leaves.len() as u32, leaves).edit().unwrap();
    edit.set(extent(start(inside, 200) + 16, 8), Mapping::Pending).unwrap();
    sizes(&edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap().table)
}

/// What has become of these after something was cleared.
fn cleared(leaves: &[usize], what: Extent) -> Vec<usize> {
    let mut edit = table(leaves).edit().unwrap();
    edit.clear(what).unwrap();
    sizes(&edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap().table)
}

#[test]
fn what_comes_in_order_leaves_full_blocks_behind() {
    assert_eq!(marked(&[], (0..600).map(|n| at(0, n))), [FULL, FULL, 600 - 2 * FULL]);
    assert_eq!(marked(&[], (0..600).rev().map(|n| at(0, n))), [600 - 2 * FULL, FULL, FULL]);
}

#[test]
fn what_comes_behind_a_full_block_goes_to_the_next_if_it_has_room() {
    let behind = at(0, FULL);
    assert_eq!(marked(&[FULL, FULL - 1], [behind]), [FULL, FULL]);
    assert_eq!(marked(&[FULL, FULL], [behind]), [FULL, 1, FULL]);
}

#[test]
fn a_full_block_shares_with_a_neighbour_that_has_an_eighth_left_or_is_split() {
    let inside = |leaf| extent(start(leaf, 200) + 16, 8);
    let eighth = FULL / 8;
    let all = 2 * FULL - eighth;
    let (one, other) = (all / 2, all - all / 2);
    assert_eq!(marked(&[FULL, FULL - eighth], [inside(0)]), [one + 1, other]);
    assert_eq!(marked(&[FULL - eighth, FULL], [inside(1)]), [one, other + 1]);
    let less = FULL - eighth + 1;
    assert_eq!(marked(&[FULL, less], [inside(0)]), [FULL / 2, FULL / 2 + 1, less]);
    assert_eq!(marked(&[less, FULL], [inside(1)]), [less, FULL / 2, FULL / 2 + 1]);
}

#[test]
fn without_a_block_left_a_full_one_shares_with_all_up_to_where_there_is_room() {
    // Four slots for each that takes part; the one behind is looked at first, then those on both sides in turn.
    assert_eq!(crowded(&[FULL, FULL, FULL - 8], 1), [FULL, FULL - 3, FULL - 4]);
    assert_eq!(crowded(&[FULL - 8, FULL, FULL - 8], 1), [FULL - 8, FULL - 3, FULL - 4]);
    assert_eq!(crowded(&[FULL - 12, FULL, FULL, FULL], 1), [FULL - 4, FULL - 3, FULL - 4, FULL]);
    // Where there is nothing on one side, the other is looked at.
    assert_eq!(crowded(&[FULL - 12, FULL, FULL], 2), [FULL - 4, FULL - 4, FULL - 3]);
    assert_eq!(crowded(&[FULL, FULL, FULL - 12], 0), [FULL - 3, FULL - 4, FULL - 4]);
    // With less, the last of each moves on until one has found room.
    assert_eq!(crowded(&[FULL, FULL, FULL - 7], 1), [FULL, FULL, FULL - 6]);
    assert_eq!(crowded(&[FULL - 11, FULL, FULL], 2), [FULL - 10, FULL, FULL]);
    // No more than eight share.
    let nine = |first, last| [[first].as_slice(), &[FULL; 7], &[last]].concat();
    let even = [[FULL].as_slice(), &[FULL - 4; 3], &[FULL - 3], &[FULL - 4; 4]].concat();
    assert_eq!(crowded(&nine(FULL, FULL - 32), 4), even);
    assert_eq!(crowded(&nine(FULL - 36, FULL), 4), nine(FULL - 35, FULL));
}

#[test]
fn what_comes_behind_a_full_block_moves_on_to_where_there_is_room() {
    let table = table_with(3, &[FULL, FULL, FULL - 1]);
    let mut edit = table.edit().unwrap();
    let behind = at(0, FULL);
    edit.set(behind, Mapping::Pending).unwrap();
    let changed = edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap().table;
    assert_eq!(sizes(&changed), [FULL; 3]);
    let mut all: Vec<_> = table.iter().map(|entry| entry.extent).collect();
    all.insert(FULL, behind);
    assert!(changed.iter().map(|entry| entry.extent).eq(all));
}

#[test]
fn what_is_cleared_may_reach_over_the_end_of_a_branch() {
    let (full, before) = (table(&[130; 130]), 126 * 130);
    let mut edit = full.edit().unwrap();
    edit.clear(extent(start(126, 0), start(129, 1) - start(126, 0))).unwrap();
    let cleared = edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap().table;
    let left = full.iter().take(before).chain(full.iter().skip(before + 3 * 130 + 1));
    assert!(cleared.iter().eq(left));
}

/// Blocks are found by branches of 128. How many there are is seen by the memory that they need, on a 64-bit machine.
#[test]
fn branches_are_as_few_as_they_can_be() {
    // What comes in order leaves full branches behind.
    let filled = |from: usize, to: usize| {
        let mut edit = table(&vec![130; from]).edit().unwrap();
        for extent in (from..to).flat_map(|leaf| (0..FULL).map(move |n| at(leaf, n))) {
            edit.set(extent, Mapping::Pending).unwrap();
        }
        edit.finish(2, |_, _| Ok(0)).unwrap().table.memory()
    };
    let block = filled(126, 128) - filled(126, 127);
    assert_eq!(filled(126, 129) - filled(126, 128), block + 1552, "one with one block");
    assert_eq!(filled(126, 256), 1_314_352, "two full ones");
    assert_eq!(filled(126, 384), 1_970_752, "three");
    // Branches that were left with few are joined: with fewer than 32 blocks in one of them, and 96 in both.
    let left = |first: usize, second: usize| {
        let mut edit = table(&[130; 256]).edit().unwrap();
        edit.clear(extent(start(first, 0), start(128, 0) - start(first, 0))).unwrap();
        edit.clear(extent(start(128 + second, 0), start(257, 0) - start(128 + second, 0))).unwrap();
        edit.finish(2, |_, _| Ok(0)).unwrap().table.memory()
    };
    let joined = left(31, 65);
    assert_eq!(joined, left(65, 31));
    assert_eq!(joined - left(31, 64), block);
    assert_eq!(left(32, 64) - joined, 1288, "two are left");
    assert_eq!(left(31, 66) - joined, block + 3848);
}

#[test]
fn a_block_that_was_left_with_few_entries_joins_a_neighbour_with_room() {
    let (quarter, most) = (FULL / 4, FULL * 3 / 4);
    assert_eq!(cleared(&[quarter, 100], at(0, 5)), [quarter + 99]);
    assert_eq!(cleared(&[100, quarter], at(1, 5)), [quarter + 99]);
    // Not with as many as this.
    assert_eq!(cleared(&[quarter + 1, 100], at(0, 5)), [quarter, 100]);
    // Not to more than that.
    let other = most - (quarter - 1);
    assert_eq!(cleared(&[quarter, other], at(0, 5)), [most]);
    assert_eq!(cleared(&[quarter, other + 1], at(0, 5)), [quarter - 1, other + 1]);
    // What is cleared at both ends of a range may leave two.
    let both = extent(start(0, 2), start(1, 98) - start(0, 2));
    assert_eq!(cleared(&[100, 100], both), [4]);
}

#[test]
fn a_block_that_has_lost_nothing_is_left_alone() {
    let mut edit = table(&[20, 20]).edit().unwrap();
    edit.set(at(0, 5), Mapping::Lost).unwrap();
    edit.set(extent(start(0, 7) + 16, 8), Mapping::Pending).unwrap();
    let changed = edit.finish(2, |index, entries| Ok(crc(index, entries))).unwrap();
    assert_eq!(sizes(&changed.table), [21, 20]);
    assert_eq!(changed.blocks.as_slice(), [BlockIndex(0)]);
}
