//! The way back: the old main is main again, with all that has been written since.
//!
//! What has been copied the set reads from the new main alone. So there the old one may be written to at any time without anybody seeing it,
//! and a crash finds the replacement as it was. It has all of it when it has been compared, with the set suspended.

use super::direct::{Direct, UNIT};
use super::guard::in_memory;
use super::places::Held as Taken;
use super::ranges::{pieces, uncovered, Range};
use super::setup::with_main;
use super::{Work, MOVE};
use crate::spares::Access;
use crate::{config, text, world, Failure, Outcome};
use indicatif::{ProgressBar, ProgressStyle};
use remap_pure::entry::Mapping;
use remap_pure::table::Table;
use remap_pure::units::SECTOR_SIZE;
use serde::Serialize;
use std::io;
use std::time::{Duration, Instant};

/// How often what the old main does not take is moved to a spare, and the rest looked at again.
const TRIES: u32 = 4;

/// What came of it.
#[derive(Serialize)]
struct Report {
    set: String,
    main: String,
    given_up: String,
    /// Sectors that had to be written to the old main.
    brought_back: u64,
}

/// What a look at all that was copied has come to.
#[derive(Default)]
struct Passed {
    /// Sectors that the old main lacked, and has now.
    brought: u64,
    /// What it does not take, or the new one does not give.
    failing: Vec<Range>,
    /// Whether it was left before its end.
    cut: bool,
}

/// How long all I/O may be held, and since when it is.
struct Held {
    since: Instant,
    most: Option<Duration>,
}

impl Held {
    fn too_long(&self) -> bool {
        self.most.is_some_and(|most| self.since.elapsed() > most)
    }
}

