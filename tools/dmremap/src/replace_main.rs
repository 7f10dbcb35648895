//! `replace-main`: another device takes main's place while the set is in use. `docs/design.md` has the steps, and what a crash in each finds.
//!
//! dm-clone copies. What is left when it comes no further is seen to here, and the last step, which makes the new device main.

mod places;

use crate::live::{value, Live, Mapper, Part};
use crate::machine::number;
use crate::safety::signatures;
use crate::spares::{Access, Device, Spares, Which};
use crate::{text, world, Failure, Outcome};
use dmremap::clone::{region_of, Label, Status, BLOCK_SECTORS};
use dmremap::crc;
use indicatif::{ProgressBar, ProgressStyle};
use places::{
    behind, copied, find_room, find_set, may_be_overwritten, need, node, number_of, recognise,
    spare_words, wipe, Room,
};
use remap_pure::entry::Mapping;
use remap_pure::format::SetUuid;
use remap_pure::identity::fingerprint;
use remap_pure::identity::replaced::COPY_PREFIX;
use remap_pure::line::Line;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::recover_without;
use remap_pure::table::Table;
use remap_pure::units::{Extent, MainSector, Sectors, SECTOR_SIZE};
use serde::Serialize;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Arguments {
    /// Go on with a replacement that was begun, after a restart of the machine too
    #[arg(long = "continue", conflicts_with_all = ["metadata", "overwrite"])]
    go_on: bool,
    /// Where dm-clone keeps what it has copied, if there is no room for that behind the end of NEW: a partition or logical volume
    #[arg(long, value_name = "DEVICE")]
    metadata: Option<String>,
    /// What this device carries is given up; once for each of NEW and the one for --metadata
    #[arg(long, value_name = "DEVICE")]
    overwrite: Vec<String>,
    /// With --continue: the old main, where it is not recognised
    #[arg(long, value_name = "DEVICE", requires = "go_on")]
    old: Option<String>,
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
    /// The device that takes main's place; with --continue only where it is not recognised
    #[arg(required_unless_present = "go_on")]
    new: Option<String>,
}

/// A range of the set, in sectors.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
struct Range {
    start: u64,
    sectors: u64,
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
    room: Room,
    old: String,
    new: String,
    stop: Arc<AtomicBool>,
}

/// Replaces main, or goes on with that.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, stop.clone()).map_err(|e| format!("signals: {e}"))?;
    }
    let mapper = Mapper::open()?;
    let work = match arguments.go_on {
        true => go_on(arguments, mapper, stop)?,
        false => begin(arguments, mapper, stop)?,
    };
    match work {
        Some(work) => work.run(),
        None => Ok(Outcome::Well),
    }
}

fn uuids(set: SetUuid) -> (String, String) {
    (format!("{COPY_PREFIX}{set}"), format!("REMAP-CLONEMETA-{set}"))
}

/// The table line with another main; `new` asks for the set to take it for its own.
fn with_main(line: &str, main: &str, new: bool) -> Result<String, Failure> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let first = words.first_mut().ok_or("a table line without words")?;
    *first = main.into();
    if new {
        let number = |i: usize| words.get(i).is_some_and(|w: &String| w.parse::<u64>().is_ok());
        let at = if number(2) && number(3) { 4 } else { 2 };
        match words.get_mut(at) {
            Some(count) => {
                let n: u64 = count.parse().map_err(|_| format!("not a table line: {line}"))?;
                *count = (n + 1).to_string();
                words.push("new_main".into());
            }
            None => words.extend(["1".into(), "new_main".into()]),
        }
    }
    Ok(words.join(" "))
}

fn main_start(line: &str) -> Result<u64, Failure> {
    let words: Vec<&str> = line.split_whitespace().collect();
    Line::parse(&words).map(|line| line.main_start).map_err(|e| e.to_string())
}

