// SPDX-License-Identifier: GPL-2.0

//! Spares that were used apart: each side can be told and put together, one is chosen, and the power
//! may be cut at every step of that.

mod sim;

use remap_pure::commit::Metadata;
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::{Header, NewSpare};
use remap_pure::format::layout::{Layout, SLOTS, SLOT_BLOCKS};
use remap_pure::format::{CommitKind, MemberUuid};
use remap_pure::recovery::members::Without;
use remap_pure::recovery::side::{given_away, last, sides, state_of, without, Side};
use remap_pure::recovery::{recover, recover_without, Refusal, Survey};
use remap_pure::rewrite::{look, rewrite, supersede, Seen};
use remap_pure::store::{SpareSet, Store};
use remap_pure::table::Table;
use remap_pure::units::{Sectors, SpareId, SpareSector};
use sim::*;

fn remap(sim: &mut Sim, metadata: &mut Metadata, places: &[(u64, u8, u64)], history: Option<u64>) {
    // A history is begun by a commit that does nothing else.
    if let Some(history) = history {
        let update = |header: &mut Header| header.begin_history(history, SpareSet::NONE);
        let begun = metadata.begin(CommitKind::Members, 1, None, update).unwrap();
        begun.write_group_a(sim).unwrap().write_group_b(sim);
    }
    let mut edit = metadata.table().edit().unwrap();
    for &(start, spare, to) in places {
        let mapping = Mapping::Remapped { spare: SpareId(spare), to: SpareSector(to) };
        edit.set(extent(start, 8), mapping).unwrap();
    }
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    begun.write_group_a(sim).unwrap().write_group_b(sim);
    sim.settle();
}

