// SPDX-License-Identifier: GPL-2.0

//! The power is cut at every step of every commit of random histories, also while failures keep
//! commits in doubt, while copies are rebuilt and while a set is created.

mod history;
mod sim;

use history::*;
use remap_pure::commit::Persist;
use remap_pure::copies::CopyState;
use remap_pure::create::{check_create, create, Creation};
use remap_pure::format::header::Header;
use remap_pure::format::layout::{CopyId, Layout, COPIES};
use remap_pure::format::CommitKind;
use remap_pure::recovery::{recover, Refusal, Survey};
use remap_pure::store::SpareSet;
use remap_pure::units::SpareId;
use sim::*;

/// On how many disks: on one, or on up to three.
fn disks(seed: u64) -> usize {
    [1, 1, 2, 3][(seed / 2 % 4) as usize]
}

fn healthy_history(seed: u64) -> u64 {
    let mut history = History::new(seed, disks(seed));
    for _ in 0..12 {
        let changes = [0, 1, 1, 1, 5, 40][history.rng.below(6) as usize];
        let acknowledged = history.commit(changes);
        assert_eq!(acknowledged.len(), 2, "a commit on a healthy disk failed");
        assert_eq!(history.metadata.persist(), Persist::Enabled);
        let kept = history.cut_everywhere(&acknowledged);
        history.sim.settle();
        if let (Some(kept), true) = (kept, history.rng.chance(30)) {
            history.go_on_from(kept);
        }
    }
    history.seen
}

#[test]
fn every_crash_recovers_to_the_old_state_or_the_new_one() {
    until_enough(healthy_history);
}

fn failing_history(seed: u64) -> u64 {
    let mut history = History::new(seed, disks(seed));
    for _ in 0..12 {
        // Several commits to one log, so that commits in doubt are found beside later ones.
        let mut acknowledged = vec![(0, history.metadata.version())];
        for _ in 0..1 + history.rng.below(4) {
            let rng = &mut history.rng;
            let which = rng.below(history.sim.disks.len() as u64) as usize;
            let disk = &mut history.sim.disks[which];
            disk.failing_flushes = if rng.chance(35) { rng.below(8) } else { 0 };
            if rng.chance(25) {
                let slot = [0, 128, 256, 512, 1024][rng.below(5) as usize];
                disk.no_write.insert(slot + rng.below(4));
            } else if rng.chance(25) {
                disk.no_write.clear();
            }
            let changes = [0, 1, 1, 5][rng.below(4) as usize];
            let more = history.commit(changes);
            acknowledged.extend_from_slice(&more[1..]);
            if history.rng.chance(40) {
                // A repair that fails leaves the copies that failed out.
                let _ = history.metadata.repair(&mut history.sim);
            }
        }
        let kept = history.cut_everywhere(&acknowledged);
        if let (Some(kept), true) = (kept, history.rng.chance(50)) {
            history.go_on_from(kept);
            continue;
        }
        // Back to health, without a crash.
        history.sim.heal();
        history.metadata.repair(&mut history.sim).unwrap();
        let done = history.commit(1);
        assert_eq!(done.len(), 2, "a commit after a repair failed");
        assert!(!history.metadata.in_doubt());
        history.sim.settle();
        assert_all_good(&mut history.sim, &history.metadata);
    }
    history.seen
}

#[test]
fn with_writes_and_flushes_that_fail_nothing_acknowledged_is_lost() {
    until_enough(failing_history);
}

/// Attempts to create a set, one after the other, that the power cuts short.
const ATTEMPTS: u8 = 4;

fn creation(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(disks(seed), SECTORS, rng.next() >> 8);
    let foreign = rng.chance(50);
    if foreign {
        (0..20).for_each(|_| {
            let at = [0, 128, 256, 512, 1024][rng.below(5) as usize] + rng.below(128);
            sim.disks[0].set_block(at, [rng.next() as u8 | 1; 4096]);
        });
    }
    create_and_cut(sim, 1, SpareSet(u8::from(foreign)), &mut rng)
}

/// Cuts the power at each step of the first attempt and at some of those after it. Gives the steps of this one.
fn create_and_cut(mut sim: Sim, attempt: u8, overwrite: SpareSet, rng: &mut Rng) -> u64 {
    // The same line, with other numbers drawn.
    let new = |sim: &mut Sim, attempt: u8| {
        let mut set = new_set(Layout::STANDARD);
        (set.uuid.0[0], set.history) = (attempt, u64::from(attempt));
        let spares: Vec<_> = (0..sim.disks.len()).map(new_spare).collect();
        create(sim, &set, &spares, overwrite, crc, |_| {})
    };
    new(&mut sim, attempt).unwrap();
    let all = sim.steps();
    let steps: Vec<usize> = match attempt {
        1 => (0..=all).collect(),
        _ => (0..2).map(|_| rng.below(all as u64) as usize).collect(),
    };
    for step in steps {
        let mut cut = sim.cut(step, rng);
        let existed = match recover(&mut cut, crc) {
            Ok(found) => {
                assert_eq!(found.header().version(), 1);
                assert!(found.table().is_empty());
                if rng.chance(50) {
                    let metadata = found.rebuild(&mut cut, 1, 1).unwrap();
                    assert_all_good(&mut cut, &metadata);
                    continue;
                }
                true
            }
            Err(Refusal::Empty(_) | Refusal::Foreign(_) | Refusal::CreationCutShort(..)) => false,
            Err(e) => panic!("attempt {attempt} cut at step {step}: {e}"),
        };
        match check_create(&mut cut, &Layout::STANDARD, overwrite, crc) {
            Ok(Creation::Finish(set)) => assert!(existed && set.0[0] == attempt),
            Ok(Creation::Fresh(_)) if attempt < ATTEMPTS => {
                assert!(!existed);
                create_and_cut(cut, attempt + 1, overwrite, rng);
                continue;
            }
            Ok(Creation::Fresh(_)) => assert!(!existed),
            Err(_) if existed => {
                // All headers stand: the set is there.
                let survey = Survey::take(&mut cut, crc).unwrap();
                assert!(!survey.has_marks());
                continue;
            }
            Err(e) => panic!("attempt {attempt} cut at step {step}, once more: {e}"),
        }
        let metadata = new(&mut cut, attempt + 1).unwrap();
        assert_eq!(metadata.header().uuid().0[0], attempt + u8::from(!existed));
        assert_eq!(metadata.version(), 1);
        let found = recover(&mut cut, crc).unwrap();
        assert!(found.is_clean());
    }
    all as u64 + 1
}

