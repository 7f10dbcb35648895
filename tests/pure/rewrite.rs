// SPDX-License-Identifier: GPL-2.0

//! A state put into the place of another: with the power cut at every step one of both is there, or
//! a refusal, and it can be done again.

mod sim;

use remap_pure::commit::{Metadata, Persist};
use remap_pure::copies::CopySet;
use remap_pure::entry::Entry;
use remap_pure::format::header::Header;
use remap_pure::format::layout::SLOTS;
use remap_pure::recovery::{recover, Refusal};
use remap_pure::rewrite::{look, rewrite, supersede, Seen};
use remap_pure::store::{SpareSet, Store};
use remap_pure::table::Table;
use remap_pure::units::SpareId;
use sim::*;

fn seen(sim: &mut Sim, header: &Header) -> Seen {
    let spares = sim.spares();
    spares.iter().fold(Seen::default(), |all, spare| {
        all.and(look(sim, spare, &header.layout(), &UUID, crc).unwrap())
    })
}

/// Puts an earlier state back into its place.
fn put_back(sim: &mut Sim, header: &Header, table: &Table, history: u64) -> Metadata {
    let mut header = header.try_clone().unwrap();
    let seen = seen(sim, &header);
    supersede(&mut header, &seen, [].into_iter(), history, 2).unwrap();
    assert!(header.version() > seen.highest);
    rewrite(sim, header, table, CopySet::NONE, crc).unwrap()
}

/// A set, and what it was some commits ago.
fn set_and_past(disks: usize, seed: u64) -> (Sim, Metadata, Header, Table, Rng) {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(disks, SECTORS, seed);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 300, &mut rng);
    let (header, table) = (metadata.header().try_clone().unwrap(), metadata.table().clone());
    for changes in [200, 1, 30] {
        commit(&mut sim, &mut metadata, changes, &mut rng);
    }
    (sim, metadata, header, table, rng)
}

fn entries(table: &Table) -> Vec<Entry> {
    table.iter().collect()
}

#[test]
fn a_rewrite_that_is_cut_short_leaves_one_of_both_states_and_can_be_done_again() {
    for disks in [1, 2] {
        let (sim, metadata, header, table, mut rng) = set_and_past(disks, 5 + disks as u64);
        let mut whole = sim.clone();
        let done = put_back(&mut whole, &header, &table, 77);
        assert_eq!((done.persist(), done.version()), (Persist::Enabled, metadata.version() + 1));
        let (old, new) = (content(&metadata), entries(&table));
        let mut found_new = 0;
        let longest = whole.disks.iter().map(|disk| disk.steps()).max().unwrap();
        // Each step several times, as what is lost differs.
        for steps in (0..=longest).flat_map(|steps| [steps; 8]) {
            let mut cut = sim.clone();
            for (disk, whole) in cut.disks.iter_mut().zip(&whole.disks) {
                *disk = whole.cut(steps.min(whole.steps()), &mut rng);
            }
            let found = recover(&mut cut, crc).unwrap_or_else(|e| panic!("step {steps}: {e}"));
            let is = entries(found.table());
            assert!(is == old || is == new, "step {steps}");
            found_new += usize::from(is == new);
            let again = put_back(&mut cut, &header, &table, 78);
            assert!(again.version() > metadata.version());
            let found = recover(&mut cut, crc).unwrap();
            assert!(found.is_clean() && entries(found.table()) == new, "step {steps}");
        }
        assert!(found_new > 0 && found_new < 8 * longest, "{found_new} of {longest}");
    }
}

