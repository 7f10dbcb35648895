// SPDX-License-Identifier: GPL-2.0

//! What is in the way of a creation, and what a check finds, each where it is.

mod sim;

use remap_pure::create::{check_create, create, CreateError};
use remap_pure::entry::{BlockIndex, Entry, Mapping};
use remap_pure::format::block::encode_block;
use remap_pure::format::header::{Header, HeaderError};
use remap_pure::format::layout::{CopyId, Layout, SLOTS};
use remap_pure::format::{CommitKind, SetUuid};
use remap_pure::mem::Block;
use remap_pure::places::PlaceError;
use remap_pure::recovery::members::{Without, KNOWN_AWAY};
use remap_pure::recovery::{recover, recover_without, Refusal};
use remap_pure::store::SpareSet;
use remap_pure::units::{Sectors, SpareId, SpareSector};
use remap_pure::validate::{validate, validate_without, At, Finding, Level, What};
use sim::*;

const ZERO: SpareId = SpareId(0);
const ONE: SpareId = SpareId(1);

/// Block `block` of a copy, 0 for its header.
fn at(copy: u8, block: u64) -> u64 {
    SLOTS[usize::from(copy)].0 / 8 + block
}

fn copy(copy: u8) -> CopyId {
    CopyId { spare: ZERO, copy }
}

fn make(sim: &mut Sim, members: usize, overwrite: SpareSet) -> Result<(), CreateError> {
    let spares: Vec<_> = (0..members).map(new_spare).collect();
    let set = new_set(Layout::STANDARD);
    create(sim, &set, &spares, overwrite, crc, |_| {}).map(|_| ())
}

#[test]
fn a_creation_needs_as_many_members_as_spares() {
    let two = Sim::new(2, SECTORS, 1);
    let none = SpareSet::NONE;
    assert_eq!(make(&mut two.with_only(none), 0, none), Err(CreateError::Spares));
    assert_eq!(make(&mut two.clone(), 1, none), Err(CreateError::Spares));
    assert_eq!(make(&mut two.clone(), 9, none), Err(CreateError::Spares));
    assert_eq!(make(&mut two.clone(), 2, none), Ok(()));
}

#[test]
fn a_set_that_was_created_is_in_the_way_as_long_as_it_is_there() {
    let mut sim = Sim::new(1, SECTORS, 1);
    assert_eq!(make(&mut sim, 1, SpareSet::NONE), Ok(()));
    let exists = Err(CreateError::Exists(ZERO, UUID));
    assert_eq!(make(&mut sim, 1, SpareSet(1)), exists);
    let check = check_create(&mut sim, &Layout::STANDARD, SpareSet(1), crc);
    assert_eq!(check.map(|_| ()), exists);
}

#[test]
fn what_was_begun_by_others_or_is_foreign_beside_a_mark_is_in_the_way() {
    let mut sim = Sim::new(2, SECTORS, 1);
    let mark = |uuid: SetUuid, spare: SpareId, history: u64| {
        let mut set = new_set(Layout::STANDARD);
        set.uuid = uuid;
        let header = Header::new(&set).unwrap();
        *header.creation_mark(CopyId { spare, copy: 0 }, history, crc).unwrap()
    };
    let (one, other) = (SetUuid([1; 16]), SetUuid([2; 16]));
    sim.disks[0].set_block(at(0, 0), mark(one, ZERO, 1));
    sim.disks[1].set_block(at(0, 0), mark(other, ONE, 2));
    let refused = CreateError::OtherCreation(ONE, other);
    assert_eq!(make(&mut sim.clone(), 2, SpareSet::NONE), Err(refused));
    sim.disks[1].set_block(at(0, 0), mark(one, ONE, 1));
    sim.disks[1].set_block(at(3, 5), [7; 4096]);
    let refused = CreateError::Foreign(ONE, SpareSector(SLOTS[3].0 + 40));
    assert_eq!(make(&mut sim.clone(), 2, SpareSet::NONE), Err(refused));
    assert_eq!(make(&mut sim, 2, SpareSet::one(ONE)), Ok(()));
    assert!(recover(&mut sim, crc).unwrap().is_clean());
}

#[test]
fn a_spare_that_fails_while_a_set_is_created_is_named() {
    // Bad places: of a copy of each group. Flushes: of the marks, of each group.
    for bad in [0, 3] {
        let mut sim = Sim::new(2, SECTORS, 1);
        sim.disks[1].no_write.insert(at(bad, 0));
        let failed = CreateError::Write(CopyId { spare: ONE, copy: bad });
        assert_eq!(make(&mut sim, 2, SpareSet::NONE), Err(failed));
    }
    for (flush, failed) in [(1, 0), (2, 0), (4, 1)] {
        let mut sim = Sim::new(2, SECTORS, 1);
        sim.disks[1].failing_flushes = flush;
        let failed = CreateError::Write(CopyId { spare: ONE, copy: failed });
        assert_eq!(make(&mut sim, 2, SpareSet::NONE), Err(failed));
        // On another device, or on a better day, it is finished.
        sim.heal();
        match check_create(&mut sim, &Layout::STANDARD, SpareSet::NONE, crc) {
            Ok(_) => assert_eq!(make(&mut sim, 2, SpareSet::NONE), Ok(())),
            Err(e) => assert_eq!(e, CreateError::Exists(ZERO, UUID)),
        }
        let found = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
        assert_eq!(found.version(), 1);
    }
}

