//! `replace-main`: another device takes main's place while the set is in use. `docs/design.md` has the steps, and what a crash in each finds.
//!
//! dm-clone copies. What is left when it comes no further is seen to here, and the last step, which makes the new device main.

mod after;
mod back;
mod direct;
mod guard;
mod places;
mod ranges;
mod setup;

use crate::live::{Live, Mapper, Part};
use crate::machine::number;
use crate::moves::extents;
use crate::spares::{Access, Spares, Which};
use crate::{config, text, world, Failure, Outcome};
use direct::Direct;
use dmremap::clone::{region_of, Status};
use dmremap::crc;
use dmremap::extents::{Extent, Kind};
use guard::{in_memory, Guard};
use indicatif::{ProgressBar, ProgressStyle};
use places::{copied, node, unsign, Place, Room};
pub use places::{is_new, is_of, signed};
use ranges::{cover, joined, pieces, uncovered, Range};
use remap_pure::entry::Mapping;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{MemberUuid, SetUuid};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::{recover_without, Recovered};
use serde::Serialize;
pub use setup::{is_on_copy, with_main};
use setup::{main_of, Begun};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// Go on with a replacement that was begun, after a restart of the machine too
    #[arg(long = "continue", conflicts_with_all = ["metadata", "overwrite"])]
    go_on: bool,
    /// Go back to the old main, with all that has been written since
    #[arg(long, conflicts_with_all = ["go_on", "metadata", "overwrite", "clear", "wipe_old"])]
    abort: bool,
    /// With --abort: how many seconds all I/O may be held, where the set is in use
    #[arg(long, value_name = "SECONDS", requires = "abort", default_value_t = 30)]
    hold: u64,
    /// Where dm-clone keeps what it has copied, if there is no room for that behind the end of NEW: a partition or logical volume
    #[arg(long, value_name = "DEVICE")]
    metadata: Option<String>,
    /// What this device carries is given up; once for each of NEW and the one for --metadata
    #[arg(long, value_name = "DEVICE")]
    overwrite: Vec<String>,
    /// With --continue or --abort: the old main, where it is not recognised
    #[arg(long, value_name = "DEVICE")]
    old: Option<String>,
    /// With --continue: the old main is gone for good. What has not been copied from it and lives on no spare is lost
    #[arg(long, requires = "go_on", conflicts_with = "old")]
    old_is_gone: bool,
    /// With --continue: go on without spares that the set knows to be away
    #[arg(long, requires = "go_on")]
    degraded: bool,
    /// With --continue: go on without this spare, which the set does not know to be away, by its UUID
    #[arg(long, value_name = "UUID", value_parser = crate::assemble::member, requires = "go_on")]
    absent: Vec<MemberUuid>,
    /// At the end: bring back to main what was remapped because the old one failed
    #[arg(long)]
    clear: bool,
    /// At the end: wipe the signatures from the old main, so that nothing mounts it by the UUID that both have
    #[arg(long)]
    wipe_old: bool,
    /// Look at everything, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long, short = 'y')]
    yes: bool,
    /// The report as JSON
    #[arg(long)]
    json: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// The device that takes main's place; with --continue and --abort only where it is not recognised
    #[arg(required_unless_present_any = ["go_on", "abort"])]
    new: Option<String>,
}

/// What came of it.
#[derive(Serialize)]
struct Report {
    set: String,
    old: String,
    new: String,
    sectors: u64,
    /// What could be read nowhere: reading it is an error until it is written.
    lost: Vec<Range>,
    /// In front of what the set maps of main, in sectors of the device: could not be copied.
    not_copied: Vec<Range>,
}

/// A replacement under way: the set is on the copy.
struct Work<'a> {
    arguments: &'a Arguments,
    mapper: Mapper,
    live: Live,
    set: SetUuid,
    /// The first sector of main that the set maps.
    start: u64,
    copy: Part,
    kept: Part,
    /// What stands for an old main that is gone.
    gone: Option<Part>,
    room: Room,
    old: Place,
    new: Place,
    /// What the old main is recognised by.
    old_print: RawFingerprint,
    stop: Arc<AtomicBool>,
}

