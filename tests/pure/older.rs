// SPDX-License-Identifier: GPL-2.0

//! A clone, a snapshot or a restored image of a spare in the place of the spare: it is refused where the
//! metadata prove that it is older than the spare was, and what is only damaged, left out or cut short is
//! taken as ever.

mod history;
mod sim;

use history::states;
use remap_pure::commit::{ChangeError, Metadata, Persist};
use remap_pure::format::header::Header;
use remap_pure::format::layout::{CopyId, COPIES, SLOTS};
use remap_pure::format::{CommitKind, SpareState};
use remap_pure::recovery::members::{Without, KNOWN_AWAY};
use remap_pure::recovery::{recover, recover_without, Recovered, Refusal, Survey};
use remap_pure::rewrite::{look, rewrite, supersede};
use remap_pure::store::{SpareSet, Store, Write};
use remap_pure::units::SpareId;
use sim::*;

const ZERO: SpareId = SpareId(0);
const ONE: SpareId = SpareId(1);

fn header_at(copy: u8) -> u64 {
    SLOTS[usize::from(copy)].0 / 8
}

/// A set of so many spares that is in use.
struct Set {
    sim: Sim,
    metadata: Metadata,
    rng: Rng,
}

impl Set {
    fn new(spares: usize, seed: u64) -> Self {
        let mut sim = Sim::new(spares, SECTORS, seed);
        let metadata = create_on(&mut sim);
        let mut set = Self { sim, metadata, rng: Rng::new(seed) };
        set.go_on_to(4);
        set
    }

    /// Commits until that version is in use.
    fn go_on_to(&mut self, version: u64) {
        while self.metadata.version() < version {
            commit(&mut self.sim, &mut self.metadata, 2, &mut self.rng);
        }
    }

    /// An image of that spare as it is.
    fn image(&self, spare: SpareId) -> Disk {
        self.sim.disks[usize::from(spare.0)].clone()
    }

    /// The spares as they are, with an image in the place of one.
    fn with(&self, spare: SpareId, image: &Disk) -> Sim {
        let mut sim = self.sim.clone();
        sim.disks[usize::from(spare.0)] = image.clone();
        sim
    }

    /// That spare stays behind, and the others go on to a version.
    fn without(&mut self, spare: SpareId, version: u64) {
        self.sim.here = self.sim.here.without(SpareSet::one(spare));
        let absent = [uuid(spare)];
        let without = Without { absent: &absent, away: true };
        let found = recover_without(&mut self.sim, &without, crc).unwrap();
        self.metadata = found.rebuild(&mut self.sim, 1, self.rng.next()).unwrap();
        self.go_on_to(version);
    }

    fn all_there(&mut self) {
        self.sim.here = SpareSet(((1u32 << self.sim.disks.len()) - 1) as u8);
    }
}

fn older(spare: SpareId, found: u64, durable: u64, away: bool) -> Refusal {
    Refusal::Older { spare, uuid: uuid(spare), found, durable, away }
}

fn taken(sim: &mut Sim) -> Recovered {
    recover(sim, crc).unwrap_or_else(|e| panic!("refused: {e}"))
}

/// Damages the header of a copy.
fn damage(disk: &mut Disk, copy: u8) {
    disk.set_block(header_at(copy), [0x5a; 4096]);
}

#[test]
fn a_clone_of_an_active_spare_that_was_used_on_is_refused() {
    for spare in [ZERO, ONE] {
        let mut set = Set::new(2, 1);
        set.go_on_to(6);
        let clone = set.image(spare);
        // One that is of the version in use is the same.
        assert!(taken(&mut set.with(spare, &clone)).is_clean());
        for version in 7..12 {
            set.go_on_to(version);
            let mut sim = set.with(spare, &clone);
            let before = sim.clone();
            assert_eq!(recover(&mut sim, crc).err(), Some(older(spare, 6, version, false)));
            assert!(before.disks.iter().zip(&sim.disks).all(|(a, b)| a.written().eq(b.written())));
            assert!(taken(&mut set.sim.clone()).is_clean());
        }
        // Without it the set goes on, and it does not come back.
        set.without(spare, 13);
        set.all_there();
        let mut sim = set.with(spare, &clone);
        assert_eq!(recover(&mut sim, crc).err(), Some(older(spare, 6, 11, true)));
        assert!(!taken(&mut set.sim).back().is_empty(), "the one that was used does");
    }
}

