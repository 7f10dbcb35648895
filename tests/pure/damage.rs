// SPDX-License-Identifier: GPL-2.0

//! Damaged copies: any four of five lose nothing, joined parts make a whole, and what cannot be put
//! together is refused for what it is.

mod sim;

use remap_pure::commit::{CommitError, Metadata, Persist, Relation};
use remap_pure::copies::CopyState;
use remap_pure::create::{check_create, create, inspect, Content, CreateError};
use remap_pure::format::block::encode_block;
use remap_pure::format::header::{Header, HeaderError};
use remap_pure::format::layout::{CopyId, Layout, MIN_SPARE, SLOTS};
use remap_pure::format::{CommitKind, MemberUuid};
use remap_pure::recovery::{recover, RebuildError, Refusal};
use remap_pure::store::{SpareSet, Store};
use remap_pure::units::{Sectors, SpareId, SpareSector};
use remap_pure::validate::{validate, Finding, Level, Severity, What};
use sim::*;

const FIRST: SpareId = SpareId(0);

/// A set on `disks` spares with a few table blocks of different versions.
fn some_set(disks: usize, seed: u64) -> (Sim, Metadata, Rng) {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(disks, SECTORS, seed);
    let mut metadata = create_on(&mut sim);
    for changes in [700, 1, 1, 3, 1] {
        commit(&mut sim, &mut metadata, changes, &mut rng);
    }
    assert_eq!(metadata.persist(), Persist::Enabled);
    (sim, metadata, rng)
}

/// Block `block` of a copy, 0 for its header.
fn at(copy: usize, block: u64) -> u64 {
    SLOTS[copy].0 / 8 + block
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Zeroed,
    Garbage,
    Bit,
    Unreadable,
}

fn damage(sim: &mut Sim, spare: usize, at: u64, how: Damage, rng: &mut Rng) {
    let disk = &mut sim.disks[spare];
    let mut bytes = disk.block(at);
    match how {
        Damage::Zeroed => bytes.fill(0),
        Damage::Garbage => bytes.iter_mut().for_each(|b| *b = rng.next() as u8),
        Damage::Bit => bytes[rng.below(4096) as usize] ^= 1 << rng.below(8),
        Damage::Unreadable => {
            disk.no_read.insert(at);
        }
    }
    disk.set_block(at, bytes);
}

const KINDS: [Damage; 4] = [Damage::Zeroed, Damage::Garbage, Damage::Bit, Damage::Unreadable];

fn assert_recovers(mut sim: Sim, metadata: &Metadata, why: &str) {
    let found = recover(&mut sim, crc).unwrap_or_else(|e| panic!("{why}: {e}"));
    assert!(found.header().same_content(metadata.header()), "{why}");
    assert!(found.table().iter().eq(metadata.table().iter()), "{why}");
    // A place that could not be read can be written.
    sim.disks.iter_mut().for_each(|disk| disk.no_read.clear());
    let rebuilt = found.rebuild(&mut sim, 1, 1).unwrap();
    assert_eq!(rebuilt.persist(), Persist::Enabled, "{why}");
    let again = recover(&mut sim, crc).unwrap();
    assert!(again.is_clean(), "{why}");
    assert!(again.table().iter().eq(metadata.table().iter()), "{why}");
}

#[test]
fn any_four_of_five_copies_may_be_damaged_in_any_block() {
    let (sim, metadata, mut rng) = some_set(1, 1);
    let blocks = u64::from(metadata.table().block_count());
    assert!(blocks >= 3);
    for spared in 0..5 {
        for block in 0..=blocks {
            for how in KINDS {
                let mut hurt = sim.clone();
                for copy in (0..5).filter(|&c| c != spared) {
                    damage(&mut hurt, 0, at(copy, block), how, &mut rng);
                }
                assert_recovers(hurt, &metadata, &format!("block {block}, {how:?}"));
            }
        }
    }
}

