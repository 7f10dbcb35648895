// SPDX-License-Identifier: GPL-2.0

//! Members that join and leave, with the power cut at any point: the set is what it was, or what it
//! becomes, and who was told that it has left is never taken for a member again.

mod history;
mod sim;

use history::{entries, until_enough};
use remap_pure::commit::{ChangeError, CommitError, JoinError, Metadata, Persist, Succession};
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::{Header, NewSpare};
use remap_pure::format::layout::{CopyId, Layout, COPIES};
use remap_pure::format::{CommitKind, MemberUuid, SpareState};
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover, recover_without, Found, Refusal, Survey};
use remap_pure::shadow::{without_retired, Shadow};
use remap_pure::store::SpareSet;
use remap_pure::table::{Edit, Table};
use remap_pure::units::{MainSector, Sectors, SpareId, SpareSector};
use sim::*;

const ALL: Sectors = Sectors(u64::MAX);

/// A set on the first `members` disks of `disks`, with some history.
fn set_on(members: u8, disks: usize, seed: u64) -> (Sim, Metadata, Rng) {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(disks, SECTORS, rng.next() >> 8);
    let all = sim.here;
    sim.here = SpareSet((1 << members) - 1);
    let spares: Vec<_> = (0..usize::from(members)).map(new_spare).collect();
    let set = new_set(Layout::STANDARD);
    let mut metadata = create(&mut sim, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    for changes in [3, 300, 2] {
        commit(&mut sim, &mut metadata, changes, &mut rng);
    }
    sim.here = all;
    sim.settle();
    (sim, metadata, rng)
}

/// As a set, what an edit of `table` makes of it.
fn table_of(edit: Edit) -> Vec<Entry> {
    edit.finish(u64::MAX - 1, |_, _| Ok(0)).unwrap().table.iter().collect()
}

/// Copies all that lives on `from`, in pieces; some of it cannot be read.
fn copy_all(table: &Table, from: SpareId, to: SpareId, rng: &mut Rng) -> Shadow {
    let mut shadow = Shadow::new(from, table.capacity_blocks()).unwrap();
    let mut at = MainSector(0);
    // Behind what else is there, each piece at a place of its own.
    let mut place = SpareSector(9216);
    while let Some((extent, _)) = shadow.next(table, at, Sectors(1 + rng.below(64))) {
        let there = (!rng.chance(5)).then_some((to, place));
        shadow.copied(extent, there).unwrap();
        place = place + extent.len;
        at = extent.end();
    }
    shadow
}

/// A change of the members of a set, as the target makes one.
struct Change {
    joins: Option<(SpareId, NewSpare)>,
    leaves: Option<SpareId>,
}

impl Change {
    fn edit(&self, table: &Table, rng: &mut Rng) -> Edit {
        match (&self.joins, self.leaves) {
            (Some((to, _)), Some(from)) => {
                let shadow = copy_all(table, from, *to, rng);
                shadow.edit(table).unwrap().unwrap()
            }
            (None, Some(from)) => {
                let mut edit = without_retired(table, from).unwrap();
                let other = SpareId(1 - from.0);
                let lives = |e: &Entry| e.mapping.place().is_some_and(|(spare, _)| spare == from);
                let mut place = SpareSector(20480);
                for Entry { extent, .. } in table.iter().filter(lives) {
                    edit.set(extent, Mapping::Remapped { spare: other, to: place }).unwrap();
                    place = place + extent.len;
                }
                edit
            }
            _ => table.edit().unwrap(),
        }
    }

    fn run(
        &self,
        sim: &mut Sim,
        metadata: &mut Metadata,
        edit: Edit,
        history: u64,
    ) -> Result<usize, String> {
        if let Some((id, _)) = self.joins {
            metadata.may_join(sim, id, false).map_err(|e| e.to_string())?;
            metadata.lay_ground(sim, id, history).map_err(|e| e.to_string())?;
        }
        let joins = self.joins.as_ref().map(|(id, spare)| (*id, spare));
        let change = Succession { joins, leaves: self.leaves, history };
        let done = metadata.succeed(sim, 5, change, Some(edit), |_| {});
        done.map(|done| done.told).map_err(|e| e.to_string())
    }

    /// The members before and after, of a set of so many.
    fn sides(&self, members: u8) -> [SpareSet; 2] {
        let old = SpareSet((1 << members) - 1);
        let joins = self.joins.as_ref().map_or(SpareSet::NONE, |(id, _)| SpareSet::one(*id));
        let leaves = self.leaves.map_or(SpareSet::NONE, SpareSet::one);
        [old, old.with(joins).without(leaves)]
    }
}

/// The changes that are tried with a set of `members`.
fn some_change_of(members: u8, rng: &mut Rng) -> Change {
    let new = SpareId(members);
    let joins = Some((new, new_spare(usize::from(members))));
    let leaves = Some(SpareId(rng.below(u64::from(members)) as u8));
    match rng.below(4) {
        0 => Change { joins, leaves: None },
        1 if members == 2 => Change { joins: None, leaves },
        _ => Change { joins, leaves },
    }
}

/// What one finds in `cut` with the devices of `line`, used for a commit if it can be.
fn use_it(cut: &Sim, line: SpareSet, history: u64) -> Result<(Sim, Vec<Entry>, u64), Refusal> {
    let mut sim = cut.with_only(line);
    let found = recover(&mut sim, crc)?;
    let has = entries(&found);
    let mut metadata = found.rebuild(&mut sim, 7, history).unwrap();
    assert_eq!((metadata.persist(), metadata.active()), (Persist::Enabled, line));
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(MAIN - 64, 8), Mapping::Pending).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 8, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
    Ok((sim, has, metadata.version()))
}

