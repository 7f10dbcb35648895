//! Every moment at which the power could have failed.
//!
//! A machine works on a set whose drives keep journals: a load writes, ranges are remapped and brought back, main refuses writes, and
//! reads, which the load marks and a scan, settings change, spares are replaced, join, leave and come back. Afterwards the journals are replayed here. At
//! each flush and each write with FUA, before it and after it, the power is cut, many times over: nothing of what was not flushed is there,
//! all of it, or, of each drive for itself, nothing, all, or parts in any order, torn between sectors. Of what is on the drives then, the
//! recovery that the module has as well makes a set, and with its table each sector is looked up that the load has written. It has to hold
//! what was acknowledged and flushed by then, or something later; and what a message has asked for and was acknowledged has to be so.
//!
//! Whatever devices could be named in a table line are tried together. At least one such line has to be a set; and each that is has to have
//! everything, so a spare that has left is never taken for one that has not.

use crate::drive::journal::{Done, Entry};
use crate::drive::model::{self, Medium, SECTOR};
use crate::image::{Device, Named};
use crate::{Drive, Ledger, Machine, Remap, Rng};
use remap_guest::load::Event;
use remap_pure::mem::BLOCK_SIZE;
use remap_pure::settings::{Settings, ALERT_THRESHOLD};
use remap_pure::units::{MainSector, Sectors, SpareSector};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const MIB: u64 = 2048;
/// Where the load writes.
const REGIONS: &str = "0+192,4096+192";
/// What main cannot read, elsewhere.
const UNREADABLE: Range<u64> = 2048..2064;
/// What main cannot read where the load is at work.
const WORN: Range<u64> = 128..192;
/// How the spares change, one after another, but for the second, which stays. Who has left comes back under another table.
const CHANGES: [&str; 6] = [
    "spare add /dev/vdd",
    "reload",
    "spare remove /dev/vdb",
    "reload",
    "migrate /dev/vdd /dev/vdb",
    "reload",
];
/// States at each moment with parts of what was not flushed; besides, one has none of it and one all.
const TORN: u64 = 4;

/// Bytes that are copied when one of them changes.
const CHUNK: usize = 1 << 16;

/// A medium in memory. A clone shares what both have alike.
#[derive(Clone)]
struct Content(Vec<Arc<Vec<u8>>>);

impl Content {
    fn new(bytes: &[u8]) -> Self {
        Content(bytes.chunks(CHUNK).map(|chunk| Arc::new(chunk.to_vec())).collect())
    }

    /// Bytes of one chunk.
    fn part(&self, from: usize, len: usize) -> Option<&[u8]> {
        self.0.get(from / CHUNK)?.get(from % CHUNK..)?.get(..len)
    }

    fn at(&self, sector: u64) -> Option<&[u8]> {
        self.part(sector as usize * SECTOR, SECTOR)
    }
}

impl Medium for Content {
    fn sectors(&self) -> u64 {
        self.0.iter().map(|chunk| (chunk.len() / SECTOR) as u64).sum()
    }
    fn read(&self, sector: u64, into: &mut [u8]) -> io::Result<()> {
        for (sector, into) in (sector..).zip(into.chunks_mut(SECTOR)) {
            into.copy_from_slice(self.at(sector).ok_or(io::ErrorKind::UnexpectedEof)?);
        }
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> io::Result<()> {
        for (sector, from) in (sector..).zip(from.chunks(SECTOR)) {
            let at = sector as usize * SECTOR;
            let chunk = self.0.get_mut(at / CHUNK).ok_or(io::ErrorKind::UnexpectedEof)?;
            Arc::make_mut(chunk)[at % CHUNK..][..from.len()].copy_from_slice(from);
        }
        Ok(())
    }
}

impl Device for Content {
    fn sectors(&self) -> u64 {
        Medium::sectors(self)
    }