#[test]
fn what_a_newer_writer_lets_be_read_only_is_not_rebuilt() {
    let (mut sim, mut metadata, mut rng) = some_set(1, 9);
    let newer = |header: &mut remap_pure::format::header::Header| {
        header.raw_mut().features.read_only_compatible.set(1);
    };
    let begun = metadata.begin(CommitKind::Save, 1, None, newer).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    damage(&mut sim, 0, at(2, 1), Damage::Bit, &mut rng);
    let before = sim.disks[0].block(at(2, 1));
    let found = recover(&mut sim, crc).unwrap();
    assert!(!found.is_clean());
    let refused = Err(RebuildError::Commit(CommitError::ReadOnly));
    assert_eq!(found.rebuild(&mut sim, 1, 1).map(|_| ()), refused);
    assert!(sim.disks[0].block(at(2, 1)) == before);
    // It can be read all the same.
    assert_eq!(recover(&mut sim, crc).unwrap().into_metadata().version(), metadata.version());
}

#[test]
fn any_damage_of_four_copies_is_survived() {
    let (sim, metadata, mut rng) = some_set(1, 2);
    let blocks = u64::from(metadata.table().block_count());
    for round in 0..if cfg!(debug_assertions) { 100 } else { 3000 } {
        let mut hurt = sim.clone();
        let spared = rng.below(5) as usize;
        for copy in (0..5).filter(|&c| c != spared) {
            for _ in 0..1 + rng.below(4) {
                let how = KINDS[rng.below(4) as usize];
                damage(&mut hurt, 0, at(copy, rng.below(blocks + 1)), how, &mut rng);
            }
        }
        assert_recovers(hurt, &metadata, &format!("round {round}"));
    }
}

#[test]
fn parts_of_different_copies_are_joined() {
    let (sim, metadata, mut rng) = some_set(1, 3);
    let blocks = u64::from(metadata.table().block_count());
    // Every part is left in one copy only, each in another.
    for round in 0..50 {
        let mut hurt = sim.clone();
        for block in 0..=blocks {
            let owner = rng.below(5) as usize;
            for copy in (0..5).filter(|&c| c != owner) {
                damage(&mut hurt, 0, at(copy, block), KINDS[rng.below(4) as usize], &mut rng);
            }
        }
        assert_recovers(hurt, &metadata, &format!("round {round}"));
    }
}

#[test]
fn every_spare_but_one_copy_may_be_damaged() {
    let (sim, metadata, mut rng) = some_set(3, 4);
    for round in 0..40 {
        let mut hurt = sim.clone();
        let spared = (rng.below(3) as usize, rng.below(5) as usize);
        for spare in 0..3 {
            for copy in (0..5).filter(|&copy| (spare, copy) != spared) {
                // The header stays on other spares in one copy, so that they are known to be ours.
                let block = if copy == 0 { 1 } else { rng.below(3) };
                damage(&mut hurt, spare, at(copy, block), Damage::Garbage, &mut rng);
            }
        }
        assert_recovers(hurt, &metadata, &format!("round {round}"));
    }
}

#[test]
fn an_older_state_is_never_taken_for_one_that_was_in_use() {
    let (mut sim, mut metadata, mut rng) = some_set(1, 5);
    // Copy 4 stays behind.
    sim.disks[0].no_write.extend([at(4, 0), at(4, 1), at(4, 2), at(4, 3)]);
    for _ in 0..3 {
        commit(&mut sim, &mut metadata, 1, &mut rng);
    }
    let bad = CopyId { spare: FIRST, copy: 4 };
    assert_eq!(metadata.copies().state(bad), CopyState::Bad);
    let stand = sim.clone();
    assert_recovers(
        {
            let mut healed = sim.clone();
            healed.disks[0].no_write.clear();
            healed
        },
        &metadata,
        "with one copy behind",
    );
    // Then block 0 goes everywhere else: copy 4 alone is whole, and old.
    for copy in 0..4 {
        for block in 1..4 {
            damage(&mut sim, 0, at(copy, block), Damage::Garbage, &mut rng);
        }
    }
    match recover(&mut sim, crc).err() {
        Some(Refusal::Outdated { found, durable }) => assert!(found < durable),
        Some(Refusal::Incomplete { .. }) => {}
        other => panic!("{other:?}"),
    }
    drop(stand);
}

