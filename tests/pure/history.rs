// SPDX-License-Identifier: GPL-2.0

//! Random histories of a set, and what must hold wherever they are cut short.
//!
//! `RUNS` says how many states to look at in each test of histories, `SEED` where to begin: what
//! `make simulate` hands on.

#![allow(dead_code, missing_docs)]

use std::collections::{BTreeMap, HashMap};

use remap_pure::commit::{Metadata, Persist};
use remap_pure::entry::{BlockIndex, Entry};
use remap_pure::format::block::check_block;
use remap_pure::format::CommitKind;
use remap_pure::recovery::members::Without;
use remap_pure::recovery::{recover, recover_without, Recovered, Refusal, Survey};

use super::sim::*;

pub fn number(name: &str, default: u64) -> u64 {
    // What is not said comes through a root as an empty text.
    match std::env::var(name).unwrap_or_default().as_str() {
        "" => default,
        text => text.parse().unwrap_or_else(|_| panic!("{name}={text}: not a number")),
    }
}

pub fn states() -> u64 {
    number("RUNS", if cfg!(debug_assertions) { 10_000 } else { 50_000 })
}

/// Runs `work` with seeds until it has looked at as many states as asked for, on two threads.
pub fn until_enough(work: fn(u64) -> u64) {
    let (first, wanted) = (number("SEED", 1), states());
    let run = |offset: u64| {
        let (mut seen, mut seed) = (0, first + offset);
        while seen < wanted.div_ceil(2) {
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
pub type Versions = BTreeMap<u64, Vec<Entry>>;

pub fn entries(found: &Recovered) -> Vec<Entry> {
    found.table().iter().collect()
}

/// Reads what is there as a person would have it read who does without what is not.
pub fn read_with_whom_is_there(sim: &mut Sim) -> Result<Recovered, Refusal> {
    let alive = sim.alive();
    let mut absent = Vec::new();
    let mut away = false;
    loop {
        let without = Without { absent: &absent, away };
        match recover_without(sim, &without, crc) {
            Err(Refusal::Missing(spare, named)) => {
                assert!(!alive.has(spare) && named == uuid(spare) && !absent.contains(&named));
                absent.push(named);
            }
            Err(Refusal::Away(spare, named)) => {
                assert!(!alive.has(spare) && named == uuid(spare) && !away);
                away = true;
            }
            result => return result,
        }
    }
}

/// No two copies have the same version of a block, or of the header, with different content.
pub fn assert_versions_are_unique(sim: &mut Sim) {
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
pub fn assert_joins_by_the_newest(sim: &Sim, found: &Recovered) {
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
pub fn assert_all_good(sim: &mut Sim, metadata: &Metadata) {
    assert_eq!(metadata.persist(), Persist::Enabled);
    let found = recover(sim, crc).unwrap_or_else(|e| panic!("after a rebuild: {e}"));
    assert!(found.is_clean());
    assert!(found.header().same_content(metadata.header()));
    assert_eq!(entries(&found), content(metadata));
    assert_versions_are_unique(sim);
}

/// The power is cut again at some points of the rebuilding of `image`: the state stays the same.
pub fn cut_during_rebuild(image: &Sim, was: &[Entry], rng: &mut Rng) -> (Sim, Metadata, u64) {
    let mut again = image.clone();
    let metadata = recover(&mut again, crc).unwrap().rebuild(&mut again, 1, 1).unwrap();
    let steps = again.steps();
    let tries = if steps == 0 { 0 } else { 3 };
    for _ in 0..tries {
        let mut cut = again.cut(rng.below(steps as u64 + 1) as usize, rng);
        let found = recover(&mut cut, crc)
            .unwrap_or_else(|e| panic!("a rebuild that was cut short is not recovered: {e}"));
        assert_eq!(entries(&found), was, "a rebuild that was cut short changed the state");
        let rebuilt = found.rebuild(&mut cut, 2, 2).unwrap();
        assert_eq!(content(&rebuilt), was);
        assert_all_good(&mut cut, &rebuilt);
    }
    assert_eq!(content(&metadata), was);
    again.settle();
    assert_all_good(&mut again, &metadata);
    (again, metadata, tries as u64)
}

pub struct History {
    pub sim: Sim,
    pub metadata: Metadata,
    pub versions: Versions,
    pub rng: Rng,
    pub seen: u64,
}

impl History {
    /// The beginning of one on so many disks.
    pub fn new(seed: u64, disks: usize) -> Self {
        let mut rng = Rng::new(seed);
        let mut sim = Sim::new(disks, SECTORS, rng.next() >> 8);
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
    pub fn commit(&mut self, changes: usize) -> Vec<(usize, u64)> {
        let mut acknowledged = vec![(0, self.metadata.version())];
        let mut edit = self.metadata.table().edit().unwrap();
        for _ in 0..changes {
            match some_change(&mut self.rng, self.sim.here) {
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
            acknowledged.push((self.sim.steps(), in_a.version()));
            in_a.write_group_b(&mut self.sim);
        }
        acknowledged
    }

    /// Cuts the power at every step of the log, and looks at what is found. Returns one of the
    /// states, recovered.
    pub fn cut_everywhere(&mut self, acknowledged: &[(usize, u64)]) -> Option<(Sim, Metadata)> {
        let mut kept = None;
        for step in 0..=self.sim.steps() {
            let done = acknowledged.iter().rev().find(|(at, _)| *at <= step).unwrap().1;
            for _ in 0..2 {
                let mut cut = self.sim.cut(step, &mut self.rng);
                cut.heal();
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
                    let rebuilt = found.rebuild(&mut cut, 1, 1).unwrap();
                    assert!(content(&rebuilt) == *was);
                    assert_all_good(&mut cut, &rebuilt);
                }
            }
        }
        kept
    }

    /// Goes on from a state that was recovered.
    pub fn go_on_from(&mut self, (sim, metadata): (Sim, Metadata)) {
        let found = metadata.version();
        self.versions.retain(|&version, _| version <= found);
        self.versions.insert(found, content(&metadata));
        (self.sim, self.metadata) = (sim, metadata);
    }
}
