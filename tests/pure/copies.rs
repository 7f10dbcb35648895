// SPDX-License-Identifier: GPL-2.0

//! The copies of a set that is in use, and its members: what is noted of them, what may be done then, and what
//! becomes of a change while another member fails.

mod history;
mod sim;

use history::{assert_all_good, entries};
use remap_pure::commit::{ChangeError, CommitError, Left, Metadata, Persist, Relation};
use remap_pure::copies::{Copies, CopyState};
use remap_pure::create::create;
use remap_pure::entry::Mapping;
use remap_pure::format::header::{Header, NewSet};
use remap_pure::format::layout::{CopyId, Layout, SLOTS};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, CommitKind, SetUuid};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::{recover, recover_without, RebuildError, Recovered, Refusal, UNSEEN};
use remap_pure::store::SpareSet;
use remap_pure::units::{Sectors, SpareId};
use sim::*;

/// A set with some table, all of it safe.
fn set_on(disks: usize) -> (Sim, Metadata) {
    let mut sim = Sim::new(disks, SECTORS, 7);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 50, &mut Rng::new(2));
    (sim, metadata)
}

fn save(sim: &mut Sim, metadata: &mut Metadata, update: impl FnOnce(&mut Header)) {
    let begun = metadata.begin(CommitKind::Save, 1, None, update).unwrap();
    begun.write_group_a(sim).unwrap().write_group_b(sim);
}

fn unchanged(sim: &Sim, before: &Sim) -> bool {
    let same = |(now, was): (&Disk, &Disk)| now.written().eq(was.written());
    sim.disks.iter().zip(&before.disks).all(same)
}

#[test]
fn what_a_newer_writer_forbids_to_change_is_left_alone() {
    let (mut sim, mut metadata) = set_on(2);
    save(&mut sim, &mut metadata, |h| h.raw_mut().features.read_only_compatible.set(1));
    sim.settle();
    sim.disks[0].set_block(SLOTS[2].0 / 8, [0; 4096]);
    let before = sim.clone();
    let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
    let read_only = CommitError::ReadOnly;
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {});
    assert_eq!(begun.err(), Some(read_only));
    assert_eq!(metadata.repair(&mut sim), Err(read_only));
    let back = metadata.take_back(&mut sim, 1, 5, |_| {});
    assert_eq!(back, Err(ChangeError::Commit(read_only)));
    assert!(unchanged(&sim, &before));
}

#[test]
fn a_copy_that_is_found_damaged_later_does_not_count_until_it_is_repaired() {
    let (mut sim, mut metadata) = set_on(1);
    sim.disks[0].set_block(SLOTS[3].0 / 8 + 1, [0; 4096]);
    metadata.copies_read(recover(&mut sim, crc).unwrap().copies());
    assert_eq!(metadata.copies().in_state(CopyState::Stale).count(), 1);
    assert_eq!(metadata.persist(), Persist::Degraded);
    assert_eq!(metadata.repair(&mut sim), Ok(1));
    assert_all_good(&mut sim, &metadata);
}

#[test]
fn copies_that_somebody_else_wrote_over_are_not_counted_upon() {
    let (mut sim, mut metadata) = set_on(1);
    assert!(!metadata.is_overwritten());
    metadata.copies_overwritten(0);
    assert!(metadata.is_overwritten());
    // What nobody has asked for leaves it there.
    let before = sim.clone();
    assert_eq!(metadata.mend(&mut sim), Ok(None));
    let gone = metadata.go_on_without(&mut sim, 1, SpareSet::one(SpareId(0)), 5, |_| {});
    assert_eq!(gone, Ok(SpareSet::NONE));
    assert!(unchanged(&sim, &before));
    assert_eq!(metadata.persist(), Persist::Failed);
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {});
    assert_eq!(begun.err(), Some(CommitError::NoCopyOn(SpareId(0))));
    assert_eq!(metadata.repair(&mut sim), Ok(5));
    assert!(!metadata.is_overwritten());
    assert_all_good(&mut sim, &metadata);
    metadata.copies_read(&Copies::default());
    assert_eq!(metadata.mend(&mut sim), Ok(Some(5)));
}