fn set_of(status: &str) -> Result<SetUuid, Failure> {
    value(status, "set").and_then(SetUuid::parse).ok_or_else(|| "the set has no UUID".into())
}

/// Whether the set is on the copy.
fn is_on_copy(status: &str) -> bool {
    status.lines().any(|line| line.starts_with("match main copy "))
}

/// The first sector that a set uses of its main, and the end.
fn main_of(live: &Live) -> Result<(u64, String), Failure> {
    let word = live.line.split_whitespace().next().unwrap_or_default();
    let device = number(word).ok_or_else(|| format!("{}: its line names no main", live.name))?;
    Ok((main_start(&live.line)?, node(device)?))
}

/// Steps 1 to 4: the set is on the copy then, which has copied nothing yet.
fn begin<'a>(
    arguments: &'a Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'a>>, Failure> {
    let live = mapper.find(&arguments.name)?;
    let name = &live.name;
    let status = mapper.message(&live, "metadata_status")?;
    let set = set_of(&status)?;
    let again = format!("'dmremap replace-main --continue {name}' goes on");
    if is_on_copy(&status) {
        return Err(format!("{name}: its main is being replaced already; {again}"));
    }
    if live.read_only {
        return Err(format!("{name} is read-only, and takes no new main"));
    }
    let short = mapper.status(&live)?;
    if !short.contains(" persist=enabled") {
        return Err(format!(
            "{name}: not all copies of its metadata are good, or a spare is away; 'dmsetup message {name} 0 repair' first"
        ));
    }
    let (start, old) = main_of(&live)?;
    let (copy_uuid, kept_uuid) = uuids(set);
    for uuid in [&copy_uuid, &kept_uuid] {
        if let Some(part) = mapper.part(uuid)? {
            return Err(format!("{} is left of an earlier attempt; {again}", part.name));
        }
    }

    let new = arguments.new.as_deref().unwrap_or_default();
    let end = start + live.sectors;
    let device = Device::open(new, Access::Hold)?;
    let old_device = Device::open(&old, Access::Read)?;
    if device.sectors.0 < end {
        return Err(format!(
            "{new} has {}, and the set uses {} of main; use a larger one",
            text::sectors(device.sectors.0),
            text::sectors(end)
        ));
    }
    let (is, was) = (device.logical_block, old_device.logical_block);
    if is != was {
        return Err(format!(
            "{new} has logical blocks of {is} bytes, main of {was}; use a device with the same"
        ));
    }
    let (sectors, label_end) = (need(end), need(end) + BLOCK_SECTORS);
    let room = match &arguments.metadata {
        Some(path) if number_of(path)? == number_of(new)? => {
            return Err(format!("{path} is NEW itself; leave out --metadata, or name another"));
        }
        Some(path) => Room { path: path.clone(), start: 0, sectors },
        None => Room { path: new.into(), start: behind(end), sectors },
    };
    let all = match arguments.metadata.is_some() {
        true => Device::open(&room.path, Access::Hold)?.sectors.0,
        false => device.sectors.0,
    };
    if all < room.start + label_end {
        let missing = text::sectors(room.start + label_end - all);
        return Err(match arguments.metadata.is_some() {
            true => format!("{} is too small by {missing}", room.path),
            false => format!(
                "{new} lacks {missing} for dm-clone's metadata behind the end of main; give a partition or logical volume of {} with --metadata",
                text::sectors(label_end)
            ),
        });
    }
    let label = Label {
        set,
        sectors: end,
        old: fingerprint(&old_device.facts()),
        new: fingerprint(&device.facts()),
    };
    drop(device);
    let mut lost = Vec::new();
    for path in std::iter::once(new).chain(arguments.metadata.as_deref()) {
        let found = may_be_overwritten(path, &arguments.overwrite)?;
        lost.extend(found.into_iter().map(|what| format!("{what} on {path}")));
    }
    if !arguments.json || arguments.dry_run {
        text::print(|out| {
            writeln!(out, "{name} (set {set}): {new} takes the place of main, {old}")?;
            writeln!(out, "{} are copied while the set is in use", text::sectors(end))?;
            writeln!(out, "dm-clone's metadata stand on {} from sector {}", room.path, room.start)?;
            lost.iter().try_for_each(|what| writeln!(out, "given up: {what}"))?;
            writeln!(out, "once it has begun there is no way back to {old}")
        })?;
    }
    if arguments.dry_run {
        return Ok(None);
    }
    world::agree(arguments.yes)?;

    for path in std::iter::once(new).chain(arguments.metadata.as_deref()) {
        wipe(path)?;
    }
    room.begin(Some(&label))?;
    let kept = make_kept(&mapper, &live.name, set, &room)?;
    let parts = make_copy(&mapper, &live.name, set, &kept, (new, &old), end);
    let work = match parts {
        Ok(copy) => Work {
            arguments,
            start,
            old,
            new: new.into(),
            mapper,
            live,
            set,
            copy,
            kept,
            room,
            stop,
        },
        Err(failure) => {
            let removed = mapper.remove_part(&kept);
            room.begin(None)?;
            return Err(removed.err().unwrap_or(failure));
        }
    };
    match work.put_to_use() {
        Ok(()) => Ok(Some(work)),
        Err((failure, true)) => {
            work.take_apart()?;
            Err(format!("{failure}\nthe set is as it was"))
        }
        Err((failure, false)) => Err(format!("{failure}\n{again}")),
    }
}