    fn block(&self, at: SpareSector) -> Option<&[u8]> {
        self.part(at.0 as usize * SECTOR, BLOCK_SIZE)
    }
}

type Replayed = model::Drive<Content>;

/// What has been looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Writes, flushes and discards of all drives.
    pub requests: u64,
    /// Of these, flushes and writes with FUA.
    pub flushes: u64,
    /// Moments at which the power was cut.
    pub moments: u64,
    /// What was found on the drives then, counted once for each way of cutting it.
    pub states: u64,
    /// Table lines that named a whole set.
    pub sets: u64,
    /// Changes of the spares that came about.
    pub changes: u64,
    /// Moves to a spare and back that were asked for and came about.
    pub moves: u64,
    /// Settings that were changed.
    pub settings: u64,
    /// Sets that had marks of what cannot be read.
    pub marked: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { requests, flushes, moments, states, sets, changes, moves, settings, marked } =
            self;
        write!(
            f,
            "{requests} requests, {flushes} of them flushes or with FUA, {changes} changes of spares, {moves} moves, {settings} settings; \
             {moments} moments, {states} states, {sets} sets recovered, {marked} with marks"
        )
    }
}

/// What somebody asks for.
enum Message {
    Remap(Range<u64>),
    Unremap(Range<u64>),
    Threshold(u64),
    Other(&'static str),
}

impl Message {
    /// The `n`th.
    fn nth(n: usize, rng: &mut Rng) -> Self {
        if n % 5 == 4 {
            return Self::Other(CHANGES[n / 5 % CHANGES.len()]);
        }
        if n % 40 == 2 {
            return Self::Other("scan start");
        }
        if n % 10 == 3 {
            return Self::Threshold(50 + rng.below(50));
        }
        let at = [0, 4096][rng.below(2) as usize] + rng.below(184);
        let range = at..at + 1 + rng.below(24);
        match rng.below(7) {
            0..4 => Self::Remap(range),
            _ => Self::Unremap(range),
        }
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remap(range) => write!(f, "remap {} {}", range.start, range.end - range.start),
            Self::Unremap(range) => {
                write!(f, "unremap {} {}", range.start, range.end - range.start)
            }
            Self::Threshold(value) => write!(f, "set alert_threshold {value}"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// What has to be, by what was asked for and how it was answered.
struct Answered {
    /// For each sector whether it lives on a spare; none where that may be or not.
    moved: HashMap<u64, Option<bool>>,
    /// What the setting may be.
    thresholds: Vec<u64>,
    moves: u64,
    settings: u64,
}

impl Answered {
    /// By the events up to some moment. What lies in `bad` may move by itself to a spare, and what is [`WORN`] either way.
    fn new(messages: &[Message], mut events: &[u8], bad: &Range<u64>) -> Self {
        let thresholds = vec![ALERT_THRESHOLD.default];
        let mut all = Self { moved: HashMap::new(), thresholds, moves: 0, settings: 0 };
        while let Some(event) = Event::read(&mut events).unwrap_or_else(|e| panic!("{e}")) {
            let (number, ended) = match event {
                Event::Ask { number } => (number, None),
                Event::Answer { number, errno } => (number, Some(errno == 0)),
                _ => continue,
            };
            match (&messages[number as usize], ended) {
                (Message::Remap(range) | Message::Unremap(range), ended) => {
                    let to_spare = matches!(messages[number as usize], Message::Remap(_));
                    let so = (ended == Some(true)).then_some(to_spare);
                    let stays = |sector: &u64| to_spare || !bad.contains(sector);
                    let stay = range.clone().filter(|sector| !WORN.contains(sector));
                    let each = stay.map(|sector| (sector, so.filter(|_| stays(&sector))));
                    all.moved.extend(each);
                    all.moves += u64::from(ended == Some(true));
                }
                (Message::Threshold(value), None) => all.thresholds.push(*value),
                (Message::Threshold(value), Some(true)) => {
                    all.thresholds = vec![*value];
                    all.settings += 1;
                }
                (Message::Threshold(_), Some(false)) | (Message::Other(_), _) => {}
            }
        }
        all
    }

    /// What is not so in a set.
    fn wrong(&self, is_moved: impl Fn(u64) -> bool, threshold: u64) -> Vec<String> {
        let mut wrong: Vec<String> = Vec::new();
        for (sector, moved) in &self.moved {
            if moved.is_some_and(|moved| moved != is_moved(*sector)) {
                wrong.push(format!("sector {sector}: on a spare is not {moved:?}"));
            }
        }
        if !self.thresholds.contains(&threshold) {
            wrong.push(format!("alert_threshold is {threshold}, may be {:?}", self.thresholds));
        }
        wrong
    }
}

/// What a machine did with its drives.
pub struct Crashes {
    seed: u64,
    /// Main first, then the devices that can be spares.
    drives: Vec<Replayed>,
    entries: Vec<(usize, Entry)>,
    events: Vec<u8>,
    messages: Vec<Message>,
    /// What main does not take.
    bad: Range<u64>,
    changes: u64,
}

impl Crashes {
    /// Has a machine work for about so many seconds, with drives that keep journals.
    pub fn of_seed(seed: u64, seconds: u64) -> Self {
        let mut rng = Rng::new(seed);
        let drives = ["main", "one", "two", "three"]
            .map(|name| Drive::blank(&format!("{name}{seed}"), 8 * MIB));
        let boot = drives.iter().fold(Machine::builder(), |machine, drive| machine.drive(drive));
        let machine = boot.module().boot();
        let disk = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 3 create spare /dev/vdc");
        let main = &drives[0];
        main.fail_reads(UNREADABLE);
        main.fail_reads(WORN);
        let kept: Vec<(Vec<u8>, PathBuf)> =
            drives.iter().map(|drive| drive.keep_journal(&machine)).collect();

        let ledger = ledger(seed);
        let path = disk.path();
        let messages: Vec<Message> = (0..1000).map(|n| Message::nth(n, &mut rng)).collect();
        let lines: Vec<String> = messages.iter().map(Message::to_string).collect();
        machine.put("/tmp/messages", lines.join("\n").as_bytes());
        let more =
            format!("threads=3 largest=32 seconds={seconds} messages=/tmp/messages pause=10");
        let load = ledger.start(&machine, &path, &more);
        // Some of main fails when it is written, and moves by itself.
        std::thread::sleep(Duration::from_millis(500));
        let bad = 4096 + 8 * rng.below(16);
        let bad = bad..bad + 24;
        main.fail_writes(bad.clone());
        assert_eq!(load.wait_for(Duration::from_secs(120 + 10 * seconds)).status, 0);
        let events = machine.events();
        let log = machine.kernel_log();
        let names = [": migrate of ", ": spare-add of ", ": spare-remove of "];
        let is_change = |line: &&str| {
            line.contains(" is done: ") && names.iter().any(|name| line.contains(name))
        };
        let changes = log.lines().filter(is_change).count() as u64;
        disk.remove();
        machine.shutdown();

        let mut entries = Vec::new();
        let mut drives = Vec::new();
        for (n, (base, journal)) in kept.into_iter().enumerate() {
            drives.push(Replayed::new(Content::new(&base)));
            let file =
                File::open(&journal).unwrap_or_else(|e| panic!("{}: {e}", journal.display()));
            let mut from = BufReader::new(file);
            while let Some(entry) = Entry::read(&mut from).unwrap_or_else(|e| panic!("{e}")) {
                entries.push((n, entry));
            }
        }
        // Of one drive they are in order; a clock that stood still must not change that.
        entries.sort_by_key(|(_, entry)| entry.time);
        Self { seed, drives, entries, events, messages, bad, changes }
    }

    /// As if that drive, main or one of the others by their numbers, had flushed nothing: for a test of who judges.
    pub fn without_flushes_of(mut self, drive: usize) -> Self {
        self.entries.retain(|(n, entry)| *n != drive || !matches!(entry.done, Done::Flush));
        for (_, entry) in self.entries.iter_mut().filter(|(n, _)| *n == drive) {
            if let Done::Write(.., durable) = &mut entry.done {
                *durable = false;
            }
        }
        self
    }

    /// Cuts the power at moments from the first to the last request; at no more than `most` of them, evenly. Panics with what is wrong.
    pub fn check(mut self, most: u64) -> Report {
        let all = Answered::new(&self.messages, &self.events, &self.bad);
        let (changes, moves, settings) = (self.changes, all.moves, all.settings);
        let mut report = Report { changes, moves, settings, ..Report::default() };
        let counts = |entry: &Entry| matches!(entry.done, Done::Flush | Done::Write(.., true));
        let n = self.entries.len();
        let flushes: Vec<bool> = self.entries.iter().map(|(_, entry)| counts(entry)).collect();
        report.requests = n as u64;
        report.flushes = flushes.iter().filter(|is| **is).count() as u64;
        let mut load = ledger(self.seed);
        load.enter(&self.events);
        let worked = load.acknowledged > 0 && load.flushes > 0 && report.flushes > 0;
        assert!(
            worked && load.read_errors > 0 && changes > 0 && moves > 0 && settings > 0,
            "hardly anything was done: {report}"
        );
        // Before the n-th request: next to a flush, on either side.
        let moments: Vec<usize> =
            (0..=n).filter(|&at| at == n || flushes[at] || at > 0 && flushes[at - 1]).collect();
        let every = (moments.len() as u64).div_ceil(most.max(1)).max(1);
        let mut rng = Rng::new(self.seed ^ 0xc4a5);
        let first = rng.below(every);
        let chosen = moments.iter().enumerate().filter(|(i, _)| *i as u64 % every == first);
        let mut done = 0;
        for (_, &at) in chosen {
            self.replay(done..at);
            done = at;
            let known = match self.entries.get(at) {
                Some((_, next)) => (next.events as usize).min(self.events.len()),
                None => self.events.len(),
            };
            let mut ledger = ledger(self.seed);
            ledger.enter(&self.events[..known]);
            let answered = Answered::new(&self.messages, &self.events[..known], &self.bad);
            report.moments += 1;
            for state in 0..TORN + 2 {
                let mut cut = |drive: &Replayed| match (state, rng.draw()) {
                    (0, _) => drive.medium().clone(),
                    (1, _) => drive.clone().switch_off(),
                    (_, draw) if draw % 4 == 0 => drive.medium().clone(),
                    (_, draw) if draw % 4 == 1 => drive.clone().switch_off(),
                    (_, draw) => drive.clone().cut(draw),
                };
                let found: Vec<Content> = self.drives.iter().map(&mut cut).collect();
                let (sets, marked) = self.judge(&ledger, &answered, &found, at, state);
                report.states += 1;
                report.sets += sets;
                report.marked += marked;
            }
        }
        report
    }

    fn replay(&mut self, which: std::ops::Range<usize>) {
        for (n, entry) in &self.entries[which] {
            let drive = &mut self.drives[*n];
            let result = match &entry.done {
                Done::Write(sector, data, fua) => drive.write(*sector, data, *fua),
                Done::Flush => drive.flush(),
            };
            result.unwrap_or_else(|fault| panic!("what a drive has done it does again: {fault:?}"));
        }
    }

    /// How many table lines name a set there, and how many of these have marks. Panics when none does, or one has not what it must.
    fn judge(
        &self,
        ledger: &Ledger,
        answered: &Answered,
        found: &[Content],
        at: usize,
        state: u64,
    ) -> (u64, u64) {
        let (main, spares) = (&found[0], &found[1..]);
        let (mut sets, mut marked) = (0, 0);
        let mut said = String::new();
        for bits in 1_usize..1 << spares.len() {
            let line: Vec<usize> = (0..spares.len()).filter(|n| bits & (1 << n) != 0).collect();
            let whole = Named::of(line.iter().map(|&n| &spares[n])).and_then(|mut named| {
                let found = named.recover()?;
                Ok((named, found))
            });
            let (named, whole) = match whole {
                Ok(whole) => whole,
                Err(why) => {
                    said += &format!("{line:?}: {why}\n");
                    continue;
                }
            };
            sets += 1;
            let table = whole.table();
            let content = |sector: u64| {
                let (start, len) = (MainSector(sector), Sectors(1));
                let Some(entry) = table.lookup(start, len) else { return main.at(sector) };
                let mapping = entry.mapping.advance(start - entry.extent.start);
                let (spare, place) = mapping.place()?;
                named.device(spare)?.at(place.0)
            };
            let scanned = ledger.found_in(content);
            let mut wrong = ledger.clone().settle(&scanned, |sector| WORN.contains(&sector));
            let is_moved = |sector: u64| {
                let entry = table.lookup(MainSector(sector), Sectors(1));
                entry.is_some_and(|entry| entry.mapping.place().is_some())
            };
            let settings = Settings::from_raw(&whole.header().raw().settings);
            wrong.extend(answered.wrong(is_moved, settings.get(&ALERT_THRESHOLD)));
            marked += u64::from(table.totals().pending.0 > 0);
            assert!(
                wrong.is_empty(),
                "seed {}: the power fails before request {at} (state {state}), spares {line:?}, version {}: {} things are wrong:\n{}",
                self.seed,
                whole.header().version(),
                wrong.len(),
                wrong[..wrong.len().min(20)].join("\n")
            );
        }
        assert!(
            sets > 0,
            "seed {}: the power fails before request {at} (state {state}), and no devices are a set:\n{said}",
            self.seed
        );
        (sets, marked)
    }
}

fn ledger(seed: u64) -> Ledger {
    Ledger::new(seed, REGIONS)
}
