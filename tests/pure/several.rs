// SPDX-License-Identifier: GPL-2.0

//! Sets of several spares that die, go away, come back and are used apart, with the power cut at any
//! point: what was acknowledged stays as long as somebody is there who has it, and what was used
//! apart is a conflict, never one state or the other.

mod history;
mod sim;

use std::collections::HashMap;

use history::{entries, read_with_whom_is_there, until_enough};
use remap_pure::commit::{ChangeError, CommitError, MemberChange, Metadata, Persist};
use remap_pure::entry::{Entry, Mapping};
use remap_pure::format::header::Header;
use remap_pure::format::{CommitKind, SpareState};
use remap_pure::mem::{KVec, GFP_KERNEL};
use remap_pure::recovery::members::{Without, KNOWN_AWAY};
use remap_pure::recovery::{recover, recover_without, Recovered, Refusal, Survey};
use remap_pure::settings::{Limits, Settings, SCAN_RATE};
use remap_pure::store::SpareSet;
use remap_pure::units::SpareId;
use sim::*;

/// A state: its history, its version.
type At = (u64, u64);

fn at(header: &Header) -> At {
    (header.history(), header.version())
}

/// A state that somebody was told is durable.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    /// The step of the log after which that was so; 0 for before all of it.
    step: usize,
    /// The step before which nothing of it was there.
    began: usize,
    state: At,
    /// The members that have it.
    members: SpareSet,
}