fn make_kept(mapper: &Mapper, name: &str, set: SetUuid, room: &Room) -> Result<Part, Failure> {
    let (major, minor) = number_of(&room.path)?;
    let line = format!("{major}:{minor} {}", room.start);
    let names = (format!("{name}-replace-meta"), uuids(set).1);
    mapper.make_part((&names.0, &names.1), room.sectors, ("linear", &line))
}

fn make_copy(
    mapper: &Mapper,
    name: &str,
    set: SetUuid,
    kept: &Part,
    (new, old): (&str, &str),
    sectors: u64,
) -> Result<Part, Failure> {
    let number = |path| number_of(path).map(|(major, minor)| format!("{major}:{minor}"));
    let region = region_of(sectors);
    let line =
        format!("{} {} {} {region} 1 no_hydration", kept.number(), number(new)?, number(old)?);
    let names = (format!("{name}-replace"), uuids(set).0);
    mapper.make_part((&names.0, &names.1), sectors, ("clone", &line)).map_err(|failure| {
        format!("{failure}\ndm-clone cannot be used; is there the kernel's module dm-clone?")
    })
}

/// Everything of a replacement that was begun, made again where it is not there.
fn go_on<'a>(
    arguments: &'a Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'a>>, Failure> {
    let word = &*arguments.name;
    // One that was left suspended tells nothing but its name.
    let live = mapper.all()?.into_iter().find(|live| live.suspended && live.name == word);
    if let Some(live) = &live {
        mapper.unload(live);
        mapper.resume(live)?;
    }
    let live = mapper.find(word).ok();
    let Some(live) = live else { return assemble(arguments, mapper, stop) };
    let status = mapper.message(&live, "metadata_status")?;
    let set = set_of(&status)?;
    let (copy_uuid, kept_uuid) = uuids(set);
    let (copy, kept) = (mapper.part(&copy_uuid)?, mapper.part(&kept_uuid)?);
    let (start, main) = main_of(&live)?;
    let found = find_room(set, start + live.sectors);
    if !is_on_copy(&status) {
        // Nobody uses them: it had not begun, or has ended.
        for part in copy.iter().chain(&kept) {
            mapper.remove_part(part)?;
        }
        let Some((room, _)) = found else {
            return Err(format!("{}: nothing is being replaced; main is {main}", live.name));
        };
        room.begin(None)?;
        text::print(|out| {
            writeln!(out, "{}: main is {main}; what was left of a replacement is gone", live.name)
        })?;
        return Ok(None);
    }
    let (Some(copy), Some(kept)) = (copy, kept) else {
        return Err(format!("{}: it is on a copy of main that is not there", live.name));
    };
    let (room, _) = found.ok_or("the label behind dm-clone's metadata is not found")?;
    let device = |i: usize| {
        let word = copy.line.split_whitespace().nth(i).and_then(number);
        word.ok_or_else(|| format!("{}: '{}' is no line of dm-clone", copy.name, copy.line))
    };
    let (new, old) = (node(device(1)?)?, node(device(2)?)?);
    Ok(Some(Work { arguments, mapper, live, set, start, copy, kept, room, old, new, stop }))
}

