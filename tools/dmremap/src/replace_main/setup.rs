//! The first steps of a replacement, and the way back into one: checks, dm-clone's devices, the set.

use super::places::{
    behind, find_room, find_set, may_be_overwritten, need, node, number_of, recognise, spare_words,
    wipe, Room,
};
use super::{Arguments, Work};
use crate::live::{value, Live, Mapper, Part};
use crate::machine::number;
use crate::safety::unused;
use crate::spares::{Access, Device};
use crate::{text, world, Failure};
use dmremap::clone::{region_of, Label, BLOCK_SECTORS};
use remap_pure::format::SetUuid;
use remap_pure::identity::fingerprint;
use remap_pure::identity::replaced::COPY_PREFIX;
use remap_pure::line::Line;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

fn uuids(set: SetUuid) -> (String, String) {
    (format!("{COPY_PREFIX}{set}"), format!("REMAP-CLONEMETA-{set}"))
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
pub fn begin(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'_>>, Failure> {
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
            writeln!(out, "the set is on both until that is over; --abort goes back to {old}")
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
pub fn go_on(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'_>>, Failure> {
    let word = &*arguments.name;
    // One that was left suspended tells nothing but its name.
    let live = mapper.all()?.into_iter().find(|live| live.suspended && live.name == word);
    if let Some(live) = &live {
        if arguments.dry_run {
            text::print(|out| writeln!(out, "{word}: all I/O is held; lets it go on"))?;
            return Ok(None);
        }
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
        if arguments.dry_run && found.is_some() {
            text::print(|out| {
                writeln!(
                    out,
                    "{}: main is {main}; takes away what is left of a replacement",
                    live.name
                )
            })?;
            return Ok(None);
        }
        for part in copy.iter().chain(&kept) {
            mapper.remove_part(part)?;
        }
        let Some((room, label)) = found else {
            return Err(format!("{}: nothing is being replaced; main is {main}", live.name));
        };
        room.begin(None)?;
        give_up(&room, &label, &main)?;
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

/// A new main that was to be one, and is not, shows the filesystem in parts: that is taken away.
fn give_up(room: &Room, label: &Label, main: &str) -> Result<(), Failure> {
    let named = (room.start != 0).then_some(&*room.path);
    let Ok(new) = recognise("new", &label.new, named, "NEW") else { return Ok(()) };
    match number_of(&new)? == number_of(main)? || unused(&new).is_err() {
        true => Ok(()),
        false => wipe(&new),
    }
}

/// After a restart: the three devices are found, the copy made of them, and the set put on it.
fn assemble(
    arguments: &Arguments,
    mapper: Mapper,
    stop: Arc<AtomicBool>,
) -> Result<Option<Work<'_>>, Failure> {
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
        let what = match arguments.abort {
            true => format!("goes back to {old}, and gives up {new}"),
            false => format!("goes on copying {old} to {new}"),
        };
        text::print(|out| writeln!(out, "{name} (set {set}): {what}"))?;
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
