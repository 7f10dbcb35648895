//! A `remap` device in a machine, from the test's side: table line, messages, status.

use crate::env::patience;
use crate::machine::{Machine, Output};
use std::collections::HashMap;
use std::thread;
use std::time::{Duration, Instant};

/// A device-mapper device of one `remap` target.
pub struct Remap<'m> {
    machine: &'m Machine,
    name: String,
}

/// The fields of a status line. Counts are in sectors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Remapped, and the room for it.
    pub remapped: (u64, u64),
    /// Pending, and the room for it.
    pub pending: (u64, u64),
    /// In use on the spares, and the room there.
    pub used: (u64, u64),
    /// The `key=value` fields.
    pub keys: HashMap<String, String>,
    /// All of it.
    pub line: String,
}

impl Status {
    /// Takes a status line apart.
    #[track_caller]
    pub fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split_whitespace().collect();
        let fraction = |i: usize| {
            let parts = words.get(i).and_then(|word| word.split_once('/'));
            let numbers = parts.and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
            numbers.unwrap_or_else(|| panic!("word {i} is not a fraction: {line}"))
        };
        assert_eq!(words.get(2), Some(&"remap"), "not a remap device: {line}");
        let pairs = words.iter().filter_map(|word| word.split_once('='));
        Status {
            remapped: fraction(4),
            pending: fraction(5),
            used: fraction(6),
            keys: pairs.map(|(key, value)| (key.into(), value.into())).collect(),
            line: line.into(),
        }
    }
}

/// An extent of main and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its first sector on main.
    pub start: u64,
    /// How many sectors.
    pub len: u64,
    /// Which spare it lives on, by its number; of no meaning when it is pending or lost.
    pub spare: u8,
    /// Where it lives there; nowhere when it is pending or lost.
    pub at: Option<u64>,
}

impl Place {
    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (start, len, spare, at) = match words[..] {
            [start, len, "remapped" | "suspect", spare, at] => {
                (start, len, spare.parse().ok()?, Some(at.parse().ok()?))
            }
            [start, len, "pending" | "lost"] => (start, len, 0, None),
            _ => return None,
        };
        Some(Place { start: start.parse().ok()?, len: len.parse().ok()?, spare, at })
    }

    /// Where a sector of main lives, if it is in here and not pending.
    pub fn place_of(&self, sector: u64) -> Option<u64> {
        let within = (self.start..self.start + self.len).contains(&sector);
        self.at.filter(|_| within).map(|at| at + sector - self.start)
    }
}

impl<'m> Remap<'m> {
    /// Creates the device, as large as main: `arguments` begin with the spare.
    #[track_caller]
    pub fn create(machine: &'m Machine, name: &str, main: &str, arguments: &str) -> Self {
        let output = Remap::try_create(machine, name, main, arguments);
        assert_eq!(
            output.status,
            0,
            "dmsetup create {name}: {}\n{}",
            output.stderr,
            machine.ok("dmesg | tail -n 5")
        );
        Remap { machine, name: name.into() }
    }

    /// Tries to create the device, and tells how that went.
    pub fn try_create(machine: &Machine, name: &str, main: &str, arguments: &str) -> Output {
        machine.run(&format!("dmsetup create {name} --table \"0 $(blockdev --getsz {main}) remap {main} {arguments}\""))
    }

    /// A device that is there already.
    pub fn existing(machine: &'m Machine, name: &str) -> Self {
        Remap { machine, name: name.into() }
    }

    /// Its path.
    pub fn path(&self) -> String {
        format!("/dev/mapper/{}", self.name)
    }

    /// Sends a message that has to succeed, and returns the answer.
    #[track_caller]
    pub fn message(&self, message: &str) -> String {
        self.machine.ok(&format!("dmsetup message {} 0 {message}", self.name))
    }

    /// Sends a message that has to fail, and returns what `dmsetup` says of it.
    #[track_caller]
    pub fn message_fails(&self, message: &str) -> String {
        self.machine.fails(&format!("dmsetup message {} 0 {message}", self.name))
    }

    /// Its status.
    #[track_caller]
    pub fn status(&self) -> Status {
        Status::parse(&self.machine.ok(&format!("dmsetup status {}", self.name)))
    }

    /// Waits until the status is as wanted.
    #[track_caller]
    pub fn wait_until(&self, wanted: impl Fn(&Status) -> bool) -> Status {
        let deadline = Instant::now() + patience(Duration::from_secs(60));
        loop {
            let status = self.status();
            if wanted(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "the status stays {}", status.line);
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every extent that is remapped or pending.
    #[track_caller]
    pub fn places(&self) -> Vec<Place> {
        let (mut places, mut from) = (Vec::new(), Some(0));
        while let Some(sector) = from.take() {
            let text = self.message(&format!("table {sector}"));
            for line in text.lines().filter(|line| !line.contains("retired")) {
                match line.strip_prefix("more ") {
                    Some(sector) => from = sector.trim().parse().ok(),
                    None => places.push(Place::parse(line).unwrap_or_else(|| panic!("{line}"))),
                }
            }
        }
        places
    }

    /// Where a sector of main lives on the spare.
    #[track_caller]
    pub fn place_of(&self, sector: u64) -> Option<u64> {
        self.places().iter().find_map(|place| place.place_of(sector))
    }

    /// Its table line.
    #[track_caller]
    pub fn table(&self) -> String {
        self.machine.ok(&format!("dmsetup table {}", self.name))
    }

    /// Loads its own table line again, and switches over.
    #[track_caller]
    pub fn reload(&self) {
        let (name, line) = (&self.name, self.table());
        self.machine.ok(&format!("dmsetup load {name} --table '{line}' && dmsetup resume {name}"));
    }

    /// Removes it.
    #[track_caller]
    pub fn remove(self) {
        self.machine.ok(&format!("dmsetup remove --retry {}", self.name));
    }
}