/// After a restart: the three devices are found, the copy made of them, and the set put on it.
fn assemble<'a>(
    arguments: &'a Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'a>>, Failure> {
    let (state, spares) = find_set(&arguments.name)?;
    let header = state.header();
    let (set, raw) = (header.uuid(), header.raw());
    if !header.is_replacing() {
        return Err(format!("set {set}: its main is not being replaced; 'dmremap assemble' it"));
    }
    let (start, sectors) = (raw.set.main_start.get(), raw.set.main_sectors.get());
    let end = start + sectors;
    let (room, label) = find_room(set, end).ok_or_else(|| {
        format!("set {set}: dm-clone's metadata are on no device that is here; without them nobody knows what has been copied")
    })?;
    let new = match room.start {
        0 => recognise("new", &label.new, arguments.new.as_deref(), "NEW")?,
        _ => recognise("new", &label.new, Some(&room.path), "NEW")?,
    };
    let old = recognise("old", &label.old, arguments.old.as_deref(), "--old")?;
    // An empty one would be begun anew, and with that all be forgotten that has been written since.
    let superblock = room.superblock()?;
    if (superblock.sectors, superblock.region) != (end, region_of(end)) {
        return Err(format!("{}: dm-clone's metadata are of another device", room.path));
    }
    let uuid = format!("REMAP-{set}");
    let name = match header.name() {
        "" => uuid.clone(),
        name => name.into(),
    };
    if arguments.dry_run {
        text::print(|out| writeln!(out, "{name} (set {set}): goes on copying {old} to {new}"))?;
        return Ok(None);
    }
    let (copy_uuid, kept_uuid) = uuids(set);
    let kept = match mapper.part(&kept_uuid)? {
        Some(kept) => kept,
        None => make_kept(&mapper, &name, set, &room)?,
    };
    let copy = match mapper.part(&copy_uuid)? {
        Some(copy) => copy,
        None => make_copy(&mapper, &name, set, &kept, (&new, &old), end)?,
    };
    let line = format!("{} {}", copy.number(), spare_words(header, &spares)?);
    let live = mapper.create(&name, Some(&uuid), sectors, &line, false)?;
    Ok(Some(Work { arguments, mapper, live, set, start, copy, kept, room, old, new, stop }))
}

/// How far copying came.
enum Came {
    /// Everything is copied.
    All,
    /// It goes no further by itself.
    NoFurther,
    /// Somebody wants to wait no longer.
    Stopped,
}