/// What a set in use finds when it reads its copies again.
fn read_again(sim: &mut Sim) -> Result<Recovered, Refusal> {
    recover_without(sim, &KNOWN_AWAY, crc)
}

/// Somebody else activates the set and commits to it.
fn go_on(sim: &mut Sim, commits: usize) -> Metadata {
    let mut theirs = recover(sim, crc).unwrap().into_metadata();
    (0..commits).for_each(|_| commit(sim, &mut theirs, 3, &mut Rng::new(9)));
    sim.settle();
    theirs
}

#[test]
fn a_spare_that_cannot_be_read_was_not_written_over_by_somebody_else() {
    let (mut sim, mut metadata) = set_on(2);
    let was = *metadata.copies();
    assert!(metadata.refused(&mut sim, &Refusal::Memory).is_err());
    sim.disks.iter_mut().for_each(|disk| disk.no_read.extend(0..SECTORS / 8));
    let why = read_again(&mut sim).err().expect("nothing can be read");
    assert!(matches!(why, Refusal::Unreadable(_)), "{why}");
    assert_eq!(metadata.refused(&mut sim, &why), Ok(Left::Own));
    sim.heal();
    sim.disks[1].dies_after = Some(0);
    let why = read_again(&mut sim).err().expect("a spare is dead");
    assert!(matches!(why, Refusal::Missing(SpareId(1), _)), "{why}");
    assert_eq!(metadata.refused(&mut sim, &why), Ok(Left::Own));
    assert_eq!((*metadata.copies(), metadata.persist()), (was, Persist::Enabled));
    // Who is dead is put away by the next commit, as if nobody had looked.
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let lost = begun.write_group_a(&mut sim).err().expect("a member is dead").lost;
    assert_eq!(metadata.go_on_without(&mut sim, 1, lost, 7, |_| {}), Ok(SpareSet(2)));
}