/// A set of two to four spares, its disks wherever they are, and all that was ever done with it.
struct World {
    sim: Sim,
    rng: Rng,
    acknowledged: Vec<Acknowledged>,
    /// What each state that was begun holds, and the step of the log before which it was not.
    begun: HashMap<At, (usize, Vec<Entry>)>,
    /// Where each history began: the state before.
    parents: HashMap<u64, At>,
    /// Whether some place was bad, or a flush failed, so that a spare may lack a state that it had;
    /// from which step on.
    hurt: Vec<(usize, bool)>,
    seen: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let disks = 2 + rng.below(3) as usize;
        let mut sim = Sim::new(disks, SECTORS, rng.next() >> 8);
        let metadata = create_on(&mut sim);
        sim.settle();
        let state = at(metadata.header());
        let acknowledged = vec![Acknowledged { step: 0, began: 0, state, members: sim.here }];
        let begun = HashMap::from([(state, (0, Vec::new()))]);
        Self {
            sim,
            rng,
            acknowledged,
            begun,
            parents: HashMap::new(),
            hurt: vec![(0, false)],
            seen: 0,
        }
    }

    fn is_ancestor(&self, a: At, b: At) -> bool {
        let mut at = b;
        loop {
            if at.0 == a.0 {
                return a.1 <= at.1;
            }
            match self.parents.get(&at.0) {
                Some(parent) => at = *parent,
                None => return false,
            }
        }
    }

    /// Keeps where the history began; a header forgets in time.
    fn note_parent(&mut self, header: &Header) {
        let past = &header.raw().version.past[0];
        if header.raw().version.past_count.get() > 0 {
            let parent = (past.history.get(), past.ended.get());
            self.parents.entry(header.history()).or_insert(parent);
        }
    }

    /// Keeps what is in use now.
    fn note(&mut self, metadata: &Metadata) {
        let header = metadata.header();
        self.note_parent(header);
        let now = (self.sim.steps(), content(metadata));
        self.begun.entry(at(header)).or_insert(now);
    }

    fn acknowledge(&mut self, began: usize, metadata: &Metadata) {
        self.note(metadata);
        let (state, members) = (at(metadata.header()), metadata.active());
        self.acknowledged.push(Acknowledged { step: self.sim.steps(), began, state, members });
    }

    /// A history may have begun, and nobody was told.
    fn maybe(&mut self, began: usize, before: At, history: u64) {
        self.parents.insert(history, before);
        let (state, members) = ((history, before.1 + 1), self.sim.here);
        self.acknowledged.push(Acknowledged { step: usize::MAX, began, state, members });
    }

    /// What must hold of what is found in `sim`, when what was acknowledged until `step` counts.
    /// Whether it can be used.
    fn judge(&mut self, found: &Result<Recovered, Refusal>, sim: &Sim, step: usize) -> bool {
        self.seen += 1;
        let alive = sim.alive();
        let on = |a: &&Acknowledged| !a.members.and(alive).is_empty();
        let hurt = self.hurt.iter().rev().find(|(at, _)| *at <= step).unwrap().1;
        // A spare that is down to one good copy is nothing without the others in the next commit.
        let sure = |a: &&Acknowledged| !hurt || a.members.without(alive).is_empty();
        let there = |a: &&Acknowledged| a.step <= step && on(a) && sure(a);
        let kept: Vec<At> = self.acknowledged.iter().filter(there).map(|a| a.state).collect();
        match found {
            Ok(found) => {
                let (header, has) = (found.header(), entries(found));
                self.note_parent(header);
                for &state in &kept {
                    assert!(
                        self.is_ancestor(state, at(header)),
                        "{state:x?} was acknowledged, {:x?} was taken",
                        at(header)
                    );
                }
                // A commit of the members alone may have been begun and not noted.
                let known = match self.begun.get(&at(header)) {
                    Some((_, was)) => *was == has,
                    None => {
                        let before = |state: &At| header.descends_from(state.0, state.1);
                        let acknowledged = kept.iter().map(|state| state.1).max().unwrap_or(0);
                        let mut states = self.begun.iter().filter(|(state, _)| before(state));
                        matches!(header.raw().version.kind.get(), 7 | 8)
                            && states
                                .any(|(state, (_, was))| state.1 >= acknowledged && *was == has)
                    }
                };
                assert!(known, "{:x?} is not what it was", at(header));
                true
            }
            Err(refusal) => {
                // What was begun counts too: nobody can know that it was not used.
                let begun = |a: &&Acknowledged| a.began <= step && on(a);
                let used: Vec<At> =
                    self.acknowledged.iter().filter(begun).map(|a| a.state).collect();
                let apart = used.iter().any(|&a| {
                    used.iter().any(|&b| !self.is_ancestor(a, b) && !self.is_ancestor(b, a))
                });
                let fair = match refusal {
                    Refusal::Conflict(..) => apart,
                    Refusal::Unreadable(_) => alive.is_empty(),
                    Refusal::Incomplete { .. }
                    | Refusal::Outdated { .. }
                    | Refusal::Damaged { .. } => {
                        // Or it was being brought up to date, and those who have it all are not there.
                        let survey = Survey::take(&mut sim.clone(), crc).unwrap();
                        let newest = survey.newest().unwrap().1;
                        hurt || newest.in_state(SpareState::Active).and(alive).is_empty()
                    }
                    _ => false,
                };
                assert!(fair, "refused: {refusal}");
                false
            }
        }
    }

    /// Makes the set ours, with what is there.
    fn activate(&mut self) -> Option<Metadata> {
        let mut sim = self.sim.clone();
        let found = read_with_whom_is_there(&mut sim);
        let step = self.sim.steps();
        if !self.judge(&found, &sim, step) {
            return None;
        }
        let (history, found) = (self.rng.next(), found.ok()?);
        // What left no trace may be begun again.
        if found.gone().is_empty() {
            let (line, highest) = (found.header().history(), found.highest());
            self.begun.retain(|state, _| state.0 != line || state.1 <= highest);
        }
        let before = at(found.header());
        let Ok(metadata) = found.rebuild(&mut self.sim, 1, history) else {
            self.maybe(step, before, history);
            return None;
        };
        self.acknowledge(step, &metadata);
        if metadata.persist() == Persist::Enabled {
            self.hurt.push((self.sim.steps(), false));
        }
        Some(metadata)
    }

    /// What the target does with a change: commits it, and if a member does not answer, does so
    /// without it.
    fn commit(&mut self, metadata: &mut Metadata, changes: usize) {
        for _ in 0..4 {
            let mut edit = metadata.table().edit().unwrap();
            for _ in 0..changes {
                match some_change(&mut self.rng, metadata.active()) {
                    (extent, Some(mapping)) => edit.set(extent, mapping).unwrap(),
                    (extent, None) => edit.clear(extent).unwrap(),
                }
            }
            let (history, began) = (metadata.header().history(), self.sim.steps());
            let lost = match metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}) {
                Ok(prepared) => {
                    let state = (history, prepared.version());
                    let now = (self.sim.steps(), prepared.table().iter().collect());
                    let before = self.begun.insert(state, now);
                    assert!(before.is_none(), "{state:x?} was begun before");
                    match prepared.write_group_a(&mut self.sim) {
                        Ok(in_a) => {
                            let step = self.sim.steps();
                            in_a.write_group_b(&mut self.sim);
                            self.acknowledge(began, metadata);
                            self.acknowledged.last_mut().unwrap().step = step;
                            return;
                        }
                        Err(in_doubt) => in_doubt.lost,
                    }
                }
                Err(CommitError::NoCopyOn(spare)) => SpareSet::one(spare),
                Err(_) => SpareSet::NONE,
            };
            let (history, began) = (self.rng.next(), self.sim.steps());
            let before = at(metadata.header());
            let gone = metadata.go_on_without(&mut self.sim, 1, lost, history, |_| {});
            match gone {
                Ok(gone) if !gone.is_empty() => {
                    assert_eq!(metadata.away().and(gone), gone);
                    assert_ne!(metadata.persist(), Persist::Enabled);
                    self.acknowledge(began, metadata);
                }
                // A repair that fails leaves the copies that failed out.
                result => {
                    if result.is_err() {
                        self.maybe(began, before, history);
                    }
                    let _ = metadata.repair(&mut self.sim);
                }
            }
        }
    }

    /// Something fails, or is good again.
    fn disturb(&mut self, metadata: &mut Metadata) {
        let which = self.rng.below(self.sim.disks.len() as u64) as usize;
        let (rng, disk) = (&mut self.rng, &mut self.sim.disks[which]);
        match rng.below(8) {
            0 => {
                disk.failing_flushes = rng.below(8);
                self.hurt.push((self.sim.steps(), true));
            }
            1 => {
                let slot = [0, 128, 256, 512, 1024][rng.below(5) as usize];
                disk.no_write.insert(slot + rng.below(4));
                self.hurt.push((self.sim.steps(), true));
            }
            2 | 3 if disk.dies_after.is_none() => disk.dies_after = Some(1 + rng.below(20)),
            4 => {
                disk.dies_after = None;
                disk.no_write.clear();
                let (away, history, began) = (metadata.away(), self.rng.next(), self.sim.steps());
                let before = at(metadata.header());
                let back = metadata.take_back(&mut self.sim, 1, history, |_| {});
                if back.is_err() {
                    self.maybe(began, before, history);
                }
                if let Ok(back) = back {
                    assert_eq!(back.without(away), SpareSet::NONE);
                    assert_eq!(metadata.away().and(back), SpareSet::NONE);
                    self.acknowledge(began, metadata);
                }
            }
            _ => {}
        }
    }

    /// The disks that are there at the next activation: often all, and often alive.
    fn choose_disks(&mut self, sim: &mut Sim) {
        let all = (1 << sim.disks.len()) - 1;
        sim.here = SpareSet(all);
        if self.rng.chance(40) {
            sim.here = SpareSet(1 + self.rng.below(u64::from(all)) as u8);
        }
        sim.heal();
        for disk in &mut sim.disks {
            disk.dies_after = match disk.is_dead() && self.rng.chance(50) {
                true => Some(0),
                false => None,
            };
        }
    }
}