#[test]
fn all_copies_damaged_is_refused_with_what_is_left() {
    let (sim, metadata, mut rng) = some_set(1, 6);
    let mut hurt = sim.clone();
    (0..5).for_each(|copy| {
        let mut bytes = hurt.disks[0].block(at(copy, 0));
        bytes[0x900] ^= 1;
        hurt.disks[0].set_block(at(copy, 0), bytes);
    });
    match recover(&mut hurt, crc).err() {
        Some(Refusal::Damaged { error, highest, .. }) => {
            assert_eq!(error, HeaderError::Structure("table line"));
            assert_eq!(highest, metadata.version());
        }
        other => panic!("{other:?}"),
    }
    let mut hurt = sim.clone();
    (0..5).for_each(|copy| damage(&mut hurt, 0, at(copy, 2), Damage::Garbage, &mut rng));
    match recover(&mut hurt, crc).err() {
        Some(Refusal::Incomplete { block: Some(block), .. }) => assert_eq!(block.0, 1),
        other => panic!("{other:?}"),
    }
    let mut hurt = sim.clone();
    (0..5).for_each(|copy| damage(&mut hurt, 0, at(copy, 0), Damage::Unreadable, &mut rng));
    assert_eq!(recover(&mut hurt, crc).err(), Some(Refusal::Unreadable(FIRST)));
}

#[test]
fn nothing_is_created_over_what_is_left_of_a_set() {
    let (sim, _, mut rng) = some_set(1, 7);
    let all = SpareSet(1);
    let try_create = |sim: &mut Sim| {
        create(sim, &new_set(Layout::STANDARD), &[new_spare(0)], all, crc, |_| {}).err()
    };
    let exists = Some(CreateError::Exists(FIRST, UUID));
    assert_eq!(try_create(&mut sim.clone()), exists);
    // Headers gone, table blocks left.
    let mut hurt = sim.clone();
    (0..5).for_each(|copy| damage(&mut hurt, 0, at(copy, 0), Damage::Zeroed, &mut rng));
    assert_eq!(try_create(&mut hurt), Some(CreateError::Damaged(FIRST, SpareSector(8))));
    // Headers damaged.
    let mut hurt = sim.clone();
    (0..5).for_each(|copy| {
        let mut bytes = hurt.disks[0].block(at(copy, 0));
        bytes[0x150] ^= 1;
        hurt.disks[0].set_block(at(copy, 0), bytes);
    });
    assert!(matches!(try_create(&mut hurt), Some(CreateError::Damaged(FIRST, _))));
}

#[test]
fn a_spare_is_blank_only_if_all_slots_and_the_last_mebibyte_are() {
    let none = SpareSet::NONE;
    let blank = Sim::new(1, SECTORS, 1);
    assert_eq!(inspect(&mut blank.clone(), FIRST, crc), Ok(Content::Blank));
    assert_eq!(recover(&mut blank.clone(), crc).err(), Some(Refusal::Empty(FIRST)));
    // Btrfs, ends of slots, the last MiB.
    for sector in [128, 1016, 1024, 3064, 5112, 8192, 9208, SECTORS - 2048, SECTORS - 8] {
        let mut sim = blank.clone();
        let mut bytes = [0; 4096];
        bytes[4095] = 1;
        sim.disks[0].set_block(sector / 8, bytes);
        let check = check_create(&mut sim, &Layout::STANDARD, none, crc);
        assert_eq!(check, Err(CreateError::Foreign(FIRST, SpareSector(sector))));
        assert!(check_create(&mut sim, &Layout::STANDARD, SpareSet(1), crc).is_ok());
    }
    for sector in [3072, 5120, 9216, SECTORS - 2056] {
        let mut sim = blank.clone();
        sim.disks[0].set_block(sector / 8, [1; 4096]);
        assert_eq!(inspect(&mut sim, FIRST, crc), Ok(Content::Blank));
    }
    let mut sim = blank.clone();
    sim.disks[0].no_read.insert(70);
    let check = check_create(&mut sim, &Layout::STANDARD, none, crc);
    assert_eq!(check, Err(CreateError::Unreadable(FIRST, SpareSector(560))));
    let mut sim = blank.clone();
    let mut v3 = [0; 4096];
    v3[..8].copy_from_slice(b"DMREMAP3");
    sim.disks[0].set_block(0, v3);
    assert_eq!(recover(&mut sim, crc).err(), Some(Refusal::V3(FIRST)));
    let check = check_create(&mut sim, &Layout::STANDARD, SpareSet(1), crc);
    assert_eq!(check, Err(CreateError::V3(FIRST)));
    let mut small = Sim::new(1, MIN_SPARE.0 - 8, 1);
    let check = check_create(&mut small, &Layout::STANDARD, none, crc);
    assert_eq!(check, Err(CreateError::TooSmall(FIRST, Sectors(16376), MIN_SPARE)));
    let mut foreign = blank.clone();
    foreign.disks[0].set_block(0, [7; 4096]);
    assert_eq!(recover(&mut foreign, crc).err(), Some(Refusal::Foreign(FIRST)));
}

