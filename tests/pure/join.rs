// SPDX-License-Identifier: GPL-2.0

//! What a recovery puts together where no copy is whole by itself, or where blocks stand beside it that are whole and of something else.

mod sim;

use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{BlockIndex, Mapping};
use remap_pure::format::block::encode_block;
use remap_pure::format::header::{Header, NewSpare};
use remap_pure::format::layout::{CopyId, Layout, COPIES, SLOTS, SLOT_BLOCKS};
use remap_pure::format::CommitKind;
use remap_pure::mem::Block;
use remap_pure::recovery::{recover, Refusal};
use remap_pure::store::SpareSet;
use remap_pure::units::{Sectors, SpareId};
use sim::*;

/// In how many blocks there may be a choice of two: all of them together are as many tries as there are.
const CHOICES: u32 = 14;

/// What was before the blocks of the table, and a commit after them.
const BEFORE: u64 = 1;
const AFTER: u64 = 3;

/// A set of one spare whose table has more blocks than choices, all of them of version 2, with two commits after that which change nothing.
fn set() -> (Sim, Metadata) {
    let mut sim = Sim::new(1, SECTORS, 7);
    let mut metadata = create_on(&mut sim);
    let mut edit = metadata.table().edit().unwrap();
    (0..5000).for_each(|i| edit.set(extent(i * 16, 8), Mapping::Pending).unwrap());
    for edit in [Some(edit), None, None] {
        let begun = metadata.begin(CommitKind::Remap, 1, edit, |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    sim.settle();
    assert!(metadata.table().block_count() > CHOICES + 1);
    assert_eq!(metadata.version(), AFTER + 1);
    (sim, metadata)
}

/// Puts an empty block in that place, which is whole and of this version.
fn put(sim: &mut Sim, layout: &Layout, copy: u8, index: u32, version: u64) {
    let mut block = Block::zeroed().unwrap();
    encode_block(&mut block, &UUID, BlockIndex(index), version, &[], crc);
    let at = layout.block(copy, BlockIndex(index)).unwrap();
    sim.disks[0].set_block(at.0 / 8, *block);
}

fn assert_found(sim: &mut Sim, metadata: &Metadata) {
    let found = recover(sim, crc).unwrap();
    assert!(found.table().iter().eq(content(metadata)));
    let rebuilt = found.rebuild(sim, 1, 1).unwrap();
    assert!(content(&rebuilt) == content(metadata));
    let again = recover(sim, crc).unwrap();
    assert!(again.is_clean() && again.table().iter().eq(content(metadata)));
}

#[test]
fn the_blocks_that_add_up_are_found_among_older_and_newer_ones() {
    let (mut sim, metadata) = set();
    // Of some blocks one copy has an older one, of others a newer one, and no copy is without any.
    for index in 0..CHOICES {
        let version = if index % 3 == 1 { AFTER } else { BEFORE };
        put(&mut sim, &Layout::STANDARD, (index % COPIES as u32) as u8, index, version);
    }
    assert_found(&mut sim, &metadata);
}

#[test]
fn what_would_take_too_many_tries_is_refused() {
    let (mut sim, _) = set();
    for index in 0..=CHOICES {
        put(&mut sim, &Layout::STANDARD, (index % COPIES as u32) as u8, index, AFTER);
    }
    let refusal = recover(&mut sim, crc).err().expect("no try has found it");
    assert!(matches!(refusal, Refusal::Incomplete { block: None, .. }), "{refusal}");
}

#[test]
fn a_copy_that_is_whole_needs_no_tries() {
    for hurt in 0..COPIES as u8 {
        let (mut sim, metadata) = set();
        (0..=CHOICES).for_each(|index| put(&mut sim, &Layout::STANDARD, hurt, index, AFTER));
        assert_found(&mut sim, &metadata);
    }
}

#[test]
fn a_block_far_behind_those_in_use_is_not_looked_at() {
    let layout = Layout::for_max_remaps(1_000_000).unwrap();
    let sectors = layout.end().0 + SECTORS;
    let mut sim = Sim::new(1, sectors, 7);
    let spare = NewSpare { used_sectors: Sectors(sectors), ..new_spare(0) };
    let metadata =
        create(&mut sim, &new_set(layout), &[spare], SpareSet::NONE, crc, |_| {}).unwrap();
    (0..COPIES as u8).for_each(|copy| put(&mut sim, &layout, copy, SLOT_BLOCKS, AFTER));
    let found = recover(&mut sim, crc).unwrap();
    assert!(found.is_clean() && found.table().iter().eq(content(&metadata)));
    assert_eq!(found.highest(), metadata.version());
}

/// A set of one spare with one entry, then what `then` does to it, then another entry for each of `starts`.
fn with(then: impl FnOnce(&mut Sim, &mut Metadata), starts: &[u64]) -> (Sim, Metadata) {
    let mut sim = Sim::new(1, SECTORS, 7);
    let mut metadata = create_on(&mut sim);
    let mark = |sim: &mut Sim, metadata: &mut Metadata, start| {
        let mut edit = metadata.table().edit().unwrap();
        edit.set(extent(start, 8), Mapping::Pending).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(sim).unwrap().write_group_b(sim);
    };
    mark(&mut sim, &mut metadata, 0);
    then(&mut sim, &mut metadata);
    starts.iter().for_each(|&start| mark(&mut sim, &mut metadata, start));
    sim.settle();
    (sim, metadata)
}

/// Begins a history.
fn go_apart(history: u64) -> impl FnOnce(&mut Sim, &mut Metadata) {
    move |sim, metadata| {
        let update = |header: &mut Header| header.begin_history(history, SpareSet::NONE);
        let begun = metadata.begin(CommitKind::Members, 1, None, update).unwrap();
        begun.write_group_a(sim).unwrap().write_group_b(sim);
    }
}

/// Puts a copy of `from` there, of a table of one block.
fn take(sim: &mut Sim, from: &Sim, copy: usize) {
    for at in [0, 1].map(|block| SLOTS[copy].0 / 8 + block) {
        sim.disks[0].set_block(at, from.disks[0].block(at));
    }
}

#[test]
fn a_history_that_began_and_is_not_whole_contradicts_nothing() {
    let (mut sim, metadata) = with(|_, _| {}, &[]);
    let (begun, _) = with(go_apart(7), &[100]);
    // Its header, from before anybody knew of its durability.
    let (id, at) = (CopyId { spare: SpareId(0), copy: 3 }, SLOTS[3].0 / 8);
    let header = Header::decode(&begun.disks[0].block(at), id, crc).unwrap();
    sim.disks[0].set_block(at, *header.encode(id, metadata.version(), crc).unwrap());
    assert_found(&mut sim, &metadata);
}

#[test]
fn what_was_before_a_conflict_is_not_taken_for_it() {
    let (before, _) = with(|_, _| {}, &[]);
    let (one, _) = with(go_apart(7), &[100]);
    let (mut sim, _) = with(go_apart(8), &[200, 300]);
    take(&mut sim, &one, 1);
    take(&mut sim, &before, 3);
    let refusal = recover(&mut sim, crc).err().expect("two have gone apart");
    assert!(matches!(refusal, Refusal::Conflict(..)), "{refusal}");
}

#[test]
fn what_stands_in_a_place_that_was_left_out_contradicts_nothing() {
    let (other, _) = with(go_apart(7), &[100]);
    let at = SLOTS[3].0 / 8;
    let goes_bad = |sim: &mut Sim, metadata: &mut Metadata| {
        sim.disks[0].no_write.insert(at);
        go_apart(8)(sim, metadata);
    };
    let (mut sim, metadata) = with(goes_bad, &[200, 300]);
    assert!(metadata.header().is_left_out(CopyId { spare: SpareId(0), copy: 3 }));
    sim.heal();
    take(&mut sim, &other, 3);
    assert_found(&mut sim, &metadata);
    // Not so what is no older than what says that it was left out.
    let (mut sim, _) = with(goes_bad, &[200]);
    sim.heal();
    take(&mut sim, &other, 3);
    let refusal = recover(&mut sim, crc).err().expect("two have gone apart");
    assert!(matches!(refusal, Refusal::Conflict(..)), "{refusal}");
}
