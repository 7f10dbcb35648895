//! Every moment at which the power could have failed.
//!
//! A machine works on a set whose drives keep journals: a load writes, ranges are remapped and brought back, main refuses writes,
//! settings change, the spare is replaced and comes back. Afterwards the journals are replayed here. At each flush and each write with FUA,
//! before it and after it, the power is cut, many times over: nothing of what was not flushed is there, all of it, or parts
//! in any order, torn between sectors. Of what is on the drives then, the recovery that the module has as well makes a set, and with its table
//! each sector is looked up that the load has written. It has to hold what was acknowledged and flushed by then, or something later.
//!
//! Whatever devices could be named in a table line are tried together. At least one such line has to be a set; and each that is has to have
//! everything, so a spare that has left is never taken for one that has not.

use crate::drive::journal::{Done, Entry};
use crate::drive::model::{self, Medium, SECTOR};
use crate::image::{Image, Named};
use crate::{Drive, Ledger, Machine, Remap, Rng};
use remap_pure::units::{MainSector, Sectors};
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader};
use std::path::PathBuf;
use std::time::Duration;

const MIB: u64 = 2048;
/// Where the load writes.
const REGIONS: &str = "0+192,4096+192";
/// States at each moment with parts of what was not flushed; besides, one has none of it and one all.
const TORN: u64 = 4;

/// A medium in memory.
#[derive(Clone)]
struct Content(Vec<u8>);

impl Content {
    fn at(&self, sector: u64) -> Option<&[u8]> {
        let from = usize::try_from(sector).ok()?.checked_mul(SECTOR)?;
        self.0.get(from..from.checked_add(SECTOR)?)
    }
}

impl Medium for Content {
    fn sectors(&self) -> u64 {
        (self.0.len() / SECTOR) as u64
    }
    fn read(&self, sector: u64, into: &mut [u8]) -> io::Result<()> {
        let from = sector as usize * SECTOR;
        into.copy_from_slice(&self.0[from..from + into.len()]);
        Ok(())
    }
    fn write(&mut self, sector: u64, from: &[u8]) -> io::Result<()> {
        let at = sector as usize * SECTOR;
        self.0[at..at + from.len()].copy_from_slice(from);
        Ok(())
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
    pub migrations: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { requests, flushes, moments, states, sets, migrations } = self;
        write!(
            f,
            "{requests} requests, {flushes} of them flushes or with FUA, {migrations} migrations; \
             {moments} moments, {states} states, {sets} sets recovered"
        )
    }
}

/// What a machine did with its drives.
pub struct Crashes {
    seed: u64,
    /// Main first, then the devices that can be spares.
    drives: Vec<Replayed>,
    entries: Vec<(usize, Entry)>,
    events: Vec<u8>,
    migrations: u64,
}

