// SPDX-License-Identifier: GPL-2.0

//! A set that is made, read, rebuilt, checked and changed while memory runs out, at each allocation in turn: that
//! is said, or it goes on without; what was acknowledged is still there, and done again it succeeds.

mod history;
mod sim;
mod starve;

use history::{assert_all_good, entries};
use remap_pure::commit::{CommitError, Metadata, Persist};
use remap_pure::create::{create, CreateError};
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::layout::{Layout, SLOTS};
use remap_pure::format::CommitKind;
use remap_pure::mem::AllocError;
use remap_pure::recovery::{recover, RebuildError, Refusal};
use remap_pure::store::SpareSet;
use remap_pure::table::EditError;
use remap_pure::units::{SpareId, SpareSector};
use remap_pure::validate::{validate, Finding, Level};
use sim::*;
use starve::with_each_allocation_failing;

/// A set with some blocks of table, of several versions.
fn some_set(disks: usize) -> Sim {
    let mut rng = Rng::new(3);
    let mut sim = Sim::new(disks, SECTORS, 4);
    let mut metadata = create_on(&mut sim);
    for changes in [500, 1, 20] {
        commit(&mut sim, &mut metadata, changes, &mut rng);
    }
    sim
}

fn activate(sim: &mut Sim) -> Metadata {
    recover(sim, crc).unwrap().rebuild(sim, 1, 1).unwrap()
}

/// What stands on the disks, as somebody finds it who has memory.
fn found(sim: &Sim) -> (u64, Vec<Entry>) {
    let found = recover(&mut sim.clone(), crc).unwrap_or_else(|e| panic!("nothing is left: {e}"));
    (found.header().version(), entries(&found))
}

fn is_short(e: CommitError) -> bool {
    matches!(e, CommitError::Memory | CommitError::Edit(EditError::NoMemory))
}

#[test]
fn a_creation_says_so_and_can_be_begun_again() {
    let (set, spares) = (new_set(Layout::STANDARD), [new_spare(0), new_spare(1)]);
    let make = |sim: &mut Sim| create(sim, &set, &spares, SpareSet::NONE, crc, |_| {});
    with_each_allocation_failing(50, |memory| {
        let mut sim = Sim::new(2, SECTORS, 1);
        match memory.short(|| make(&mut sim)) {
            Ok(metadata) => {
                assert!(!memory.was_short());
                return assert_all_good(&mut sim, &metadata);
            }
            Err(CreateError::Memory) => {}
            Err(CreateError::Commit(e)) => assert!(is_short(e), "{e}"),
            Err(e) => panic!("{e}"),
        }
        // The set exists, or its creation was cut short, or nothing was written.
        match recover(&mut sim, crc) {
            Ok(found) => assert!(found.header().version() == 1 && found.table().is_empty()),
            Err(Refusal::Empty(_) | Refusal::CreationCutShort(..)) => {}
            Err(e) => panic!("{e}"),
        }
        match make(&mut sim) {
            Ok(metadata) => assert_all_good(&mut sim, &metadata),
            Err(e) => panic!("again: {e}"),
        }
    });
}

