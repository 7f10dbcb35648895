//! Load, moves, changed settings, other tables and failing places, for as long as one likes; and the kernel's memory at the end as at the start.
//!
//! A [`Soak`] is one set in one machine that is never switched off. It goes through rounds. In each there is load while everything else happens; at
//! its end all drives are healed, everything is moved back to main, the data is looked at, and so is the memory. What a round needs for the first time
//! may stay, so what counts begins with the end of the second.

use crate::drive::model::Ill;
use crate::{Drive, Ledger, Machine, Rng};
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 2048;
const MAIN: u64 = 32 * MIB;
const REGIONS: &str = "0+16384,40960+8192";
/// Where main fails, and what is moved.
const AREA: u64 = 16384;

/// What a cache of the kernel may have grown by, in bytes: it is counted by slabs, and others use it too.
const SLACK: u64 = 64 * 1024;

/// What all of `vmalloc` memory may have grown by, in KiB: stacks of threads that have ended are kept there for others.
const SLACK_VMALLOC: u64 = 512;

/// What all of memory in use may have grown by, in KiB.
const SLACK_USED: u64 = 8 * 1024;

/// What memory is in use.
#[derive(Clone, Debug, Default)]
struct Memory {
    /// Bytes in the caches that the module's objects come from.
    caches: BTreeMap<String, u64>,
    /// KiB of `vmalloc` memory.
    vmalloc: u64,
    /// KiB that each processor has of its own, taken together.
    percpu: u64,
    /// KiB that are in use by the kernel, for anything: what is not free, and is no program's and no file's.
    used: u64,
}

impl Memory {
    /// Asks a machine in which nothing happens.
    #[track_caller]
    fn of(machine: &Machine) -> Self {
        machine.drop_unused_memory();
        let text = machine.ok("cat /proc/slabinfo /proc/meminfo");
        let mut memory = Memory::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let number = |i: usize| words.get(i).and_then(|word| word.parse().ok()).unwrap_or(0);
            match words.first() {
                Some(&"VmallocUsed:") => memory.vmalloc = number(1),
                Some(&"Percpu:") => memory.percpu = number(1),
                Some(&"MemTotal:") => memory.used += number(1),
                Some(&("MemFree:" | "Buffers:" | "Cached:" | "AnonPages:")) => {
                    memory.used -= number(1);
                }
                Some(name)
                    if ["kmalloc-", "bio", "dm_", "kernfs"]
                        .iter()
                        .any(|of| name.starts_with(of)) =>
                {
                    memory.caches.insert((*name).into(), number(1) * number(3));
                }
                _ => {}
            }
        }
        let seen = [memory.vmalloc, memory.percpu, memory.used].iter().all(|&n| n > 0);
        assert!(memory.caches.len() > 5 && seen, "nothing to be seen:\n{text}");
        memory
    }

    /// What has become more since then.
    fn grown_since(&self, before: &Memory) -> Vec<String> {
        let mut grown = Vec::new();
        for (name, bytes) in &self.caches {
            let then = before.caches.get(name).copied().unwrap_or(0);
            if *bytes > then + SLACK {
                grown.push(format!("{name}: {then} bytes, now {bytes}"));
            }
        }
        for (what, then, now, slack) in [
            ("vmalloc", before.vmalloc, self.vmalloc, SLACK_VMALLOC),
            ("per processor", before.percpu, self.percpu, 0),
            ("in use", before.used, self.used, SLACK_USED),
        ] {
            if now > then + slack {
                grown.push(format!("{what}: {then} KiB, now {now}"));
            }
        }
        grown
    }

    fn bytes(&self) -> u64 {
        self.caches.values().sum()
    }
}

/// A set under load that does not end.
pub struct Soak {
    rng: Rng,
    main: Drive,
    spare: Drive,
    machine: Machine,
    ledger: Ledger,
    /// How much of what the load has reported is entered.
    entered: usize,
    rounds: u64,
    done: u64,
    /// How often places of main have turned bad, or well.
    ills: u64,
    first: Option<Memory>,
    last: Memory,
}