#[test]
fn of_several_the_one_that_is_older_is_named() {
    let mut set = Set::new(3, 2);
    set.go_on_to(6);
    let clones = [0, 1, 2].map(|i| set.image(SpareId(i)));
    set.go_on_to(11);
    let mut sim = set.with(ONE, &clones[1]);
    assert_eq!(recover(&mut sim, crc).err(), Some(older(ONE, 6, 11, false)));
    // All of them are a set as it was; nobody knows more.
    (0..3).for_each(|i| sim.disks[i] = clones[i].clone());
    assert_eq!(taken(&mut sim).header().version(), 6);
}

#[test]
fn a_clone_is_refused_where_what_it_lacks_was_left_out_of_the_commits() {
    let mut set = Set::new(2, 3);
    set.sim.disks[1].no_write.insert(header_at(1));
    set.go_on_to(6);
    let mut clone = set.image(ONE);
    damage(&mut clone, 1);
    set.go_on_to(7);
    // The commit that says so may be the one that stood there alone.
    assert!(!taken(&mut set.with(ONE, &clone)).is_clean());
    set.go_on_to(11);
    assert_eq!(set.metadata.header().raw().spares[1].copies_out, 1 << 1);
    assert_eq!(recover(&mut set.with(ONE, &clone), crc).err(), Some(older(ONE, 6, 10, false)));
    // A header that nothing excuses may be what was newer.
    damage(&mut clone, 4);
    assert!(!taken(&mut set.with(ONE, &clone)).is_clean());
    // The spare itself is taken, whichever of its copies are left.
    for left in [0, 2, 3, 4] {
        let mut own = set.image(ONE);
        (0..COPIES as u8)
            .filter(|&copy| copy != left && copy != 1)
            .for_each(|copy| damage(&mut own, copy));
        assert!(!taken(&mut set.with(ONE, &own)).is_clean(), "copy {left} is left");
    }
}

#[test]
fn damage_and_failing_places_make_no_spare_older() {
    // What is left on it of each version: nothing but copies that the commits did not reach.
    for failing in 1..1 << COPIES {
        let mut set = Set::new(2, 4);
        let bad: Vec<u8> = (0..COPIES as u8).filter(|copy| (failing >> copy) & 1 != 0).collect();
        set.sim.disks[1].no_write.extend(bad.iter().map(|&copy| header_at(copy)));
        for _ in 0..3 {
            let begun = set.metadata.begin(CommitKind::Settings, 1, None, |_| {});
            let Ok(begun) = begun else { break };
            let Ok(in_a) = begun.write_group_a(&mut set.sim) else { break };
            in_a.write_group_b(&mut set.sim);
            set.sim.settle();
            for gone in 0..1 << COPIES {
                let mut sim = set.sim.clone();
                sim.heal();
                (0..COPIES as u8)
                    .filter(|copy| (gone >> copy) & 1 != 0)
                    .for_each(|copy| damage(&mut sim.disks[1], copy));
                // With none left it is no member.
                let refusal = recover(&mut sim, crc).err();
                let none = gone == (1 << COPIES) - 1;
                assert_eq!(refusal.is_some(), none, "{failing:05b} {gone:05b}: {refusal:?}");
            }
        }
    }
}