#[test]
fn a_creation_that_was_cut_short_is_finished_by_the_same_line() {
    for seed in 0..(states() / 200).clamp(1, 400) {
        assert!(creation(seed) > 10);
    }
}

#[test]
fn a_commit_of_one_remap_is_small_and_waits_once() {
    let mut history = History::new(7, 1);
    for _ in 0..200 {
        let (blocks, flushes) = (history.sim.blocks_written, history.sim.flushes);
        let mut edit = history.metadata.table().edit().unwrap();
        let (extent, mapping) = some_change(&mut history.rng, SpareSet(1));
        match mapping {
            Some(mapping) => edit.set(extent, mapping).unwrap(),
            None => edit.clear(extent).unwrap(),
        }
        let begun = history.metadata.begin(CommitKind::Remap, 1, Some(edit), |_| {}).unwrap();
        let per_copy = 1 + begun.blocks();
        assert!(per_copy <= 3, "12 KiB a copy at most");
        let in_a = begun.write_group_a(&mut history.sim).unwrap();
        assert_eq!(history.sim.flushes, flushes + 1);
        assert_eq!(history.sim.blocks_written, blocks + 3 * per_copy);
        assert_eq!(in_a.write_group_b(&mut history.sim), Persist::Enabled);
        assert_eq!(history.sim.blocks_written, blocks + 5 * per_copy);
    }
}

#[test]
fn a_copy_whose_place_is_bad_is_left_out_and_repaired_later() {
    let mut history = History::new(3, 1);
    history.sim.disks[0].no_write.insert(256);
    assert_eq!(history.commit(1).len(), 2);
    let bad = CopyId { spare: SpareId(0), copy: 2 };
    assert_eq!(history.metadata.copies().state(bad), CopyState::Bad);
    assert_eq!(history.metadata.persist(), Persist::Degraded);
    history.commit(1);
    assert_eq!(history.metadata.header().raw().spares[0].copies_out, 1 << 2);
    assert_eq!(history.metadata.repair(&mut history.sim), Ok(0));
    history.sim.disks[0].no_write.clear();
    assert_eq!(history.metadata.repair(&mut history.sim), Ok(1));
    assert_all_good(&mut history.sim, &history.metadata);
}

#[test]
fn below_min_copies_nothing_is_changed_any_more() {
    let mut history = History::new(4, 1);
    history.sim.disks[0].no_write.extend([0, 128, 256, 512]);
    while !history.commit(1)[1..].is_empty() {}
    let copies = history.metadata.copies().in_state(CopyState::Good).count();
    assert!(copies < 2 || history.metadata.in_doubt());
    assert_eq!(history.metadata.persist(), Persist::Failed);
    history.sim.disks[0].no_write.clear();
    history.metadata.repair(&mut history.sim).unwrap();
    assert_eq!(history.commit(1).len(), 2);
    assert_eq!(history.metadata.persist(), Persist::Enabled);
}

#[test]
fn a_commit_that_is_left_with_too_few_copies_stands_and_they_can_be_mended() {
    let mut history = History::new(6, 1);
    history.sim.disks[0].no_write.extend([0, 256]);
    assert_eq!(history.commit(1).len(), 2);
    // Of the three copies that are left, one takes no more, the only one of the second group.
    history.sim.disks[0].no_write.insert(512);
    assert_eq!(history.commit(1).len(), 2);
    assert_eq!(history.metadata.persist(), Persist::Degraded);
    // Then one of two.
    history.sim.disks[0].no_write.insert(1024);
    let version = history.metadata.version();
    assert_eq!(history.commit(1).len(), 2);
    assert_eq!(history.metadata.persist(), Persist::Failed);
    assert!(!history.metadata.in_doubt());
    let found = recover(&mut history.sim.clone(), crc).unwrap();
    assert_eq!(found.header().version(), version + 1);
    history.sim.disks[0].no_write.remove(&1024);
    assert_eq!(history.metadata.mend(&mut history.sim), Ok(Some(1)));
    assert_eq!(history.metadata.persist(), Persist::Degraded);
    assert_eq!(history.metadata.version(), version + 1);
}

#[test]
fn a_header_says_which_copy_it_is_and_the_rest_is_the_same() {
    let mut history = History::new(5, 1);
    history.commit(1);
    let survey = Survey::take(&mut history.sim, crc).unwrap();
    let all: Vec<(CopyId, &Header)> = survey.headers().collect();
    assert_eq!(all.len(), COPIES);
    for (id, header) in all {
        assert_eq!(header.raw().identification.copy.get(), u16::from(id.copy));
        assert!(header.same_content(history.metadata.header()));
    }
}