/// What two spares are after each was used without the other, and what each side knows.
fn used_apart(histories: [Option<u64>; 2]) -> (Sim, [Vec<Entry>; 2]) {
    let mut sim = Sim::new(2, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    let many: Vec<_> = (0..300).map(|i| (i * 100, (i % 2) as u8, 9216 + i * 8)).collect();
    remap(&mut sim, &mut metadata, &many, None);
    let [mut first, mut second] = [sim.clone(), sim];
    let [a, b] = histories;
    let known = [(&mut first, 50_000, 0, a), (&mut second, 60_000, 1, b)];
    let known = known.map(|(sim, start, side, history)| {
        let mut metadata = recover(sim, crc).unwrap().rebuild(sim, 1, 1).unwrap();
        // Both give the same place away; and the second does more.
        let places = [(start, 0, 20_000), (start + 8, side, 24_000)];
        remap(sim, &mut metadata, &places, history);
        for i in 0..u64::from(side) * 3 {
            remap(sim, &mut metadata, &[(start + 100 + i * 8, 1, 28_000 + i * 8)], None);
        }
        content(&metadata)
    });
    first.disks[1] = second.disks[1].clone();
    (first, known)
}

/// Chooses the side that has a copy on that spare; what it then has to say.
fn choose(sim: &mut Sim, spare: u8) -> Result<Vec<Entry>, Refusal> {
    let survey = Survey::take(sim, crc)?;
    let sides = sides(sim, &survey, crc)?;
    let on = |id: u8| sides.iter().find(|side| !side.copies.on(SpareId(id)).is_empty());
    let chosen = *on(spare).unwrap();
    let (mut header, mut table) = state_of(sim, &survey, &chosen, crc)?;
    for side in sides.iter().filter(|side| **side != chosen) {
        let (_, other) = state_of(sim, &survey, side, crc)?;
        let lost = given_away(&table, &other)?;
        table = without(&table, &header, &lost, crc).unwrap();
    }
    let seen = sim.spares().iter().fold(Seen::default(), |all, spare| {
        all.and(look(sim, spare, &header.layout(), &UUID, crc).unwrap())
    });
    let given_up: Vec<u64> = survey.headers().map(|(_, h)| h.history()).collect();
    supersede(&mut header, &seen, given_up.into_iter(), sim.disks[0].rng.next(), 5).unwrap();
    rewrite(sim, header, &table, last(&survey, &sides, &chosen), crc).unwrap();
    Ok(entries(&table))
}

fn entries(table: &Table) -> Vec<Entry> {
    table.iter().collect()
}

/// What a side says, with what the other has given away as pending.
fn chosen(known: &[Entry], start: u64) -> Vec<Entry> {
    let mut known = known.to_vec();
    let lost = known.iter_mut().find(|entry| entry.extent.start.0 == start).unwrap();
    lost.mapping = Mapping::Lost;
    known
}

const STARTS: [u64; 2] = [50_000, 60_000];

#[test]
fn each_side_is_told_and_can_be_chosen() {
    for histories in [[None, None], [Some(7), None], [None, Some(8)], [Some(7), Some(8)]] {
        let (mut sim, known) = used_apart(histories);
        // One history, and one of both further on: nobody can tell that. Versions decide.
        if histories != [None, None] {
            assert!(matches!(recover(&mut sim, crc).err(), Some(Refusal::Conflict(..))));
        }
        let survey = Survey::take(&mut sim, crc).unwrap();
        let found = sides(&mut sim, &survey, crc).unwrap();
        if histories == [None, None] {
            assert_eq!(found.len(), 1);
            continue;
        }
        assert_eq!(found.len(), 2, "{histories:?}");
        for spare in 0..2 {
            let side = found.iter().find(|s| !s.copies.on(SpareId(spare)).is_empty()).unwrap();
            let (_, table) = state_of(&mut sim, &survey, side, crc).unwrap();
            assert!(entries(&table) == known[spare as usize]);
            let mut taken = sim.clone();
            let says = choose(&mut taken, spare).unwrap();
            assert!(says == chosen(&known[spare as usize], STARTS[spare as usize]));
            let found = recover(&mut taken, crc).unwrap();
            assert!(found.is_clean() && entries(found.table()) == says);
            // What is found of the other later is old.
            for block in 0..4 {
                let at = SLOTS[2].0 / 8 + block;
                taken.disks[1].set_block(at, sim.disks[1].block(at));
            }
            let found = recover(&mut taken, crc).unwrap();
            assert!(!found.is_clean() && entries(found.table()) == says);
        }
    }
}

#[test]
fn a_choice_that_is_cut_short_can_be_made_again_and_never_turns_into_the_other() {
    let (sim, known) = used_apart([Some(7), Some(8)]);
    let mut rng = Rng::new(4);
    for spare in 0..2 {
        let mut whole = sim.clone();
        let says = choose(&mut whole, spare).unwrap();
        let (mut conflicts, mut done) = (0, 0);
        let longest = whole.disks[0].steps();
        for steps in (0..=longest).flat_map(|steps| [steps; 8]) {
            let mut cut = whole.clone();
            for (disk, whole) in cut.disks.iter_mut().zip(&whole.disks) {
                assert_eq!(whole.steps(), longest);
                *disk = whole.cut(steps, &mut rng);
            }
            match recover(&mut cut, crc) {
                Ok(found) => {
                    assert!(entries(found.table()) == says, "step {steps}");
                    found.rebuild(&mut cut, 9, 9).unwrap();
                    done += 1;
                }
                Err(Refusal::Conflict(..)) => {
                    // Both are still there, with all that they say.
                    conflicts += 1;
                    assert!(choose(&mut cut, spare).unwrap() == says, "step {steps}");
                }
                Err(e) => panic!("step {steps}: {e}"),
            }
            let found = recover(&mut cut, crc).unwrap();
            assert!(found.is_clean() && entries(found.table()) == says, "step {steps}");
        }
        assert!(conflicts > 0 && done > 0, "{conflicts} conflicts, {done} done");
        assert!(known[spare as usize].len() == says.len());
    }
}

#[test]
fn copies_on_one_spare_can_be_sides_too() {
    let mut sim = Sim::new(1, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    remap(&mut sim, &mut metadata, &[(100, 0, 9216)], None);
    let mut other = sim.clone();
    let mut metadata = recover(&mut other, crc).unwrap().rebuild(&mut other, 1, 1).unwrap();
    remap(&mut other, &mut metadata, &[(200, 0, 9232)], Some(7));
    let mut metadata = recover(&mut sim, crc).unwrap().rebuild(&mut sim, 1, 1).unwrap();
    remap(&mut sim, &mut metadata, &[(300, 0, 9240)], Some(8));
    let known = content(&metadata);
    for slot in &SLOTS[1..] {
        for block in 0..2 {
            let at = slot.0 / 8 + block;
            sim.disks[0].set_block(at, other.disks[0].block(at));
        }
    }
    // Copy 0 alone is of the one side; it is overwritten when others stand.
    let survey = Survey::take(&mut sim, crc).unwrap();
    let found = sides(&mut sim, &survey, crc).unwrap();
    let first = *found.iter().find(|side| side.stand.id.copy == 0).unwrap();
    assert_eq!((found.len(), first.copies.count()), (2, 1));
    let (mut header, table) = state_of(&mut sim, &survey, &first, crc).unwrap();
    assert!(entries(&table) == known);
    let seen = look(&mut sim, SpareId(0), &header.layout(), &UUID, crc).unwrap();
    supersede(&mut header, &seen, [7].into_iter(), 9, 5).unwrap();
    let mut whole = sim.clone();
    rewrite(&mut whole, header, &table, last(&survey, &found, &first), crc).unwrap();
    let mut rng = Rng::new(4);
    for steps in (0..=whole.disks[0].steps()).flat_map(|steps| [steps; 8]) {
        let mut cut = whole.clone();
        cut.disks[0] = whole.disks[0].cut(steps, &mut rng);
        let survey = Survey::take(&mut cut, crc).unwrap();
        let found = sides(&mut cut, &survey, crc).unwrap();
        let there = found.iter().any(|side| {
            let state = state_of(&mut cut, &survey, side, crc);
            state.is_ok_and(|(_, table)| entries(&table) == known)
        });
        assert!(there, "step {steps}");
    }
}

#[test]
fn a_side_that_is_not_whole_is_a_side_all_the_same() {
    let (mut sim, _) = used_apart([Some(7), Some(8)]);
    for slot in SLOTS {
        sim.disks[1].set_block(slot.0 / 8 + 2, [0; 4096]);
    }
    assert_eq!(sides_of(&mut sim).len(), 2);
    let mut alone = sim.clone();
    for slot in SLOTS {
        alone.disks[0].set_block(slot.0 / 8 + 2, [0; 4096]);
    }
    let survey = Survey::take(&mut alone, crc).unwrap();
    let found = sides(&mut alone, &survey, crc).unwrap();
    assert_eq!(found.len(), 2);
    for side in found.iter() {
        let refused = state_of(&mut alone, &survey, side, crc).err();
        assert!(matches!(refused, Some(Refusal::Incomplete { .. })), "{refused:?}");
    }
}

fn sides_of(sim: &mut Sim) -> Vec<Side> {
    let survey = Survey::take(sim, crc).unwrap();
    sides(sim, &survey, crc).unwrap().to_vec()
}

#[test]
fn what_came_no_further_and_what_came_before_are_no_sides() {
    let mut sim = Sim::new(1, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    remap(&mut sim, &mut metadata, &[(100, 0, 9216)], None);
    let before = sim.clone();
    remap(&mut sim, &mut metadata, &[(200, 0, 9232)], None);
    let stands = metadata.version();
    let mut after = sim.clone();
    remap(&mut after, &mut metadata, &[(300, 0, 9240)], None);
    // A header and no block of what was begun; all of one copy of what was.
    let header = SLOTS[0].0 / 8;
    sim.disks[0].set_block(header, after.disks[0].block(header));
    for at in [0, 1].map(|block| SLOTS[3].0 / 8 + block) {
        sim.disks[0].set_block(at, before.disks[0].block(at));
    }
    let found = sides_of(&mut sim);
    assert_eq!(found.iter().map(|side| side.stand.version).collect::<Vec<_>>(), [stands]);
}

#[test]
fn of_two_histories_that_nobody_was_told_of_the_one_of_a_higher_version_holds_if_there_is_one() {
    // How often it was tried to tell each spare, without the other, that a history begins: the last time it took it.
    for (often, there) in [([1, 1], 2), ([2, 1], 1), ([1, 2], 1)] {
        let mut sim = Sim::new(2, SECTORS, 3);
        create_on(&mut sim);
        sim.settle();
        let told = |spare: usize| {
            let mut sim = sim.clone();
            let mut metadata = recover(&mut sim, crc).unwrap().into_metadata();
            for i in 0..often[spare] {
                let begins = 7 + (spare + 2 * i) as u64;
                let update = |header: &mut Header| header.begin_history(begins, SpareSet::NONE);
                for disk in &mut sim.disks {
                    disk.dies_after = (i + 1 < often[spare]).then_some(0);
                }
                let begun = metadata.begin(CommitKind::Members, 1, None, update).unwrap();
                assert_eq!(begun.write_group_a(&mut sim).is_ok(), i + 1 == often[spare]);
            }
            sim.settle();
            sim.disks[spare].clone()
        };
        sim.disks = vec![told(0), told(1)];
        let found = sides_of(&mut sim);
        let highest = found.iter().map(|side| side.stand.version).max();
        assert_eq!((found.len(), highest), (there, often.iter().max().map(|n| 1 + *n as u64)));
    }
}

#[test]
fn sides_of_different_layouts_are_each_read_where_their_blocks_are() {
    let large = Layout::for_max_remaps(100_000).unwrap();
    let sectors = large.end().0 + SECTORS;
    let made = |layout, entries: u64| {
        let mut sim = Sim::new(1, sectors, 3);
        let spare = NewSpare { used_sectors: Sectors(sectors), ..new_spare(0) };
        let set = new_set(layout);
        let mut metadata = create(&mut sim, &set, &[spare], SpareSet::NONE, crc, |_| {}).unwrap();
        let mut edit = metadata.table().edit().unwrap();
        (0..entries).for_each(|i| edit.set(extent(i * 16, 8), Mapping::Pending).unwrap());
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        sim.settle();
        (sim, metadata)
    };
    let (small, _) = made(Layout::STANDARD, 10);
    let (mut sim, mut metadata) = made(large, 40_000);
    assert!(metadata.table().block_count() > SLOT_BLOCKS);
    // One copy is of the small one, and one of what was begun in the large one: a header and no block.
    let stands = metadata.version();
    let mut after = sim.clone();
    remap(&mut after, &mut metadata, &[(1 << 20, 0, large.end().0)], None);
    for at in [0, 1].map(|block| SLOTS[0].0 / 8 + block) {
        sim.disks[0].set_block(at, small.disks[0].block(at));
    }
    let header = SLOTS[3].0 / 8;
    sim.disks[0].set_block(header, after.disks[0].block(header));
    let found = sides_of(&mut sim);
    let told: Vec<_> = found.iter().map(|side| (side.stand.version, side.copies.count())).collect();
    assert!(told.contains(&(stands, 3)), "{told:?}");
    assert!(found.iter().all(|side| side.stand.version <= stands), "{told:?}");
}

#[test]
fn what_nobody_was_told_of_is_no_side() {
    let mut sim = Sim::new(2, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    remap(&mut sim, &mut metadata, &[(100, 0, 9216)], None);
    // The second has got a history that began and never held more, the first has gone on without it.
    let mut left = sim.clone();
    let both = sim.spares();
    let begun = metadata
        .begin(CommitKind::Members, 1, None, |header| header.begin_history(7, both))
        .unwrap();
    drop(begun.write_group_a(&mut left));
    left.settle();
    let mut sim = sim.with_only(SpareSet::one(SpareId(0)));
    let absent = [MemberUuid(new_spare(1).uuid)];
    let without = Without { absent: &absent, away: false };
    let found = recover_without(&mut sim, &without, crc).unwrap();
    let mut metadata = found.rebuild(&mut sim, 1, 8).unwrap();
    remap(&mut sim, &mut metadata, &[(200, 0, 9232)], None);
    let known = content(&metadata);
    sim.here = both;
    sim.disks[1] = left.disks[1].clone();

    assert!(entries(recover(&mut sim, crc).unwrap().table()) == known);
    let survey = Survey::take(&mut sim, crc).unwrap();
    let found = sides(&mut sim, &survey, crc).unwrap();
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].stand.history, 8);
}