#[test]
fn a_clone_of_a_spare_that_went_away_is_refused_and_the_spare_itself_taken_back() {
    for in_use in [false, true] {
        let mut set = Set::new(2, 5);
        set.go_on_to(6);
        let clone = set.image(ONE);
        set.go_on_to(11);
        if in_use {
            set.sim.disks[1].dies_after = Some(1);
            let mut edit = set.metadata.table().edit().unwrap();
            edit.clear(extent(0, 8)).unwrap();
            let begun = set.metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
            let lost = begun.write_group_a(&mut set.sim).err().unwrap().lost;
            set.metadata.go_on_without(&mut set.sim, 1, lost, 77, |_| {}).unwrap();
            set.sim.disks[1].dies_after = None;
        } else {
            set.without(ONE, 0);
        }
        assert_eq!((set.metadata.away(), set.metadata.header().had(ONE)), (SpareSet(2), 11));
        set.go_on_to(20);
        set.all_there();
        set.sim.settle();

        let mut sim = set.with(ONE, &clone);
        let before = sim.clone();
        assert_eq!(recover(&mut sim, crc).err(), Some(older(ONE, 6, 11, true)));
        let back = set.metadata.take_back(&mut sim, 1, 78, |_| {});
        assert_eq!(back, Err(ChangeError::Older { spare: ONE, found: 6, durable: 11 }));
        assert!(before.disks.iter().zip(&sim.disks).all(|(a, b)| a.written().eq(b.written())));
        assert_eq!(set.metadata.away(), SpareSet(2));
        // Where one of its headers is not whole, that may be what was newer.
        let mut hurt = clone.clone();
        damage(&mut hurt, 3);
        assert_eq!(taken(&mut set.with(ONE, &hurt)).back(), SpareSet(2));

        assert_eq!(taken(&mut set.sim.clone()).back(), SpareSet(2));
        let back = set.metadata.take_back(&mut set.sim, 1, 79, |_| {});
        assert_eq!(back, Ok(SpareSet(2)));
        assert_eq!(set.metadata.header().had(ONE), 0);
        assert!(taken(&mut set.sim).is_clean());
    }
}

#[test]
fn a_spare_that_a_commit_did_not_reach_before_it_was_left_behind_is_taken_back() {
    // A commit that only the first has, whole; then the set goes on without the second.
    for seed in 1..20 {
        let mut set = Set::new(2, seed);
        set.go_on_to(6);
        let second = set.image(ONE);
        let begun = set.metadata.begin(CommitKind::Settings, 1, None, |_| {}).unwrap();
        drop(begun.write_group_a(&mut set.sim).unwrap());
        set.sim.settle();
        set.sim = set.with(ONE, &second);
        set.without(ONE, 0);
        assert_eq!(set.metadata.header().had(ONE), 6);
        set.go_on_to(12);
        set.all_there();
        let found = taken(&mut set.sim);
        assert_eq!(found.back(), SpareSet(2));
        let rebuilt = found.rebuild(&mut set.sim, 1, 9).unwrap();
        assert_eq!(rebuilt.persist(), Persist::Enabled);
    }
}

#[test]
fn what_a_spare_had_is_not_known_where_a_writer_has_not_kept_it() {
    let mut set = Set::new(2, 6);
    let clone = set.image(ONE);
    set.go_on_to(11);
    set.without(ONE, 20);
    set.all_there();
    for copy in 0..COPIES as u8 {
        let id = CopyId { spare: ZERO, copy };
        let block = set.sim.disks[0].block(header_at(copy));
        let Ok(mut header) = Header::decode(&block, id, crc) else { panic!("no header") };
        let durable = header.raw().identification.durable_version.get();
        header.raw_mut().spares[1].had_version.set(0);
        let block = header.encode(id, durable, crc).unwrap();
        set.sim.disks[0].set_block(header_at(copy), *block);
    }
    assert_eq!(taken(&mut set.with(ONE, &clone)).back(), SpareSet(2));
}

#[test]
fn what_writers_of_before_called_durable_proves_nothing_until_the_next_commit() {
    let mut set = Set::new(2, 9);
    let clone = set.image(ONE);
    set.go_on_to(11);
    for (disk, spare) in [(0, ZERO), (1, ONE)] {
        for copy in 0..COPIES as u8 {
            let id = CopyId { spare, copy };
            let block = set.sim.disks[disk].block(header_at(copy));
            let Ok(mut header) = Header::decode(&block, id, crc) else { panic!("no header") };
            let durable = header.raw().identification.durable_version.get();
            header.raw_mut().identification.stood_version.set(0);
            let block = header.encode(id, durable, crc).unwrap();
            set.sim.disks[disk].set_block(header_at(copy), *block);
        }
    }
    taken(&mut set.with(ONE, &clone)).rebuild(&mut set.sim.clone(), 1, 10).unwrap();
    let found = taken(&mut set.sim);
    set.metadata = found.rebuild(&mut set.sim, 1, 10).unwrap();
    set.go_on_to(12);
    let refusal = recover(&mut set.with(ONE, &clone), crc).err();
    assert!(matches!(refusal, Some(Refusal::Older { durable: 12, .. })), "{refusal:?}");
}