/// Replaces main, or goes on with that.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| format!("signals: {e}"))?;
    }
    let mapper = Mapper::open()?;
    let begun = arguments.go_on || arguments.abort;
    if !begun && arguments.old.is_some() {
        return Err("--old goes with --continue or --abort".into());
    }
    let begun = match begun {
        true => setup::go_on(arguments, mapper, stop)?,
        false => setup::begin(arguments, mapper, stop)?,
    };
    match begun {
        Begun::Work(work) if arguments.abort => work.go_back(),
        Begun::Work(work) if arguments.dry_run => {
            let (name, old, new) = (&work.live.name, &work.old.path, &work.new.path);
            text::print(|out| writeln!(out, "{name}: goes on copying {old} to {new}"))?;
            Ok(Outcome::Well)
        }
        Begun::Work(work) => work.run(),
        Begun::Over(outcome) => Ok(outcome),
    }
}

/// What has not been copied: of the set, in its sectors, and in front of it, in those of the device.
type Missing = (Vec<Range>, Vec<Range>);

/// What is left when copying comes no further.
enum Rest {
    /// Nothing but what can be read nowhere.
    Nothing,
    /// All of it has been brought over by another way. That it has is to be seen.
    Moved,
    /// More than was brought over, or somebody wants to wait no longer.
    More,
    /// What could be read could not be moved; dm-clone may still copy it when there is less other I/O.
    Stuck(Failure),
}

/// How dm-clone copies.
struct Pace {
    /// Regions in one request.
    batch: u32,
    /// Regions under way.
    at_once: u32,
    /// How many regions that is good for, and how long.
    enough: Option<(u64, Duration)>,
}

/// How far copying came.
enum Came {
    /// Everything is copied.
    All,
    /// It goes no further by itself, or hardly.
    NoFurther,
    /// It is past what held it up.
    Past,
    /// Somebody wants to wait no longer.
    Stopped,
}

/// How long nothing may be copied before something else is tried: several times the longest pause that there has been, but within these.
const PATIENCE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(10);
/// Many regions at once.
const MANY: Pace = Pace { batch: 128, at_once: 1024, enough: None };
/// One by one. dm-clone begins nothing while there is other I/O, so it may hardly get on.
const SINGLE: Pace =
    Pace { batch: 1, at_once: 1, enough: Some((1 << 14, Duration::from_secs(20))) };
/// How long dm-clone may be without anything having been copied, or given up, before it comes to rest. It waits for what is under way, and
/// a drive may take minutes for each of many blocks that it cannot read.
const RESTLESS: Duration = Duration::from_secs(3600);
/// How often it is looked at how far it is.
const LOOK: Duration = Duration::from_millis(200);
/// The most sectors that a message moves before it returns.
const MOVE: u64 = 2048;
/// The most sectors that are brought over by moving them to a spare and back, before dm-clone is tried again.
const FORCED: u64 = 64 * MOVE;

