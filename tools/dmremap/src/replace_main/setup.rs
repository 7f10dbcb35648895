//! The first steps of a replacement, and the way back into one: checks, dm-clone's devices, the set.

use super::guard::in_memory;
use super::places::{
    behind, find_room, labels, may_be_overwritten, need, number_of, recognise, sign, signed,
    unsign, Held, Place, Room,
};
use super::{after, Arguments, Work};
use crate::live::{value, Live, Mapper, Part};
use crate::machine::number;
use crate::safety::{signatures, unused, Signature};
use crate::sets::{find, Set, State};
use crate::spares::{Access, Device};
use crate::{assemble as assembling, config, members, text, world, Failure, Outcome};
use dmremap::clone::{region_of, Label, BLOCK_SECTORS, GONE_PREFIX, KEPT_PREFIX};
use dmremap::state::State as Now;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, SetUuid};
use remap_pure::identity::replaced::{CopyOf, COPY_PREFIX};
use remap_pure::identity::{fingerprint, Digits};
use remap_pure::line::Line;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// What comes of the first steps, or of going back into them.
pub enum Begun<'a> {
    /// The set is on the copy.
    Work(Box<Work<'a>>),
    /// There is nothing left to be done.
    Over(Outcome),
}

/// The table line with another main; `option` asks for the set to take it for its own.
pub fn with_main(line: &str, main: &str, option: &str) -> Result<String, Failure> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    let first = words.first_mut().ok_or("a table line without words")?;
    *first = main.into();
    let number = |i: usize| words.get(i).is_some_and(|w: &String| w.parse::<u64>().is_ok());
    let at = if number(2) && number(3) { 4 } else { 2 };
    match words.get_mut(at) {
        Some(count) => {
            let n: u64 = count.parse().map_err(|_| format!("not a table line: {line}"))?;
            *count = (n + 1).to_string();
            words.push(option.into());
        }
        None => words.extend(["1".into(), option.into()]),
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

/// Whether a set in use that says this is on the copy of a main that is being replaced.
pub fn is_on_copy(status: &str) -> bool {
    status.lines().any(|line| line.starts_with("match main copy "))
}

/// The first sector that a set uses of its main, and the device.
pub fn main_of(live: &Live) -> Result<(u64, Place), Failure> {
    let word = live.line.split_whitespace().next().unwrap_or_default();
    let device = number(word).ok_or_else(|| format!("{}: its line names no main", live.name))?;
    Ok((main_start(&live.line)?, Place::of(device)?))
}

/// Whether a replacement may begin.
fn may_begin(mapper: &Mapper, live: &Live) -> Result<SetUuid, Failure> {
    let name = &live.name;
    let status = mapper.message(live, "metadata_status")?;
    let set = set_of(&status)?;
    let again = format!("'dmremap replace-main --continue {name}' goes on");
    if is_on_copy(&status) {
        return Err(format!("{name}: its main is being replaced already; {again}"));
    }
    // At its end it loads the table anew.
    members::none_runs(live, &Now::parse(&status))?;
    if live.read_only {
        return Err(format!("{name} is read-only, and takes no new main"));
    }
    let short = mapper.status(live)?;
    if !short.contains(" persist=enabled") {
        return Err(format!(
            "{name}: not all copies of its metadata are good, or a spare is away; 'dmsetup message {name} 0 repair' first"
        ));
    }
    for prefix in [COPY_PREFIX, KEPT_PREFIX] {
        if let Some((part, _)) = mapper.part_like(&format!("{prefix}{set}"))? {
            return Err(format!("{} is left of an earlier attempt; {again}", part.name));
        }
    }
    Ok(set)
}

/// Steps 1 to 4: the set is on the copy then, which has copied nothing yet.
pub fn begin(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Begun<'_>, Failure> {
    let live = mapper.find(&arguments.name)?;
    let name = &live.name;
    let set = may_begin(&mapper, &live)?;
    let (start, old) = main_of(&live)?;
    let new = arguments.new.as_deref().unwrap_or_default();
    let end = start + live.sectors;
    // From the first look to the last write nobody else has them.
    let held = Held::take(new)?;
    let device = Device::open(new, Access::Read)?;
    let old_device = Device::open(&old.path, Access::Read)?;
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
    let held_room = match &arguments.metadata {
        Some(path) if number_of(path)? == held.place.number => {
            return Err(format!("{path} is NEW itself; leave out --metadata, or name another"));
        }
        Some(path) => Some(Held::take(path)?),
        None => None,
    };
    let room = match &held_room {
        Some(held) => Room { place: held.place.clone(), start: 0, sectors },
        None => Room { place: held.place.clone(), start: behind(end), sectors },
    };
    let all = match &held_room {
        Some(held) => Device::open(&held.place.path, Access::Read)?.sectors.0,
        None => device.sectors.0,
    };
    if all < room.start + label_end {
        let missing = text::sectors(room.start + label_end - all);
        return Err(match arguments.metadata.is_some() {
            true => format!("{} is too small by {missing}", room.place.path),
            false => format!(
                "{new} lacks {missing} for dm-clone's metadata behind the end of main; give a partition or logical volume of {} with --metadata",
                text::sectors(label_end)
            ),
        });
    }
    let attempt = Attempt(world::random()?);
    let label = Label {
        set,
        sectors: end,
        attempt,
        old: fingerprint(&old_device.facts()),
        new: fingerprint(&device.facts()),
    };
    let mut lost = Vec::new();
    for path in std::iter::once(new).chain(arguments.metadata.as_deref()) {
        let found = may_be_overwritten(path, &arguments.overwrite)?;
        lost.extend(found.into_iter().map(|what| format!("{what} on {path}")));
    }
    if !arguments.json || arguments.dry_run {
        text::print(|out| {
            writeln!(out, "{name} (set {set}): {new} takes the place of main, {}", old.path)?;
            writeln!(out, "{} are copied while the set is in use", text::sectors(end))?;
            writeln!(
                out,
                "dm-clone's metadata stand on {} from sector {}",
                room.place.path, room.start
            )?;
            lost.iter().try_for_each(|what| writeln!(out, "given up: {what}"))?;
            writeln!(
                out,
                "the set is on both until that is over; --abort goes back to {}",
                old.path
            )
        })?;
    }
    if arguments.dry_run {
        return Ok(Begun::Over(Outcome::Well));
    }
    world::agree(arguments.yes)?;
    // Somebody may have begun the same, or changed the set, while this was asked.
    may_begin(&mapper, &live)?;
    let now = mapper.find(name)?;
    if (now.device, now.sectors, &now.line) != (live.device, live.sectors, &live.line) {
        return Err(format!("{name} has changed meanwhile; nothing was done, begin again"));
    }

    held.wipe()?;
    held_room.as_ref().map_or(Ok(()), Held::wipe)?;
    forget_others(set, end, &old, &room);
    let signed = sign(&held, &label);
    let signed = signed.and_then(|()| room.begin(held_room.as_ref().unwrap_or(&held), &label));
    let new = held.place.clone();
    drop((held, held_room));
    let undone = |failure: Failure| {
        let undone = room.end(old.number, end).and_then(|()| unsign(&new, set, end, old.number));
        match undone {
            Ok(()) => failure,
            Err(e) => format!("{failure}\n{e}"),
        }
    };
    let of = CopyOf { set, attempt };
    let kept = signed.and_then(|()| make_kept(&mapper, name, of, &room)).map_err(undone)?;
    let parts = make_copy(&mapper, name, of, &kept, (&new, &old), end);
    let again = format!("'dmremap replace-main --continue {name}' goes on");
    let work = match parts {
        Ok(copy) => Work {
            arguments,
            start,
            old,
            new,
            old_print: label.old,
            mapper,
            live,
            set,
            copy,
            kept,
            gone: None,
            room,
            stop,
        },
        Err(failure) => {
            return Err(match mapper.remove_part(&kept) {
                Ok(()) => undone(failure),
                Err(e) => format!("{failure}\n{e}"),
            });
        }
    };
    match in_memory(|| work.put_to_use()) {
        Ok(()) => {
            work.is_on_copy()?;
            work.keep_new(&label.new);
            Ok(Begun::Work(Box::new(work)))
        }
        Err((failure, true)) => {
            work.take_apart()?;
            Err(format!("{failure}\nthe set is as it was"))
        }
        Err((failure, false)) => Err(format!("{failure}\n{again}")),
    }
}

/// Labels of attempts that came to nothing lead nobody astray, as each has its number; and yet they are taken away, where nobody uses the
/// device.
fn forget_others(set: SetUuid, end: u64, main: &Place, own: &Room) {
    for (room, _) in labels(set, end).into_iter().filter(|(room, _)| room.place != own.place) {
        let gone =
            room.end(main.number, end).and_then(|()| unsign(&room.place, set, end, main.number));
        if let Err(failure) = gone {
            eprintln!("dmremap: what is left of an earlier attempt stays: {failure}");
        }
    }
}

fn make_kept(mapper: &Mapper, name: &str, of: CopyOf, room: &Room) -> Result<Part, Failure> {
    let line = format!("{} {}", room.place.word(), room.start);
    let names = (format!("{name}-replace-meta"), format!("{KEPT_PREFIX}{of}"));
    mapper.make_part((&names.0, &names.1), room.sectors, ("linear", &line))
}

/// What stands for an old main that is gone.
fn make_gone(mapper: &Mapper, name: &str, of: CopyOf, sectors: u64) -> Result<Part, Failure> {
    let uuid = format!("{GONE_PREFIX}{of}");
    match mapper.part(&uuid)? {
        Some(part) => Ok(part),
        None => mapper.make_part((&format!("{name}-replace-gone"), &uuid), sectors, ("error", "")),
    }
}

fn make_copy(
    mapper: &Mapper,
    name: &str,
    of: CopyOf,
    kept: &Part,
    (new, old): (&Place, &Place),
    sectors: u64,
) -> Result<Part, Failure> {
    let region = region_of(sectors);
    let line = format!("{} {} {} {region} 1 no_hydration", kept.number(), new.word(), old.word());
    let names = (format!("{name}-replace"), format!("{COPY_PREFIX}{of}"));
    mapper.make_part((&names.0, &names.1), sectors, ("clone", &line)).map_err(|failure| {
        format!("{failure}\ndm-clone cannot be used; is there the kernel's module dm-clone?")
    })
}

/// Where dm-clone's metadata stand, by the device that is made of that.
fn room_of(kept: &Part) -> Result<Room, Failure> {
    let mut words = kept.line.split_whitespace();
    let device = words.next().and_then(number);
    let start = words.next().and_then(|word| word.parse().ok());
    let (device, start) = device
        .zip(start)
        .ok_or_else(|| format!("{}: '{}' is no line of dm-linear", kept.name, kept.line))?;
    Ok(Room { place: Place::of(device)?, start, sectors: kept.sectors })
}

/// Everything of a replacement that was begun, made again where it is not there.
pub fn go_on(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Begun<'_>, Failure> {
    let word = &*arguments.name;
    // One that was left suspended tells nothing but its name.
    let live = mapper.all()?.into_iter().find(|live| live.suspended && live.name == word);
    if let Some(live) = &live {
        if arguments.dry_run {
            text::print(|out| writeln!(out, "{word}: all I/O is held; lets it go on"))?;
            return Ok(Begun::Over(Outcome::Well));
        }
        mapper.unload(live);
        mapper.resume(live)?;
    }
    let live = mapper.find(word).ok();
    let Some(live) = live else { return assemble(arguments, mapper, stop) };
    let status = mapper.message(&live, "metadata_status")?;
    let set = set_of(&status)?;
    let copy = mapper.part_like(&format!("{COPY_PREFIX}{set}"))?.map(|(part, _)| part);
    let kept = mapper.part_like(&format!("{KEPT_PREFIX}{set}"))?.map(|(part, _)| part);
    let gone = mapper.part_like(&format!("{GONE_PREFIX}{set}"))?.map(|(part, _)| part);
    let (start, main) = main_of(&live)?;
    let end = start + live.sectors;
    if !is_on_copy(&status) {
        return over(arguments, &mapper, &live, set, (&main, end), [copy, kept, gone]);
    }
    let (Some(copy), Some(kept)) = (copy, kept) else {
        return Err(format!("{}: it is on a copy of main that is not there", live.name));
    };
    let room = room_of(&kept)?;
    let label = room.label().ok_or("the label behind dm-clone's metadata cannot be read")?;
    let device = |i: usize| {
        let word = copy.line.split_whitespace().nth(i).and_then(number);
        word.ok_or_else(|| format!("{}: '{}' is no line of dm-clone", copy.name, copy.line))
    };
    let (new, old) = (Place::of(device(1)?)?, Place::of(device(2)?)?);
    let old_print = label.old;
    Ok(Begun::Work(Box::new(Work {
        arguments,
        mapper,
        live,
        set,
        start,
        copy,
        kept,
        gone,
        room,
        old,
        new,
        old_print,
        stop,
    })))
}

/// The set is not on a copy: the replacement had not begun, or has ended. What is left of it goes, and what is to be done at the end is done.
fn over<'a>(
    arguments: &Arguments,
    mapper: &Mapper,
    live: &Live,
    set: SetUuid,
    (main, end): (&Place, u64),
    parts: [Option<Part>; 3],
) -> Result<Begun<'a>, Failure> {
    let mut left = labels(set, end);
    let kept = parts[1].as_ref().map(room_of).transpose()?;
    if let Some(room) = kept.filter(|kept| left.iter().all(|(room, _)| room != kept)) {
        left.extend(room.label().map(|label| (room, label)));
    }
    let any = parts.iter().any(Option::is_some);
    if left.is_empty() && !any {
        return Err(format!("{}: nothing is being replaced; main is {}", live.name, main.path));
    }
    // The new main of one that has ended is the one that the set is on.
    let is_main = |print: &RawFingerprint| recognise("new", print, Some(&main.path), "").is_ok();
    let old = left.iter().find(|(_, label)| is_main(&label.new)).map(|(_, label)| label.old);
    if arguments.dry_run {
        text::print(|out| {
            writeln!(
                out,
                "{}: main is {}; what is left of a replacement would go",
                live.name, main.path
            )
        })?;
        return Ok(Begun::Over(Outcome::Well));
    }
    for part in parts.iter().flatten() {
        mapper.remove_part(part)?;
    }
    for (room, label) in &left {
        let given_up = give_up(room, label, live, main);
        let gone = given_up.and_then(|()| room.end(main.number, end));
        let gone = gone.and_then(|()| unsign(&room.place, set, end, main.number));
        gone.unwrap_or_else(|failure| eprintln!("dmremap: {failure}"));
    }
    unsign(main, set, end, main.number).unwrap_or_else(|failure| eprintln!("dmremap: {failure}"));
    text::print(|out| {
        writeln!(
            out,
            "{}: main is {}; what was left of a replacement is gone",
            live.name, main.path
        )
    })?;
    let Some(print) = old else { return Ok(Begun::Over(Outcome::Well)) };
    let old = recognise("old", &print, arguments.old.as_deref(), "--old");
    let old = old.ok().filter(|old| old.number != main.number);
    after::run(arguments, mapper, live, set, old.map(|old| (old, print))).map(Begun::Over)
}

