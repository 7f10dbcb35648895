// SPDX-License-Identifier: GPL-2.0

//! The power is cut at every step of every commit of random histories, also while failures keep
//! commits in doubt, while copies are rebuilt and while a set is created.
//!
//! `RUNS` says how many states to look at in each test of histories, `SEED` where to begin: what
//! `make simulate` hands on.

mod sim;

use std::collections::{BTreeMap, HashMap};

use remap_pure::commit::{Metadata, Persist};
use remap_pure::copies::CopyState;
use remap_pure::create::{check_create, create, Creation};
use remap_pure::entry::{BlockIndex, Entry};
use remap_pure::format::block::check_block;
use remap_pure::format::header::Header;
use remap_pure::format::layout::{CopyId, Layout, COPIES};
use remap_pure::format::CommitKind;
use remap_pure::recovery::{recover, Recovered, Refusal, Survey};
use remap_pure::store::SpareSet;
use remap_pure::units::SpareId;
use sim::*;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(default)
}

fn states() -> u64 {
    number("RUNS", if cfg!(debug_assertions) { 10_000 } else { 50_000 })
}

/// Runs `work` with seeds until it has looked at as many states as asked for, on two threads.
fn until_enough(work: fn(u64) -> u64) {
    let (first, wanted) = (number("SEED", 1), states());
    let run = |offset: u64| {
        let (mut seen, mut seed) = (0, first + offset);
        while seen < wanted / 2 {
            let done = std::panic::catch_unwind(|| work(seed));
            seen += done.unwrap_or_else(|e| {
                eprintln!("seed {seed}");
                std::panic::resume_unwind(e)
            });
            seed += 2;
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| run(0));
        run(1);
    });
}

/// What each version that was ever begun holds.
type Versions = BTreeMap<u64, Vec<Entry>>;

fn entries(found: &Recovered) -> Vec<Entry> {
    found.table().iter().collect()
}

/// No two copies have the same version of a block, or of the header, with different content.
fn assert_versions_are_unique(sim: &mut Sim) {
    let mut blocks: HashMap<(u32, u64), u32> = HashMap::new();
    for (_, bytes) in sim.disks.iter().flat_map(|disk| disk.written()) {
        let index = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
        if let Ok(stamp) = check_block(bytes, &UUID, BlockIndex(index), crc) {
            let first = *blocks.entry((index, stamp.version)).or_insert(stamp.crc);
            assert_eq!(first, stamp.crc, "block {index}, version {}", stamp.version);
        }
    }
    let survey = Survey::take(sim, crc).unwrap();
    for (id, a) in survey.headers() {
        for (other, b) in survey.headers() {
            assert!(a.version() != b.version() || a.same_content(b), "{id} and {other} differ");
        }
    }
}

/// Of each block, the newest that is not newer than the header is the one that the state has: a reader
/// that joins copies by that rule alone comes to the same.
fn assert_joins_by_the_newest(sim: &Sim, found: &Recovered) {
    let mut newest: HashMap<u32, u64> = HashMap::new();
    for (_, bytes) in sim.disks.iter().flat_map(|disk| disk.written()) {
        let index = u32::from_le_bytes(bytes[24..28].try_into().unwrap());
        if let Ok(stamp) = check_block(bytes, &UUID, BlockIndex(index), crc) {
            if stamp.version <= found.header().version() {
                let version = newest.entry(index).or_default();
                *version = stamp.version.max(*version);
            }
        }
    }
    for (index, stamp, _) in found.table().blocks() {
        assert_eq!(newest.get(&index.0), Some(&stamp.version), "block {index}");
    }
}

/// Every copy is whole and carries the same.
fn assert_all_good(sim: &mut Sim, metadata: &Metadata) {
    assert_eq!(metadata.persist(), Persist::Enabled);
    let found = recover(sim, crc).unwrap_or_else(|e| panic!("after a rebuild: {e}"));
    assert!(found.is_clean());
    assert!(found.header().same_content(metadata.header()));
    assert_eq!(entries(&found), content(metadata));
    assert_versions_are_unique(sim);
}