fn history_of_members(seed: u64) -> u64 {
    let mut world = World::new(seed);
    for _ in 0..6 {
        let mut metadata = match world.activate() {
            Some(metadata) => metadata,
            None => {
                // What is refused with some of the disks may be in order with all of them.
                let all = (1 << world.sim.disks.len()) - 1;
                world.sim.here = SpareSet(all);
                world.sim.disks.iter_mut().for_each(|disk| disk.dies_after = None);
                match world.activate() {
                    Some(metadata) => metadata,
                    None => return world.seen,
                }
            }
        };
        for _ in 0..1 + world.rng.below(6) {
            world.disturb(&mut metadata);
            let changes = [0, 1, 1, 5, 300][world.rng.below(5) as usize];
            world.commit(&mut metadata, changes);
        }
        let mut kept = None;
        for _ in 0..12 {
            let step = world.rng.below(world.sim.steps() as u64 + 1) as usize;
            let mut cut = world.sim.cut(step, &mut world.rng);
            world.choose_disks(&mut cut);
            let found = read_with_whom_is_there(&mut cut);
            world.judge(&found, &cut, step);
            kept = Some((cut, step));
        }
        let (cut, step) = kept.unwrap();
        world.acknowledged.retain(|a| a.began <= step);
        for a in &mut world.acknowledged {
            a.step = if a.step <= step { 0 } else { usize::MAX };
            a.began = 0;
        }
        world.hurt.retain(|(at, _)| *at <= step);
        world.hurt = vec![(0, world.hurt.last().unwrap().1)];
        world.begun.retain(|_, (begun, _)| *begun <= step);
        world.begun.values_mut().for_each(|(begun, _)| *begun = 0);
        world.sim = cut;
    }
    world.seen
}

