//! What a set in use says of itself (the message `metadata_status`, docs/remap.rst), taken apart.

use serde::Serialize;
use serde_json::{Map, Value};

/// A set in use at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct State {
    /// Each single value by its name, numbers as numbers. Sectors are of 512 bytes, times in seconds since 1970.
    #[serde(flatten)]
    pub values: Map<String, Value>,
    /// By what main was recognised, and how certain that is in percent.
    pub known_by: Option<KnownBy>,
    /// The spares of the set, those that are away too.
    pub members: Vec<Member>,
    /// The scan that is under way, and what the last one has found.
    pub scanning: Scan,
    /// What runs.
    pub running: Vec<Running>,
    /// What has ended, the newest last; four of them are kept.
    pub ended: Vec<Ended>,
    /// What the kernel refused last, or nothing.
    pub last_error: Option<String>,
}

/// By what main was recognised.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct KnownBy {
    /// The word for it.
    pub what: String,
    /// In percent.
    pub certain: u32,
}

/// A spare of the set.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Member {
    /// Its number in the set.
    pub number: u32,
    /// Major and minor number of its device, if that is there.
    pub device: Option<(u32, u32)>,
    /// The first sector of the device that the set uses.
    pub start: u64,
    /// How many sectors the set uses.
    pub sectors: u64,
    /// Whether the set goes on without it.
    pub away: bool,
    /// Its UUID.
    pub uuid: String,
    /// From 0 to 100.
    pub health: Option<u32>,
    /// Its copies of the metadata.
    pub copies: Vec<Copy>,
}

/// A copy of the metadata.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Copy {
    /// Its number on the spare.
    pub number: u32,
    /// Where it stands in the spare's part of the device.
    pub sector: u64,
    /// `good`, `stale`, `bad` or `absent`.
    pub state: String,
    /// The version that it was last known to have whole.
    pub version: Option<u64>,
}

/// The scan.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Scan {
    /// Which device it is at, `main` or `spare N`, if one is under way.
    pub device: Option<String>,
    /// The sector there.
    pub sector: Option<u64>,
    /// Sectors that could not be read.
    pub unreadable: u64,
    /// Sectors that could be read only with effort.
    pub slow: u64,
    /// When it began.
    pub started: u64,
    /// When the last one came to its end.
    pub ended: u64,
}

/// Something that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Running {
    /// The word for it.
    pub what: String,
    /// What it works on, where that is not the whole set.
    pub range: Option<(u64, u64)>,
    /// Sectors that are done, and of how many.
    pub done: Option<(u64, u64)>,
}

/// Something that has ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Ended {
    /// The word for it.
    pub what: String,
    /// What it worked on.
    pub range: Option<(u64, u64)>,
    /// Sectors that it has moved.
    pub moved: Option<u64>,
    /// Sectors that it could not read.
    pub unreadable: Option<u64>,
    /// `ok`, or the error.
    pub result: String,
}

impl Ended {
    /// Whether it has ended well.
    pub fn is_ok(&self) -> bool {
        self.result == "ok"
    }
}

/// `<a><between><b>` as two numbers.
fn pair<T: std::str::FromStr>(word: &str, between: char) -> Option<(T, T)> {
    let (a, b) = word.split_once(between)?;
    Some((a.parse().ok()?, b.parse().ok()?))
}

/// A word, and the range that may stand behind it.
fn what(text: &str) -> (String, Option<(u64, u64)>) {
    match text.rsplit_once(' ') {
        Some((what, range)) if pair::<u64>(range, '+').is_some() => (what.into(), pair(range, '+')),
        _ => (text.into(), None),
    }
}

impl Running {
    fn parse(text: &str) -> Self {
        let (text, done) = match text.rsplit_once(" done ") {
            Some((text, done)) => (text, pair(done, '/')),
            None => (text, None),
        };
        let (what, range) = what(text);
        Self { what, range, done }
    }
}

impl Ended {
    fn parse(text: &str) -> Option<Self> {
        let (text, result) = text.rsplit_once(' ')?;
        let counts = || {
            let (text, counts) = text.rsplit_once(" moved ")?;
            let (moved, unreadable) = counts.split_once(" unreadable ")?;
            Some((text, moved.parse().ok()?, unreadable.parse().ok()?))
        };
        let (text, moved, unreadable) =
            counts().map_or((text, None, None), |(t, m, u)| (t, Some(m), Some(u)));
        let (what, range) = what(text);
        Some(Self { what, range, moved, unreadable, result: result.into() })
    }
}

