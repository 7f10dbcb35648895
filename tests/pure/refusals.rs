// SPDX-License-Identifier: GPL-2.0

//! What a recovery refuses and what it says then: the spare, the copy and the block that it is about.

mod sim;

use remap_pure::commit::Metadata;
use remap_pure::copies::CopySet;
use remap_pure::entry::{BlockIndex, Entry, Mapping};
use remap_pure::format::block::encode_block;
use remap_pure::format::header::Header;
use remap_pure::format::layout::{CopyId, COPIES, SLOTS};
use remap_pure::format::{CommitKind, MemberUuid, SpareState};
use remap_pure::mem::Block;
use remap_pure::recovery::members::{identify, Without};
use remap_pure::recovery::side::{given_away, last, sides, state_of, Side};
use remap_pure::recovery::{recover, recover_without, Refusal, Stand, Survey};
use remap_pure::store::SpareSet;
use remap_pure::table::Table;
use remap_pure::units::{Extent, Sectors, SpareId, SpareSector};
use sim::*;

const ZERO: SpareId = SpareId(0);
const ONE: SpareId = SpareId(1);

/// Block `block` of a copy, 0 for its header.
fn at(copy: usize, block: u64) -> u64 {
    SLOTS[copy].0 / 8 + block
}

fn copy(spare: SpareId, copy: u8) -> CopyId {
    CopyId { spare, copy }
}

