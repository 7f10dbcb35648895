// SPDX-License-Identifier: GPL-2.0

//! Members that go away, come back, join and leave, and sides that are chosen, while memory runs out at each
//! allocation in turn: that is said, or it goes on without; what was acknowledged is still there, and done
//! again it succeeds.

mod history;
mod sim;
mod starve;

use history::{assert_all_good, entries};
use remap_pure::commit::{ChangeError, CommitError, JoinError, Metadata, Persist, Succession};
use remap_pure::create::create;
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::layout::Layout;
use remap_pure::format::{CommitKind, MemberUuid};
use remap_pure::recovery::members::{identify, Without, KNOWN_AWAY};
use remap_pure::recovery::side::{given_away, last, sides, state_of, without};
use remap_pure::recovery::{recover, recover_without, RebuildError, Refusal, Survey};
use remap_pure::rewrite::{look, rewrite, supersede, RewriteError, Seen};
use remap_pure::shadow::Shadow;
use remap_pure::store::SpareSet;
use remap_pure::table::{Edit, EditError, Table};
use remap_pure::units::{MainSector, Sectors, SpareId, SpareSector};
use sim::*;
use starve::with_each_allocation_failing;

const ZERO: SpareId = SpareId(0);
const ONE: SpareId = SpareId(1);
const BOTH: SpareSet = SpareSet(3);

/// Two disks, of which the first `members` are those of a set.
fn set_on(members: usize) -> Sim {
    let mut rng = Rng::new(5);
    let mut sim = Sim::new(2, SECTORS, 6);
    sim.here = SpareSet((1 << members) - 1);
    let spares: Vec<_> = (0..members).map(new_spare).collect();
    let set = new_set(Layout::STANDARD);
    let mut metadata = create(&mut sim, &set, &spares, SpareSet::NONE, crc, |_| {}).unwrap();
    for changes in [40, 300, 1] {
        commit(&mut sim, &mut metadata, changes, &mut rng);
    }
    sim.here = BOTH;
    sim
}

fn activate(sim: &mut Sim, here: SpareSet) -> Metadata {
    sim.here = here;
    let metadata = recover(sim, crc).unwrap().rebuild(sim, 1, 1).unwrap();
    sim.here = BOTH;
    metadata
}

/// What is found with those disks by somebody who has memory, and does without who is known to be away.
fn found(sim: &Sim, here: SpareSet) -> Result<Vec<Entry>, Refusal> {
    recover_without(&mut sim.with_only(here), &KNOWN_AWAY, crc).map(|found| entries(&found))
}

/// Nothing but memory was missing.
fn assert_short(e: ChangeError) {
    let short = [CommitError::Memory, CommitError::Edit(EditError::NoMemory)];
    assert!(short.map(ChangeError::Commit).contains(&e), "{e}");
}

#[test]
fn who_takes_nothing_is_put_away_in_the_end() {
    let sim = set_on(2);
    with_each_allocation_failing(10, |memory| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim, BOTH);
        let before = content(&metadata);
        sim.disks[1].dies_after = Some(0);
        let begun = metadata.begin(CommitKind::Save, 1, None, |_| {}).unwrap();
        let lost = begun.write_group_a(&mut sim).err().expect("a member is dead").lost;
        assert_eq!(lost, SpareSet::one(ONE));
        match memory.short(|| metadata.go_on_without(&mut sim, 1, lost, 7, |_| {})) {
            Ok(away) => assert_eq!(away, lost),
            // It has gone, and group B was not written: with the first group in doubt one copy is left.
            Err(ChangeError::Commit(CommitError::TooFewCopies { good: 1, .. })) => {
                assert_eq!(metadata.away(), lost);
            }
            Err(e) => assert_short(e),
        }
        assert!(content(&metadata) == before);
        metadata.go_on_without(&mut sim, 1, lost, 8, |_| {}).unwrap();
        assert_eq!((metadata.away(), metadata.in_doubt()), (lost, false));
        metadata.repair(&mut sim).unwrap();
        assert_eq!(metadata.persist(), Persist::Degraded);
        assert!(found(&sim, SpareSet::one(ZERO)) == Ok(before));
    });
}

/// A set that has gone on without its second member, which is there again.
fn with_one_away() -> (Sim, Vec<Entry>) {
    let mut sim = set_on(2);
    let absent = [MemberUuid(new_spare(1).uuid)];
    sim.here = SpareSet::one(ZERO);
    let gone = Without { absent: &absent, away: false };
    let mut metadata =
        recover_without(&mut sim, &gone, crc).unwrap().rebuild(&mut sim, 1, 7).unwrap();
    commit(&mut sim, &mut metadata, 30, &mut Rng::new(1));
    sim.here = BOTH;
    (sim, content(&metadata))
}