#[test]
fn where_no_header_is_left_there_is_the_new_state_or_a_refusal() {
    let (mut sim, _, header, table, mut rng) = set_and_past(1, 9);
    for slot in SLOTS {
        sim.disks[0].set_block(slot.0 / 8, [0; 4096]);
    }
    let mut whole = sim.clone();
    let done = put_back(&mut whole, &header, &table, 77);
    assert_eq!(done.version(), 6, "the table blocks say what the newest version was");
    let new = entries(&table);
    let (mut refused, steps) = (0, whole.disks[0].steps());
    for steps in 0..=steps {
        let mut cut = whole.clone();
        cut.disks[0] = whole.disks[0].cut(steps, &mut rng);
        match recover(&mut cut, crc) {
            Ok(found) => assert!(entries(found.table()) == new, "step {steps}"),
            Err(Refusal::OtherSet(..) | Refusal::Conflict(..)) => panic!("step {steps}"),
            Err(_) => refused += 1,
        }
        put_back(&mut cut, &header, &table, 78);
        let found = recover(&mut cut, crc).unwrap();
        assert!(found.is_clean() && entries(found.table()) == new, "step {steps}");
    }
    assert!(refused > 0 && refused < steps);
}

#[test]
fn what_stood_there_is_the_past_of_what_stands_there_now() {
    let (mut sim, metadata, header, table, _) = set_and_past(2, 11);
    let before = sim.clone();
    let done = put_back(&mut sim, &header, &table, 77);
    assert!(done.header().descends_from(metadata.header().history(), metadata.version()));
    // A copy that comes back from somewhere is brought up to date.
    for block in 0..4 {
        sim.disks[1]
            .set_block(SLOTS[3].0 / 8 + block, before.disks[1].block(SLOTS[3].0 / 8 + block));
    }
    let found = recover(&mut sim, crc).unwrap();
    assert!(!found.is_clean() && entries(found.table()) == entries(&table));
    found.rebuild(&mut sim, 3, 3).unwrap();
    assert!(recover(&mut sim, crc).unwrap().is_clean());
}

#[test]
fn each_history_that_is_given_up_is_past_once() {
    let (_, metadata, ..) = set_and_past(1, 12);
    let mut header = metadata.header().try_clone().unwrap();
    let seen = Seen { highest: 20, ..Seen::default() };
    let (own, given_up) = (header.history(), [7, 7, header.history(), 8, 7, 8]);
    supersede(&mut header, &seen, given_up.into_iter(), 9, 2).unwrap();
    let version = header.raw().version;
    let past: Vec<_> =
        version.past.iter().map(|past| (past.history.get(), past.ended.get())).collect();
    assert_eq!(past[..version.past_count.get() as usize], [(own, 20), (8, 20), (7, 20)]);
    assert_eq!((header.history(), header.version()), (9, 21));
}

#[test]
fn places_that_take_no_writes_are_left_out_and_those_that_hide_something_are_allowed_for() {
    let (mut sim, metadata, header, table, _) = set_and_past(1, 13);
    sim.disks[0].no_write.insert(SLOTS[2].0 / 8 + 1);
    sim.disks[0].no_read.insert(SLOTS[4].0 / 8 + 1);
    let done = put_back(&mut sim, &header, &table, 77);
    assert_eq!(done.persist(), Persist::Degraded);
    assert!(done.version() > metadata.version() + 50);
    sim.disks[0].no_read.clear();
    assert!(entries(recover(&mut sim, crc).unwrap().table()) == entries(&table));
    (0..SECTORS / 8).for_each(|at| {
        sim.disks[0].no_write.insert(at);
    });
    let mut header = header.try_clone().unwrap();
    let seen = seen(&mut sim, &header);
    supersede(&mut header, &seen, [].into_iter(), 79, 2).unwrap();
    assert!(rewrite(&mut sim, header, &table, CopySet::NONE, crc).is_err());
}

#[test]
fn traces_of_other_sets_are_told_from_ours() {
    let (mut sim, metadata, ..) = set_and_past(1, 15);
    let seen = seen(&mut sim, metadata.header());
    assert_eq!((seen.highest, seen.ours, seen.other), (metadata.version(), true, None));
    let other = remap_pure::format::SetUuid([1; 16]);
    let layout = metadata.header().layout();
    let of_other = look(&mut sim, SpareId(0), &layout, &other, crc).unwrap();
    assert_eq!((of_other.highest, of_other.ours), (0, false));
    assert_eq!(of_other.other, Some((SLOTS[0], UUID)));
    assert_eq!(sim.spares(), SpareSet(1));
}