#[test]
fn members_may_die_go_away_and_come_back_whenever_the_power_is_cut() {
    until_enough(history_of_members);
}

/// A set of two spares of which one has been away for some commits.
fn with_one_away(seed: u64) -> (World, Metadata) {
    let mut world = World::new(seed);
    while world.sim.disks.len() != 2 {
        world = World::new(world.rng.next());
    }
    let mut metadata = world.activate().unwrap();
    world.commit(&mut metadata, 300);
    world.sim.here = SpareSet(1);
    let mut metadata = world.activate().unwrap();
    assert_eq!((metadata.active(), metadata.away()), (SpareSet(1), SpareSet(2)));
    (0..3).for_each(|_| world.commit(&mut metadata, 2));
    world.sim.settle();
    (world, metadata)
}

/// Uses the set with that disk alone, as `cut` has it, for some commits; the last is cut short after
/// group A, and acknowledged.
fn use_alone(cut: &Sim, spare: SpareId, rng: &mut Rng) -> Option<(Sim, At)> {
    let mut sim = cut.with_only(SpareSet::one(spare));
    let mut metadata =
        read_with_whom_is_there(&mut sim).ok()?.rebuild(&mut sim, 1, rng.next()).ok()?;
    for last in [rng.chance(50), true] {
        let mut edit = metadata.table().edit().unwrap();
        let (extent, _) = some_change(rng, metadata.active());
        edit.set(extent, Mapping::Pending).unwrap();
        let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        let in_a = begun.write_group_a(&mut sim).unwrap();
        if last {
            break;
        }
        in_a.write_group_b(&mut sim);
    }
    Some((sim, at(metadata.header())))
}

#[test]
fn two_that_were_used_alone_are_a_conflict_however_they_were_parted() {
    let mut parted = 0;
    for seed in 1..10 {
        let (mut world, _) = with_one_away(seed);
        world.sim.here = SpareSet(3);
        world.activate().unwrap();
        for step in 0..=world.sim.steps() {
            let cut = world.sim.cut(step, &mut world.rng);
            let [Some((zero, _)), Some((one, _))] =
                [0, 1].map(|i| use_alone(&cut, SpareId(i), &mut world.rng))
            else {
                continue;
            };
            parted += 1;
            let mut both = zero.with_only(SpareSet(3));
            both.disks[1] = one.disks[1].clone();
            match read_with_whom_is_there(&mut both) {
                Err(Refusal::Conflict(..)) => {}
                Err(refusal) => panic!("step {step}: {refusal}"),
                Ok(found) => panic!("step {step}: {:x?} was taken", at(found.header())),
            }
        }
    }
    assert!(parted > 100, "{parted}");
}