/// The set that a person means, not in use.
///
/// # Errors
///
/// There is none, or it cannot be used, and why.
fn meant<'a>(sets: &'a [Set], word: &str) -> Result<&'a Set, Failure> {
    let mut found = sets.iter().filter(|set| set.is_called(word));
    match (found.next(), found.next()) {
        (Some(set), None) => Ok(set),
        (None, _) => {
            Err(format!("no set is called '{word}', in use or on the devices of this machine"))
        }
        _ => Err(format!("more than one set is called '{word}'; name it by its UUID")),
    }
}

/// A new main that was to be one, and is not, shows the filesystem in parts: that is taken away. One that does not say itself that it was
/// to be one may have been given another use, and so may one that shows what the set does not.
fn give_up(room: &Room, label: &Label, live: &Live, main: &Place) -> Result<(), Failure> {
    let named = (room.start != 0).then_some(&*room.place.path);
    let Ok(new) = recognise("new", &label.new, named, "NEW") else { return Ok(()) };
    let says =
        signed(&new.path).is_some_and(|own| (own.set, own.attempt) == (label.set, label.attempt));
    if new.number == main.number {
        return Ok(());
    }
    // As long as it shows what it is known by.
    if let Some(what) = config::forget_new(label.set, &new.path, &main.path) {
        eprintln!("dmremap: {what}");
    }
    if !says || unused(&new.path).is_err() {
        return Ok(());
    }
    // What main has in front of the set's part was copied too.
    let mut own = signatures(&live.path().to_string_lossy())?;
    own.extend(signatures(&main.path)?);
    let is_own = |found: &Signature| {
        own.iter().any(|own| (&own.kind, &own.uuid) == (&found.kind, &found.uuid))
    };
    match signatures(&new.path)?.iter().find(|found| !is_own(found)) {
        Some(other) => {
            eprintln!("dmremap: {} carries {other}, which is not of the set: it stays", new.path);
            Ok(())
        }
        None => Held::of(new)?.wipe(),
    }
}