fn cut_anywhere(seed: u64) -> u64 {
    let mut rng = Rng::new(seed ^ 0x5ccd);
    let members = 1 + rng.below(2) as u8;
    let (mut sim, mut metadata, mut rng) = set_on(members, usize::from(members) + 1, rng.next());
    let change = some_change_of(members, &mut rng);
    let [old, new] = change.sides(members);
    let edit = change.edit(metadata.table(), &mut rng);
    let before = content(&metadata);
    let told = change.run(&mut sim, &mut metadata, edit, rng.next()).unwrap();
    let after = content(&metadata);
    assert_eq!(told, if change.leaves.is_some() { 5 } else { 0 });
    assert_eq!((metadata.persist(), metadata.active()), (Persist::Enabled, new));
    let mut seen = 0;
    let end = sim.steps();
    for step in (0..12).map(|_| rng.below(end as u64) as usize).chain([end]).collect::<Vec<_>>() {
        let cut = sim.cut(step, &mut rng);
        let sides = [(old, &before), (new, &after)];
        let used = sides.map(|(line, holds)| match use_it(&cut, line, rng.next()) {
            Ok((sim, has, version)) => {
                assert_eq!(has, *holds, "step {step}: {line:?}");
                Some((sim, version))
            }
            Err(refusal) => {
                let fair = matches!(
                    refusal,
                    Refusal::Left(..)
                        | Refusal::Missing(..)
                        | Refusal::NotMember(..)
                        | Refusal::CreationCutShort(..)
                        | Refusal::Empty(_)
                        | Refusal::Damaged { .. }
                        | Refusal::Incomplete { .. }
                        | Refusal::Outdated { .. }
                );
                assert!(fair, "step {step}: {line:?}: {refusal}");
                None
            }
        });
        assert!(used.iter().any(Option::is_some), "step {step}: nothing can be used");
        if step == sim.steps() {
            // Who has left is refused by every line.
            assert!(used[0].is_none() && used[1].is_some());
            if let Some(left) = change.leaves {
                let alone = use_it(&cut, SpareSet::one(left), 1).err();
                assert!(matches!(alone, Some(Refusal::Left(id, _)) if id == left), "{alone:?}");
            }
        }
        // Whichever went on: given together, what it did since is there, or it is refused.
        for (side, (apart, _)) in
            used.iter().enumerate().filter_map(|(i, u)| Some((i, u.as_ref()?)))
        {
            let mut all = apart.with_only(old.with(new));
            if let Ok(found) = recover_without(&mut all, &Without::default(), crc) {
                let kept = found.table().lookup(MainSector(MAIN - 64), Sectors(8));
                assert!(kept.is_some(), "step {step}: what side {side} did is gone");
            }
        }
        seen += 50;
    }
    seen
}

