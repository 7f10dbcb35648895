//! Load, moves, changed settings, other tables, spares that come and go, and failing places, for as long as one likes; and the kernel's memory at the end
//! as at the start.
//!
//! A [`Soak`] is one set in one machine that is never switched off. It goes through rounds. In each there is load while everything else happens; at
//! its end all drives are healed, everything is moved back to main, the set has the two spares again that it began with, it is removed, the module is loaded
//! anew and the set is made again; then the data is looked at, and so is the memory. What a round needs for the first time may stay, so what counts begins
//! with the end of the second.

use crate::drive::model::Ill;
use crate::{Drive, Ledger, Machine, Rng};
use std::collections::BTreeMap;
use std::time::Duration;

const MIB: u64 = 2048;
const MAIN: u64 = 32 * MIB;
const REGIONS: &str = "0+16384,40960+8192";
/// Where main fails, and what is moved.
const AREA: u64 = 16384;
/// How large a spare is.
const SPARE: u64 = 32 * MIB;
/// The spare that a round begins and ends with, and those that join in between: paths, and numbers as the table has them. One more stays.
const FIRST: (&str, &str) = ("/dev/vdb", "254:16");
const OTHERS: [(&str, &str); 2] = [("/dev/vdc", "254:32"), ("/dev/vdd", "254:48")];
const STAYS: (&str, &str) = ("/dev/vde", "254:64");
/// From where on a spare has places for data; those that are moved to are taken from the front.
const PLACES: u64 = 9216;
/// After so many rounds everything has happened that can.
const ENOUGH: u64 = 8;

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

/// What the machine has.
struct Drives {
    main: Drive,
    first: Drive,
    others: [Drive; 2],
    stays: Drive,
}

impl Drives {
    fn heal(&self) {
        self.main.heal(0..MAIN);
        self.first.heal(0..SPARE);
        self.stays.heal(0..SPARE);
        self.others.iter().for_each(|drive| drive.heal(0..SPARE));
    }
}

/// A set under load that does not end.
pub struct Soak {
    rng: Rng,
    drives: Drives,
    machine: Machine,
    ledger: Ledger,
    /// How much of what the load has reported is entered.
    entered: usize,
    rounds: u64,
    /// What has been done beside the load and succeeded, and how often.
    done: BTreeMap<&'static str, u64>,
    /// How often places have turned bad, or well.
    ills: u64,
    before: Option<Memory>,
    last: Memory,
}

impl Soak {
    /// New drives, a machine, and a set on them.
    pub fn new(seed: u64) -> Self {
        let main = Drive::blank("main", MAIN);
        let [first, two, three, stays] =
            ["one", "two", "three", "stays"].map(|name| Drive::blank(name, SPARE));
        let drives = [&main, &first, &two, &three, &stays].into_iter();
        let machine =
            drives.fold(Machine::builder(), |all, drive| all.drive(drive)).module().boot();
        machine.take(&format!("create r {MAIN} /dev/vda {} 3 create spare {}", FIRST.0, STAYS.0));
        Soak {
            rng: Rng::new(seed),
            drives: Drives { main, first, others: [two, three], stays },
            machine,
            ledger: Ledger::new(seed, REGIONS),
            entered: 0,
            rounds: 0,
            done: BTreeMap::new(),
            ills: 0,
            before: None,
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
            match step(&mut self.rng, &self.drives) {
                // What somebody else is at is refused.
                Some((what, steps)) => {
                    let done = self.machine.steps(&steps).status == 0;
                    *self.done.entry(what).or_default() += u64::from(done);
                }
                None => self.ills += 1,
            }
        };
        assert_eq!(output.status, 0, "{output:?}");
        self.drives.heal();
        self.go_home();
        let events = self.machine.events();
        self.ledger.enter(&events[self.entered..]);
        self.entered = events.len();
        self.ledger.check(&self.machine, "/dev/mapper/r");
        let Ledger { write_errors, durable_errors, not_written, .. } = &self.ledger;
        assert_eq!(write_errors, durable_errors, "writes failed: {not_written:?}");
        assert!(*durable_errors <= self.ills, "{durable_errors} writes with FUA failed");
        assert!(self.ledger.acknowledged > 0 && self.ledger.flushes > 0, "there was no load");
        self.rounds += 1;
        self.last = Memory::of(&self.machine);
        if self.rounds > 1 {
            let before = self.before.get_or_insert_with(|| self.last.clone());
            let grown = self.last.grown_since(before);
            assert!(grown.is_empty(), "after {} rounds:\n{}", self.rounds, grown.join("\n"));
        }
        format!(
            "round {}: {} writes, {} flushes, {} changes, drives {} times better or worse; {} KiB in caches, {} of vmalloc memory, {} in use",
            self.rounds,
            self.ledger.writes,
            self.ledger.flushes,
            self.done.values().sum::<u64>(),
            self.ills,
            self.last.bytes() / 1024,
            self.last.vmalloc,
            self.last.used
        )
    }

