// SPDX-License-Identifier: GPL-2.0

//! What a commit puts into the header: settings, what the table has, what assembly goes by, since when a spare is away.

mod sim;

use remap_pure::commit::{CommitError, Metadata, Persist};
use remap_pure::copies::CopyState;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::layout::{CopyId, SLOTS};
use remap_pure::format::{CommitKind, FEATURE_BAD_PLACES, FEATURE_LOST};
use remap_pure::mem::{KVec, GFP_KERNEL};
use remap_pure::recovery::recover;
use remap_pure::settings::{
    Setting, Settings, ALERT_THRESHOLD, ASSEMBLE_CONFIRM, ASSEMBLE_DEGRADED, MIN_COPIES, PRIMARY,
};
use remap_pure::store::SpareSet;
use remap_pure::units::{Extent, Sectors, SpareId, SpareSector};
use sim::*;

fn values(all: &[(&'static Setting, u64)]) -> KVec<(&'static Setting, u64)> {
    let mut values = KVec::new();
    all.iter().for_each(|value| values.push(*value, GFP_KERNEL).unwrap());
    values
}

fn save(sim: &mut Sim, metadata: &mut Metadata) {
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let in_a = begun.write_group_a(sim).unwrap();
    let version = in_a.version();
    in_a.write_group_b(sim);
    assert_eq!(version, metadata.version());
    sim.settle();
}

fn map(sim: &mut Sim, metadata: &mut Metadata, changes: &[(Extent, Mapping)]) {
    let mut edit = metadata.table().edit().unwrap();
    changes.iter().for_each(|(extent, mapping)| edit.set(*extent, *mapping).unwrap());
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(sim).unwrap().write_group_b(sim);
    sim.settle();
}

#[test]
fn settings_are_in_force_at_once_and_kept_by_the_next_commit() {
    let mut sim = Sim::new(1, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    let kept = |metadata: &Metadata| {
        Settings::get_raw(&metadata.header().raw().settings, &ALERT_THRESHOLD)
    };
    assert!(!metadata.has_unkept());
    assert!(metadata.put_settings(values(&[(&ALERT_THRESHOLD, 50)])));
    assert!(metadata.has_unkept());
    assert_eq!(metadata.settings().get(&ALERT_THRESHOLD), 50);
    assert_eq!(kept(&metadata), ALERT_THRESHOLD.default);
    save(&mut sim, &mut metadata);
    assert!(!metadata.has_unkept());
    assert_eq!(kept(&metadata), 50);
    assert_eq!(metadata.settings().get(&ALERT_THRESHOLD), 50);
    // What holds already is nothing to be kept.
    assert!(!metadata.put_settings(values(&[(&ALERT_THRESHOLD, 50)])));
    assert!(!metadata.has_unkept());
    assert!(metadata.put_settings(values(&[(&ALERT_THRESHOLD, 60)])));
    let taken = metadata.take_unkept();
    assert_eq!((taken.len(), taken[0].1), (1, 60));
    assert!(!metadata.has_unkept());
    assert_eq!(metadata.settings().get(&ALERT_THRESHOLD), 50);
}

#[test]
fn fewer_good_copies_than_are_asked_for_take_no_commit() {
    let mut sim = Sim::new(1, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    assert!(metadata.put_settings(values(&[(&MIN_COPIES, 5)])));
    save(&mut sim, &mut metadata);
    save(&mut sim, &mut metadata);
    sim.disks[0].no_write.insert(512);
    save(&mut sim, &mut metadata);
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {});
    assert_eq!(begun.err(), Some(CommitError::TooFewCopies { good: 4, needed: 5 }));
}

#[test]
fn a_header_says_what_its_table_has_and_what_a_reader_has_to_know_for_it() {
    let mut sim = Sim::new(1, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    let spare = SpareId(0);
    let of = |metadata: &Metadata| {
        let raw = metadata.header().raw();
        let shape = &raw.shape;
        let [remapped, pending, retired] =
            [shape.remapped.get(), shape.pending.get(), shape.retired.get()];
        (shape.entries.get(), remapped, pending, retired, raw.features.incompatible.get())
    };
    assert_eq!(of(&metadata), (0, 0, 0, 0, 0));
    let remapped = |at, to: u64| (extent(at, 8), Mapping::Remapped { spare, to: SpareSector(to) });
    map(&mut sim, &mut metadata, &[remapped(64, 9216), (extent(128, 16), Mapping::Pending)]);
    assert_eq!(of(&metadata), (2, 8, 16, 0, 0));
    assert_eq!(metadata.header().raw().shape.digest.get(), metadata.table().digest());
    let suspect = (extent(256, 8), Mapping::Suspect { spare, to: SpareSector(9216 + 64) });
    let lost = (extent(512, 32), Mapping::Lost);
    let retired = Entry::retired(spare, SpareSector(9216 + 256), Sectors(8));
    let retired = (retired.extent, retired.mapping);
    // Each by itself.
    let now = [(lost, (3, 8, 48, 0, FEATURE_LOST)), (retired, (3, 8, 16, 8, FEATURE_BAD_PLACES))];
    for (change, says) in now {
        let mut other = sim.clone();
        let mut alone = recover(&mut other, crc).unwrap().into_metadata();
        map(&mut other, &mut alone, &[change]);
        assert_eq!(of(&alone), says);
    }
    map(&mut sim, &mut metadata, &[suspect]);
    assert_eq!(of(&metadata), (3, 16, 16, 0, FEATURE_BAD_PLACES));
    // What a reader has to know stays so.
    map(&mut sim, &mut metadata, &[remapped(1024, 9216 + 128)]);
    assert_eq!(of(&metadata).4, FEATURE_BAD_PLACES);
    map(&mut sim, &mut metadata, &[lost]);
    assert_eq!(of(&metadata), (5, 24, 48, 0, FEATURE_BAD_PLACES | FEATURE_LOST));
    save(&mut sim, &mut metadata);
    assert_eq!(of(&metadata).4, FEATURE_BAD_PLACES | FEATURE_LOST);
}

#[test]
fn a_header_says_what_assembly_goes_by() {
    let mut sim = Sim::new(3, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    let mut of = |settings: &[(&'static Setting, u64)]| {
        metadata.put_settings(values(settings));
        save(&mut sim, &mut metadata);
        let assembly = &metadata.header().raw().assembly;
        (assembly.required.get(), assembly.primary.get(), assembly.flags.get())
    };
    assert_eq!(of(&[(&PRIMARY, 0), (&ASSEMBLE_CONFIRM, 0), (&ASSEMBLE_DEGRADED, 0)]), (7, 0, 0));
    assert_eq!(of(&[(&PRIMARY, 2)]), (7, 2, 0));
    assert_eq!(of(&[(&PRIMARY, 1), (&ASSEMBLE_CONFIRM, 1)]), (7, 1, 1));
    assert_eq!(of(&[(&ASSEMBLE_DEGRADED, 1)]), (7, 1, 3));
    // There is no such spare: the first of those that there are.
    assert_eq!(of(&[(&PRIMARY, 7), (&ASSEMBLE_CONFIRM, 0)]), (7, 0, 2));
}

#[test]
fn since_when_a_spare_is_away_and_what_it_had_is_kept() {
    let mut sim = Sim::new(2, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    save(&mut sim, &mut metadata);
    let version = metadata.version();
    let gone = SpareSet::one(SpareId(1));
    sim.disks[1].no_write.extend(0..SECTORS / 8);
    assert_eq!(metadata.go_on_without(&mut sim, 1, gone, 5, |_| {}), Ok(gone));
    let of = |spare: usize| {
        let spare = &metadata.header().raw().spares[spare];
        (spare.since_version.get() > version, spare.had_version.get())
    };
    assert_eq!(of(0), (false, 0));
    assert_eq!(of(1), (true, version as u32));
}

#[test]
fn what_a_commit_in_doubt_has_touched_is_written_by_the_next_and_nothing_else() {
    let mut sim = Sim::new(1, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 900, &mut Rng::new(1));
    assert!(metadata.table().block_count() >= 3);
    let held = content(&metadata);
    let (first, last) = (held[0].extent, held[held.len() - 1].extent);
    // Says something else of one extent, and returns how many blocks are written and whether it stands.
    let change = |sim: &mut Sim, metadata: &mut Metadata, extent, mapping| {
        let mut edit = metadata.table().edit().unwrap();
        edit.set(extent, mapping).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        let blocks = begun.blocks();
        let stands = begun.write_group_a(sim).map(|in_a| in_a.write_group_b(sim)).is_ok();
        (blocks, stands)
    };
    assert_eq!(change(&mut sim, &mut metadata, last, Mapping::Lost), (1, true));
    sim.disks[0].failing_flushes = 1;
    assert_eq!(change(&mut sim, &mut metadata, first, Mapping::Lost), (1, false));
    assert!(metadata.in_doubt());
    assert_eq!(change(&mut sim, &mut metadata, last, Mapping::Pending), (2, true));
    assert!(!metadata.in_doubt());
    metadata.repair(&mut sim).unwrap();
    sim.settle();
    let found = recover(&mut sim, crc).unwrap();
    assert!(found.is_clean() && found.header().version() == metadata.version());
    // What the next one changes itself is written once.
    sim.disks[0].failing_flushes = 1;
    assert_eq!(change(&mut sim, &mut metadata, first, Mapping::Lost), (1, false));
    assert_eq!(change(&mut sim, &mut metadata, first, Mapping::Pending), (1, true));
}

#[test]
fn each_group_is_written_at_once_and_a_header_makes_no_copy_whole_whose_block_could_not_be() {
    let mut sim = Sim::new(1, SECTORS, 1);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 3, &mut Rng::new(1));
    let before = sim.batches;
    commit(&mut sim, &mut metadata, 3, &mut Rng::new(2));
    assert_eq!(sim.batches - before, 2);
    for (copy, slot) in (0..).zip(SLOTS) {
        let mut sim = sim.clone();
        let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
        sim.disks[0].no_write.insert(slot.0 / 8 + 1);
        commit(&mut sim, &mut metadata, 3, &mut Rng::new(3));
        assert_eq!(metadata.persist(), Persist::Degraded);
        let found = recover(&mut sim, crc).unwrap();
        let id = CopyId { spare: SpareId(0), copy };
        assert!(found.header().version() == metadata.version());
        assert_eq!(found.copies().state(id), CopyState::Stale);
        assert!(found.table().iter().eq(content(&metadata)));
    }
}