#[test]
fn the_set_is_the_old_one_or_the_new_one_wherever_the_power_is_cut() {
    until_enough(cut_anywhere);
}

/// The new device fails at some point: the set goes on as it was, and the device can be tried again.
fn fails_half_way(seed: u64) -> u64 {
    let (sim, metadata, rng) = set_on(1, 2, seed);
    drop(metadata);
    let mut seen = 0;
    for after in 1..40 {
        let (mut sim, mut rng) = (sim.clone(), rng.clone());
        sim.here = SpareSet(1);
        let mut metadata = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
        sim.here = SpareSet(3);
        let before = content(&metadata);
        sim.disks[1].dies_after = Some(after + rng.below(8));
        let change = Change { joins: Some((SpareId(1), new_spare(1))), leaves: Some(SpareId(0)) };
        let edit = change.edit(metadata.table(), &mut rng);
        if change.run(&mut sim, &mut metadata, edit, rng.next()).is_ok() {
            assert!(metadata.active() == SpareSet(2));
            continue;
        }
        seen += 100;
        assert_eq!((content(&metadata), metadata.active()), (before.clone(), SpareSet(1)));
        if metadata.in_doubt() {
            let again = metadata.begin(CommitKind::Recover, 2, None, |_| {}).unwrap();
            again.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        }
        assert_eq!(metadata.persist(), Persist::Enabled);
        let (_, has, _) = use_it(&sim, SpareSet(1), 3).unwrap();
        assert_eq!(has, before);

        // Back again, it may be given up, or it is seen that it was not told.
        sim.disks[1].dies_after = None;
        let edit = change.edit(metadata.table(), &mut rng);
        match change.run(&mut sim, &mut metadata, edit, rng.next()) {
            Ok(told) => assert_eq!((told, metadata.active()), (5, SpareSet(2))),
            Err(e) => assert!(e.contains("damaged") || e.contains("not blank"), "{e}"),
        }
    }
    seen
}

#[test]
fn a_new_member_that_fails_half_way_changes_nothing() {
    until_enough(fails_half_way);
}