/// After a restart: the three devices are found, the copy made of them, and the set put on it.
fn assemble(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Begun<'_>, Failure> {
    let machine = find(Some(&mapper), &[])?;
    let found = meant(&machine.sets, &arguments.name)?;
    let title = found.title();
    let state = match &found.state {
        State::Whole(state) => state,
        State::Refused(why, _) => return Err(format!("{title} cannot be used: {why}")),
        State::InUse(live) => return Err(format!("{title} is in use as {}", live.name)),
    };
    let header = state.header();
    let (set, raw) = (header.uuid(), header.raw());
    if !header.is_replacing() {
        return Err(format!("set {set}: its main is not being replaced; 'dmremap assemble' it"));
    }
    if let Some(lacks) = assembling::lacks_spare(found, arguments.degraded, &arguments.absent) {
        return Err(format!("{title}: {lacks}"));
    }
    assembling::holds_spares(found)?;
    let (start, sectors) = (raw.set.main_start.get(), raw.set.main_sectors.get());
    let end = start + sectors;
    let (room, label) = find_room(set, end, header.attempt())?;
    let of = CopyOf { set, attempt: header.attempt() };
    let new = match room.start {
        0 => recognise("new", &label.new, arguments.new.as_deref(), "NEW")?,
        _ => recognise("new", &label.new, Some(&room.place.path), "NEW")?,
    };
    let uuid = format!("REMAP-{set}");
    let name = match header.name() {
        "" => uuid.clone(),
        name => name.into(),
    };
    let old = match arguments.old_is_gone {
        true => None,
        false => Some(recognise("old", &label.old, arguments.old.as_deref(), "--old").map_err(
            |failure| format!("{failure}; if it is gone for good, --old-is-gone gives up what has not been copied from it"),
        )?),
    };
    // An empty one would be begun anew, and with that all be forgotten that has been written since.
    let superblock = room.superblock()?;
    if (superblock.sectors, superblock.region) != (end, region_of(end)) {
        return Err(format!("{}: dm-clone's metadata are of another device", room.place.path));
    }
    let to = &new.path;
    let from = old.as_ref().map_or("nothing: the old main is gone", |old| &*old.path).to_owned();
    if arguments.dry_run {
        text::print(|out| match arguments.abort {
            true => writeln!(out, "{name} (set {set}): goes back to {from}, and gives up {to}"),
            false => writeln!(out, "{name} (set {set}): goes on copying {from} to {to}"),
        })?;
        return Ok(Begun::Over(Outcome::Well));
    }
    if arguments.old_is_gone {
        text::print(|out| {
            writeln!(
                out,
                "{name} (set {set}): what has not been copied to {} and lives on no spare is lost",
                new.path
            )
        })?;
        world::agree(arguments.yes)?;
    }
    let kept = match mapper.part(&format!("{KEPT_PREFIX}{of}"))? {
        Some(kept) => kept,
        None => make_kept(&mapper, &name, of, &room)?,
    };
    let gone = match old {
        Some(_) => None,
        None => Some(make_gone(&mapper, &name, of, end)?),
    };
    let old = match (&old, &gone) {
        (Some(old), _) => old.clone(),
        (None, Some(gone)) => {
            Place { path: gone.path().display().to_string(), number: gone.device }
        }
        (None, None) => return Err("there is no old main".into()),
    };
    let copy = match mapper.part(&format!("{COPY_PREFIX}{of}"))? {
        Some(copy) => copy,
        None => make_copy(&mapper, &name, of, &kept, (&new, &old), end)?,
    };
    let line = assembling::line(found, header, &copy.path().display().to_string())?;
    let live = mapper.create(&name, Some(&uuid), sectors, &line, false)?;
    let work = Work {
        arguments,
        mapper,
        live,
        set,
        start,
        copy,
        kept,
        gone,
        room,
        old,
        new,
        old_print: label.old,
        stop,
    };
    work.keep_new(&label.new);
    Ok(Begun::Work(Box::new(work)))
}

impl Work<'_> {
    /// Has the set keep what the new main is recognised by, so that its spares say of it that it is half copied.
    fn keep_new(&self, print: &RawFingerprint) {
        let message = format!("identify new fingerprint {}", Digits(print));
        if let Err(failure) = self.mapper.message(&self.live, &message) {
            eprintln!("dmremap: {failure}");
        }
    }
}