#[test]
fn what_a_spare_had_is_the_highest_version_before_it_went_that_ends_so() {
    let set = Set::new(2, 7);
    let mut header = set.metadata.header().try_clone().unwrap();
    let mut had = |state: SpareState, low: u32, since: u64| {
        let spare = &mut header.raw_mut().spares[1];
        spare.state = state as u8;
        spare.had_version.set(low);
        spare.since_version.set(since);
        header.had(ONE)
    };
    const HIGH: u64 = 5 << 32;
    assert_eq!(had(SpareState::Away, 11, 12), 11);
    assert_eq!(had(SpareState::Away, 11, HIGH + 12), HIGH + 11);
    assert_eq!(had(SpareState::Away, 12, HIGH + 12), HIGH - (1 << 32) + 12);
    assert_eq!(had(SpareState::Away, u32::MAX, HIGH + 12), HIGH - 1);
    assert_eq!(had(SpareState::Away, 12, 12), 0);
    assert_eq!(had(SpareState::Away, 0, HIGH), 0);
    assert_eq!(had(SpareState::Active, 11, 12), 0);
}

#[test]
fn a_restore_that_a_spare_took_nothing_of_does_not_make_it_older() {
    for (dead, waits) in [(true, false), (false, true)] {
        let mut set = Set::new(2, 8);
        set.go_on_to(9);
        let second = set.image(ONE);
        let mut header = set.metadata.header().try_clone().unwrap();
        let table = set.metadata.table().clone();
        let layout = header.layout();
        let seen = look(&mut set.sim, ZERO, &layout, &UUID, crc).unwrap();
        supersede(&mut header, &seen, [].into_iter(), 9, 5).unwrap();
        // It takes nothing; or all of its copies are written last.
        if dead {
            set.sim.disks[1].dies_after = Some(1);
        }
        let mut last = remap_pure::copies::CopySet::NONE;
        if waits {
            last = remap_pure::copies::CopySet::all(SpareSet::one(ONE));
        }
        rewrite(&mut set.sim, header, &table, last, crc).unwrap();
        if !dead {
            let known = |sim: &mut Sim, spare| {
                let survey = Survey::take(sim, crc).unwrap();
                let on = survey.headers().filter(|(id, _)| id.spare == spare);
                on.map(|(_, h)| h.raw().identification.durable_version.get()).max().unwrap()
            };
            assert_eq!(known(&mut set.sim, ZERO), 10, "it is known in the end");
        }
        for step in 0..=set.sim.steps() {
            let mut cut = set.sim.cut(step, &mut set.rng);
            cut.disks.iter_mut().for_each(|disk| disk.dies_after = None);
            if dead {
                cut.disks[1] = second.clone();
            }
            let found = taken(&mut cut);
            let rebuilt = found.rebuild(&mut cut, 1, 10).unwrap();
            assert_eq!(rebuilt.persist(), Persist::Enabled, "step {step}");
        }
    }
}

#[test]
fn a_rebuild_says_nothing_of_a_spare_that_takes_nothing() {
    for seed in 1..20 {
        let mut set = Set::new(2, seed);
        let second = set.image(ONE);
        let begun = set.metadata.begin(CommitKind::Settings, 1, None, |_| {}).unwrap();
        drop(begun.write_group_a(&mut set.sim).unwrap());
        set.sim.settle();
        // The commit has not reached it, and the rebuild does not either, nor come to its end.
        let mut sim = set.with(ONE, &second);
        sim.disks[1].dies_after = Some(1);
        let found = taken(&mut sim);
        let _ = found.rebuild(&mut sim, 1, 9);
        for step in 0..=sim.steps() {
            let mut cut = sim.cut(step, &mut set.rng);
            cut.disks[1] = second.clone();
            let found = recover_without(&mut cut, &KNOWN_AWAY, crc);
            assert!(found.is_ok(), "step {step}: {:?}", found.err());
        }
    }
}