#[test]
fn damage_is_mended_unasked_and_what_somebody_else_has_written_is_not() {
    let (whole, _) = set_on(1);
    let mut foreign = Sim::new(1, SECTORS, 3);
    let set = NewSet { uuid: SetUuid([9; 16]), ..new_set(Layout::STANDARD) };
    create(&mut foreign, &set, &[new_spare(0)], SpareSet::NONE, crc, |_| {}).unwrap();
    let mut v3 = [0; 4096];
    v3[..8].copy_from_slice(b"DMREMAP3");
    let lose_blocks = |sim: &mut Sim| {
        SLOTS.iter().for_each(|at| sim.disks[0].set_block(at.0 / 8 + 1, [0; 4096]));
    };
    let lose_headers = |sim: &mut Sim, with: [u8; 4096]| {
        SLOTS.iter().for_each(|at| sim.disks[0].set_block(at.0 / 8, with));
    };
    let damage_headers = |sim: &mut Sim| {
        for at in SLOTS {
            let mut block = sim.disks[0].block(at.0 / 8);
            block[4000] ^= 1;
            sim.disks[0].set_block(at.0 / 8, block);
        }
    };
    type Change<'a> = &'a dyn Fn(&mut Sim);
    let changes: [(&str, Change<'_>, Left); 9] = [
        ("zeroes", &|sim| lose_headers(sim, [0; 4096]), Left::Own),
        ("no blocks", &lose_blocks, Left::Own),
        ("damaged headers", &damage_headers, Left::Own),
        ("something", &|sim| lose_headers(sim, [7; 4096]), Left::Unknown),
        ("version 3", &|sim| lose_headers(sim, v3), Left::Others),
        (
            "a copy of another set",
            &|sim| sim.disks[0].set_block(SLOTS[3].0 / 8, foreign.disks[0].block(SLOTS[3].0 / 8)),
            Left::Others,
        ),
        (
            "something newer without its blocks",
            &|sim| {
                go_on(sim, 2);
                lose_blocks(sim);
            },
            Left::Others,
        ),
        (
            "something newer, damaged",
            &|sim| {
                go_on(sim, 2);
                damage_headers(sim);
            },
            Left::Others,
        ),
        (
            "something in conflict with itself",
            &|sim| {
                let mut one = sim.clone();
                let mut theirs = recover(&mut one, crc).unwrap().into_metadata();
                commit(&mut one, &mut theirs, 5, &mut Rng::new(4));
                go_on(sim, 1);
                sim.disks[0].set_block(0, one.disks[0].block(0));
            },
            Left::Others,
        ),
    ];
    for (what, change, left) in changes {
        let mut sim = whole.clone();
        let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
        change(&mut sim);
        let why = read_again(&mut sim).err().unwrap_or_else(|| panic!("{what}: not refused"));
        assert_eq!(metadata.refused(&mut sim, &why), Ok(left), "{what}: {why}");
        assert_eq!(metadata.persist(), Persist::Failed, "{what}");
        let mended = metadata.mend(&mut sim).unwrap();
        assert_eq!(mended, (left == Left::Own).then_some(5), "{what}: {why}");
        assert!(mended.is_some() || metadata.repair(&mut sim) == Ok(5), "{what}");
        assert_all_good(&mut sim, &metadata);
        save(&mut sim, &mut metadata, |_| {});
        assert_all_good(&mut sim, &metadata);
    }
}

#[test]
fn a_copy_that_somebody_else_has_written_over_is_left_alone_while_the_others_go_on() {
    let (mut sim, mut metadata) = set_on(2);
    let theirs = [7; 4096];
    let [of_others, damaged] = [SLOTS[3].0 / 8, SLOTS[1].0 / 8];
    sim.disks[1].set_block(of_others, theirs);
    let mut block = sim.disks[1].block(damaged);
    block[4000] ^= 1;
    sim.disks[1].set_block(damaged, block);
    metadata.copies_read(read_again(&mut sim).unwrap().copies());
    metadata.look_for_others(&mut sim).unwrap();
    // What is damaged is mended, and commits go on.
    assert_eq!(metadata.mend(&mut sim), Ok(Some(1)));
    assert_eq!(metadata.mend(&mut sim), Ok(None));
    commit(&mut sim, &mut metadata, 3, &mut Rng::new(5));
    assert_eq!(metadata.persist(), Persist::Degraded);
    // Who has such a copy is put away nevertheless when it takes nothing any more.
    let mut dying = sim.clone();
    let mut alone = recover(&mut sim, crc).unwrap().into_metadata();
    alone.look_for_others(&mut dying).unwrap();
    dying.disks[1].dies_after = Some(0);
    let begun = alone.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let lost = begun.write_group_a(&mut dying).err().expect("a member is dead").lost;
    assert_eq!(alone.go_on_without(&mut dying, 1, lost, 7, |_| {}), Ok(SpareSet(2)));
    // One that answers is not, and keeps what it has.
    sim.disks[1].failing_flushes = 1;
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let lost = begun.write_group_a(&mut sim).err().expect("a flush fails").lost;
    assert_eq!(metadata.go_on_without(&mut sim, 1, lost, 7, |_| {}), Ok(SpareSet::NONE));
    save(&mut sim, &mut metadata, |_| {});
    assert_eq!((sim.disks[1].block(of_others), dying.disks[1].block(of_others)), (theirs, theirs));
    metadata.repair(&mut sim).unwrap();
    assert_all_good(&mut sim, &metadata);
}

#[test]
fn a_version_that_somebody_else_has_used_is_not_used_again() {
    let (mut sim, mut metadata) = set_on(1);
    let theirs = go_on(&mut sim, 3);
    let found = read_again(&mut sim).unwrap();
    assert_eq!(metadata.relation(found.header()), Relation::Descendant);
    assert_eq!(found.highest_of(SetUuid([9; 16])), 0);
    metadata.copies_overwritten(found.highest_of(metadata.header().uuid()));
    // What cannot be written keeps what they have left there, and is not taken for it.
    sim.disks[0].no_write.extend(SLOTS[4].0 / 8..SECTORS / 8);
    assert_eq!(metadata.repair(&mut sim), Ok(4));
    save(&mut sim, &mut metadata, |_| {});
    assert!(metadata.version() > theirs.version());
    let found = read_again(&mut sim).unwrap();
    assert!(entries(&found) == content(&metadata));
}

#[test]
fn no_version_is_used_again_that_others_may_have_used_where_nobody_has_looked() {
    let (mut sim, mut metadata) = set_on(1);
    let theirs = go_on(&mut sim, 3);
    metadata.look_for_others(&mut sim).unwrap();
    assert!(metadata.is_overwritten());
    metadata.repair(&mut sim).unwrap();
    save(&mut sim, &mut metadata, |_| {});
    assert_eq!(metadata.version(), theirs.version() + UNSEEN + 1);
}

#[test]
fn what_the_set_has_left_itself_is_not_of_others() {
    let (mut sim, mut metadata) = set_on(1);
    sim.disks[0].failing_flushes = 1;
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    assert!(begun.write_group_a(&mut sim).is_err());
    metadata.look_for_others(&mut sim).unwrap();
    assert!(metadata.in_doubt() && !metadata.is_overwritten());
    save(&mut sim, &mut metadata, |_| {});
    // The mark of a creation.
    let other = NewSet { uuid: SetUuid([9; 16]), ..new_set(Layout::STANDARD) };
    let mut foreign = Sim::new(1, SECTORS, 3);
    create(&mut foreign, &other, &[new_spare(0)], SpareSet::NONE, crc, |_| {}).unwrap();
    let foreign = recover(&mut foreign, crc).unwrap();
    let id = CopyId { spare: SpareId(0), copy: 3 };
    for (header, is_others) in [(metadata.header(), false), (foreign.header(), true)] {
        let mut sim = sim.clone();
        let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
        let mark = header.creation_mark(id, 1, crc).unwrap();
        sim.disks[0].set_block(SLOTS[3].0 / 8, *mark);
        metadata.look_for_others(&mut sim).unwrap();
        assert_eq!(metadata.is_overwritten(), is_others);
    }
}

#[test]
fn whatever_fails_while_a_descendant_is_taken_over_no_version_is_used_twice() {
    let (mut sim, metadata) = set_on(2);
    let (was, mut before) = (content(&metadata), sim.clone());
    let theirs = go_on(&mut sim, 3);
    // What cannot be read has to be superseded.
    sim.disks[0].no_read.insert(SLOTS[4].0 / 8);
    let mut refused = 0;
    for (dies, flushes) in (1..60).map(|n| (Some(n), 0)).chain((1..64).map(|bits| (None, bits))) {
        let mut sim = sim.clone();
        let found = read_again(&mut sim).unwrap();
        assert_eq!(found.header().version(), theirs.version());
        let highest = found.highest_of(metadata.header().uuid()).saturating_add(UNSEEN);
        sim.disks[0].dies_after = dies;
        sim.disks.iter_mut().for_each(|disk| disk.failing_flushes = flushes);
        if found.rebuild(&mut sim, 1, 7).is_ok() {
            continue;
        }
        refused += 1;
        sim.heal();
        sim.disks[0].dies_after = None;
        let tried = recover(&mut sim, crc).unwrap().highest();
        assert!(tried <= highest, "{tried} > {highest}");
        // The set goes on as it was in memory, because a person says so.
        let mut metadata = recover(&mut before, crc).unwrap().into_metadata();
        metadata.copies_overwritten(highest);
        metadata.repair(&mut sim).unwrap();
        save(&mut sim, &mut metadata, |_| {});
        assert!(metadata.version() > tried);
        let found = recover(&mut sim, crc).unwrap();
        assert!(entries(&found) == was);
    }
    assert!(refused > 0);
}

#[test]
fn the_last_version_is_not_used_up() {
    let (mut sim, mut metadata) = set_on(1);
    save(&mut sim, &mut metadata, |_| {});
    let last = |header: &mut Header| header.raw_mut().version.version.set(u64::MAX - 2);
    let mut header = metadata.header().try_clone().unwrap();
    last(&mut header);
    let table = metadata.table().clone();
    let none = remap_pure::copies::CopySet::NONE;
    let mut metadata = remap_pure::rewrite::rewrite(&mut sim, header, &table, none, crc).unwrap();
    save(&mut sim, &mut metadata, |_| {});
    assert_eq!(metadata.version(), u64::MAX - 1);
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {});
    assert_eq!(begun.err(), Some(CommitError::Versions));
    let seen = remap_pure::rewrite::Seen::default();
    let mut header = metadata.header().try_clone().unwrap();
    let above = remap_pure::rewrite::supersede(&mut header, &seen, [].into_iter(), 7, 1);
    assert_eq!(above, Err(CommitError::Versions));
}