/// The power is cut again at some points of the rebuilding of `image`: the state stays the same.
fn cut_during_rebuild(image: &Sim, was: &[Entry], rng: &mut Rng) -> (Sim, Metadata, u64) {
    let mut again = image.clone();
    let metadata = recover(&mut again, crc).unwrap().rebuild(&mut again, 1).unwrap();
    let steps = again.disks[0].steps();
    let tries = if steps == 0 { 0 } else { 3 };
    for _ in 0..tries {
        let mut cut = again.clone();
        cut.disks[0] = again.disks[0].cut(rng.below(steps as u64 + 1) as usize, rng);
        let found = recover(&mut cut, crc)
            .unwrap_or_else(|e| panic!("a rebuild that was cut short is not recovered: {e}"));
        assert_eq!(entries(&found), was, "a rebuild that was cut short changed the state");
        let rebuilt = found.rebuild(&mut cut, 2).unwrap();
        assert_eq!(content(&rebuilt), was);
        assert_all_good(&mut cut, &rebuilt);
    }
    assert_eq!(content(&metadata), was);
    again.settle();
    assert_all_good(&mut again, &metadata);
    (again, metadata, tries as u64)
}

struct History {
    sim: Sim,
    metadata: Metadata,
    versions: Versions,
    rng: Rng,
    seen: u64,
}

impl History {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::new(seed);
        let mut sim = Sim::new(1, SECTORS, rng.next() >> 8);
        let metadata = create_on(&mut sim);
        sim.settle();
        let mut versions = Versions::new();
        versions.insert(1, Vec::new());
        let mut history = Self { sim, metadata, versions, rng, seen: 0 };
        let many = [0, 10, 300, 900][history.rng.below(4) as usize];
        history.commit(many);
        history.sim.settle();
        history
    }

    /// One commit of `changes` random changes; where it stood and when: the acknowledged version by
    /// step of the log.
    fn commit(&mut self, changes: usize) -> Vec<(usize, u64)> {
        let mut acknowledged = vec![(0, self.metadata.version())];
        let mut edit = self.metadata.table().edit().unwrap();
        for _ in 0..changes {
            match some_change(&mut self.rng) {
                (extent, Some(mapping)) => edit.set(extent, mapping).unwrap(),
                (extent, None) => edit.clear(extent).unwrap(),
            }
        }
        let kind = CommitKind::Remap;
        let doubtful = self.metadata.in_doubt();
        let Ok(prepared) = self.metadata.begin(kind, 1, Some(edit), |_| {}) else {
            return acknowledged;
        };
        let before = self.versions.insert(prepared.version(), prepared.table().iter().collect());
        assert!(before.is_none(), "version {} was used before", prepared.version());
        if changes == 1 && !doubtful {
            assert!(prepared.blocks() <= 3, "{} blocks for one change", prepared.blocks());
        }
        if let Ok(in_a) = prepared.write_group_a(&mut self.sim) {
            acknowledged.push((self.sim.disks[0].steps(), in_a.version()));
            in_a.write_group_b(&mut self.sim);
        }
        acknowledged
    }

    /// Cuts the power at every step of the log, and looks at what is found. Returns one of the
    /// states, recovered.
    fn cut_everywhere(&mut self, acknowledged: &[(usize, u64)]) -> Option<(Sim, Metadata)> {
        let mut kept = None;
        for step in 0..=self.sim.disks[0].steps() {
            let done = acknowledged.iter().rev().find(|(at, _)| *at <= step).unwrap().1;
            for _ in 0..2 {
                let mut cut = self.sim.clone();
                cut.disks[0] = self.sim.disks[0].cut(step, &mut self.rng);
                cut.disks[0].no_write.clear();
                cut.disks[0].no_read.clear();
                self.seen += 1;
                let found = recover(&mut cut, crc)
                    .unwrap_or_else(|e| panic!("cut at step {step}, {done} was acknowledged: {e}"));
                let version = found.header().version();
                assert!(version >= done, "{done} was acknowledged, {version} is there");
                let was = &self.versions[&version];
                assert!(&entries(&found) == was, "version {version} is not what it was");
                assert_joins_by_the_newest(&cut, &found);
                if self.rng.chance(20) {
                    let was = was.clone();
                    let (sim, metadata, seen) = cut_during_rebuild(&cut, &was, &mut self.rng);
                    self.seen += seen;
                    kept = Some((sim, metadata));
                } else {
                    let rebuilt = found.rebuild(&mut cut, 1).unwrap();
                    assert!(content(&rebuilt) == *was);
                    assert_all_good(&mut cut, &rebuilt);
                }
            }
        }
        kept
    }

    /// Goes on from a state that was recovered.
    fn go_on_from(&mut self, (sim, metadata): (Sim, Metadata)) {
        let found = metadata.version();
        self.versions.retain(|&version, _| version <= found);
        self.versions.insert(found, content(&metadata));
        (self.sim, self.metadata) = (sim, metadata);
    }
}