#[test]
fn a_set_used_apart_is_a_conflict_and_a_new_history_tells_ancestors() {
    let (sim, _, mut rng) = some_set(1, 8);
    let go_on = |rng: &mut Rng, history: u64| {
        let mut sim = sim.clone();
        let mut metadata = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
        let begin = |h: &mut Header| h.begin_history(history, SpareSet(1));
        let begun = metadata.begin(CommitKind::Members, 1, None, begin).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        commit(&mut sim, &mut metadata, 1, rng);
        (sim, metadata)
    };
    let (one, one_metadata) = go_on(&mut rng, 111);
    let (two, _) = go_on(&mut rng, 222);
    let put = |from: &Sim, to: &mut Sim, copies: std::ops::Range<usize>| {
        for copy in copies {
            for block in 0..127 {
                let bytes = from.disks[0].block(at(copy, block));
                to.disks[0].set_block(at(copy, block), bytes);
            }
        }
    };
    let mut mixed = one.clone();
    put(&two, &mut mixed, 3..5);
    assert!(matches!(recover(&mut mixed, crc).err(), Some(Refusal::Conflict(..))));
    // The state before both is an ancestor, whatever its history.
    let mut behind = one.clone();
    put(&sim, &mut behind, 2..5);
    assert_recovers(behind, &one_metadata, "three copies are ancestors");
    // In memory against on disk.
    let mut old = recover(&mut sim.clone(), crc).unwrap().into_metadata();
    let found = |sim: &Sim| recover(&mut sim.clone(), crc).unwrap();
    assert_eq!(old.relation(found(&one).header()), Relation::Descendant);
    assert_eq!(one_metadata.relation(found(&sim).header()), Relation::Ancestor);
    assert_eq!(one_metadata.relation(found(&two).header()), Relation::Conflict);
    assert_eq!(one_metadata.relation(found(&one).header()), Relation::Same);
    commit(&mut sim.clone(), &mut old, 1, &mut rng);
    assert_eq!(old.relation(found(&one).header()), Relation::Conflict);
}

#[test]
fn each_spare_carries_everything_and_a_missing_one_is_named() {
    let (sim, metadata, mut rng) = some_set(2, 9);
    let mut one = sim.with_only(SpareSet(1));
    assert_eq!(one.spares(), SpareSet(1));
    assert_eq!(
        recover(&mut one, crc).err(),
        Some(Refusal::Missing(SpareId(1), MemberUuid([2; 16])))
    );
    // A spare that was not ours is not overwritten.
    let mut other = sim.clone();
    (0..5).for_each(|copy| damage(&mut other, 1, at(copy, 0), Damage::Zeroed, &mut rng));
    assert!(matches!(recover(&mut other, crc).err(), Some(Refusal::NotMember(SpareId(1), _))));
    assert_recovers(sim, &metadata, "both are there");
}

#[test]
fn another_set_among_the_copies_is_refused() {
    let (mut sim, _, _) = some_set(1, 10);
    let mut other = Sim::new(1, SECTORS, 11);
    let mut set = new_set(Layout::STANDARD);
    set.uuid.0[3] ^= 1;
    create(&mut other, &set, &[new_spare(0)], SpareSet::NONE, crc, |_| {}).unwrap();
    sim.disks[0].set_block(at(2, 0), other.disks[0].block(at(2, 0)));
    let refusal = recover(&mut sim, crc).err();
    assert!(matches!(refusal, Some(Refusal::OtherSet(..))), "{refusal:?}");
}