#[test]
fn one_version_of_two_contents_is_a_conflict_and_another_set_is_none() {
    let (sim, _) = set_on(1);
    let with = |start: u64, uuid: Option<SetUuid>| {
        let mut sim = sim.clone();
        let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
        let mut edit = metadata.table().edit().unwrap();
        edit.set(extent(start, 8), Mapping::Pending).unwrap();
        let update = |h: &mut Header| {
            if let Some(uuid) = uuid {
                h.raw_mut().set.uuid = uuid.0;
                h.begin_history(99, SpareSet::NONE);
            }
        };
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), update).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        metadata
    };
    let (one, two) = (with(64, None), with(128, None));
    assert_eq!(one.version(), two.version());
    assert_eq!(one.relation(two.header()), Relation::Conflict);
    let other = with(64, Some(SetUuid([9; 16])));
    assert_eq!(one.relation(other.header()), Relation::OtherSet);
}

/// Three members, of which the last has been away and is there again.
fn with_one_away() -> (Sim, Metadata) {
    let (mut sim, mut metadata) = set_on(3);
    sim.disks[2].dies_after = Some(0);
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let lost = begun.write_group_a(&mut sim).err().expect("a member is dead").lost;
    assert_eq!(metadata.go_on_without(&mut sim, 1, lost, 7, |_| {}), Ok(SpareSet(4)));
    commit(&mut sim, &mut metadata, 3, &mut Rng::new(1));
    sim.disks[2].dies_after = None;
    (sim, metadata)
}