/// How long nothing may be copied before what is left is looked at.
const PATIENCE: Duration = Duration::from_secs(5);
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
        let line = with_main(&live.line, &self.copy.number(), true).map_err(|e| (e, true))?;
        mapper.load(live, &line).map_err(|e| (e, true))?;
        mapper.suspend(live).map_err(|e| {
            mapper.unload(live);
            (e, true)
        })?;
        // From now on its flushes do not reach the old main.
        let flushed = File::open(&self.old).and_then(|file| file.sync_all());
        if let Err(e) = flushed {
            mapper.unload(live);
            let back = mapper.resume(live);
            return Err((format!("{}: cannot be flushed: {e}", self.old), back.is_ok()));
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

    /// The set is on neither the copy nor what that stands on.
    fn take_apart(&self) -> Result<(), Failure> {
        self.mapper.remove_part(&self.copy)?;
        self.mapper.remove_part(&self.kept)?;
        self.room.begin(None)
    }

    fn status(&self) -> Result<Status, Failure> {
        let line = self.mapper.part_status(&self.copy)?;
        let status = Status::parse(&line);
        let status = status.ok_or_else(|| format!("{}: {line}", self.copy.name))?;
        match status.well {
            true => Ok(status),
            false => Err(format!(
                "dm-clone cannot write its metadata on {} any more; writes to what is not copied fail, and go to a spare. Stop what uses {}, mend that device, and --continue",
                self.room.path, self.live.name
            )),
        }
    }

    /// Steps 5 to 9.
    fn run(&self) -> Result<Outcome, Failure> {
        let bar = ProgressBar::new(self.status()?.regions);
        let style =
            ProgressStyle::with_template("{bar:40} {percent}% {elapsed} of {duration} {msg}");
        bar.set_style(style.map_err(|e| e.to_string())?);
        let mut tries = 0;
        let report = loop {
            match self.copy(&bar)? {
                Came::Stopped => return self.stopped(),
                Came::NoFurther if !self.see_to_rest(&bar)? => continue,
                Came::NoFurther | Came::All => {}
            }
            self.ask_pending()?;
            match self.finish()? {
                Ok(report) => break report,
                Err(left) if tries == 3 => {
                    return Err(format!(
                        "{} sectors are neither on {} nor on a spare, from {} on: is there room on the spares, and in the table? 'spare add', then --continue",
                        left.iter().map(|range| range.sectors).sum::<u64>(),
                        self.new,
                        left.first().map_or(0, |range| range.start)
                    ));
                }
                Err(left) => self.remap(&left)?,
            }
            tries += 1;
        };
        bar.finish_and_clear();
        self.take_apart()?;
        self.tell(&report)?;
        self.afterwards(&report)
    }

    fn tell_copy(&self, message: &str) -> Result<(), Failure> {
        self.mapper.tell_part(&self.copy, message)
    }

    /// Has dm-clone copy until it comes no further: first many regions at once, of which all fail where one does, then one by one.
    fn copy(&self, bar: &ProgressBar) -> Result<Came, Failure> {
        for (batch, most) in [(128, 1024), (1, 64)] {
            self.tell_copy(&format!("hydration_batch_size {batch}"))?;
            self.tell_copy(&format!("hydration_threshold {most}"))?;
            self.tell_copy("enable_hydration")?;
            let (mut last, mut since) = (u64::MAX, Instant::now());
            loop {
                let status = self.status()?;
                bar.set_position(status.copied);
                if status.copied == status.regions {
                    return Ok(Came::All);
                }
                if self.stop.load(Ordering::Relaxed) {
                    return Ok(Came::Stopped);
                }
                if status.copied != last {
                    (last, since) = (status.copied, Instant::now());
                } else if since.elapsed() > PATIENCE {
                    break;
                }
                sleep(LOOK);
            }
        }
        Ok(Came::NoFurther)
    }

    fn stopped(&self) -> Result<Outcome, Failure> {
        let name = &self.live.name;
        Err(format!(
            "the kernel goes on copying; 'dmremap replace-main --continue {name}' waits for it, and does the last step"
        ))
    }

    /// What has not been copied, of the set and in front of it; nothing while that changes.
    fn missing(&self) -> Result<Option<(Vec<Range>, Vec<Range>)>, Failure> {
        let before = self.status()?;
        let copied = copied(&self.kept.path());
        let after = self.status()?;
        if after != before || before.copying != 0 {
            return Ok(None);
        }
        let copied = copied?;
        if copied.count() != before.copied {
            return Err(format!(
                "{}: dm-clone's metadata say that {} regions are copied, and dm-clone {}",
                self.room.path,
                copied.count(),
                before.copied
            ));
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
        Ok(Some((within, outside)))
    }

    /// Sees to what dm-clone does not copy: what can be read is brought over by moving it to a spare and back, which the set does with all
    /// I/O to it held; the rest is remapped, block by block. Gives whether only that was left.
    fn see_to_rest(&self, bar: &ProgressBar) -> Result<bool, Failure> {
        self.tell_copy("disable_hydration")?;
        bar.set_message("what is left");
        let rest = loop {
            if let Some((within, _)) = self.missing()? {
                break within;
            }
            if self.stop.load(Ordering::Relaxed) {
                self.tell_copy("enable_hydration")?;
                return Ok(false);
            }
            sleep(LOOK);
        };
        let region = region_of(self.copy.sectors);
        let (mut sound, mut failing) = (Vec::new(), Vec::new());
        let mut read = 0;
        for piece in pieces(&rest, region) {
            if self.stop.load(Ordering::Relaxed) || read >= FORCED {
                break;
            }
            match self.can_be_read(piece) {
                true => {
                    sound.push(piece);
                    read += piece.sectors;
                }
                false => failing.push(piece),
            }
        }
        self.remap(&joined(&failing))?;
        for piece in pieces(&joined(&sound), MOVE) {
            self.move_there_and_back(piece)?;
        }
        bar.set_message("");
        Ok(sound.is_empty() && !self.stop.load(Ordering::Relaxed))
    }

    fn can_be_read(&self, piece: Range) -> bool {
        let mut bytes = vec![0; piece.sectors as usize * SECTOR_SIZE];
        let at = (self.start + piece.start) * SECTOR_SIZE as u64;
        let file = File::open(self.copy.path());
        file.and_then(|file| file.read_exact_at(&mut bytes, at)).is_ok()
    }

    fn move_there_and_back(&self, piece: Range) -> Result<(), Failure> {
        for what in ["remap", "unremap"] {
            let message = format!("{what} {} {}", piece.start, piece.sectors);
            // All of it may live on a spare already, or nothing: then there is nothing to do.
            if let Err(failure) = self.mapper.message(&self.live, &message) {
                if !failure.contains("all of it") && !failure.contains("nothing of it") {
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// Has the set read blocks: what can be read lives on a spare then, the rest is pending.
    fn remap(&self, ranges: &[Range]) -> Result<(), Failure> {
        for piece in pieces(ranges, MOVE) {
            let message = format!("remap {} {}", piece.start, piece.sectors);
            if let Err(failure) = self.mapper.message(&self.live, &message) {
                if !failure.contains("all of it") {
                    return Err(format!(
                        "{failure}\nwhat cannot be copied has to go to a spare; give the set room there, then --continue"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Reads once more what is pending: what can be read by now is saved.
    fn ask_pending(&self) -> Result<(), Failure> {
        let mut pending = Vec::new();
        let mut from = Some(0u64);
        while let Some(sector) = from.take() {
            for line in self.mapper.message(&self.live, &format!("table {sector}"))?.lines() {
                let words: Vec<&str> = line.split_whitespace().collect();
                match words[..] {
                    ["more", sector] => from = sector.parse().ok(),
                    [start, sectors, "pending"] => {
                        let (start, sectors) = (start.parse(), sectors.parse());
                        if let (Ok(start), Ok(sectors)) = (start, sectors) {
                            pending.push(Range { start, sectors });
                        }
                    }
                    _ => {}
                }
            }
        }
        self.remap(&pending)
    }

    /// Steps 7 and 8. Gives what is neither copied nor in the table, and has changed nothing then.
    fn finish(&self) -> Result<Result<Report, Vec<Range>>, Failure> {
        let (mapper, live) = (&self.mapper, &self.live);
        let (major, minor) = number_of(&self.new)?;
        let own = mapper.find(&live.name)?.line;
        let line = with_main(&own, &format!("{major}:{minor}"), true)?;
        let spares = self.spares()?;
        mapper.load(live, &line)?;
        if let Err(failure) = mapper.suspend(live) {
            mapper.unload(live);
            return Err(failure);
        }
        let ready = self.flush().and_then(|()| self.look(&spares));
        let report = match ready {
            Ok(Ok(report)) => report,
            other => {
                mapper.unload(live);
                mapper.resume(live)?;
                return other;
            }
        };
        mapper.resume(live).map_err(|e| {
            let (failure, _) = self.back_to(&own, e);
            format!("{failure}\n'dmremap replace-main --continue {}' tries again", live.name)
        })?;
        Ok(Ok(report))
    }

    /// All that has been written to the copy is durable on the new main.
    fn flush(&self) -> Result<(), Failure> {
        for path in [self.copy.path().as_path(), Path::new(&self.new)] {
            let flushed = File::open(path).and_then(|file| file.sync_all());
            flushed.map_err(|e| format!("{}: cannot be flushed: {e}", path.display()))?;
        }
        Ok(())
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

    /// Whether all that is not copied has an entry in the table. The set is suspended, so both stand still.
    fn look(&self, spares: &[String]) -> Result<Result<Report, Vec<Range>>, Failure> {
        let missing = self.missing()?;
        let (within, not_copied) = missing.ok_or("dm-clone copies while the set is suspended")?;
        let mut store = Spares::open(&Which::of(spares.to_vec()), Access::Read)?;
        let state = recover_without(&mut store, &KNOWN_AWAY, crc).map_err(|e| e.to_string())?;
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
            old: self.old.clone(),
            new: self.new.clone(),
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

    /// What a person may want done when it is over.
    fn afterwards(&self, report: &Report) -> Result<Outcome, Failure> {
        if self.arguments.clear {
            // It is not waited for: what does not go back stays where it is.
            self.mapper.message(&self.live, "clear").map(|_| ()).or_else(|failure| {
                if failure.contains("nothing of it") {
                    Ok(())
                } else {
                    Err(failure)
                }
            })?;
        }
        let old = &report.old;
        if self.arguments.wipe_old {
            wipe(old)?;
        } else if signatures(old).is_ok_and(|found| !found.is_empty()) {
            eprintln!(
                "dmremap: {old} still shows the filesystem that is on {} now, with the same UUID, and older content: detach it, or 'wipefs -a {old}'",
                self.live.name
            );
        }
        Ok(Outcome::Well)
    }
}

/// Ranges in pieces of at most so many sectors, none across a multiple of that.
fn pieces(ranges: &[Range], most: u64) -> Vec<Range> {
    let mut all = Vec::new();
    for range in ranges {
        let (mut at, end) = (range.start, range.start + range.sectors);
        while at < end {
            let next = end.min((at / most + 1) * most);
            all.push(Range { start: at, sectors: next - at });
            at = next;
        }
    }
    all
}

/// Neighbouring ranges as one.
fn joined(ranges: &[Range]) -> Vec<Range> {
    let mut all: Vec<Range> = Vec::new();
    for range in ranges {
        match all.last_mut() {
            Some(last) if last.start + last.sectors == range.start => last.sectors += range.sectors,
            _ => all.push(*range),
        }
    }
    all
}

/// What of a range has no entry in the table.
fn uncovered(table: &Table, range: Range) -> Vec<Range> {
    let mut left = Vec::new();
    let Some(window) = Extent::new(MainSector(range.start), Sectors(range.sectors)) else {
        return left;
    };
    let mut at = range.start;
    for entry in table.iter_in(window) {
        let start = entry.extent.start.0;
        if start > at {
            left.push(Range { start: at, sectors: start - at });
        }
        at = at.max(entry.extent.end().0);
    }
    let end = range.start + range.sectors;
    if at < end {
        left.push(Range { start: at, sectors: end - at });
    }
    left
}