impl State {
    /// Takes the lines apart. What is not known here is kept among the values.
    pub fn parse(text: &str) -> Self {
        let mut state = Self::default();
        for line in text.lines() {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            let words: Vec<&str> = rest.split_whitespace().collect();
            let taken = match (key, &words[..]) {
                ("match", ["main", what, certain]) => certain.parse().ok().map(|certain| {
                    state.known_by = Some(KnownBy { what: (*what).into(), certain });
                }),
                ("spare", words) => member(words).map(|member| state.members.push(member)),
                ("copy", words) => copy(words).and_then(|(spare, copy)| {
                    let spare = state.members.iter_mut().find(|m| m.number == spare)?;
                    spare.copies.push(copy);
                    Some(())
                }),
                ("spare_health", [number, score]) => {
                    // They stand before the spares.
                    let score = score.parse::<u32>().ok();
                    score.map(|score| {
                        state.values.insert(format!("spare{number}_health"), score.into());
                    })
                }
                ("scan_at", [device @ .., "sector", sector]) => {
                    state.scanning.device = Some(device.join(" "));
                    state.scanning.sector = sector.parse().ok();
                    Some(())
                }
                ("scan_found", ["unreadable", unreadable, "slow", slow]) => {
                    state.scanning.unreadable = unreadable.parse().unwrap_or(0);
                    state.scanning.slow = slow.parse().unwrap_or(0);
                    Some(())
                }
                ("scan_times", ["started", started, "ended", ended]) => {
                    state.scanning.started = started.parse().unwrap_or(0);
                    state.scanning.ended = ended.parse().unwrap_or(0);
                    Some(())
                }
                ("running", _) => {
                    state.running.push(Running::parse(rest));
                    Some(())
                }
                ("ended", _) => Ended::parse(rest).map(|ended| state.ended.push(ended)),
                ("last_error", _) => {
                    state.last_error = Some(rest.to_owned()).filter(|text| text != "none");
                    Some(())
                }
                _ => None,
            };
            if taken.is_none() && !key.is_empty() {
                let is_text = matches!(key, "set" | "name" | "history" | "scan");
                let number = rest.parse::<u64>().ok().filter(|_| !is_text);
                state.values.insert(key.into(), number.map_or_else(|| rest.into(), Value::from));
            }
        }
        for member in &mut state.members {
            let health = state.values.remove(&format!("spare{}_health", member.number));
            member.health = health.and_then(|score| u32::try_from(score.as_u64()?).ok());
        }
        state
    }

    /// A value that is a number; 0 where there is none.
    pub fn number(&self, name: &str) -> u64 {
        self.values.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A value that is a word; empty where there is none.
    pub fn word(&self, name: &str) -> &str {
        self.values.get(name).and_then(Value::as_str).unwrap_or("")
    }

    /// Whether nothing is wrong with the set and its devices.
    pub fn is_healthy(&self) -> bool {
        self.number("health") == 1
    }

    /// What is wrong, a sentence each.
    pub fn troubles(&self) -> Vec<String> {
        let mut troubles = Vec::new();
        let (pending, lost) = (self.number("pending"), self.number("lost"));
        let suspect = self.number("suspect");
        if pending > lost {
            troubles.push(format!("{} sectors of main cannot be read", pending - lost));
        }
        if lost > 0 {
            troubles.push(format!(
                "{lost} sectors are lost: what was written there last can be read nowhere"
            ));
        }
        if suspect > 0 {
            troubles.push(format!("{suspect} sectors cannot be read on the spares"));
        }
        match self.word("persist") {
            "degraded" => troubles.push("not every copy of the metadata is good".into()),
            "failed" => troubles.push("nothing can be changed: too few copies, or a doubt".into()),
            _ => {}
        }
        for away in self.members.iter().filter(|member| member.away) {
            troubles.push(format!("spare {} is away ({})", away.number, away.uuid));
        }
        if self.word("auto") == "halted" {
            troubles.push(
                "nothing is moved by itself: main takes no writes, or fails too often".into(),
            );
        }
        let room = self.number("room");
        if room > 0 && self.number("used") >= room {
            troubles.push("the spares are full".into());
        }
        if troubles.is_empty() && !self.is_healthy() {
            troubles.push("a device is in a bad way".into());
        }
        troubles
    }
}

/// `<n> <device>|- [<start>+<length>] active|away <uuid>`.
fn member(words: &[&str]) -> Option<Member> {
    let (number, device, part, word, uuid) = match *words {
        [number, device, part, word, uuid] => (number, Some(device), Some(part), word, uuid),
        [number, "-", word, uuid] => (number, None, None, word, uuid),
        _ => return None,
    };
    let (start, sectors) = part.and_then(|part| pair(part, '+')).unwrap_or_default();
    Some(Member {
        number: number.parse().ok()?,
        device: device.and_then(|device| pair(device, ':')),
        start,
        sectors,
        away: word == "away",
        uuid: uuid.into(),
        health: None,
        copies: Vec::new(),
    })
}

/// `<spare>.<copy> sector <n> <state> [version <n>]`.
fn copy(words: &[&str]) -> Option<(u32, Copy)> {
    let [at, "sector", sector, state, ref version @ ..] = *words else { return None };
    let (spare, number) = pair(at, '.')?;
    let version = match version {
        ["version", version] => version.parse().ok(),
        _ => None,
    };
    Some((spare, Copy { number, sector: sector.parse().ok()?, state: state.into(), version }))
}