#[test]
fn a_member_that_dies_while_another_comes_back_is_put_away_with_it() {
    let (mut sim, mut metadata) = with_one_away();
    let holds = content(&metadata);
    sim.disks[1].dies_after = Some(0);
    assert_eq!(metadata.take_back(&mut sim, 1, 8, |_| {}), Ok(SpareSet(4)));
    assert_eq!((metadata.active(), metadata.away()), (SpareSet(5), SpareSet(2)));
    assert_eq!(metadata.persist(), Persist::Degraded);
    let found = recover_without(&mut sim.with_only(SpareSet(5)), &KNOWN_AWAY, crc).unwrap();
    assert!(entries(&found) == holds && content(&metadata) == holds);
}

#[test]
fn who_is_back_is_told_by_one_commit_and_by_two_where_a_member_has_no_copy_of_group_b() {
    for (copies, commits) in [(5, 1), (1, 2)] {
        let (mut sim, mut metadata) = with_one_away();
        sim.disks[1].no_write.extend(SLOTS[copies..].iter().map(|slot| slot.0 / 8));
        save(&mut sim, &mut metadata, |_| {});
        let before = metadata.version();
        assert_eq!(metadata.take_back(&mut sim, 1, 8, |_| {}), Ok(SpareSet(4)));
        assert_eq!(metadata.version(), before + commits, "with {copies} good copies");
    }
}

#[test]
fn who_takes_no_writes_stays_away() {
    let (mut sim, mut metadata) = with_one_away();
    sim.disks[2].no_write.extend(0..SECTORS / 8);
    assert_eq!(metadata.take_back(&mut sim, 1, 8, |_| {}), Ok(SpareSet::NONE));
    assert_eq!((metadata.active(), metadata.away()), (SpareSet(3), SpareSet(4)));
    assert!(!metadata.in_doubt());
    assert!(metadata.copies().present().on(SpareId(2)).is_empty());
}