impl Work<'_> {
    /// Steps 2 to 4. With the failure goes whether the set is as it was.
    fn put_to_use(&self) -> Result<(), (Failure, bool)> {
        let (mapper, live) = (&self.mapper, &self.live);
        let line = with_main(&live.line, &self.copy.number(), "new_main").map_err(|e| (e, true))?;
        let _turn = world::take_turn(&self.set);
        if self.line().map_err(|e| (e, true))? != live.line {
            return Err((format!("{} has another table meanwhile", live.name), true));
        }
        let guard = Guard::over(live).map_err(|e| (e, true))?;
        mapper.load(live, &line).map_err(|e| (e, true))?;
        let suspended = mapper.suspend(live);
        // From now on its flushes do not reach the old main.
        let flushed = suspended.and_then(|()| self.old.flush());
        guard.decided().map_err(|e| (e, true))?;
        if let Err(failure) = flushed {
            mapper.unload(live);
            let back = mapper.resume(live);
            return Err((failure, back.is_ok()));
        }
        mapper.resume(live).map_err(|e| self.back_to(&live.line, e))
    }

    /// The resume with a new table has failed: the one before, if it will do.
    fn back_to(&self, line: &str, failure: Failure) -> (Failure, bool) {
        let back = self.mapper.load(&self.live, line).and_then(|()| self.mapper.resume(&self.live));
        match back {
            Ok(()) => (failure, true),
            Err(e) => (format!("{failure}\n{e}\nall I/O to {} is held", self.live.name), false),
        }
    }

    /// The line of the table that the set has, also while it is suspended.
    fn line(&self) -> Result<String, Failure> {
        Ok(self.mapper.find(&self.live.name)?.line)
    }

    /// Whether that line has the copy for main. Somebody may have loaded another table: what is written then goes by the copy.
    ///
    /// # Errors
    ///
    /// That it has not, and what to do.
    fn has_copy(&self, line: &str) -> Result<(), Failure> {
        let main = line.split_whitespace().next().unwrap_or_default();
        if main == self.copy.number() {
            return Ok(());
        }
        let name = &self.live.name;
        let main = number(main).and_then(|main| node(main).ok()).unwrap_or_else(|| main.to_owned());
        Err(format!(
            "{name} is on {main}, and not on {}, which copies its main: somebody has loaded another table. What was written since is not on {}, \
             which does not become main; nothing is changed. 'dmremap replace-main --abort {name}' gives it up, then begin again",
            self.copy.name, self.new.path
        ))
    }

    /// Whether the set is on the copy, and in use.
    ///
    /// # Errors
    ///
    /// That it is not, and what to do.
    fn is_on_copy(&self) -> Result<(), Failure> {
        self.has_copy(&self.line()?)?;
        let name = &self.live.name;
        match is_on_copy(&self.mapper.message(&self.live, "metadata_status")?) {
            true => Ok(()),
            false => Err(format!(
                "{name} does not know its main for a copy, so nothing is changed; 'dmremap replace-main --abort {name}' gives up what was begun"
            )),
        }
    }

    /// Whether the set has taken the table that was loaded.
    ///
    /// # Errors
    ///
    /// That it has another one, and what to do.
    fn has_taken(&self, main: &Place) -> Result<(), Failure> {
        if self.line()?.split_whitespace().next() == Some(&main.word()) {
            return Ok(());
        }
        let name = &self.live.name;
        Err(format!(
            "{name} has not taken {} for main: somebody has loaded another table; 'dmremap replace-main --continue {name}' tries again",
            main.path
        ))
    }

    /// The set is on neither the copy nor what that stands on.
    fn take_apart(&self) -> Result<(), Failure> {
        let live = self.mapper.find(&self.live.name)?;
        let (start, main) = main_of(&live)?;
        let end = start + live.sectors;
        for part in [Some(&self.copy), Some(&self.kept), self.gone.as_ref()].into_iter().flatten() {
            let mut tries = 0;
            // Somebody may be looking at it.
            while let Err(failure) = self.mapper.remove_part(part) {
                tries += 1;
                if tries == 25 {
                    return Err(failure);
                }
                sleep(LOOK);
            }
        }
        self.room.end(main.number, end)?;
        unsign(&self.new, self.set, end, main.number)
    }

    fn status(&self) -> Result<Status, Failure> {
        let line = self.mapper.part_status(&self.copy)?;
        let status = Status::parse(&line);
        let status = status.ok_or_else(|| format!("{}: {line}", self.copy.name))?;
        match status.well {
            true => Ok(status),
            false => Err(format!(
                "dm-clone cannot write its metadata on {} any more; writes to what is not copied fail, and go to a spare. Stop what uses {}, mend that device, and --continue",
                self.room.place.path, self.live.name
            )),
        }
    }

    /// Steps 5 to 9.
    fn run(&self) -> Result<Outcome, Failure> {
        // At a boot from now on, neither of them is to be taken for the set.
        eprintln!("dmremap: {}", config::add(self.set, &self.new.path));
        let bar = ProgressBar::new(self.status()?.regions);
        let style =
            ProgressStyle::with_template("{bar:40} {percent}% {elapsed} of {duration} {msg}");
        bar.set_style(style.map_err(|e| e.to_string())?);
        let report = match self.bring_over(&bar) {
            Ok(Some(report)) => report,
            Ok(None) => return self.stopped(),
            Err(failure) => {
                return Err(match self.go_on_copying() {
                    Ok(()) => failure,
                    Err(e) => format!("{failure}\n{e}"),
                });
            }
        };
        bar.finish_and_clear();
        // Whatever comes now, what was lost is said.
        self.tell(&report)?;
        if let Err(failure) = self.take_apart() {
            let name = &self.live.name;
            eprintln!("dmremap: {failure}\ndmremap: 'dmremap replace-main --continue {name}' takes away what is left");
        }
        let old = (self.old.clone(), self.old_print);
        let old = Some(old).filter(|_| self.gone.is_none());
        let outcome = after::run(self.arguments, &self.mapper, &self.live, self.set, old)?;
        Ok(if report.not_copied.is_empty() { outcome } else { outcome.max(Outcome::Damaged) })
    }

    /// Steps 5 to 8. Gives nothing when somebody wants to wait no longer.
    fn bring_over(&self, bar: &ProgressBar) -> Result<Option<Report>, Failure> {
        let mut tries = 0;
        // Nobody has what is left of one that is gone.
        let mut copies = self.gone.is_none();
        // How many regions were copied when the spares had no room for what was to be moved.
        let mut stuck_at = None;
        loop {
            if self.is_stopped() {
                return Ok(None);
            }
            let came = if copies { self.copy(bar)? } else { Came::NoFurther };
            match came {
                Came::Stopped => return Ok(None),
                Came::NoFurther => match self.see_to_rest(bar)? {
                    Rest::Nothing => {}
                    Rest::Moved if copies => {
                        copies = false;
                        continue;
                    }
                    Rest::Moved | Rest::More => {
                        copies = self.gone.is_none();
                        continue;
                    }
                    Rest::Stuck(why) => {
                        let copied = Some(self.status()?.copied);
                        if stuck_at == copied {
                            return Err(why);
                        }
                        (stuck_at, copies) = (copied, true);
                        continue;
                    }
                },
                Came::All | Came::Past => {}
            }
            if self.gone.is_none() && !self.ask_pending()? {
                return Ok(None);
            }
            match self.finish()? {
                Ok(report) => return Ok(Some(report)),
                Err(left) if tries == 3 => {
                    return Err(format!(
                        "{} sectors are neither on {} nor on a spare, from {} on: is there room on the spares, and in the table? 'spare add', then --continue",
                        left.iter().map(|range| range.sectors).sum::<u64>(),
                        self.new.path,
                        left.first().map_or(0, |range| range.start)
                    ));
                }
                Err(left) => self.remap(&left)?,
            };
            tries += 1;
        }
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn tell_copy(&self, message: &str) -> Result<(), Failure> {
        self.mapper.tell_part(&self.copy, message)
    }

    fn hydrate(&self, pace: &Pace) -> Result<(), Failure> {
        self.tell_copy(&format!("hydration_batch_size {}", pace.batch))?;
        self.tell_copy(&format!("hydration_threshold {}", pace.at_once))?;
        self.tell_copy("enable_hydration")
    }

    /// However this program ends, the kernel copies what it can.
    fn go_on_copying(&self) -> Result<(), Failure> {
        match self.gone {
            None => self.hydrate(&MANY),
            Some(_) => Ok(()),
        }
    }

    /// Has dm-clone copy until it comes no further: many regions at once, of which all fail where one does, then one by one, so that no
    /// request takes one along, until it is past such a place.
    fn copy(&self, bar: &ProgressBar) -> Result<Came, Failure> {
        let mut pause = Duration::ZERO;
        loop {
            match self.copy_at(&MANY, &mut pause, bar)? {
                Came::NoFurther => {}
                came => return Ok(came),
            }
            match self.copy_at(&SINGLE, &mut pause, bar)? {
                Came::Past => {}
                came => return Ok(came),
            }
        }
    }

    /// Has dm-clone copy at this pace. `pause` is the longest one between two looks that found more copied, so far.
    fn copy_at(
        &self,
        pace: &Pace,
        pause: &mut Duration,
        bar: &ProgressBar,
    ) -> Result<Came, Failure> {
        self.hydrate(pace)?;
        let (began, first) = (Instant::now(), self.status()?.copied);
        let (mut last, mut since) = (first, began);
        loop {
            let status = self.status()?;
            bar.set_position(status.copied);
            if status.copied == status.regions {
                return Ok(Came::All);
            }
            if self.is_stopped() {
                return Ok(Came::Stopped);
            }
            if status.copied != last {
                *pause = since.elapsed().max(*pause);
                (last, since) = (status.copied, Instant::now());
            }
            if since.elapsed() > (4 * *pause).clamp(*PATIENCE.start(), *PATIENCE.end()) {
                return Ok(Came::NoFurther);
            }
            match pace.enough {
                Some((regions, _)) if last - first > regions => return Ok(Came::Past),
                Some((_, time)) if began.elapsed() > time => return Ok(Came::NoFurther),
                _ => sleep(LOOK),
            }
        }
    }

    fn stopped(&self) -> Result<Outcome, Failure> {
        let name = &self.live.name;
        self.go_on_copying()?;
        let why = match self.gone {
            None => "the kernel goes on copying; this waits for it, and does the last step",
            Some(_) => "what only the old main had is being given up; this does the rest",
        };
        Err(format!("{why}: 'dmremap replace-main --continue {name}'"))
    }

    /// What has not been copied, of the set and in front of it. While that changes it is not known; so it is said why, as it may not end.
    fn missing(&self) -> Result<Result<Missing, Failure>, Failure> {
        let before = self.status()?;
        let copied = copied(&self.kept.path());
        let after = self.status()?;
        if after != before || before.copying != 0 {
            return Ok(Err(format!("{}: dm-clone does not come to rest", self.copy.name)));
        }
        let copied = copied?;
        if copied.count() != before.copied {
            return Ok(Err(format!(
                "{}: dm-clone's metadata say that {} regions are copied, and dm-clone {}",
                self.room.place.path,
                copied.count(),
                before.copied
            )));
        }
        let (mut within, mut outside) = (Vec::new(), Vec::new());
        for (start, sectors) in copied.missing() {
            let end = start + sectors;
            if start < self.start {
                let sectors = end.min(self.start) - start;
                outside.push(Range { start, sectors });
            }
            if end > self.start {
                let from = start.max(self.start);
                within.push(Range { start: from - self.start, sectors: end - from });
            }
        }
        Ok(Ok((within, outside)))
    }

    /// [`missing`](Self::missing), when dm-clone has come to rest, which has been told to copy no more; nothing when somebody wants to wait no
    /// longer.
    fn missing_at_rest(&self) -> Result<Option<Missing>, Failure> {
        let (mut last, mut since) = (self.status()?, Instant::now());
        while !self.is_stopped() {
            // So that it writes down what it has copied.
            self.flush()?;
            let why = match self.missing()? {
                Ok(missing) => return Ok(Some(missing)),
                Err(why) => why,
            };
            let status = self.status()?;
            if status != last {
                (last, since) = (status, Instant::now());
            }
            if since.elapsed() > RESTLESS {
                return Err(why);
            }
            sleep(LOOK);
        }
        Ok(None)
    }

    /// Sees to what dm-clone does not copy: what can be read is brought over by moving it to a spare and back, which the set does with all
    /// I/O to it held; the rest is remapped, block by block.
    fn see_to_rest(&self, bar: &ProgressBar) -> Result<Rest, Failure> {
        self.tell_copy("disable_hydration")?;
        bar.set_message("what is left");
        let Some((rest, front)) = self.missing_at_rest()? else {
            return Ok(Rest::More);
        };
        if self.gone.is_some() {
            let all = self.remap(&rest)?;
            bar.set_message("");
            return Ok(if all { Rest::Nothing } else { Rest::More });
        }
        let mut copy = Direct::open(&self.copy.path().to_string_lossy(), true)?;
        let all_of_front = self.copy_front(&mut copy, &front);
        let region = region_of(self.copy.sectors);
        let settled = self.settled()?;
        let (mut sound, mut failing) = (Vec::new(), Vec::new());
        let mut read = 0;
        let mut all = all_of_front;
        for piece in pieces(&rest, region) {
            if self.is_stopped() || read >= FORCED {
                all = false;
                break;
            }
            // On a spare because the new main did not take it, or lost for good.
            if cover(&settled, piece) {
                continue;
            }
            // Past the page cache, which has what could be read once.
            match copy.read(self.start + piece.start, piece.sectors) {
                Ok(_) => {
                    sound.push(piece);
                    read += piece.sectors;
                }
                Err(_) => failing.push(piece),
            }
        }
        all &= self.remap(&joined(&failing))?;
        for piece in pieces(&joined(&sound), MOVE) {
            let moved = self.move_there_and_back(piece);
            if self.is_stopped() {
                all = false;
                break;
            }
            if let Err(failure) = moved {
                bar.set_message("");
                return Ok(Rest::Stuck(failure));
            }
        }
        bar.set_message("");
        Ok(match (all, sound.is_empty()) {
            (false, _) => Rest::More,
            (true, true) => Rest::Nothing,
            (true, false) => Rest::Moved,
        })
    }

    /// What lies in front of the set nobody uses: it is read and written back, region by region, which counts as copied. Gives whether
    /// nothing is left but what cannot be read, or not be written.
    fn copy_front(&self, copy: &mut Direct, front: &[Range]) -> bool {
        let region = region_of(self.copy.sectors);
        let mut read = 0;
        // A region that the set has a part of is the set's.
        for piece in pieces(front, region).into_iter().filter(|piece| piece.sectors == region) {
            if self.is_stopped() || read >= FORCED {
                return false;
            }
            let Ok(bytes) = copy.read(piece.start, piece.sectors).map(<[u8]>::to_vec) else {
                continue;
            };
            // What NEW does not take is in the report.
            let _ = copy.write(piece.start, &bytes);
            read += piece.sectors;
        }
        true
    }

    /// Moves a piece to a spare, and what the new main takes of it back.
    fn move_there_and_back(&self, piece: Range) -> Result<(), Failure> {
        self.mapper.move_range(&self.live, "remap", piece.start, piece.sectors)?;
        let region = region_of(self.copy.sectors);
        let mut left = vec![piece];
        while let Some(piece) = left.pop() {
            let back = self.mapper.move_range(&self.live, "unremap", piece.start, piece.sectors);
            let half = piece.sectors.div_ceil(2).next_multiple_of(region);
            // A region that does not go back stays on the spare.
            if back.is_err() && half < piece.sectors && !self.is_stopped() {
                let (start, sectors) = (piece.start + half, piece.sectors - half);
                left.extend([Range { start, sectors }, Range { sectors: half, ..piece }]);
            }
        }
        Ok(())
    }

    /// What has an entry in the table that stays when the new one is main.
    fn settled(&self) -> Result<Vec<Extent>, Failure> {
        let all = extents(&self.mapper, &self.live, 0, self.live.sectors)?;
        Ok(all.into_iter().filter(|extent| extent.kind != Kind::Pending).collect())
    }

    /// Has the set read blocks: what can be read lives on a spare then, the rest is pending. Gives whether that was all, as somebody may want
    /// to wait no longer, which ends a move that is waited for with an error.
    fn remap(&self, ranges: &[Range]) -> Result<bool, Failure> {
        for piece in pieces(ranges, MOVE) {
            if self.is_stopped() {
                return Ok(false);
            }
            let moved = self.mapper.move_range(&self.live, "remap", piece.start, piece.sectors);
            match moved {
                Err(_) if self.is_stopped() => return Ok(false),
                moved => moved.map_err(|failure| {
                    format!("{failure}\nwhat cannot be copied has to go to a spare; give the set room there, then --continue")
                })?,
            }
        }
        Ok(true)
    }

    /// Reads once more what is pending: what can be read by now is saved. Gives whether that was all.
    fn ask_pending(&self) -> Result<bool, Failure> {
        self.remap(&after::listed(&self.mapper, &self.live, "pending")?)
    }

    /// Steps 7 and 8. Gives what is neither copied nor in the table, and has changed nothing then.
    fn finish(&self) -> Result<Result<Report, Vec<Range>>, Failure> {
        // A path may lead to another device by now.
        self.new.open(Access::Read).map_err(|e| format!("{}: {e}", self.new.path))?;
        self.is_on_copy()?;
        let own = self.line()?;
        let line = with_main(&own, &self.new.word(), "new_main")?;
        let spares = self.spares()?;
        in_memory(|| self.rehearse(&spares).and_then(|()| self.switch(&own, &line, &spares)))
    }

    /// All that is done with the set suspended, once before: so that what it needs is in memory.
    fn rehearse(&self, spares: &[String]) -> Result<(), Failure> {
        self.flush()?;
        // What it finds changes until the set is suspended.
        let _ = self.look(spares);
        Ok(())
    }

    fn switch(
        &self,
        own: &str,
        line: &str,
        spares: &[String],
    ) -> Result<Result<Report, Vec<Range>>, Failure> {
        let (mapper, live) = (&self.mapper, &self.live);
        let _turn = world::take_turn(&self.set);
        self.is_on_copy()?;
        if self.line()? != own {
            return Err(format!(
                "{} has other spares meanwhile; 'dmremap replace-main --continue {}' tries again",
                live.name, live.name
            ));
        }
        let guard = Guard::over(live)?;
        mapper.load(live, line)?;
        if let Err(failure) = mapper.suspend(live) {
            guard.decided()?;
            mapper.unload(live);
            return Err(failure);
        }
        let still = self.line().and_then(|line| self.has_copy(&line));
        let ready = still.and_then(|()| self.flush()).and_then(|()| self.look(spares));
        guard.decided()?;
        let report = match ready {
            Ok(Ok(report)) => report,
            other => {
                mapper.unload(live);
                mapper.resume(live)?;
                return other;
            }
        };
        mapper.resume(live).map_err(|e| {
            let (failure, _) = self.back_to(own, e);
            format!("{failure}\n'dmremap replace-main --continue {}' tries again", live.name)
        })?;
        self.has_taken(&self.new)?;
        Ok(Ok(report))
    }

    /// All that has been written to the copy is durable on the new main.
    fn flush(&self) -> Result<(), Failure> {
        let flushed = File::open(self.copy.path()).and_then(|file| file.sync_all());
        flushed.map_err(|e| format!("{}: cannot be flushed: {e}", self.copy.name))?;
        self.new.flush()
    }

    /// The spares, each with the part that the set uses.
    fn spares(&self) -> Result<Vec<String>, Failure> {
        let mut spares = Vec::new();
        for line in self.mapper.message(&self.live, "metadata_status")?.lines() {
            if let ["spare", _, device, part, ..] = line.split_whitespace().collect::<Vec<_>>()[..]
            {
                if let Some(device) = number(device) {
                    spares.push(format!("{}@{part}", node(device)?));
                }
            }
        }
        Ok(spares)
    }

    /// The set, as it is on its spares.
    fn state(&self, spares: &[String]) -> Result<Recovered, Failure> {
        let mut store = Spares::open(&Which::of(spares.to_vec()), Access::Read)?;
        recover_without(&mut store, &KNOWN_AWAY, crc).map_err(|e| e.to_string())
    }

    /// Whether all that is not copied has an entry in the table. The set is suspended, so both stand still.
    fn look(&self, spares: &[String]) -> Result<Result<Report, Vec<Range>>, Failure> {
        // The set is suspended, so nothing changes.
        let (within, not_copied) = self.missing()??;
        let state = self.state(spares)?;
        let uncovered: Vec<Range> =
            within.iter().flat_map(|range| uncovered(state.table(), *range)).collect();
        if !uncovered.is_empty() {
            return Ok(Err(uncovered));
        }
        let gone = |mapping| matches!(mapping, Mapping::Pending | Mapping::Lost);
        let lost = state.table().iter().filter(|entry| gone(entry.mapping));
        let lost =
            lost.map(|entry| Range { start: entry.extent.start.0, sectors: entry.extent.len.0 });
        Ok(Ok(Report {
            set: self.set.to_string(),
            old: self.old.path.clone(),
            new: self.new.path.clone(),
            sectors: self.live.sectors,
            lost: lost.collect(),
            not_copied,
        }))
    }

    fn tell(&self, report: &Report) -> Result<(), Failure> {
        let name = &self.live.name;
        text::print(|out| {
            if self.arguments.json {
                return writeln!(out, "{}", serde_json::to_string_pretty(report)?);
            }
            writeln!(out, "{name}: {} is main now", report.new)?;
            let lost: u64 = report.lost.iter().map(|range| range.sectors).sum();
            match lost {
                0 => writeln!(out, "nothing was lost")?,
                _ => writeln!(
                    out,
                    "{} could be read nowhere; reading them is an error until they are written:",
                    text::sectors(lost)
                )?,
            }
            for Range { start, sectors } in &report.lost {
                writeln!(out, "  {start} {sectors}")?;
            }
            for Range { start, sectors } in &report.not_copied {
                writeln!(out, "not copied, in front of the set's part of main: {start} {sectors}")?;
            }
            Ok(())
        })
    }
}
