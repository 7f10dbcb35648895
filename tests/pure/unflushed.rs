// SPDX-License-Identifier: GPL-2.0

//! What stands in the cache of a spare only, and what stands there of a commit that was cut short, is no
//! reason to write over what is whole.

mod history;
mod sim;

use history::{assert_all_good, entries, read_with_whom_is_there};
use remap_pure::commit::Metadata;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::CommitKind;
use remap_pure::mem::Block;
use remap_pure::recovery::{recover, RebuildError};
use remap_pure::store::{SpareSet, Store, Write};
use remap_pure::units::{SpareId, SpareSector};
use sim::*;

/// The blocks of a table of one block, with its headers, in copies 0, 2 and 4.
const GROUP_A: [u64; 6] = [0, 1, 256, 257, 1024, 1025];
const GROUP_B: [u64; 4] = [128, 129, 512, 513];

/// Two spares with a table of one block; and what the disks have after the next commit.
fn with_one_block() -> (Sim, Metadata, Sim) {
    let mut sim = Sim::new(2, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(64, 8), Mapping::Pending).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    sim.settle();
    let mut later = sim.clone();
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(0, 8), Mapping::Pending).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut later).unwrap().write_group_b(&mut later);
    later.settle();
    (sim, metadata, later)
}

/// Writes these blocks as `from` has them, and does not flush.
fn write_as(sim: &mut Sim, from: &Sim, spare: SpareId, blocks: &[u64]) {
    for &at in blocks {
        let mut block = Block::zeroed().unwrap();
        block.copy_from_slice(&from.disks[spare.0 as usize].block(at));
        let mut batch = [Write::new(spare, SpareSector(at * 8), &block)];
        sim.write(&mut batch);
        assert!(batch[0].result.is_ok());
    }
}

/// Wherever the power is cut from `first` on, that spare alone has one of these two states, or later ones.
fn assert_alone(sim: &Sim, first: usize, spare: SpareId, states: &[&[Entry]]) {
    let mut rng = Rng::new(5);
    let cuts = |step| if step == sim.steps() { 800 } else { 20 };
    for step in (first..=sim.steps()).flat_map(|step| (0..cuts(step)).map(move |_| step)) {
        let mut alone = sim.cut(step, &mut rng).with_only(SpareSet::one(spare));
        let found =
            read_with_whom_is_there(&mut alone).unwrap_or_else(|e| panic!("step {step}: {e}"));
        assert!(states.iter().any(|state| entries(&found) == *state), "step {step}");
    }
}

/// The member that was put away in the middle of a commit comes back.
fn comes_back(left: impl Fn(&mut Sim, &Sim), returns: fn(&mut Sim, Metadata)) {
    let one = SpareId(1);
    let (mut sim, after, later) = with_one_block();
    let before = [Entry { extent: extent(64, 8), mapping: Mapping::Pending }];
    left(&mut sim, &later);
    sim.here = SpareSet(1);
    let metadata = read_with_whom_is_there(&mut sim).unwrap().rebuild(&mut sim, 1, 7).unwrap();
    assert_eq!((metadata.active(), metadata.away()), (SpareSet(1), SpareSet::one(one)));
    sim.here = SpareSet(3);
    let first = sim.steps();
    returns(&mut sim, metadata);
    assert_alone(&sim, first, one, &[&before, &content(&after)]);
}

fn is_taken_back(sim: &mut Sim, mut metadata: Metadata) {
    assert_eq!(metadata.take_back(sim, 1, 8, |_| {}), Ok(SpareSet(2)));
}

fn is_there_at_an_activation(sim: &mut Sim, _: Metadata) {
    let metadata = read_with_whom_is_there(sim).unwrap().rebuild(sim, 1, 8).unwrap();
    assert_eq!(metadata.active(), SpareSet(3));
}

#[test]
fn a_member_that_comes_back_keeps_what_is_whole_and_not_what_only_begins_to_be_newer() {
    // Of the commit it has a header, and no block.
    let left = |sim: &mut Sim, later: &Sim| {
        sim.disks[1].set_block(256, later.disks[1].block(256));
    };
    comes_back(left, is_taken_back);
    comes_back(left, is_there_at_an_activation);
}

#[test]
fn a_member_that_comes_back_keeps_nothing_that_stands_in_a_cache_only() {
    let left = |sim: &mut Sim, later: &Sim| write_as(sim, later, SpareId(1), &GROUP_A);
    comes_back(left, is_taken_back);
    comes_back(left, is_there_at_an_activation);
}