#[test]
fn a_device_that_was_another_member_under_that_number_stays_away() {
    let (mut sim, mut metadata) = with_one_away();
    let mut other = Sim::new(3, SECTORS, 7);
    let mut spares: Vec<_> = (0..3).map(new_spare).collect();
    spares[2].uuid = [9; 16];
    let set = new_set(Layout::STANDARD);
    create(&mut other, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    sim.disks[2] = other.disks[2].clone();
    let before = sim.clone();
    let refused = metadata.take_back(&mut sim, 1, 8, |_| {});
    assert!(matches!(refused, Err(ChangeError::Foreign(_))), "{refused:?}");
    assert!(unchanged(&sim, &before));
}

#[test]
fn nobody_is_put_away_and_nothing_written_where_nobody_would_be_left() {
    let (mut sim, mut metadata) = set_on(2);
    sim.disks.iter_mut().for_each(|disk| disk.dies_after = Some(0));
    let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
    let lost = begun.write_group_a(&mut sim).err().expect("all are dead").lost;
    assert_eq!(lost, SpareSet(3));
    sim.disks.iter_mut().for_each(|disk| disk.dies_after = None);
    let before = sim.clone();
    assert_eq!(metadata.go_on_without(&mut sim, 1, lost, 7, |_| {}), Ok(SpareSet::NONE));
    assert_eq!(metadata.active(), SpareSet(3));
    assert!(unchanged(&sim, &before));
}

#[test]
fn whoever_dies_while_a_set_is_rebuilt_nothing_acknowledged_is_lost() {
    let (sim, metadata) = set_on(2);
    let was = content(&metadata);
    let mut rng = Rng::new(4);
    let mut whole = sim.clone();
    let mut begun = recover(&mut whole, crc).unwrap().into_metadata();
    let mut edit = begun.table().edit().unwrap();
    edit.set(extent(77 * 64, 8), Mapping::Pending).unwrap();
    drop(begun.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap().write_group_a(&mut whole));
    // Of a commit there are traces that it has to supersede.
    let cut = (0..whole.steps()).flat_map(|step| [step; 8]).map(|step| whole.cut(step, &mut rng));
    let cut = cut
        .into_iter()
        .find(|cut| {
            let found = recover(&mut cut.clone(), crc).unwrap();
            found.highest() > found.header().version()
        })
        .expect("traces of a commit");
    let (mut refused, mut alone) = (0, 0);
    for (dies, flushes) in (1..60).map(|n| (Some(n), 0)).chain((1..32).map(|bits| (None, bits))) {
        let mut sim = cut.clone();
        sim.disks[1].dies_after = dies;
        sim.disks.iter_mut().for_each(|disk| disk.failing_flushes = flushes);
        match recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 7) {
            Ok(metadata) => {
                assert!(content(&metadata) == was && !metadata.in_doubt());
                alone += usize::from(metadata.active() == SpareSet(1));
            }
            Err(RebuildError::InDoubt | RebuildError::NoCopy | RebuildError::Commit(_)) => {
                refused += 1;
            }
        }
        sim.heal();
        sim.disks[1].dies_after = None;
        let again = recover(&mut sim, crc).unwrap_or_else(|e| panic!("{dies:?}, {flushes}: {e}"));
        assert!(entries(&again) == was);
        let metadata = again.rebuild(&mut sim, 1, 8).unwrap();
        assert_all_good(&mut sim, &metadata);
    }
    assert!(alone > 0 && refused > 0, "{alone} went on alone, {refused} were refused");
}

#[test]
fn a_replacement_that_is_given_up_is_not_taken_for_main() {
    let (_, metadata) = set_on(1);
    let print = |sectors: u64| {
        let mut print = RawFingerprint::unknown();
        print.sectors.set(sectors);
        print
    };
    let mut header = metadata.header().try_clone().unwrap();
    header.raw_mut().main = print(100);
    header.begin_replacement(Attempt([3; 16]));
    header.raw_mut().new_main = print(200);
    assert!(header.is_replacing());
    header.abort_replacement(print(100));
    let raw = header.raw();
    let sectors = [&raw.main, &raw.old_main, &raw.new_main].map(|p| Sectors(p.sectors.get()));
    assert_eq!(sectors, [Sectors(100), Sectors(200), Sectors(0)]);
    assert!(!header.is_replacing() && header.attempt() == Attempt::UNKNOWN);
}