/// A set with two table blocks, the first of the last version.
fn some_set(disks: usize) -> Sim {
    let mut sim = Sim::new(disks, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    for (first, behind) in [(0, 300), (0, 1)] {
        let mut edit = metadata.table().edit().unwrap();
        for i in first..behind {
            let to = SpareSector(9216 + i * 8);
            edit.set(extent(i * 16, 8), Mapping::Remapped { spare: ZERO, to }).unwrap();
        }
        if behind == 1 {
            let to = SpareSector(30_000);
            edit.set(extent(0, 8), Mapping::Suspect { spare: ZERO, to }).unwrap();
            let retired = Entry::retired(ZERO, SpareSector(31_000), Sectors(8));
            edit.set(retired.extent, retired.mapping).unwrap();
        }
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    sim.settle();
    sim
}

/// What a check finds, apart from how much there is of each copy.
fn found(sim: &mut Sim, level: Level) -> Vec<Finding> {
    let report = validate(sim, level, crc).unwrap();
    report.findings().iter().copied().filter(|f| !matches!(f.what, What::Has { .. })).collect()
}

#[track_caller]
fn finds(sim: &mut Sim, level: Level, at: At, what: What) {
    let all = found(sim, level);
    assert!(all.contains(&Finding { level, at, what }), "{all:#?}");
    // On no level before.
    for less in Level::ALL.into_iter().filter(|less| *less < level) {
        assert!(!found(sim, less).iter().any(|f| f.what == what), "on {}", less.name());
    }
}

/// Makes a header say something else, with checksums that fit.
fn forge(sim: &mut Sim, id: CopyId, change: impl FnOnce(&mut Header)) {
    let Ok(mut header) = Header::decode(&sim.disks[0].block(at(id.copy, 0)), id, crc) else {
        panic!("no header")
    };
    let durable = header.raw().identification.durable_version.get();
    change(&mut header);
    sim.disks[0].set_block(at(id.copy, 0), *header.encode(id, durable, crc).unwrap());
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    for disks in [1, 2] {
        assert_eq!(found(&mut some_set(disks), Level::Forensic), []);
    }
    // Nor where a member is known to be away, whose places nobody counts.
    let mut sim = some_set(2);
    let absent = [recover(&mut sim, crc).unwrap().header().member(ONE)];
    let mut alone = sim.with_only(SpareSet::one(ZERO));
    let without = Without { absent: &absent, away: false };
    recover_without(&mut alone, &without, crc).unwrap().rebuild(&mut alone, 1, 7).unwrap();
    let report = validate_without(&mut alone, Level::Complete, &KNOWN_AWAY, crc).unwrap();
    assert_eq!(report.findings(), []);
}

#[test]
fn each_finding_is_on_its_level_and_where_it_is() {
    let sim = some_set(1);
    let (id, header) = (At::Copy(copy(3)), |sim: &Sim| sim.disks[0].block(at(3, 0)));
    let with = |change: &dyn Fn(&mut Sim)| {
        let mut sim = sim.clone();
        change(&mut sim);
        sim
    };

    // Copy 3 of before: behind, and its table block of another version than the one that is taken.
    let mut older = Sim::new(1, SECTORS, 3);
    let mut metadata = create_on(&mut older);
    commit(&mut older, &mut metadata, 0, &mut Rng::new(1));
    let behind = with(&|sim| sim.disks[0].set_block(at(3, 0), header(&older)));
    finds(&mut behind.clone(), Level::Basic, id, What::Behind { version: 2, newest: 3 });
    let mark = |sim: &mut Sim| {
        let found = recover(&mut sim.clone(), crc).unwrap();
        let mark = found.header().creation_mark(copy(3), 1, crc).unwrap();
        sim.disks[0].set_block(at(3, 0), *mark);
    };
    finds(&mut with(&mark), Level::Basic, id, What::Header(HeaderError::Creating));

    // A block that is whole and another than the digest has.
    let other_block = |version| {
        move |sim: &mut Sim| {
            let mut block = Block::zeroed().unwrap();
            encode_block(&mut block, &UUID, BlockIndex(1), version, &[], crc);
            sim.disks[0].set_block(at(3, 2), *block);
        }
    };
    let mut cut_short = with(&other_block(1));
    finds(&mut cut_short, Level::Integrity, id, What::Digest);
    let block = At::Block(copy(3), BlockIndex(1));
    let taken = recover(&mut sim.clone(), crc).unwrap();
    let is = taken.table().blocks().find(|(index, ..)| index.0 == 1).unwrap().1.version;
    let what = What::OtherVersion { version: 1, taken: is };
    finds(&mut cut_short, Level::Forensic, block, what);

    // Counts that are not the table's, in every header.
    let mut miscounted = with(&|sim| {
        for n in 0..5 {
            forge(sim, copy(n), |h| h.raw_mut().shape.entries.set(7));
        }
    });
    let is = taken.table().totals().extents;
    let what = What::Count { name: "entries", says: 7, is };
    finds(&mut miscounted, Level::Complete, At::Set, what);

    // A place that is given out twice, once to a suspect.
    let mut twice = sim.clone();
    let mut metadata = recover(&mut twice, crc).unwrap().into_metadata();
    let mut edit = metadata.table().edit().unwrap();
    let mapping = Mapping::Remapped { spare: ZERO, to: SpareSector(30_004) };
    edit.set(extent(1 << 20, 8), mapping).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut twice).unwrap().write_group_b(&mut twice);
    let entry = At::Entry(extent(1 << 20, 8).start);
    let taken = PlaceError::Taken(SpareSector(30_004));
    finds(&mut twice, Level::Complete, entry, What::Place(ZERO, taken));

    // A spare that is too small for the metadata itself: what would have to be read is not there.
    let mut small = sim.clone();
    small.disks[0].shrink(9208);
    let (is, was) = (Sectors(9208), Sectors(SECTORS));
    let refused = What::Refused(Refusal::Shrunk { spare: ZERO, is, was });
    finds(&mut small, Level::Complete, At::Set, refused);
}