#[test]
fn only_what_is_blank_or_past_may_join() {
    let (mut sim, mut metadata, _) = set_on(1, 3, 1);
    let (one, two) = (SpareId(1), SpareId(2));
    assert_eq!(metadata.may_join(&mut sim, one, false), Ok(()));
    sim.disks[1].set_block(4, [7; 4096]);
    let foreign = JoinError::Foreign(SpareSector(32));
    assert_eq!(metadata.may_join(&mut sim, one, false), Err(foreign));
    assert_eq!(metadata.may_join(&mut sim, one, true), Ok(()));
    sim.disks[1].no_read.insert(128);
    assert!(matches!(metadata.may_join(&mut sim, one, true), Err(JoinError::Unreadable(_))));
    sim.disks[1].no_read.clear();

    // Another set.
    let mut other = Sim::new(1, SECTORS, 9);
    let mut set = new_set(Layout::STANDARD);
    set.uuid.0[0] ^= 1;
    create(&mut other, &set, &[new_spare(7)], SpareSet::NONE, crc, |_| {}).unwrap();
    sim.disks[1] = other.disks[0].clone();
    let refused = Err(JoinError::OtherSet(set.uuid));
    assert_eq!(metadata.may_join(&mut sim, one, true), refused);
    // One whose header is damaged, and the mark of its creation.
    let whole = sim.disks[1].block(128);
    let mut block = whole;
    block[4000] ^= 1;
    sim.disks[1] = Sim::new(1, SECTORS, 8).disks[0].clone();
    sim.disks[1].set_block(128, block);
    assert_eq!(metadata.may_join(&mut sim, one, true), refused);
    let header = recover(&mut other, crc).unwrap();
    let mark =
        header.header().creation_mark(CopyId { spare: SpareId(0), copy: 1 }, 1, crc).unwrap();
    sim.disks[1] = Sim::new(1, SECTORS, 8).disks[0].clone();
    sim.disks[1].set_block(128, *mark);
    assert_eq!(metadata.may_join(&mut sim, one, true), refused);

    // This one, as it never was here.
    set.uuid = new_set(Layout::STANDARD).uuid;
    set.history ^= 1;
    let mut other = Sim::new(1, SECTORS, 9);
    create(&mut other, &set, &[new_spare(7)], SpareSet::NONE, crc, |_| {}).unwrap();
    sim.disks[1] = other.disks[0].clone();
    let refused = Err(JoinError::Apart(MemberUuid(new_spare(7).uuid)));
    assert_eq!(metadata.may_join(&mut sim, one, true), refused);

    // A member, and a copy of one.
    let own = MemberUuid(new_spare(0).uuid);
    sim.disks[1] = sim.disks[0].clone();
    assert_eq!(metadata.may_join(&mut sim, one, true), Err(JoinError::Member(own)));

    // One that left may come again, whatever its number was.
    sim.disks[1] = Sim::new(1, SECTORS, 8).disks[0].clone();
    let change = Change { joins: Some((one, new_spare(1))), leaves: Some(SpareId(0)) };
    let edit = change.edit(metadata.table(), &mut Rng::new(4));
    change.run(&mut sim, &mut metadata, edit, 77).unwrap();
    assert_eq!(metadata.header().spare_state(SpareId(0)), SpareState::Left);
    assert_eq!(metadata.number_for_new(SpareSet::NONE), Some(two));
    assert_eq!(metadata.may_join(&mut sim, SpareId(0), false), Ok(()));
    sim.disks[2] = sim.disks[0].clone();
    assert_eq!(metadata.may_join(&mut sim, two, false), Ok(()));
    // Unless something else has been put there since, which covers but one of the five places.
    for copy in 0..COPIES as u8 {
        let at = Layout::header(copy);
        let left = sim.disks[2].block(at.0 / 8);
        sim.disks[2].set_block(at.0 / 8, [7; 4096]);
        let refused = Err(JoinError::Foreign(at));
        assert_eq!(metadata.may_join(&mut sim, two, false), refused);
        assert_eq!(metadata.may_join(&mut sim, two, true), Ok(()));
        sim.disks[2].set_block(at.0 / 8, left);
    }
    // The same behind what is left of an attempt to have it join.
    let left = std::mem::replace(&mut sim.disks[2], Sim::new(1, SECTORS, 8).disks[0].clone());
    let mark = metadata.header().creation_mark(CopyId { spare: two, copy: 1 }, 5, crc).unwrap();
    sim.disks[2].set_block(128, *mark);
    assert_eq!(metadata.may_join(&mut sim, two, false), Ok(()));
    sim.disks[2].set_block(4, [7; 4096]);
    let refused = Err(JoinError::Foreign(SpareSector(32)));
    assert_eq!(metadata.may_join(&mut sim, two, false), refused);
    assert_eq!(metadata.may_join(&mut sim, two, true), Ok(()));
    sim.disks[2] = left;
    let again = Change { joins: Some((two, new_spare(2))), leaves: Some(one) };
    let edit = again.edit(metadata.table(), &mut Rng::new(5));
    assert_eq!(again.run(&mut sim, &mut metadata, edit, 78), Ok(5));
    assert_eq!((metadata.active(), metadata.persist()), (SpareSet(4), Persist::Enabled));
    // A damaged header of ours says too little.
    let mut block = sim.disks[1].block(128);
    block[300] ^= 1;
    sim.disks[1].set_block(128, block);
    assert!(matches!(metadata.may_join(&mut sim, one, false), Err(JoinError::Damaged(_))));
}