#[test]
fn a_creation_that_is_finished_later_says_so_too() {
    let (set, spares) = (new_set(Layout::STANDARD), [new_spare(0)]);
    let mut whole = Sim::new(1, SECTORS, 1);
    create(&mut whole, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    // Of the copies two have their headers, the others their marks.
    let mut rng = Rng::new(1);
    let cut = (0..=whole.steps())
        .map(|step| whole.cut(step, &mut rng))
        .find(|cut| recover(&mut cut.clone(), crc).is_ok_and(|found| !found.is_clean()))
        .expect("a set that is not finished");
    with_each_allocation_failing(50, |memory| {
        let mut sim = cut.clone();
        let made = memory.short(|| create(&mut sim, &set, &spares, SpareSet::NONE, crc, |_| {}));
        let metadata = match made {
            Ok(metadata) => metadata,
            Err(e) => {
                let of_memory = matches!(
                    e,
                    CreateError::Memory
                        | CreateError::Recover(Refusal::Memory)
                        | CreateError::Rebuild(RebuildError::Commit(CommitError::Memory))
                );
                assert!(of_memory, "{e}");
                activate(&mut sim)
            }
        };
        assert_eq!(metadata.header().uuid(), UUID);
        assert_all_good(&mut sim, &metadata);
    });
}

#[test]
fn a_recovery_never_takes_a_shortage_for_damage() {
    let sim = some_set(2);
    let whole = found(&sim);
    // Copies of which one has a bad block each are put together from all.
    let mut parts = sim.clone();
    for (i, slot) in SLOTS.iter().enumerate() {
        for disk in &mut parts.disks {
            disk.set_block(slot.0 / 8 + 1 + i as u64 % 2, [0; 4096]);
        }
    }
    for sim in [sim, parts] {
        with_each_allocation_failing(100, |memory| {
            let mut sim = sim.clone();
            let result = memory.short(|| recover(&mut sim, crc));
            assert_eq!(sim.steps(), 0, "something was written");
            match result {
                Ok(found) => {
                    assert!(!memory.was_short());
                    assert!((found.header().version(), entries(&found)) == whole);
                }
                Err(refusal) => assert_eq!(refusal, Refusal::Memory),
            }
        });
    }
}

#[test]
fn a_check_never_takes_a_shortage_for_damage() {
    let mut sim = some_set(1);
    sim.disks[0].set_block(SLOTS[1].0 / 8, [0; 4096]);
    sim.disks[0].set_block(SLOTS[2].0 / 8 + 1, [7; 4096]);
    let mut bytes = sim.disks[0].block(SLOTS[3].0 / 8);
    bytes[0x900] ^= 1;
    sim.disks[0].set_block(SLOTS[3].0 / 8, bytes);
    for level in Level::ALL {
        let all = |sim: &mut Sim| -> Result<Vec<Finding>, AllocError> {
            Ok(validate(sim, level, crc)?.findings().to_vec())
        };
        let expected = all(&mut sim.clone()).unwrap();
        assert!(!expected.is_empty());
        with_each_allocation_failing(10, |memory| match memory.short(|| all(&mut sim.clone())) {
            Ok(findings) => assert!(!memory.was_short() && findings == expected),
            Err(AllocError) => assert!(memory.was_short()),
        });
    }
}

#[test]
fn a_rebuild_that_fails_leaves_what_was_found() {
    let mut rng = Rng::new(8);
    let mut sim = some_set(2);
    let mut metadata = activate(&mut sim);
    sim.settle();
    // A commit that reaches some copies: what is older has to be superseded.
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(77 * 64, 8), Mapping::Pending).unwrap();
    drop(metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap().write_group_a(&mut sim));
    let cut = (0..sim.steps()).flat_map(|step| [step; 4]).map(|step| sim.cut(step, &mut rng)).find(
        |cut| {
            let found = recover(&mut cut.clone(), crc).unwrap();
            found.highest() > found.header().version()
        },
    );
    let cut = cut.expect("a commit of which only traces are left");
    let was = found(&cut).1;
    with_each_allocation_failing(20, |memory| {
        let mut sim = cut.clone();
        let found_now = recover(&mut sim, crc).unwrap();
        match memory.short(|| found_now.rebuild(&mut sim, 1, 1)) {
            // Group B may wait.
            Ok(mut metadata) => {
                assert!(content(&metadata) == was && !metadata.in_doubt());
                metadata.repair(&mut sim).unwrap();
                assert_all_good(&mut sim, &metadata);
            }
            Err(RebuildError::Commit(CommitError::Memory)) => {}
            Err(e) => panic!("{e}"),
        }
        let again = activate(&mut sim);
        assert!(content(&again) == was);
        assert_all_good(&mut sim, &again);
    });
}