#[test]
fn who_comes_back_is_taken_back_in_the_end() {
    let (sim, holds) = with_one_away();
    with_each_allocation_failing(50, |memory| {
        let mut sim = sim.clone();
        sim.here = SpareSet::one(ZERO);
        let found_now = recover_without(&mut sim, &KNOWN_AWAY, crc).unwrap();
        let mut metadata = found_now.rebuild(&mut sim, 1, 8).unwrap();
        sim.here = BOTH;
        match memory.short(|| metadata.take_back(&mut sim, 1, 9, |_| {})) {
            Ok(back) => assert_eq!(back, SpareSet::one(ONE)),
            Err(e) => assert_short(e),
        }
        assert!(found(&sim, BOTH).as_ref() == Ok(&holds));
        metadata.take_back(&mut sim, 1, 10, |_| {}).unwrap();
        assert_eq!((metadata.active(), metadata.in_doubt()), (BOTH, false));
        metadata.repair(&mut sim).unwrap();
        assert_all_good(&mut sim, &metadata);
        assert!(content(&metadata) == holds);
    });
}

#[test]
fn an_activation_changes_the_members_or_leaves_them() {
    let absent = [MemberUuid(new_spare(1).uuid)];
    let gone = Without { absent: &absent, away: false };
    let (back, holds) = with_one_away();
    let (parted, zero) = (set_on(2), SpareSet::one(ZERO));
    let before = found(&parted, BOTH).unwrap();
    for (sim, here, line, holds) in
        [(back, BOTH, Without::default(), holds), (parted, zero, gone, before)]
    {
        with_each_allocation_failing(10, |memory| {
            let mut sim = sim.with_only(here);
            let recovered = recover_without(&mut sim, &line, crc).unwrap();
            match memory.short(|| recovered.rebuild(&mut sim, 1, 8)) {
                Ok(metadata) => assert_eq!(metadata.active(), here),
                Err(e) => assert_eq!(e, RebuildError::Commit(CommitError::Memory)),
            }
            // The line that says who is absent is right before and after.
            let again = recover_without(&mut sim, &line, crc).unwrap();
            let again = again.rebuild(&mut sim, 1, 9).unwrap();
            assert_eq!((again.active(), again.in_doubt()), (here, false));
            assert!(content(&again) == holds && found(&sim, here).as_ref() == Ok(&holds));
        });
    }
}

/// Everything that lives on the first disk is at places on the second one.
fn moved(table: &Table) -> Result<Shadow, EditError> {
    let mut shadow = Shadow::new(ZERO, table.capacity_blocks())?;
    let (mut at, mut place) = (MainSector(0), SpareSector(9216));
    while let Some((extent, _)) = shadow.next(table, at, Sectors(u64::MAX)) {
        shadow.copied(extent, Some((ONE, place)))?;
        place = place + extent.len;
        at = extent.end();
    }
    Ok(shadow)
}

/// The second disk takes the place of the first; `edit` is of what lived there.
fn succeed(sim: &mut Sim, metadata: &mut Metadata, edit: Edit) -> Result<(), ChangeError> {
    let of_commit = |e| match e {
        JoinError::Commit(e) => ChangeError::Commit(e),
        e => panic!("{e}"),
    };
    metadata.may_join(sim, ONE, false).map_err(of_commit)?;
    metadata.lay_ground(sim, ONE, 7).map_err(of_commit)?;
    let new = new_spare(1);
    let change = Succession { joins: Some((ONE, &new)), leaves: Some(ZERO), history: 7 };
    metadata.succeed(sim, 2, change, Some(edit), |_| {}).map(|_| ())
}

#[test]
fn a_member_is_succeeded_or_nothing_has_changed() {
    let sim = set_on(1);
    let (zero, one) = (SpareSet::one(ZERO), SpareSet::one(ONE));
    with_each_allocation_failing(100, |memory| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim, zero);
        let before = content(&metadata);
        let edit = |metadata: &Metadata| {
            let table = metadata.table();
            moved(table).unwrap().edit(table).unwrap().expect("all was copied")
        };
        let after: Vec<Entry> =
            edit(&metadata).finish(99, |_, _| Ok(0)).unwrap().table.iter().collect();
        let first = edit(&metadata);
        if let Err(e) = memory.short(|| succeed(&mut sim, &mut metadata, first)) {
            assert_short(e);
            assert_eq!((metadata.active(), metadata.in_doubt()), (zero, false));
            assert_eq!(metadata.persist(), Persist::Enabled);
            assert!(content(&metadata) == before && found(&sim, zero).as_ref() == Ok(&before));
            let again = edit(&metadata);
            succeed(&mut sim, &mut metadata, again).unwrap();
        }
        assert_eq!((metadata.active(), metadata.in_doubt()), (one, false));
        metadata.repair(&mut sim).unwrap();
        assert!(content(&metadata) == after && found(&sim, one).as_ref() == Ok(&after));
    });
}