#[test]
fn what_was_read_from_a_cache_is_flushed_before_it_counts_as_durable() {
    for seed in 1..60 {
        // The second spare has one good copy.
        let mut set = Set::new(2, seed);
        set.sim.disks[1].no_write.extend((1..COPIES as u8).map(header_at));
        set.go_on_to(7);
        let mut sim = set.sim.clone();
        let begun = set.metadata.begin(CommitKind::Settings, 1, None, |_| {}).unwrap();
        drop(begun.write_group_a(&mut set.sim).unwrap());
        // The machine stops before that spare has flushed, and comes up again without losing power.
        sim.disks[0] = set.image(ZERO);
        sim.disks[0].settle();
        let mut block = remap_pure::mem::Block::zeroed().unwrap();
        block.copy_from_slice(&set.sim.disks[1].block(header_at(0)));
        let at = remap_pure::format::layout::Layout::header(0);
        let mut batch = [Write::new(ONE, at, &block)];
        sim.write(&mut batch);
        let mut metadata = taken(&mut sim).rebuild(&mut sim, 1, 9).unwrap();
        let began = sim.steps();
        let begun = metadata.begin(CommitKind::Settings, 1, None, |_| {}).unwrap();
        let _ = begun.write_group_a(&mut sim);
        for step in (began..=sim.steps()).flat_map(|step| [step; 8]) {
            let mut cut = sim.cut(step, &mut set.rng);
            taken(&mut cut);
        }
    }
}

#[test]
fn a_live_set_does_not_write_over_a_spare_that_became_older_under_it() {
    let mut set = Set::new(2, 9);
    let clone = set.image(ONE);
    set.go_on_to(11);
    let mut sim = set.with(ONE, &clone);
    let refusal = recover(&mut sim, crc).err().unwrap();
    set.metadata.refused(&mut sim, &refusal).unwrap();
    assert_eq!(set.metadata.mend(&mut sim), Ok(None));
    assert!(sim.disks[1].written().eq(clone.written()));
    // A person may say so.
    set.metadata.repair(&mut sim).unwrap();
    assert_eq!(set.metadata.persist(), Persist::Enabled);
}

/// Images of each spare at random moments of a random history, put back later, also after crashes: an image
/// of before a commit that the whole set has is refused, and no set that was only cut short is.
fn images_put_back(seed: u64) -> (u64, u64) {
    let mut set = Set::new(2 + (seed % 2) as usize, seed);
    let spares = set.sim.disks.len() as u64;
    let (mut looked, mut refused) = (0, 0);
    let mut images: Vec<(u64, Vec<Disk>)> = Vec::new();
    for _ in 0..8 {
        // All copies of every spare are of this version, with all that it had.
        images.push((set.metadata.version(), set.sim.disks.clone()));
        for step in 0..=set.sim.steps() {
            let mut cut = set.sim.cut(step, &mut set.rng);
            looked += 1;
            taken(&mut cut);
        }
        set.sim.settle();
        let spare = SpareId(set.rng.below(spares) as u8);
        match set.rng.below(3) {
            0 => {
                set.without(spare, 0);
                let more = set.metadata.version() + set.rng.below(3);
                set.go_on_to(more);
                set.all_there();
                let back = set.metadata.take_back(&mut set.sim, 1, set.rng.next(), |_| {});
                assert_eq!(back, Ok(SpareSet::one(spare)));
            }
            _ => {
                let edit = set.metadata.table().edit().unwrap();
                let begun = set.metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
                begun.write_group_a(&mut set.sim).unwrap().write_group_b(&mut set.sim);
            }
        }
        let whole = set.sim.clone();
        for (version, disks) in &images {
            let image = &disks[usize::from(spare.0)];
            let mut sim = set.with(spare, image);
            let refusal = recover_without(&mut sim, &KNOWN_AWAY, crc).err();
            // Of a history that has been forgotten nobody can say that it was one.
            match refusal {
                Some(Refusal::Conflict(..)) => continue,
                other => {
                    assert_eq!(other, Some(older(spare, *version, set.metadata.version(), false)));
                }
            }
            refused += 1;
        }
        set.sim = whole;
    }
    (looked, refused)
}

#[test]
fn images_of_any_time_are_refused_and_crashes_are_not() {
    let (mut looked, mut refused) = (0, 0);
    for seed in 1..(states() / 500).clamp(3, 100) {
        let seen = images_put_back(seed);
        (looked, refused) = (looked + seen.0, refused + seen.1);
    }
    assert!(looked > 100 && refused > 50, "{looked}, {refused}");
}