#[test]
fn each_reason_why_a_device_may_not_join_is_told() {
    let (sim, metadata, _) = set_on(1, 2, 1);
    let (one, first) = (SpareId(1), SpareSector(0));
    let refused = |prepare: &dyn Fn(&mut Sim)| {
        let (mut sim, found) = (sim.clone(), recover(&mut sim.with_only(SpareSet(1)), crc));
        prepare(&mut sim);
        found.unwrap().into_metadata().may_join(&mut sim, one, true).err()
    };
    let needed = Sectors(16384);
    assert_eq!(
        refused(&|sim| sim.disks[1].shrink(9208)),
        Some(JoinError::TooSmall(Sectors(9208), needed))
    );
    let v3 = |sim: &mut Sim| sim.disks[1].set_block(0, bytes_of(b"DMREMAP3"));
    assert_eq!(refused(&v3), Some(JoinError::V3));

    // Another set: the mark of its creation, the same with one of ours behind it, all of it, a table block alone.
    let mut other = Sim::new(2, SECTORS, 9);
    let mut set = new_set(Layout::STANDARD);
    set.uuid.0[0] ^= 1;
    let spares = [new_spare(7), new_spare(8)];
    let mut made = create(&mut other, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    let mark =
        |header: &Header, copy| *header.creation_mark(CopyId { spare: one, copy }, 5, crc).unwrap();
    let of_other = Some(JoinError::OtherSet(set.uuid));
    let theirs = |sim: &mut Sim| sim.disks[1].set_block(0, mark(made.header(), 0));
    assert_eq!(refused(&theirs), of_other);
    let both = |sim: &mut Sim| {
        theirs(sim);
        sim.disks[1].set_block(128, mark(metadata.header(), 1));
    };
    assert_eq!(refused(&both), of_other);
    assert_eq!(refused(&|sim| sim.disks[1] = other.disks[1].clone()), of_other);
    let mut edit = made.table().edit().unwrap();
    edit.set(extent(0, 8), Mapping::Pending).unwrap();
    let begun = made.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(&mut other).unwrap().write_group_b(&mut other);
    assert_eq!(refused(&|sim| sim.disks[1].set_block(1, other.disks[1].block(1))), of_other);

    // What can be read once, and then not again, as the headers are looked at: of this spare, of another.
    let unreadable = Some(JoinError::Unreadable(first));
    let fades = |times| {
        move |sim: &mut Sim| {
            sim.disks[1] = sim.disks[0].clone();
            sim.disks[1].fading.insert(0, times);
        }
    };
    assert_eq!(refused(&fades(1)), unreadable);
    assert_eq!(refused(&fades(2)), unreadable);
    // It says who it is, and the rest is damaged.
    let damaged = |sim: &mut Sim| {
        let mut bytes = sim.disks[0].block(0);
        bytes[0x900] ^= 1;
        sim.disks[1].set_block(0, bytes);
    };
    assert_eq!(refused(&damaged), Some(JoinError::Damaged(first)));
}

/// A block that starts like this.
fn bytes_of(text: &[u8]) -> [u8; 4096] {
    let mut bytes = [0; 4096];
    bytes[..text.len()].copy_from_slice(text);
    bytes
}

#[test]
fn numbers_of_those_who_left_are_used_again_when_there_are_no_others() {
    let (mut sim, mut metadata, mut rng) = set_on(1, 8, 3);
    let mut current = SpareId(0);
    for turn in 0..20u8 {
        let next = metadata.number_for_new(SpareSet::NONE).unwrap();
        let expected = if turn < 7 { turn + 1 } else { (turn + 1) % 8 };
        assert_eq!(next.0, expected);
        let mut spare = new_spare(0);
        spare.uuid = [100 + turn; 16];
        let change = Change { joins: Some((next, spare)), leaves: Some(current) };
        let edit = change.edit(metadata.table(), &mut rng);
        change.run(&mut sim, &mut metadata, edit, rng.next()).unwrap();
        assert_eq!(metadata.active(), SpareSet::one(next));
        let (_, has, _) = use_it(&sim, SpareSet::one(next), 1).unwrap();
        assert_eq!(has, content(&metadata));
        current = next;
    }
    let all: u8 = 0xff;
    assert_eq!(metadata.number_for_new(SpareSet(all)), None);
}

#[test]
fn a_dead_member_is_succeeded_without_being_told() {
    let (mut sim, mut metadata, mut rng) = set_on(2, 3, 6);
    sim.disks[0].dies_after = Some(0);
    let asked = sim.disks[0].asked;
    let change = Change { joins: Some((SpareId(2), new_spare(2))), leaves: Some(SpareId(0)) };
    let edit = change.edit(metadata.table(), &mut rng);
    assert_eq!(change.run(&mut sim, &mut metadata, edit, rng.next()), Ok(0));
    assert_eq!(sim.disks[0].asked, asked, "nobody waits for what does not answer");
    assert_eq!((metadata.active(), metadata.persist()), (SpareSet(6), Persist::Enabled));
    let (_, has, _) = use_it(&sim, SpareSet(6), 1).unwrap();
    assert_eq!(has, content(&metadata));
    // It comes back: with the others it is known to have left.
    sim.disks[0].dies_after = None;
    let refused = recover(&mut sim.with_only(SpareSet(7)), crc).err();
    assert!(matches!(refused, Some(Refusal::Left(SpareId(0), _))), "{refused:?}");
}

#[test]
fn who_leaves_is_told_all_of_it_when_another_has_to_be_told_twice() {
    let (mut sim, mut metadata, mut rng) = set_on(2, 3, 21);
    // Of spare 1 one copy is left: it is in no group B.
    sim.disks[1].no_write.extend([0, 128, 256, 512]);
    for _ in 0..4 {
        let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
        match begun.write_group_a(&mut sim) {
            Ok(in_a) => _ = in_a.write_group_b(&mut sim),
            Err(_) => _ = metadata.repair(&mut sim),
        }
    }
    let version = metadata.version();
    let change = Change { joins: Some((SpareId(2), new_spare(2))), leaves: Some(SpareId(0)) };
    let edit = change.edit(metadata.table(), &mut rng);
    assert_eq!(change.run(&mut sim, &mut metadata, edit, rng.next()), Ok(5));
    assert_eq!(metadata.version(), version + 2);
    let alone = use_it(&sim, SpareSet(1), 1).err();
    assert!(matches!(alone, Some(Refusal::Left(SpareId(0), _))), "{alone:?}");
}

#[test]
fn the_last_member_does_not_leave_alone() {
    let (mut sim, mut metadata, _) = set_on(1, 1, 2);
    let edit = without_retired(metadata.table(), SpareId(0)).unwrap();
    let change = Succession { joins: None, leaves: Some(SpareId(0)), history: 5 };
    let refused = metadata.succeed(&mut sim, 1, change, Some(edit), |_| {});
    let few = CommitError::TooFewCopies { good: 0, needed: 2 };
    assert_eq!(refused, Err(ChangeError::Commit(few)));
    assert_eq!((metadata.active(), metadata.persist()), (SpareSet(1), Persist::Enabled));
}

#[test]
fn a_shadow_forgets_what_changed_and_is_whole_only_with_all() {
    let (_, metadata, mut rng) = set_on(1, 1, 12);
    let (table, zero) = (metadata.table(), SpareId(0));
    let mut shadow = copy_all(table, zero, SpareId(1), &mut rng);
    let edit = shadow.edit(table).unwrap().unwrap();
    let made = table_of(edit);
    assert!(made.iter().all(|e| e.mapping.place().is_none_or(|(on, _)| on == SpareId(1))));
    let lives = |e: &Entry| e.mapping.place().is_some();
    let sectors = |all: &mut dyn Iterator<Item = Entry>| -> u64 {
        all.filter(lives).map(|e| e.extent.len.0).sum()
    };
    let lost: u64 = shadow.lost().unwrap().iter().map(|e| e.len.0).sum();
    assert!(lost > 0);
    assert_eq!(sectors(&mut made.into_iter()) + lost, sectors(&mut table.iter()));
    let some = table.iter().find(lives).unwrap().extent;
    shadow.forget(extent(some.start.0 + 1, 1)).unwrap();
    assert!(shadow.edit(table).unwrap().is_none());
    let (left, _) = shadow.next(table, MainSector(0), ALL).unwrap();
    assert_eq!((left.start.0, left.len.0), (some.start.0 + 1, 1));
    shadow.copied(left, None).unwrap();
    assert!(shadow.edit(table).unwrap().is_some());
}

#[test]
fn who_was_to_join_and_did_not_is_no_member_when_another_has_its_number() {
    let (mut sim, mut metadata, mut rng) = set_on(1, 3, 31);
    // Disk 1 was to be spare 1, and got no further than its marks.
    assert_eq!(metadata.may_join(&mut sim, SpareId(1), false), Ok(()));
    assert_eq!(metadata.lay_ground(&mut sim, SpareId(1), 4711), Ok(()));
    let failed = sim.disks[1].clone();
    sim.disks[1] = sim.disks[2].clone();
    let change = Change { joins: Some((SpareId(1), new_spare(1))), leaves: None };
    let edit = change.edit(metadata.table(), &mut rng);
    assert_eq!(change.run(&mut sim, &mut metadata, edit, rng.next()), Ok(0));
    use_it(&sim, SpareSet(3), 1).unwrap();
    sim.disks[1] = failed;
    let refused = use_it(&sim, SpareSet(3), 1).err();
    assert!(matches!(refused, Some(Refusal::NotMember(SpareId(1), _))), "{refused:?}");
}

#[test]
fn who_is_to_join_has_no_header_however_often_its_flush_fails() {
    for flushes in [0b10, 0b110] {
        let (mut sim, mut metadata, _) = set_on(1, 2, 31);
        let joins = SpareId(1);
        assert_eq!(metadata.may_join(&mut sim, joins, false), Ok(()));
        // The first flush is that of the marks.
        sim.disks[1].failing_flushes = flushes;
        assert_eq!(metadata.lay_ground(&mut sim, joins, 4711).is_ok(), flushes == 0b10);
        let survey = Survey::of(&mut sim, SpareSet::one(joins), crc).unwrap();
        assert_eq!(survey.slots().len(), COPIES);
        assert!(survey.slots().iter().all(|slot| matches!(slot.found, Found::Mark(_, 4711))));
    }
}

#[test]
fn who_has_no_room_for_the_copies_is_told_how_much_it_takes() {
    let layout = Layout::for_max_remaps(100_000).unwrap();
    let mut sim = Sim::new(2, SECTORS, 1);
    let set = new_set(layout);
    sim.here = SpareSet(1);
    let mut metadata =
        create(&mut sim, &set, &[new_spare(0)], SpareSet::NONE, crc, |_| {}).unwrap();
    sim.here = SpareSet(3);
    let end = layout.end().0;
    sim.disks[1].shrink(end);
    let small = JoinError::TooSmall(Sectors(end), Sectors(end + 1));
    assert_eq!(metadata.may_join(&mut sim, SpareId(1), true), Err(small));
}