#[test]
fn what_was_copied_to_a_successor_is_known_or_not() {
    let mut sim = set_on(1);
    let metadata = activate(&mut sim, SpareSet::one(ZERO));
    let table = metadata.table();
    let whole = moved(table).unwrap();
    with_each_allocation_failing(30, |memory| {
        let result = memory.short(|| {
            let shadow = moved(table)?;
            let made = shadow.edit(table)?.expect("all was copied").finish(9, |_, _| Ok(0))?;
            Ok::<Sectors, EditError>(made.table.totals().remapped)
        });
        match result {
            Ok(remapped) => {
                assert!(!memory.was_short() && remapped == table.totals().remapped);
            }
            Err(e) => assert_eq!(e, EditError::NoMemory),
        }
    });
    let some = whole.table().iter().next().expect("something was copied").extent;
    with_each_allocation_failing(3, |memory| {
        let mut shadow = moved(table).unwrap();
        match memory.short(|| shadow.forget(some)) {
            Ok(()) => assert!(shadow.edit(table).unwrap().is_none()),
            // It counts as copied: who cannot say otherwise gives the copying up.
            Err(e) => assert!(e == EditError::NoMemory && shadow.edit(table).unwrap().is_some()),
        }
    });
}

/// Two disks that were used apart.
fn used_apart() -> Sim {
    let sim = set_on(2);
    let mut apart = [ZERO, ONE].map(|on| {
        let mut sim = sim.clone();
        let mut metadata = activate(&mut sim, BOTH);
        let history = 70 + u64::from(on.0);
        let update = |h: &mut remap_pure::format::header::Header| {
            h.begin_history(history, SpareSet::NONE);
        };
        let begun = metadata.begin(CommitKind::Members, 1, None, update).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        let mut edit = metadata.table().edit().unwrap();
        let mapping = Mapping::Remapped { spare: ZERO, to: SpareSector(30_000) };
        edit.set(extent(5 + 64 * history, 8), mapping).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        begun.write_group_a(&mut sim).unwrap().write_group_b(&mut sim);
        sim.settle();
        sim
    });
    apart[0].disks[1] = apart[1].disks[1].clone();
    let [both, _] = apart;
    both
}

/// Puts the first side into the place of both.
fn choose(sim: &mut Sim) -> Result<Vec<Entry>, Refusal> {
    let survey = Survey::take(sim, crc)?;
    let sides = sides(sim, &survey, crc)?;
    let (mut header, table) = state_of(sim, &survey, &sides[0], crc)?;
    let (_, other) = state_of(sim, &survey, &sides[1], crc)?;
    let lost = given_away(&table, &other)?;
    assert!(!lost.is_empty(), "both have given the same place away");
    let no_memory = |e: &EditError| assert_eq!(*e, EditError::NoMemory);
    let table =
        without(&table, &header, &lost, crc).inspect_err(no_memory).or(Err(Refusal::Memory))?;
    let mut seen = Seen::default();
    for spare in [ZERO, ONE] {
        let here = look(sim, spare, &header.layout(), &UUID, crc);
        let no_memory = |e: &CommitError| assert_eq!(*e, CommitError::Memory);
        seen = seen.and(here.inspect_err(no_memory).or(Err(Refusal::Memory))?);
    }
    let past = survey.headers().map(|(_, header)| header.history());
    supersede(&mut header, &seen, past, 80, 5).unwrap();
    let no_memory = |e: &RewriteError| assert_eq!(*e, RewriteError::Commit(CommitError::Memory));
    let last = last(&survey, &sides, &sides[0]);
    let done = rewrite(sim, header, &table, last, crc);
    done.inspect_err(no_memory).map(|metadata| content(&metadata)).or(Err(Refusal::Memory))
}

#[test]
fn a_side_is_chosen_or_can_be_chosen_later() {
    let sim = used_apart();
    let chosen = choose(&mut sim.clone()).unwrap();
    with_each_allocation_failing(100, |memory| {
        let mut sim = sim.clone();
        match memory.short(|| choose(&mut sim)) {
            Ok(holds) => assert!(holds == chosen && !memory.was_short()),
            Err(e) => {
                assert_eq!(e, Refusal::Memory);
                match recover(&mut sim, crc) {
                    Ok(found) => assert!(entries(&found) == chosen),
                    Err(Refusal::Conflict(..)) => assert!(choose(&mut sim).as_ref() == Ok(&chosen)),
                    Err(e) => panic!("{e}"),
                }
            }
        }
        let found = recover(&mut sim, crc).unwrap();
        assert!(entries(&found) == chosen);
    });
}

#[test]
fn who_a_device_says_it_is_is_not_guessed() {
    let mut sim = set_on(2);
    with_each_allocation_failing(5, |memory| match memory.short(|| identify(&mut sim, ONE, crc)) {
        Ok(is) => assert!(is == Some((UUID, ONE)) && !memory.was_short()),
        Err(_) => assert!(memory.was_short()),
    });
}