impl Crashes {
    /// Has a machine work for about so many seconds, with drives that keep journals.
    pub fn of_seed(seed: u64, seconds: u64) -> Self {
        let mut rng = Rng::new(seed);
        let main = Drive::blank(&format!("main{seed}"), 8 * MIB);
        let spares = ["one", "two"].map(|name| Drive::blank(&format!("{name}{seed}"), 8 * MIB));
        let machine =
            Machine::builder().drive(&main).drive(&spares[0]).drive(&spares[1]).module().boot();
        let disk = Remap::create(&machine, "disk", "/dev/vda", "/dev/vdb 1 create");
        let kept: Vec<(Vec<u8>, PathBuf)> =
            [&main, &spares[0], &spares[1]].map(|drive| drive.keep_journal(&machine)).into();

        let ledger = ledger(seed);
        let path = disk.path();
        let load =
            ledger.start(&machine, &path, &format!("threads=3 largest=32 seconds={seconds}"));
        let messages: String = (0..400).map(|_| message(&mut rng) + "\n").collect();
        machine.put("/tmp/messages", messages.as_bytes());
        let moves = machine.start(
            "while read message; do dmsetup message disk 0 $message 2>/dev/null; sleep 0.05; done </tmp/messages",
        );
        let migrates = machine.start(
            "n=0; for to in c b c b; do sleep 0.5; dmsetup message disk 0 migrate /dev/vd$to && n=$((n + 1)); done; echo $n",
        );
        // Some of main fails when it is written, and moves by itself.
        std::thread::sleep(Duration::from_millis(500));
        let bad = 4096 + 8 * rng.below(16);
        main.fail_writes(bad..bad + 24);
        assert_eq!(load.wait_for(Duration::from_secs(120 + 10 * seconds)).status, 0);
        let migrations = migrates.wait().stdout.trim().parse().unwrap_or(0);
        moves.kill();
        let events = machine.events();
        disk.remove();
        machine.shutdown();

        let mut entries = Vec::new();
        let mut drives = Vec::new();
        for (n, (base, journal)) in kept.into_iter().enumerate() {
            drives.push(Replayed::new(Content(base)));
            let file =
                File::open(&journal).unwrap_or_else(|e| panic!("{}: {e}", journal.display()));
            let mut from = BufReader::new(file);
            while let Some(entry) = Entry::read(&mut from).unwrap_or_else(|e| panic!("{e}")) {
                entries.push((n, entry));
            }
        }
        // Of one drive they are in order; a clock that stood still must not change that.
        entries.sort_by_key(|(_, entry)| entry.time);
        Self { seed, drives, entries, events, migrations }
    }

    /// Cuts the power at moments from the first to the last request; at no more than `most` of them, evenly. Panics with what is wrong.
    pub fn check(mut self, most: u64) -> Report {
        let mut report = Report { migrations: self.migrations, ..Report::default() };
        let counts = |entry: &Entry| matches!(entry.done, Done::Flush | Done::Write(.., true));
        let n = self.entries.len();
        let flushes: Vec<bool> = self.entries.iter().map(|(_, entry)| counts(entry)).collect();
        report.requests = n as u64;
        report.flushes = flushes.iter().filter(|is| **is).count() as u64;
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
            report.moments += 1;
            for state in 0..TORN + 2 {
                let draw = rng.draw();
                let cut = |drive: &Replayed| match state {
                    0 => drive.medium().clone(),
                    1 => drive.clone().switch_off(),
                    n => drive.clone().cut(draw ^ n),
                };
                let found: Vec<Content> = self.drives.iter().map(cut).collect();
                report.states += 1;
                report.sets += self.judge(&ledger, &found, at, state);
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

    /// How many table lines name a set there. Panics when none does, or one has not what it must.
    fn judge(&self, ledger: &Ledger, found: &[Content], at: usize, state: u64) -> u64 {
        let (main, spares) = (&found[0], &found[1..]);
        let mut sets = 0;
        let mut said = String::new();
        for bits in 1_usize..1 << spares.len() {
            let line: Vec<usize> = (0..spares.len()).filter(|n| bits & (1 << n) != 0).collect();
            let images = line.iter().map(|&n| Image::from_bytes(spares[n].0.clone())).collect();
            let whole = Named::of(images).and_then(|mut named| {
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
                let from = place.0 as usize * SECTOR;
                named.bytes(spare).get(from..from + SECTOR)
            };
            let scanned = ledger.found_in(content);
            let wrong = ledger.clone().settle(&scanned, |_| false);
            assert!(
                wrong.is_empty(),
                "seed {}: the power fails before request {at} (state {state}), spares {line:?}, version {}: {} sectors are wrong:\n{}",
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
        sets
    }
}

fn ledger(seed: u64) -> Ledger {
    Ledger::new(seed, REGIONS)
}

/// A change that somebody asks for.
fn message(rng: &mut Rng) -> String {
    let at = [0, 4096][rng.below(2) as usize] + rng.below(184);
    let len = 1 + rng.below(24);
    match rng.below(8) {
        0..4 => format!("remap {at} {len}"),
        4..7 => format!("unremap {at} {len}"),
        _ => format!("set alert_threshold {}", 50 + rng.below(50)),
    }
}