/// A commit of a change that needs several blocks.
fn change(sim: &mut Sim, metadata: &mut Metadata) -> Result<Option<Vec<Entry>>, CommitError> {
    let mut edit = metadata.table().edit().map_err(|_| CommitError::Memory)?;
    for i in 0..40 {
        let to = SpareSector(20_000 + i * 8);
        let mapping = Mapping::Remapped { spare: SpareId(0), to };
        edit.set(extent(i * 4096, 8), mapping).map_err(CommitError::Edit)?;
    }
    match metadata.begin(CommitKind::Remap, 2, Some(edit), |_| {})?.write_group_a(sim) {
        Ok(in_a) => {
            let made = in_a.table().iter().collect();
            in_a.write_group_b(sim);
            Ok(Some(made))
        }
        Err(in_doubt) => {
            assert!(in_doubt.is_of_memory(), "{in_doubt}");
            Ok(None)
        }
    }
}

#[test]
fn a_commit_is_made_or_nothing_has_changed() {
    let sim = some_set(2);
    with_each_allocation_failing(20, |memory| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim);
        let (version, before) = (metadata.version(), content(&metadata));
        match memory.short(|| change(&mut sim, &mut metadata)) {
            Ok(Some(made)) => {
                assert!(found(&sim) == (version + 1, made), "what was acknowledged is not there");
                assert!(metadata.persist() != Persist::Failed);
            }
            result => {
                assert!(memory.was_short());
                assert!(result.is_ok() || result.is_err_and(is_short));
                assert!((metadata.version(), content(&metadata)) == (version, before.clone()));
                assert_eq!((metadata.persist(), metadata.in_doubt()), (Persist::Enabled, false));
                assert!(found(&sim) == (version, before), "something was written");
            }
        }
        // Again: it goes on from there.
        let made = change(&mut sim, &mut metadata).unwrap().expect("a commit");
        assert!(found(&sim).1 == made);
        metadata.repair(&mut sim).unwrap();
        assert_all_good(&mut sim, &metadata);
    });
}

#[test]
fn a_commit_after_one_in_doubt_needs_no_less() {
    let sim = some_set(1);
    with_each_allocation_failing(20, |memory| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim);
        let before = content(&metadata);
        sim.disks[0].failing_flushes = 1;
        let edit = || {
            let mut edit = metadata.table().edit().unwrap();
            edit.set(extent(4096, 8), Mapping::Pending).unwrap();
            edit
        };
        let edit = edit();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        assert!(begun.write_group_a(&mut sim).err().expect("a flush failed").lost.has(SpareId(0)));
        metadata.repair(&mut sim).unwrap();
        // Whatever was left of it: the next writes all anew that it touched.
        let result = memory.short(|| {
            let begun = metadata.begin(CommitKind::Recover, 2, None, |_| {})?;
            Ok(begun.write_group_a(&mut sim).map(|in_a| in_a.write_group_b(&mut sim)))
        });
        match result {
            Ok(Ok(persist)) => assert!(persist != Persist::Failed),
            Ok(Err(in_doubt)) => assert!(in_doubt.is_of_memory() && metadata.in_doubt()),
            Err(e) => assert!(is_short(e) && metadata.in_doubt(), "{e}"),
        }
        assert!(content(&metadata) == before);
        let begun = metadata.begin(CommitKind::Recover, 2, None, |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        metadata.repair(&mut sim).unwrap();
        assert!(!metadata.in_doubt() && found(&sim).1 == before);
        assert_all_good(&mut sim, &metadata);
    });
}

#[test]
fn a_repair_that_fails_costs_no_copy_that_was_good() {
    let sim = some_set(2);
    with_each_allocation_failing(5, |memory| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim);
        sim.disks[0].no_write.extend([SLOTS[1].0 / 8, SLOTS[2].0 / 8]);
        change(&mut sim, &mut metadata).unwrap().expect("a commit");
        assert_eq!(metadata.persist(), Persist::Degraded);
        sim.heal();
        let (version, was) = found(&sim);
        match memory.short(|| metadata.repair(&mut sim)) {
            Ok(mended) => assert!(mended == 2 && !memory.was_short()),
            Err(e) => assert!(is_short(e), "{e}"),
        }
        assert_eq!((metadata.version(), found(&sim)), (version, (version, was)));
        metadata.repair(&mut sim).unwrap();
        assert_all_good(&mut sim, &metadata);
    });
}