/// A set with a table of so many entries, of several versions.
fn set_with(disks: usize, entries: u64) -> (Sim, Metadata) {
    let mut sim = Sim::new(disks, SECTORS, 7);
    let mut metadata = create_on(&mut sim);
    for (first, behind) in [(0, entries), (0, 1)] {
        let mut edit = metadata.table().edit().unwrap();
        for i in first..behind {
            edit.set(extent(i * 16, 7), Mapping::Pending).unwrap();
        }
        edit.clear(extent(3, 1)).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    sim.settle();
    (sim, metadata)
}

/// Makes the header of a copy say something else, with checksums that fit.
fn forge(sim: &mut Sim, id: CopyId, change: impl FnOnce(&mut Header)) {
    let (disk, place) = (&mut sim.disks[usize::from(id.spare.0)], at(id.copy.into(), 0));
    let Ok(mut header) = Header::decode(&disk.block(place), id, crc) else { panic!("no header") };
    let durable = header.raw().identification.durable_version.get();
    change(&mut header);
    disk.set_block(place, *header.encode(id, durable, crc).unwrap());
}

/// An empty table block of that version in the place of another.
fn plant(sim: &mut Sim, copy: usize, index: u32, version: u64) {
    let mut block = Block::zeroed().unwrap();
    encode_block(&mut block, &UUID, BlockIndex(index), version, &[], crc);
    sim.disks[0].set_block(at(copy, u64::from(index) + 1), *block);
}

fn refusal(sim: &mut Sim) -> Refusal {
    recover(sim, crc).err().expect("a refusal")
}

#[test]
fn headers_that_place_the_metadata_differently_are_named() {
    let (mut sim, _) = set_with(1, 3);
    sim.disks[0].set_block(at(0, 0), [0; 4096]);
    let longer = |header: &mut Header| header.raw_mut().shape.capacity.set(200);
    forge(&mut sim, copy(ZERO, 3), longer);
    let Refusal::Conflict(first, other) = refusal(&mut sim) else { panic!() };
    assert_eq!((first.id, other.id), (copy(ZERO, 1), copy(ZERO, 3)));
}

#[test]
fn a_spare_that_is_smaller_than_it_was_is_named() {
    let (sim, _) = set_with(2, 3);
    let was = Sectors(SECTORS);
    // There is room for the metadata, or not even that.
    for sectors in [SECTORS - 8, 9208] {
        let mut sim = sim.clone();
        sim.disks[1].shrink(sectors);
        let shrunk = Refusal::Shrunk { spare: ONE, is: Sectors(sectors), was };
        assert_eq!(refusal(&mut sim), shrunk);
        if sectors > 9208 {
            let survey = Survey::take(&mut sim, crc).unwrap();
            let side = sides(&mut sim, &survey, crc).unwrap()[0];
            assert_eq!(state_of(&mut sim, &survey, &side, crc).err(), Some(shrunk));
        }
    }
}

#[test]
fn a_block_that_cannot_be_read_again_is_read_elsewhere_or_named() {
    let (sim, metadata) = set_with(1, 600);
    let fade = |copies: std::ops::Range<usize>| {
        let mut sim = sim.clone();
        sim.disks[0].fading.extend(copies.map(|copy| (at(copy, 2), 1)));
        sim
    };
    let found = recover(&mut fade(0..4), crc).unwrap();
    assert!(found.table().iter().eq(metadata.table().iter()));
    // Of the last copy's header it is said, if that is all there is.
    let mut none = fade(0..5);
    none.disks[0].set_block(at(0, 0), [0; 4096]);
    let Refusal::Incomplete { newest, block } = refusal(&mut none) else { panic!() };
    assert_eq!((newest.version, block), (metadata.version(), Some(BlockIndex(1))));
    assert_ne!(newest.id, copy(ZERO, 0), "there is no header");
}

#[test]
fn blocks_that_are_too_new_are_left_out_as_long_as_they_are_few() {
    // Block 1 is of the version before the last, which no copy has with the others as they were.
    let parts = |sim: &mut Sim| {
        [(0, 2), (1, 2), (2, 1), (4, 1)].map(|(copy, block)| {
            sim.disks[0].set_block(at(copy, block), [0; 4096]);
        });
    };
    let (mut sim, metadata) = set_with(1, 600);
    parts(&mut sim);
    plant(&mut sim, 3, 1, metadata.version());
    let found = recover(&mut sim, crc).unwrap();
    assert!(found.table().iter().eq(metadata.table().iter()));

    // With one in each of sixteen blocks there are too many ways to put it together.
    let (mut sim, metadata) = set_with(1, 16 * 252);
    assert!(metadata.table().block_count() >= 16);
    parts(&mut sim);
    (1..metadata.table().block_count()).for_each(|i| plant(&mut sim, 3, i, metadata.version()));
    let refusal = refusal(&mut sim);
    assert!(matches!(refusal, Refusal::Incomplete { block: None, .. }), "{refusal}");
}

#[test]
fn whoever_is_said_to_be_absent_is_a_member_and_not_there() {
    let (sim, _) = set_with(2, 3);
    let (one, nobody) = (MemberUuid(new_spare(1).uuid), MemberUuid([0xee; 16]));
    let without = |absent: MemberUuid| {
        let without = Without { absent: &[absent], away: false };
        recover_without(&mut sim.clone(), &without, crc).err()
    };
    assert_eq!(without(one), Some(Refusal::NotAbsent(ONE, one)));
    assert_eq!(without(nobody), Some(Refusal::NoMember(nobody)));
}

#[test]
fn a_device_is_who_it_says_it_is_in_the_right_place() {
    let (mut sim, _) = set_with(2, 3);
    assert_eq!(identify(&mut sim, ONE, crc), Ok(Some((UUID, ONE))));
    sim.disks[1].no_read.extend([at(0, 0), at(1, 0)]);
    assert_eq!(identify(&mut sim, ONE, crc), Ok(Some((UUID, ONE))));
    // What a partition on it has where the disk would have another copy says nothing of the disk.
    let partition = sim.disks[0].block(at(1, 0));
    let mut disk = Sim::new(1, SECTORS, 9);
    assert_eq!(identify(&mut disk, ZERO, crc), Ok(None));
    disk.disks[0].set_block(at(2, 0), partition);
    assert_eq!(identify(&mut disk, ZERO, crc), Ok(None));
}

#[test]
fn what_lives_on_bad_places_has_to_be_in_bounds_too() {
    let (sim, metadata) = set_with(1, 3);
    let (far, near) = (SpareSector(SECTORS - 8), SpareSector(SECTORS - 4));
    let with = |entry: Entry| {
        let (mut sim, mut metadata) = (sim.clone(), recover(&mut sim.clone(), crc).unwrap());
        metadata.leave_away();
        let mut metadata = metadata.into_metadata();
        let mut edit = metadata.table().edit().unwrap();
        edit.set(entry.extent, entry.mapping).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        recover(&mut sim, crc).map(|found| found.table().iter().count())
    };
    let suspect =
        |to| Entry { extent: extent(4096, 8), mapping: Mapping::Suspect { spare: ZERO, to } };
    let more = metadata.table().iter().count() + 1;
    assert_eq!(with(suspect(far)).ok(), Some(more));
    assert_eq!(with(Entry::retired(ZERO, far, Sectors(8))).ok(), Some(more));
    let start = extent(4096, 8).start;
    assert_eq!(with(suspect(near)).err(), Some(Refusal::Entry(start)));
    let retired = Entry::retired(ZERO, near, Sectors(8));
    assert_eq!(with(retired).err(), Some(Refusal::Entry(retired.extent.start)));
}

/// The only side of a set.
fn side_of(sim: &mut Sim) -> (Survey, Side) {
    let survey = Survey::take(sim, crc).unwrap();
    let found = sides(sim, &survey, crc).unwrap();
    assert_eq!(found.len(), 1);
    (survey, found[0])
}

#[test]
fn a_side_needs_its_members_and_nobody_else() {
    let (sim, _) = set_with(2, 3);
    let mut alone = sim.with_only(SpareSet::one(ZERO));
    let (survey, side) = side_of(&mut alone);
    let missing = Refusal::Missing(ONE, MemberUuid(new_spare(1).uuid));
    assert_eq!(state_of(&mut alone, &survey, &side, crc).err(), Some(missing));

    let (mut more, _) = set_with(1, 3);
    more.disks.push(Disk::new(SECTORS, 3));
    more.here = SpareSet(3);
    let (survey, side) = side_of(&mut more);
    let stranger = Refusal::NotMember(ONE, SpareState::Unused);
    assert_eq!(state_of(&mut more, &survey, &side, crc).err(), Some(stranger));
}

#[test]
fn a_side_is_not_older_than_what_was_in_use() {
    let (mut sim, mut metadata) = set_with(1, 3);
    let older = sim.clone();
    for _ in 0..2 {
        let mut edit = metadata.table().edit().unwrap();
        edit.set(extent(4096 * metadata.version(), 8), Mapping::Pending).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    }
    // Of what is newer the blocks are gone; copy 4 is of before.
    (0..4).for_each(|copy| sim.disks[0].set_block(at(copy, 1), [0; 4096]));
    (0..3).for_each(|block| {
        sim.disks[0].set_block(at(4, block), older.disks[0].block(at(4, block)));
    });
    let survey = Survey::take(&mut sim, crc).unwrap();
    let (id, header) = survey.newest().unwrap();
    let newest = header.raw().version;
    let stand = Stand {
        id,
        history: newest.history.get(),
        version: newest.version.get(),
        committed: newest.committed.get(),
    };
    let side = Side { stand, copies: CopySet::NONE };
    let outdated = Refusal::Outdated { found: metadata.version() - 2, durable: metadata.version() };
    assert_eq!(state_of(&mut sim, &survey, &side, crc).err(), Some(outdated));
}

#[test]
fn what_was_in_use_on_a_side_is_known_by_what_came_before_it_and_after_it_too() {
    let (mut sim, mut metadata) = set_with(1, 3);
    let mut states = vec![sim.clone()];
    for _ in 0..2 {
        let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        states.push(sim.clone());
    }
    let last = metadata.version();
    // Headers of the last two, without their blocks, each with what is known there; which is the side; copy 4 is of before.
    for (durable, side) in [([last - 1, last - 2], 1), ([last - 2, last - 1], 0)] {
        let mut sim = Sim::new(1, SECTORS, 8);
        for (n, durable) in durable.into_iter().enumerate() {
            let id = copy(ZERO, n as u8);
            let block = states[2 - n].disks[0].block(at(n, 0));
            let Ok(mut header) = Header::decode(&block, id, crc) else { panic!("no header") };
            // Of other blocks than the one that is there.
            header.raw_mut().shape.digest.set(7 + n as u64);
            sim.disks[0].set_block(at(n, 0), *header.encode(id, durable, crc).unwrap());
        }
        (0..2).for_each(|b| sim.disks[0].set_block(at(4, b), states[0].disks[0].block(at(4, b))));
        let survey = Survey::take(&mut sim, crc).unwrap();
        let (id, header) = survey.headers().nth(side).unwrap();
        let version = &header.raw().version;
        let stand = Stand {
            id,
            history: version.history.get(),
            version: header.version(),
            committed: version.committed.get(),
        };
        let side = Side { stand, copies: CopySet::NONE };
        let outdated = Refusal::Outdated { found: last - 2, durable: last - 1 };
        assert_eq!(state_of(&mut sim, &survey, &side, crc).err(), Some(outdated));
    }
}

#[test]
fn where_each_copy_is_a_side_of_its_own_the_chosen_one_is_written_last() {
    let (mut sim, _) = set_with(1, 3);
    let (survey, whole) = side_of(&mut sim);
    let each: Vec<Side> = (0..COPIES as u8)
        .map(|n| {
            let mut copies = CopySet::NONE;
            copies.add(copy(ZERO, n));
            Side { copies, ..whole }
        })
        .collect();
    assert_eq!(last(&survey, &each, &each[2]), each[2].copies);
    // Of one side of five, the others wait for three.
    assert_eq!(last(&survey, &[whole], &whole).count(), 3);
}

#[test]
fn only_places_are_given_away() {
    let table = |entries: &[Entry]| -> Table {
        let mut edit = Table::empty(10).unwrap().edit().unwrap();
        entries.iter().for_each(|e| edit.set(e.extent, e.mapping).unwrap());
        edit.finish(1, |_, _| Ok(0)).unwrap().table
    };
    let on = |start, to| Entry {
        extent: extent(start, 8),
        mapping: Mapping::Remapped { spare: ZERO, to: SpareSector(to) },
    };
    let plain = |start, mapping| Entry { extent: extent(start, 8), mapping };
    let mine = table(&[on(0, 10_000), on(64, 10_064), on(128, 10_128), on(192, 10_192)]);
    let other = table(&[
        plain(0, Mapping::Pending),
        plain(64, Mapping::Lost),
        on(128, 10_128),
        on(1000, 10_072),
        Entry::retired(ZERO, SpareSector(10_196), Sectors(2)),
    ]);
    let lost: Vec<Extent> = given_away(&mine, &other).unwrap().into_iter().collect();
    assert_eq!(lost, [extent(196, 2)]);
}

#[test]
fn where_no_header_is_whole_what_says_most_is_told() {
    let (whole, _) = set_with(1, 10);
    let mut v3 = [0; 4096];
    v3[..8].copy_from_slice(b"DMREMAP3");
    let mut newer = whole.clone();
    forge(&mut newer, copy(ZERO, 3), |header| header.raw_mut().features.incompatible.set(1 << 31));
    let newer = newer.disks[0].block(at(3, 0));
    let mut damaged = whole.disks[0].block(at(0, 0));
    damaged[4000] ^= 1;
    // What stands in copies 0 and 3, and which of them is told of.
    let cases: [([u8; 4096], [u8; 4096], u8); 4] =
        [(v3, damaged, 3), (damaged, newer, 3), (newer, damaged, 0), (damaged, damaged, 0)];
    for (case, (first, other, told)) in cases.into_iter().enumerate() {
        let mut sim = whole.clone();
        for (copy, block) in [first, [0; 4096], [7; 4096], other, [0; 4096]].into_iter().enumerate()
        {
            sim.disks[0].set_block(at(copy, 0), block);
        }
        let Some(Refusal::Damaged { id, error, .. }) = recover(&mut sim, crc).err() else {
            panic!("case {case}: not damaged")
        };
        assert_eq!(
            (id, error.is_newer()),
            (copy(ZERO, told), case == 1 || case == 2),
            "case {case}"
        );
    }
}