#[test]
fn a_table_larger_than_the_slots_goes_on_in_the_extension_areas() {
    let layout = Layout::for_max_remaps(40_000).unwrap();
    assert!(layout.capacity() > 127);
    let mut sim = Sim::new(1, 262_144, 12);
    let mut spare = new_spare(0);
    spare.used_sectors = Sectors(262_144);
    let none = SpareSet::NONE;
    let mut metadata = create(&mut sim, &new_set(layout), &[spare], none, crc, |_| {}).unwrap();
    let mut edit = metadata.table().edit().unwrap();
    for i in 0..35_000 {
        edit.set(extent(i * 16, 8), remap_pure::entry::Mapping::Pending).unwrap();
    }
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    assert!(metadata.table().block_count() > 130);
    sim.settle();
    for copy in 0..4 {
        let at = layout.block(copy, remap_pure::entry::BlockIndex(129)).unwrap();
        sim.disks[0].set_block(at.0 / 8, [0; 4096]);
    }
    assert_recovers(sim, &metadata, "extension areas");
}

#[test]
fn a_block_left_of_something_that_did_not_come_about_is_not_taken() {
    let (mut sim, metadata, mut rng) = some_set(1, 13);
    // No copy is whole by itself, and the newest block 0 is one that no header speaks of.
    for copy in 0..5 {
        damage(&mut sim, 0, at(copy, 2 + copy as u64 % 2), Damage::Garbage, &mut rng);
    }
    let mut left = remap_pure::mem::Block::zeroed().unwrap();
    let index = remap_pure::entry::BlockIndex(0);
    encode_block(&mut left, &UUID, index, metadata.version(), &[], crc);
    sim.disks[0].set_block(at(3, 1), *left);
    assert_recovers(sim, &metadata, "a block too new");
}

#[test]
fn a_check_finds_what_activation_would_mend_or_refuse() {
    let (mut mended, mut refused) = (0, 0);
    for seed in 0..400 {
        let (mut sim, metadata, mut rng) = some_set(1 + (seed % 3) as usize, seed);
        let blocks = u64::from(metadata.table().block_count());
        let copies = 5 * sim.disks.len() as u64;
        // From nothing to most of what there is.
        let times = rng.below([1, 4, 16 * copies][(seed / 3 % 3) as usize]);
        for _ in 0..times {
            let (spare, copy) = (rng.below(copies) / 5, rng.below(5));
            let how = KINDS[rng.below(4) as usize];
            let which = at(copy as usize, rng.below(blocks + 1));
            damage(&mut sim, spare as usize, which, how, &mut rng);
        }
        // The changes of these histories are drawn without an allocator, so their places overlap.
        let mut found = |level| {
            let report = validate(&mut sim, level, crc).unwrap();
            let all = report.findings().iter().copied();
            all.filter(|f| !matches!(f.what, What::Place(..))).collect::<Vec<_>>()
        };
        let by_level = Level::ALL.map(&mut found);
        let findings = &by_level[3];
        let worst = findings.iter().map(Finding::severity).max().unwrap_or(Severity::Note);
        let text = || {
            let lines = findings.iter().map(|finding| format!("{finding}\n"));
            format!("seed {seed}:\n{}", lines.collect::<String>())
        };
        // A level has what those before it have. What basic says of the set, recovery says better.
        for (less, more) in by_level.iter().zip(&by_level[1..]) {
            let kept = |f: &Finding| f.severity() == Severity::Fatal || more.contains(f);
            assert!(less.iter().all(kept), "{}", text());
        }
        match recover(&mut sim, crc) {
            Ok(found) if found.is_clean() => {
                assert_eq!(worst, Severity::Note, "{}", text());
            }
            Ok(_) => {
                mended += 1;
                assert_eq!(worst, Severity::Damage, "{}", text());
            }
            Err(refusal) => {
                refused += 1;
                assert_eq!(worst, Severity::Fatal, "{refusal}, {}", text());
                assert!(text().contains(&refusal.to_string()), "{refusal}, {}", text());
            }
        }
    }
    assert!(mended > 50 && refused > 20, "{mended} mended, {refused} refused");
}