#[test]
fn a_return_that_was_cut_short_is_begun_again() {
    for seed in 1..10 {
        let (mut world, mut metadata) = with_one_away(seed);
        world.sim.here = SpareSet(3);
        let back = metadata.take_back(&mut world.sim, 1, world.rng.next(), |_| {});
        assert_eq!(back, Ok(SpareSet(2)));
        assert_eq!(metadata.persist(), Persist::Enabled);
        for step in 0..world.sim.steps() {
            // Meanwhile the other is used alone, if the commit has not reached it.
            let cut = world.sim.cut(step, &mut world.rng);
            let mut first = cut.with_only(SpareSet(1));
            let without = Without { absent: &[], away: true };
            if recover_without(&mut first, &without, crc).is_err() {
                continue;
            }
            let (zero, acknowledged) = use_alone(&cut, SpareId(0), &mut world.rng).unwrap();
            let mut both = zero.with_only(SpareSet(3));
            let found =
                read_with_whom_is_there(&mut both).unwrap_or_else(|e| panic!("step {step}: {e}"));
            assert!(found.header().descends_from(acknowledged.0, acknowledged.1));
            let rebuilt = found.rebuild(&mut both, 1, 1).unwrap();
            assert_eq!((rebuilt.persist(), rebuilt.active()), (Persist::Enabled, SpareSet(3)));
        }
    }
}

#[test]
fn a_set_may_say_that_those_who_are_away_are_not_needed() {
    let (mut world, mut metadata) = with_one_away(2);
    let refused = recover(&mut world.sim, crc).err();
    assert_eq!(refused, Some(Refusal::Away(SpareId(1), uuid(SpareId(1)))));
    let mut settings = metadata.settings();
    settings.set([("assemble_degraded", "1")], &Limits::default()).unwrap();
    let put = |header: &mut Header| settings.to_raw(&mut header.raw_mut().settings);
    let begun = metadata.begin(CommitKind::Settings, 1, None, put).unwrap();
    begun.write_group_a(&mut world.sim).unwrap().write_group_b(&mut world.sim);
    let found = recover(&mut world.sim, crc).unwrap();
    assert_eq!(content(&found.into_metadata()), content(&metadata));
    // One that is not known to be away is missed all the same.
    world.sim.here = SpareSet(2);
    assert!(matches!(recover(&mut world.sim, crc), Err(Refusal::Missing(SpareId(0), _))));
}

#[test]
fn what_is_not_an_ancestor_is_not_taken_back() {
    let (mut world, mut metadata) = with_one_away(1);
    let (one, _) = use_alone(&world.sim, SpareId(1), &mut world.rng).unwrap();
    world.sim.disks[1] = one.disks[1].clone();
    world.sim.here = SpareSet(3);
    let before = world.sim.disks[1].clone();
    let refused = metadata.take_back(&mut world.sim, 1, 7, |_| {});
    assert!(matches!(refused, Err(ChangeError::Foreign(_))), "{refused:?}");
    assert!(before.written().eq(world.sim.disks[1].written()));
    assert_eq!(metadata.away(), SpareSet(2));
}

#[test]
fn a_member_long_away_is_known_however_often_others_come_and_go() {
    let mut sim = Sim::new(3, SECTORS, 5);
    create_on(&mut sim);
    let mut history = 100;
    let mut activate = |sim: &mut Sim, here| {
        sim.here = SpareSet(here);
        history += 1;
        read_with_whom_is_there(sim).unwrap().rebuild(sim, 1, history).unwrap()
    };
    activate(&mut sim, 0b011);
    for _ in 0..20 {
        activate(&mut sim, 0b001);
        activate(&mut sim, 0b011);
    }
    let all = activate(&mut sim, 0b111);
    assert_eq!((all.persist(), all.active()), (Persist::Enabled, SpareSet(7)));
}