impl Soak {
    /// Two new drives, a machine, and a set on them.
    pub fn new(seed: u64) -> Self {
        let (main, spare) = (Drive::blank("main", MAIN), Drive::blank("spare", 32 * MIB));
        let machine = Machine::builder().drive(&main).drive(&spare).module().boot();
        machine.take(&format!("create r {MAIN} /dev/vda /dev/vdb 1 create"));
        Soak {
            rng: Rng::new(seed),
            main,
            spare,
            machine,
            ledger: Ledger::new(seed, REGIONS),
            entered: 0,
            rounds: 0,
            done: 0,
            ills: 0,
            first: None,
            last: Memory::default(),
        }
    }

    /// A round of this many seconds; says how it was. Panics when anything is lost, or memory is.
    pub fn round(&mut self, seconds: u64) -> String {
        let more = format!("threads=4 discards=1 seconds={seconds}");
        let mut load = self.ledger.start(&self.machine, "/dev/mapper/r", &more);
        let output = loop {
            if let Some(output) = load.poll(Duration::from_millis(30)) {
                break output;
            }
            match step(&mut self.rng, &self.main) {
                // What somebody else is at is refused.
                Some(steps) => self.done += u64::from(self.machine.steps(&steps).status == 0),
                None => self.ills += 1,
            }
        };
        assert_eq!(output.status, 0, "{output:?}");
        self.main.heal(0..MAIN);
        self.spare.heal(0..self.spare.sectors());
        // What was marked is read once more, and saved by that; then all of it goes home.
        let calm = "idle r\nmessage r save\nidle r\nmessage r clear\nidle r\nmessage r save\nmessage r check forensic\nidle r";
        let output = self.machine.steps(calm);
        assert_eq!(output.status, 0, "{output:?}");
        let events = self.machine.events();
        self.ledger.enter(&events[self.entered..]);
        self.entered = events.len();
        self.ledger.check(&self.machine, "/dev/mapper/r");
        self.rounds += 1;
        self.last = Memory::of(&self.machine);
        if self.rounds > 1 {
            let first = self.first.get_or_insert_with(|| self.last.clone());
            let grown = self.last.grown_since(first);
            assert!(grown.is_empty(), "after {} rounds:\n{}", self.rounds, grown.join("\n"));
        }
        format!(
            "round {}: {} writes, {} flushes, {} changes, main {} times better or worse; {} KiB in caches, {} of vmalloc memory, {} in use",
            self.rounds,
            self.ledger.writes,
            self.ledger.flushes,
            self.done,
            self.ills,
            self.last.bytes() / 1024,
            self.last.vmalloc,
            self.last.used
        )
    }

    /// Removes the set and the module, and switches the machine off. Says how it was.
    pub fn finish(self) -> String {
        self.machine.take("remove r");
        self.machine.ok("rmmod dm-remap");
        self.machine.shutdown();
        let (then, now) = (self.first.unwrap_or_default(), self.last);
        format!(
            "{} rounds, {} writes ({} failed), {} flushes, {} changes, main {} times better or worse: {} KiB in caches after the second round, {} at the end; {} and {} of vmalloc memory; {} and {} in use",
            self.rounds,
            self.ledger.writes,
            self.ledger.write_errors,
            self.ledger.flushes,
            self.done,
            self.ills,
            then.bytes() / 1024,
            now.bytes() / 1024,
            then.vmalloc,
            now.vmalloc,
            then.used,
            now.used
        )
    }
}

/// One thing that happens beside the load: steps to be taken; or none, and main is another one.
fn step(rng: &mut Rng, main: &Drive) -> Option<String> {
    let at = rng.below(AREA / 8 - 64) * 8;
    let len = 8 * (1 + rng.below(32));
    let steps = match rng.below(16) {
        0..=3 => format!("message r remap {at} {len}"),
        4..=5 => format!("message r unremap {at} {}", 4 * len),
        6 => "reload r".into(),
        7 => "suspend r\nresume r".into(),
        8 => format!("message r set alert_threshold {}", 50 + rng.below(50)),
        9 => "message r metadata_status\nget /sys/kernel/debug/dm-remap/metadata_status".into(),
        10 => "message r save\nmessage r restore".into(),
        11 => "message r scan start\nwait 20\nmessage r scan stop".into(),
        12 => {
            main.heal(0..MAIN);
            return None;
        }
        _ => {
            let (reads, writes) =
                [(true, true), (true, false), (false, true)][rng.below(3) as usize];
            let times = if rng.one_in(4) { 1 + rng.below(3) } else { 0 };
            main.ail(at..at + 8, Ill { reads, writes, times, ..Ill::default() });
            return None;
        }
    };
    Some(steps)
}