impl Work<'_> {
    /// Goes back.
    ///
    /// # Errors
    ///
    /// The set is on the copy as before, which does not copy any further.
    pub(super) fn go_back(&self) -> Result<Outcome, Failure> {
        let (name, old, new) = (&self.live.name, &self.old.path, &self.new.path);
        if self.gone.is_some() {
            return Err(format!("{name}: the old main is gone, so there is no way back to it"));
        }
        let status = self.status()?;
        if !self.arguments.json || self.arguments.dry_run {
            text::print(|out| {
                writeln!(
                    out,
                    "{name} (set {}): {old} is to be main again, and {new} is given up",
                    self.set
                )?;
                writeln!(
                    out,
                    "{} of {} parts are on {new}; what of them {old} lacks is written to it",
                    status.copied, status.regions
                )?;
                writeln!(out, "then all I/O is held while that is compared")
            })?;
        }
        if self.arguments.dry_run {
            return Ok(Outcome::Well);
        }
        world::agree(self.arguments.yes)?;
        let brought_back = self.bring_back().map_err(|failure| {
            format!("{failure}\n{name}: its main is still being replaced, but nothing is copied at present; 'dmremap replace-main --continue {name}' goes on with that")
        })?;
        // As long as it shows what it is known by, and a crash finds that there is something left to do.
        if let Some(what) = config::forget_new(self.set, new, old) {
            eprintln!("dmremap: {what}");
        }
        self.take_apart()?;
        // It has the same filesystem, in parts.
        Taken::of(self.new.clone())?.wipe()?;
        let report = Report {
            set: self.set.to_string(),
            main: old.clone(),
            given_up: new.clone(),
            brought_back,
        };
        text::print(|out| {
            if self.arguments.json {
                return writeln!(out, "{}", serde_json::to_string_pretty(&report)?);
            }
            writeln!(out, "{name}: {old} is main again; {new} is not used any more")?;
            writeln!(out, "{} were brought back to it", text::sectors(brought_back))
        })?;
        Ok(Outcome::Well)
    }

    /// Gives how many sectors it has written to the old main.
    fn bring_back(&self) -> Result<u64, Failure> {
        self.tell_copy("disable_hydration")?;
        let bar = ProgressBar::new(0);
        let style = ProgressStyle::with_template("{bar:40} {percent}% {elapsed} {msg}");
        bar.set_style(style.map_err(|e| e.to_string())?);
        let mut brought = 0;
        for _ in 0..TRIES {
            // On the old main itself there would be nothing to bring back to it, and much to lose.
            self.is_on_copy()?;
            // While the set is in use, so that little is left for when it is not.
            let began = Instant::now();
            let (within, _) = self.missing_at_rest()?.ok_or("stopped")?;
            let on_new = self.others(&within);
            let state = self.state(&self.spares()?)?;
            let on_new: Vec<Range> =
                on_new.iter().flat_map(|range| uncovered(state.table(), *range)).collect();
            let passed = self.compare(&on_new, &bar, None)?;
            brought += passed.brought;
            if passed.cut {
                return Err("stopped".into());
            }
            self.remap(&passed.failing)?.then_some(()).ok_or("stopped")?;
            let most = self.may_hold()?;
            if most.is_some_and(|most| began.elapsed() > most) {
                return Err(self.too_long(began.elapsed()));
            }
            bar.set_message("all I/O is held");
            let passed = in_memory(|| self.step_back(&bar, most))?;
            brought += passed.brought;
            if passed.cut {
                return Err(self.too_long(began.elapsed()));
            }
            if passed.failing.is_empty() {
                bar.finish_and_clear();
                return Ok(brought);
            }
            bar.set_message("");
            self.remap(&passed.failing)?.then_some(()).ok_or("stopped")?;
        }
        Err(format!(
            "{} does not take what is to be brought back to it, again and again",
            self.old.path
        ))
    }

    /// How long all I/O may be held; as long as need be where nobody waits.
    fn may_hold(&self) -> Result<Option<Duration>, Failure> {
        let live = self.mapper.find(&self.live.name)?;
        Ok((live.open > 0).then(|| Duration::from_secs(self.arguments.hold)))
    }

    fn too_long(&self, took: Duration) -> Failure {
        let (name, old) = (&self.live.name, &self.old.path);
        format!(
            "to compare what is on {} takes some {} s, for which all I/O would be held; end what uses {name} and try again, or allow it with --hold; \
             or let it be replaced to the end, and then replace main by {old}",
            self.new.path,
            took.as_secs() + 1
        )
    }

    /// With the set suspended: compares, and has the set take the old main if that has everything then.
    fn step_back(&self, bar: &ProgressBar, most: Option<Duration>) -> Result<Passed, Failure> {
        let (mapper, live) = (&self.mapper, &self.live);
        let _turn = world::take_turn(&self.set);
        self.is_on_copy()?;
        let own = self.line()?;
        let line = with_main(&own, &self.old.word(), "old_main")?;
        let spares = self.spares()?;
        mapper.load(live, &line)?;
        let held = Held { since: Instant::now(), most };
        if let Err(failure) = mapper.suspend(live) {
            mapper.unload(live);
            return Err(failure);
        }
        let still = self.line().and_then(|line| self.has_copy(&line));
        match still.and_then(|()| self.compare_all(&spares, bar, &held)) {
            Ok(passed) if passed.failing.is_empty() && !passed.cut => {
                mapper.resume(live).map_err(|e| self.back_to(&own, e).0)?;
                self.has_taken(&self.old)?;
                Ok(passed)
            }
            other => {
                mapper.unload(live);
                mapper.resume(live)?;
                other
            }
        }
    }

    fn compare_all(
        &self,
        spares: &[String],
        bar: &ProgressBar,
        held: &Held,
    ) -> Result<Passed, Failure> {
        // The set is suspended, so nothing changes.
        let (within, _) = self.missing()??;
        let state = self.state(spares)?;
        let on_new = self.others(&within);
        // The new one had it, and does not give it any more: what the old one has there is older, and would look like the data.
        let alone = pending(state.table(), &on_new);
        if let Some(first) = alone.first() {
            return Err(format!(
                "{} sectors are on {} alone, and cannot be read there, from {} on; write them, and try again",
                alone.iter().map(|range| range.sectors).sum::<u64>(),
                self.new.path,
                first.start
            ));
        }
        let on_new: Vec<Range> =
            on_new.iter().flat_map(|range| uncovered(state.table(), *range)).collect();
        self.compare(&on_new, bar, Some(held))
    }

    /// All of the set but these ranges, which are in order.
    fn others(&self, ranges: &[Range]) -> Vec<Range> {
        let end = Range { start: self.live.sectors, sectors: 0 };
        let (mut all, mut at) = (Vec::new(), 0);
        for range in ranges.iter().chain([&end]) {
            if range.start > at {
                all.push(Range { start: at, sectors: range.start - at });
            }
            at = range.start + range.sectors;
        }
        all
    }

    /// Writes to the old main what it has not of these ranges. What fails is left for a spare to take.
    fn compare(
        &self,
        ranges: &[Range],
        bar: &ProgressBar,
        held: Option<&Held>,
    ) -> Result<Passed, Failure> {
        let mut copy = Direct::open(&self.copy.path().to_string_lossy(), false)?;
        // A path may lead to another device by now.
        self.old.open(Access::Read).map_err(|e| format!("{}: {e}", self.old.path))?;
        let mut old = Direct::open(&self.old.path, true)?;
        let mut passed = Passed::default();
        bar.set_length(ranges.iter().map(|range| range.sectors).sum());
        bar.set_position(0);
        for piece in pieces(ranges, MOVE) {
            let stopped = held.is_none() && self.is_stopped();
            if stopped || held.is_some_and(Held::too_long) {
                passed.cut = true;
                return Ok(passed);
            }
            let whole = self.bring(piece, &mut copy, &mut old);
            match whole {
                Ok(brought) => passed.brought += brought,
                // What fails of it is found unit by unit.
                Err(_) => {
                    for unit in pieces(&[piece], UNIT) {
                        match self.bring(unit, &mut copy, &mut old) {
                            Ok(brought) => passed.brought += brought,
                            Err(_) => passed.failing.push(unit),
                        }
                    }
                }
            }
            bar.inc(piece.sectors);
        }
        old.flush().map_err(|e| format!("{}: cannot be flushed: {e}", self.old.path))?;
        Ok(passed)
    }

    /// Gives how many sectors differed.
    fn bring(&self, piece: Range, copy: &mut Direct, old: &mut Direct) -> io::Result<u64> {
        let at = self.start + piece.start;
        let wanted = copy.read(at, piece.sectors)?;
        let unit = UNIT as usize * SECTOR_SIZE;
        let differs: Vec<usize> = match old.read(at, piece.sectors) {
            Ok(has) => {
                let pairs = wanted.chunks(unit).zip(has.chunks(unit)).enumerate();
                pairs.filter(|(_, (wanted, has))| wanted != has).map(|(i, _)| i).collect()
            }
            // To write what cannot be read often mends it.
            Err(_) if piece.sectors <= UNIT => vec![0],
            Err(e) => return Err(e),
        };
        let mut brought = 0;
        for i in differs {
            let Some(bytes) = wanted.chunks(unit).nth(i) else { continue };
            let (at, sectors) = (at + i as u64 * UNIT, (bytes.len() / SECTOR_SIZE) as u64);
            old.write(at, bytes)?;
            if old.read(at, sectors)? != bytes {
                return Err(io::ErrorKind::InvalidData.into());
            }
            brought += sectors;
        }
        Ok(brought)
    }
}

/// What is pending of these ranges.
fn pending(table: &Table, ranges: &[Range]) -> Vec<Range> {
    let is = |mapping| matches!(mapping, Mapping::Pending);
    let pending = table.iter().filter(|entry| is(entry.mapping));
    let pending = pending.map(|e| Range { start: e.extent.start.0, sectors: e.extent.len.0 });
    let overlap =
        |a: &Range, b: &Range| a.start < b.start + b.sectors && b.start < a.start + a.sectors;
    pending.filter(|range| ranges.iter().any(|other| overlap(range, other))).collect()
}