#[test]
fn after_a_crash_that_took_no_power_a_commit_does_not_count_on_what_stands_in_a_cache_only() {
    let (mut sim, after, later) = with_one_block();
    // The machine went down while group B was written.
    for spare in [SpareId(0), SpareId(1)] {
        GROUP_A.iter().for_each(|&at| {
            let block = later.disks[spare.0 as usize].block(at);
            sim.disks[spare.0 as usize].set_block(at, block);
        });
    }
    sim.settle();
    for spare in [SpareId(0), SpareId(1)] {
        write_as(&mut sim, &later, spare, &GROUP_B);
    }
    let first = sim.steps();
    let found = read_with_whom_is_there(&mut sim).unwrap();
    assert!(found.is_clean());
    let mut metadata = found.rebuild(&mut sim, 1, 7).unwrap();
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(128, 8), Mapping::Pending).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    drop(begun.write_group_a(&mut sim).unwrap());
    let states = [content(&after), content(&metadata)];
    for spare in [SpareId(0), SpareId(1)] {
        assert_alone(&sim, first, spare, &[&states[0], &states[1]]);
    }
}

/// A clean set whose spares fail these flushes while it is activated; what it held, and what became of it.
fn flushes_fail(spares: usize, flushes: u64) -> (Sim, Vec<Entry>, Result<Metadata, RebuildError>) {
    let mut sim = Sim::new(spares, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 3, &mut Rng::new(8));
    sim.disks[spares - 1].failing_flushes = flushes;
    let found = recover(&mut sim, crc).unwrap();
    assert!(found.is_clean());
    let rebuilt = found.rebuild(&mut sim, 1, 7);
    (sim, content(&metadata), rebuilt)
}

#[test]
fn copies_on_a_spare_that_could_not_be_flushed_once_are_written_anew_before_the_set_is_used() {
    for spares in 1..=2 {
        let (mut sim, was, rebuilt) = flushes_fail(spares, 1);
        let metadata = rebuilt.unwrap();
        assert_eq!((content(&metadata), metadata.active()), (was, sim.here));
        assert_all_good(&mut sim, &metadata);
    }
}

#[test]
fn a_set_is_not_used_when_no_spare_can_be_flushed_and_goes_on_without_one_that_cannot() {
    let (mut sim, was, rebuilt) = flushes_fail(1, u64::MAX);
    assert_eq!(rebuilt.err(), Some(RebuildError::NoCopy));
    sim.heal();
    assert_eq!(entries(&recover(&mut sim, crc).unwrap()), was);
    let (_, was, rebuilt) = flushes_fail(2, u64::MAX);
    let metadata = rebuilt.unwrap();
    assert_eq!((content(&metadata), metadata.active()), (was, SpareSet(1)));
}

/// A set of one spare that was used until power was all that was left of the machine: this much of the last commit is flushed, and
/// this much stands in the cache. No flush succeeds any more.
fn never_flushed(settled: &[u64], cached: &[u64]) -> (Sim, usize, Vec<Entry>, Vec<Entry>) {
    let (mut sim, metadata, later) = with_one_block();
    sim.here = SpareSet(1);
    for &at in settled {
        let block = later.disks[0].block(at);
        sim.disks[0].set_block(at, block);
    }
    write_as(&mut sim, &later, SpareId(0), cached);
    sim.disks[0].failing_flushes = u64::MAX;
    let first = sim.steps();
    let before = vec![Entry { extent: extent(64, 8), mapping: Mapping::Pending }];
    (sim, first, before, content(&metadata))
}

#[test]
fn a_spare_that_cannot_be_flushed_is_not_written_over() {
    let whole: [(&[u64], &[u64]); 3] =
        [(&GROUP_A, &GROUP_B), (&[], &GROUP_A), (&GROUP_B, &GROUP_A)];
    for (settled, cached) in whole {
        let (mut sim, first, before, after) = never_flushed(settled, cached);
        let metadata = read_with_whom_is_there(&mut sim).unwrap().rebuild(&mut sim, 1, 7);
        assert_eq!(metadata.err(), Some(RebuildError::NoCopy));
        match settled.is_empty() {
            true => assert_alone(&sim, first, SpareId(0), &[&before, &after]),
            false => assert_alone(&sim, first, SpareId(0), &[&after]),
        }
    }
}

#[test]
fn a_member_that_comes_back_and_cannot_be_flushed_keeps_what_it_had() {
    for flushes in [0b10, 0b110, u64::MAX << 1] {
        let (mut sim, after, _) = with_one_block();
        let before = [Entry { extent: extent(64, 8), mapping: Mapping::Pending }];
        sim.here = SpareSet(1);
        let mut metadata =
            read_with_whom_is_there(&mut sim).unwrap().rebuild(&mut sim, 1, 7).unwrap();
        sim.here = SpareSet(3);
        sim.disks[1].failing_flushes = flushes;
        let first = sim.steps();
        let back = metadata.take_back(&mut sim, 1, 8, |_| {}).unwrap();
        assert_eq!(back.is_empty(), flushes != 0b10, "{flushes:b}");
        assert_alone(&sim, first, SpareId(1), &[&before, &content(&after)]);
    }
}