#[test]
fn a_member_that_is_left_away_is_not_written_to_and_comes_back_later() {
    let mut left = 0;
    for seed in 1..6 {
        let (mut world, mut metadata) = with_one_away(seed);
        world.sim.here = SpareSet(3);
        metadata.take_back(&mut world.sim, 1, world.rng.next(), |_| {}).unwrap();
        for step in 0..=world.sim.steps() {
            let mut cut = world.sim.cut(step, &mut world.rng).with_only(SpareSet(3));
            let mut found =
                read_with_whom_is_there(&mut cut).unwrap_or_else(|e| panic!("step {step}: {e}"));
            if found.back().is_empty() {
                continue;
            }
            left += 1;
            let before = cut.disks[1].clone();
            found.leave_away();
            assert!(found.back().is_empty());
            let rebuilt = found.rebuild(&mut cut, 1, world.rng.next()).unwrap();
            assert_eq!((rebuilt.active(), rebuilt.away()), (SpareSet(1), SpareSet(2)));
            assert_eq!(rebuilt.persist(), Persist::Degraded);
            assert!(before.written().eq(cut.disks[1].written()), "step {step}");
            let again =
                read_with_whom_is_there(&mut cut).unwrap().rebuild(&mut cut, 1, world.rng.next());
            let again = again.unwrap();
            assert_eq!((again.persist(), again.active()), (Persist::Enabled, SpareSet(3)));
            assert!(again.table().iter().eq(rebuilt.table().iter()));
        }
    }
    assert!(left > 20, "{left}");
}

#[test]
fn settings_that_could_not_be_kept_are_in_force_and_kept_by_the_next_commit_whatever_it_is_for() {
    let wish = |rate| {
        let mut wish = KVec::new();
        wish.push((&SCAN_RATE, rate), GFP_KERNEL).unwrap();
        wish
    };
    let mut sim = Sim::new(2, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    assert!(metadata.put_settings(wish(100)));
    drop(metadata.begin(CommitKind::Settings, 1, None, |_| {}).unwrap());
    assert!(metadata.has_unkept() && metadata.settings().get(&SCAN_RATE) == 100);
    let change = MemberChange { away: SpareSet::one(SpareId(1)), back: SpareSet::NONE, history: 7 };
    metadata.change_members(&mut sim, 1, change, |_| {}).unwrap();
    assert!(!metadata.has_unkept() && metadata.settings().get(&SCAN_RATE) == 100);
    let found = recover_without(&mut sim, &KNOWN_AWAY, crc).unwrap();
    assert_eq!(Settings::get_raw(&found.header().raw().settings, &SCAN_RATE), 100);
    // What holds already is nothing to keep, and what is taken back holds no more.
    assert!(!metadata.put_settings(wish(100)));
    assert!(metadata.put_settings(wish(200)));
    metadata.take_unkept();
    assert_eq!(metadata.settings().get(&SCAN_RATE), 100);
}

#[test]
fn a_rebuild_writes_last_what_is_whole_on_each_spare_and_not_what_only_begins_to_be_newer() {
    let mut rng = Rng::new(3);
    let mut sim = Sim::new(2, SECTORS, 3);
    let mut metadata = create_on(&mut sim);
    commit(&mut sim, &mut metadata, 3, &mut rng);
    let before = content(&metadata);
    // Of the next commit the first spare has the headers of group A, and no block; the second has all.
    let was = sim.disks[0].clone();
    let mut edit = metadata.table().edit().unwrap();
    edit.set(extent(0, 8), Mapping::Pending).unwrap();
    let begun = metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
    drop(begun.write_group_a(&mut sim).unwrap());
    for block in [0, 256, 1024].map(|header| header + 1) {
        sim.disks[0].set_block(block, was.block(block));
    }
    sim.settle();
    let after = content(&metadata);
    read_with_whom_is_there(&mut sim).unwrap().rebuild(&mut sim, 1, 7).unwrap();
    for step in (0..=sim.steps()).flat_map(|step| [step; 99]) {
        let mut alone = sim.cut(step, &mut rng).with_only(SpareSet(1));
        let found =
            read_with_whom_is_there(&mut alone).unwrap_or_else(|e| panic!("step {step}: {e}"));
        let is = entries(&found);
        assert!(is == before || is == after, "step {step}");
    }
}
