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

/// A table of blocks with so many entries each.
fn table(leaves: &[usize]) -> Table {
    let mut builder = TableBuilder::new(50, leaves.len() as u32).unwrap();
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