fn healthy_history(seed: u64) -> u64 {
    let mut history = History::new(seed);
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
    let mut history = History::new(seed);
    for _ in 0..12 {
        // Several commits to one log, so that commits in doubt are found beside later ones.
        let mut acknowledged = vec![(0, history.metadata.version())];
        for _ in 0..1 + history.rng.below(4) {
            let disk = &mut history.sim.disks[0];
            let rng = &mut history.rng;
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
        history.sim.disks[0].no_write.clear();
        history.sim.disks[0].failing_flushes = 0;
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

fn creation(seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut sim = Sim::new(1, SECTORS, rng.next() >> 8);
    let foreign = rng.chance(50);
    if foreign {
        (0..20).for_each(|_| {
            let at = [0, 128, 256, 512, 1024][rng.below(5) as usize] + rng.below(128);
            sim.disks[0].set_block(at, [rng.next() as u8 | 1; 4096]);
        });
    }
    let overwrite = SpareSet(u8::from(foreign));
    let blank = sim.clone();
    let new = |sim: &mut Sim, uuid: u8| {
        let mut set = new_set(Layout::STANDARD);
        set.uuid.0[0] = uuid;
        create(sim, &set, &[new_spare(0)], overwrite, crc, |_| {})
    };
    new(&mut sim, 1).unwrap();
    for step in 0..=sim.disks[0].steps() {
        let mut cut = blank.clone();
        cut.disks[0] = sim.disks[0].cut(step, &mut rng);
        let existed = match recover(&mut cut, crc) {
            Ok(found) => {
                assert_eq!(found.header().version(), 1);
                assert!(found.table().is_empty());
                if rng.chance(50) {
                    let metadata = found.rebuild(&mut cut, 1).unwrap();
                    assert_all_good(&mut cut, &metadata);
                    continue;
                }
                true
            }
            Err(Refusal::Empty(_) | Refusal::Foreign(_) | Refusal::CreationCutShort(..)) => false,
            Err(e) => panic!("cut at step {step}: {e}"),
        };
        // The same line again, with another UUID drawn.
        let check = check_create(&mut cut, &Layout::STANDARD, overwrite, crc);
        match check {
            Ok(Creation::Finish(set)) => assert!(existed && set.0[0] == 1),
            Ok(Creation::Fresh) => assert!(!existed),
            Err(_) if existed => {
                // All headers stand: the set is there.
                let survey = Survey::take(&mut cut, crc).unwrap();
                assert!(!survey.has_marks());
                continue;
            }
            Err(e) => panic!("cut at step {step}, once more: {e}"),
        }
        let metadata = new(&mut cut, 2).unwrap();
        assert_eq!(metadata.header().uuid().0[0], if existed { 1 } else { 2 });
        assert_eq!(metadata.version(), 1);
        let found = recover(&mut cut, crc).unwrap();
        assert!(found.is_clean());
    }
    sim.disks[0].steps() as u64 + 1
}

#[test]
fn a_creation_that_was_cut_short_is_finished_by_the_same_line() {
    for seed in 0..if cfg!(debug_assertions) { 50 } else { 400 } {
        assert!(creation(seed) > 10);
    }
}

#[test]
fn a_commit_of_one_remap_is_small_and_waits_once() {
    let mut history = History::new(7);
    for _ in 0..200 {
        let (blocks, flushes) = (history.sim.blocks_written, history.sim.flushes);
        let mut edit = history.metadata.table().edit().unwrap();
        let (extent, mapping) = some_change(&mut history.rng);
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
    let mut history = History::new(3);
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
    let mut history = History::new(4);
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
fn a_header_says_which_copy_it_is_and_the_rest_is_the_same() {
    let mut history = History::new(5);
    history.commit(1);
    let survey = Survey::take(&mut history.sim, crc).unwrap();
    let all: Vec<(CopyId, &Header)> = survey.headers().collect();
    assert_eq!(all.len(), COPIES);
    for (id, header) in all {
        assert_eq!(header.raw().identification.copy.get(), u16::from(id.copy));
        assert!(header.same_content(history.metadata.header()));
    }
}