    /// Brings everything back to where a round begins, and makes the set anew, of a module that is loaded anew.
    #[track_caller]
    fn go_home(&self) {
        let machine = &self.machine;
        // What was marked is read once more, and saved by that; then all of it goes home.
        let all = "idle r\nmessage r save\nidle r\nmessage r clear\nidle r\nreload r";
        let left = machine.take(&format!("{all}\nmessage r table"));
        assert!(left.lines().all(|line| line.contains(" retired ")), "left on the spares:\n{left}");
        let table = machine.take("table r");
        if !table.contains(FIRST.1) {
            machine.take(&format!("message r spare add {}\nidle r\nreload r", FIRST.0));
        }
        for (path, number) in OTHERS {
            if table.contains(number) {
                machine.take(&format!("message r spare remove {path}\nidle r\nreload r"));
            }
        }
        let table = machine.take("message r save\nmessage r check forensic\nidle r\ntable r");
        let table = table.lines().last().unwrap_or_default();
        assert!(
            [FIRST, STAYS].iter().all(|(_, n)| table.contains(n))
                && !OTHERS.iter().any(|(_, n)| table.contains(n)),
            "{table}"
        );
        machine.take("remove r");
        machine.ok("rmmod dm-remap");
        machine.load_module();
        machine.take(&format!("create r {MAIN} {table}"));
    }

    /// Removes the set and the module, and switches the machine off. Says how it was. Panics when something did not succeed once, in rounds enough.
    pub fn finish(self) -> String {
        self.machine.take("remove r");
        self.machine.ok("rmmod dm-remap");
        self.machine.shutdown();
        let never = self.done.values().any(|&times| times == 0);
        assert!(self.rounds < ENOUGH || !never, "{:?}", self.done);
        let (then, now) = (self.before.unwrap_or_default(), self.last);
        format!(
            "{} rounds, {} writes ({} with FUA failed), {} flushes, drives {} times better or worse: {} KiB in caches after the second round, {} at the end; {} and {} of vmalloc memory; {} and {} in use; done: {:?}",
            self.rounds,
            self.ledger.writes,
            self.ledger.durable_errors,
            self.ledger.flushes,
            self.ills,
            then.bytes() / 1024,
            now.bytes() / 1024,
            then.vmalloc,
            now.vmalloc,
            then.used,
            now.used,
            self.done
        )
    }
}

/// One thing that happens beside the load: what it is called, and steps to be taken; or none, and a drive is another one.
fn step(rng: &mut Rng, drives: &Drives) -> Option<(&'static str, String)> {
    let at = rng.below(AREA / 8 - 64) * 8;
    let len = 8 * (1 + rng.below(32));
    let (other, _) = OTHERS[rng.below(2) as usize];
    let any = if rng.one_in(2) { FIRST.0 } else { other };
    let steps = match rng.below(20) {
        0..=3 => ("remap", format!("message r remap {at} {len}")),
        4..=5 => ("unremap", format!("message r unremap {at} {}", 4 * len)),
        6 => ("table", "reload r".into()),
        7 => ("suspend", "suspend r\nresume r".into()),
        8 => ("setting", format!("message r set alert_threshold {}", 50 + rng.below(50))),
        9 => (
            "status",
            "message r metadata_status\nget /sys/kernel/debug/dm-remap/metadata_status".into(),
        ),
        10 => ("save", "message r save\nmessage r restore".into()),
        11 => ("scan", "message r scan start\nwait 20\nmessage r scan stop".into()),
        12 => ("spare add", format!("message r spare add {any}\nidle r\nreload r")),
        13 => ("spare remove", format!("message r spare remove {any}\nidle r\nreload r")),
        14 => {
            let (leaves, joins) = if any == FIRST.0 { (other, any) } else { (FIRST.0, any) };
            ("migrate", format!("message r migrate {leaves} {joins}\nidle r\nreload r"))
        }
        15 => {
            drives.heal();
            return None;
        }
        16 => {
            let at = PLACES + 8 * rng.below(64);
            let drive =
                [&drives.others[0], &drives.others[1], &drives.stays][rng.below(3) as usize];
            drive.ail(at..at + 8, Ill { reads: rng.one_in(2), writes: true, ..Ill::default() });
            return None;
        }
        _ => {
            let (reads, writes) =
                [(true, true), (true, false), (false, true)][rng.below(3) as usize];
            let times = if rng.one_in(4) { 1 + rng.below(3) } else { 0 };
            drives.main.ail(at..at + 8, Ill { reads, writes, times, ..Ill::default() });
            return None;
        }
    };
    Some(steps)
}
