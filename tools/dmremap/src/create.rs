//! `create`: a new set of a main device, as it is, and spares that hold nothing.
//!
//! The kernel makes the metadata; here it is made sure that these are the devices that are meant.

use crate::candidate::Named;
use crate::live::{value, Live, Mapper};
use crate::machine::Node;
use crate::sets::{absence, find, Machine, Main};
use crate::spares::{part_of, Access, Device};
use crate::{config, identify, safety, text, world, Failure, Outcome};
use dmremap::recovery_time;
use remap_pure::format::SetUuid;
use remap_pure::settings::{Limits, SETTINGS};
use remap_pure::units::{MAX_SPARES, SECTOR_SIZE};
use std::fs;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// The name of the set, and of the mapped device. Default: remap0, or the next that is free
    #[arg(long)]
    name: Option<String>,
    /// For how many extents the table has room. Default, and the least: 31988, what fits the standard slots
    #[arg(long, value_name = "N")]
    max_remaps: Option<u64>,
    /// Sets a setting and keeps it; may be given several times
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The first sector of main that the set maps
    #[arg(long, value_name = "SECTOR", default_value_t = 0)]
    main_start: u64,
    /// Gives up what is on this spare, which is not blank; may be given several times
    #[arg(long, value_name = "SPARE")]
    overwrite: Vec<String>,
    /// Leave /etc/dmremap.conf as it is. Otherwise it is told which device main is, so that main is hidden from the first moment of a boot
    #[arg(long)]
    no_config: bool,
    /// The device whose blocks fail. It stays as it is, and so does the filesystem on it
    main: String,
    /// The devices that stand in for parts of it. DEVICE@START+LENGTH is a part of one, for the first spare only
    #[arg(required = true, value_name = "SPARE")]
    spares: Vec<String>,
}

/// Creates.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let machine = find(Some(&mapper), &[])?;
    let name = name(arguments, &mapper, &machine)?;
    let settings = settings(&arguments.set)?;
    let devices = Devices::named(arguments)?;
    let sectors = main(arguments, &machine, &devices.main)?;
    let line = line(arguments, &name, &devices, &settings)?;
    text::print(|out| {
        writeln!(out, "to be created: set {name}, as /dev/mapper/{name}")?;
        writeln!(out, "main    {}: {}", arguments.main, text::sectors(sectors))
    })?;
    let on_main = safety::signatures(&arguments.main)?;
    text::print(|out| {
        on_main
            .iter()
            .try_for_each(|signature| writeln!(out, "          {signature}, which stays as it is"))
    })?;
    let mut begun = false;
    for (spare, device) in arguments.spares.iter().zip(&devices.spares) {
        if device.number == devices.main.number {
            return Err(format!("{spare} is main; a spare is another device"));
        }
        machine.is_no_main(spare)?;
        let candidate = safety::candidate(spare, arguments.overwrite.contains(spare));
        let candidate = candidate.map_err(|failure| {
            match on_main.is_empty() && failure.contains("is not blank") {
                // Then main is hardly what the person has in mind.
                true => format!(
                    "{failure}\nmain {} is blank: main comes first, then the spare",
                    arguments.main
                ),
                false => failure,
            }
        })?;
        begun |= candidate.begun;
        text::print(|out| writeln!(out, "spare   {spare}: {candidate}"))?;
    }
    if begun {
        text::print(|out| writeln!(out, "a creation that was cut short is finished"))?;
    }
    for caution in cautions(arguments, &name, &on_main) {
        text::print(|out| writeln!(out, "note: {caution}"))?;
    }
    devices.are_still_there()?;
    if arguments.dry_run {
        text::print(|out| writeln!(out, "table   0 {sectors} remap {line}"))?;
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    devices.are_still_there()?;
    mapper.need_target()?;
    let live = world::undisturbed(|| {
        let live = mapper.create(&name, None, sectors, &line, false)?;
        // The kernel has drawn the UUID of the set.
        let named = || {
            let status = mapper.message(&live, "metadata_status")?;
            let uuid = value(&status, "set").ok_or_else(|| format!("{name}: it has no UUID"))?;
            let uuid = format!("REMAP-{uuid}");
            mapper.name_by_uuid(&live, &uuid)?;
            Ok::<_, Failure>(Live { uuid, ..live.clone() })
        };
        named().map_err(|failure| {
            let again = format!("the set is made; 'dmremap assemble {name}' puts it to use");
            match mapper.remove(&live) {
                Ok(()) => format!("{failure}\n{again}"),
                Err(e) => format!("{failure}\n{e}\n{again}"),
            }
        })
    })?;
    // What cannot be told now is told when the set is assembled.
    if let Err(failure) = identify::tell(&mapper, &live, None) {
        eprintln!("dmremap: {failure}");
    }
    let set = live.uuid.strip_prefix("REMAP-").and_then(SetUuid::parse);
    let known = set.filter(|_| !arguments.no_config).map(|set| config::add(set, &arguments.main));
    text::print(|out| {
        writeln!(out, "{} is ready", live.path().display())?;
        writeln!(out, "From now on use that, and never {} itself, which shows old blocks where it has failed.", arguments.main)?;
        known.iter().try_for_each(|known| writeln!(out, "{known}"))
    })?;
    Ok(Outcome::Well)
}

/// Main and the spares in their order, open from before the first look at them until the kernel has them.
struct Devices {
    main: Named,
    spares: Vec<Named>,
}

impl Devices {
    fn named(arguments: &Arguments) -> Result<Self, Failure> {
        if part_of(&arguments.main).1.is_some() {
            return Err(format!("{}: of main --main-start says where the set begins, and all that follows is mapped", arguments.main));
        }
        let spares = arguments.spares.iter().map(|spare| Named::at(part_of(spare).0));
        Ok(Self { main: Named::at(&arguments.main)?, spares: spares.collect::<Result<_, _>>()? })
    }

    fn are_still_there(&self) -> Result<(), Failure> {
        self.spares.iter().chain([&self.main]).try_for_each(Named::is_still_there)
    }
}

/// The name that was asked for, or the next that is free.
fn name(arguments: &Arguments, mapper: &Mapper, machine: &Machine) -> Result<String, Failure> {
    let taken = |name: &str| -> Result<bool, Failure> {
        Ok(mapper.has(name)? || machine.sets.iter().any(|set| set.name == name))
    };
    if let Some(name) = &arguments.name {
        text::check_name(name)?;
        if taken(name)? {
            return Err(format!(
                "{name} is there already, see 'dmremap scan' and 'dmsetup ls'; give another name"
            ));
        }
        return Ok(name.clone());
    }
    for n in 0.. {
        let name = format!("remap{n}");
        if !taken(&name)? {
            return Ok(name);
        }
    }
    Err("no name is free".into())
}

/// The settings that are asked for, each with its value. What the devices decide is checked by the kernel.
fn settings(given: &[String]) -> Result<Vec<(&'static str, String)>, Failure> {
    let mut settings = Vec::new();
    let limits = Limits { copies: u64::MAX, ..Limits::default() };
    for text in given {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("--set {text}: give KEY=VALUE"))?;
        let setting = SETTINGS.iter().find(|setting| setting.name == key).ok_or_else(|| {
            let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
            format!("there is no setting '{key}'; there are {}", names.join(", "))
        })?;
        setting.parse(value, &limits).map_err(|e| e.to_string())?;
        settings.push((setting.name, value.to_owned()));
    }
    Ok(settings)
}

/// How many sectors of main are mapped.
fn main(arguments: &Arguments, machine: &Machine, named: &Named) -> Result<u64, Failure> {
    let main = &named.path;
    safety::unused(main)
        .map_err(|users| format!("main {users}\nend that first: the set takes main's place"))?;
    let path = real(main)?;
    for set in &machine.sets {
        let title = set.title();
        if set.holders.iter().any(|holder| real(part_of(&holder.name).0).is_ok_and(|p| p == path)) {
            return Err(format!(
                "{main} is a spare of {title}; 'dmremap wipe {main}' gives that up"
            ));
        }
        match &set.main {
            Main::Is(is, by) if real(is).is_ok_and(|p| p == path) => {
                return Err(format!(
                    "{main} is main of {title} (match {by}): some of its blocks live there; assemble that set, or wipe its spares first"
                ));
            }
            Main::MayBe(is, by, _) if real(is).is_ok_and(|p| p == path) => {
                text::print(|out| {
                    writeln!(out, "note: {main} may be main of {title} (match {by}); if it is, assemble that instead")
                })?;
            }
            _ => {}
        }
    }
    let other = machine.others.iter().find(|o| real(part_of(&o.name).0).is_ok_and(|p| p == path));
    if let Some(other) = other {
        return Err(format!("main {main}: {}", other.what));
    }
    if let Some(entry) = machine.awaits(&path) {
        text::print(|out| {
            writeln!(
                out,
                "note: {main} is main of that: {}; it may have blocks of main",
                absence(entry)
            )
        })?;
    }
    let device = Device::open(main, Access::Hold)?;
    let all = device.sectors.0;
    let block = u64::from(device.logical_block) / SECTOR_SIZE as u64;
    let left = all.checked_sub(arguments.main_start).filter(|left| *left > 0);
    let left =
        left.ok_or_else(|| format!("{main} has only {all} sectors; begin before its end"))?;
    Ok(left / block.max(1) * block.max(1))
}

fn real(path: &str) -> Result<String, Failure> {
    let real = fs::canonicalize(path).map_err(|e| format!("{path}: {e}"))?;
    real.to_str()
        .map(str::to_owned)
        .ok_or_else(|| format!("{path} leads to a path that is no text"))
}

/// The table line behind the word `remap`. It has the numbers of the devices: their names may lead to others by then.
fn line(
    arguments: &Arguments,
    name: &str,
    devices: &Devices,
    settings: &[(&'static str, String)],
) -> Result<String, Failure> {
    if arguments.spares.len() > MAX_SPARES {
        return Err(format!("a set has at most {MAX_SPARES} spares"));
    }
    if let Some(other) = arguments.overwrite.iter().find(|o| !arguments.spares.contains(o)) {
        return Err(format!("--overwrite {other} names no spare; name it as among the spares"));
    }
    let mut words: Vec<String> = ["create", "name", name].map(str::to_owned).into();
    let mut first = String::new();
    for (n, (spare, device)) in arguments.spares.iter().zip(&devices.spares).enumerate() {
        let device = device.word();
        match part_of(spare).1 {
            None if n == 0 => first = device.clone(),
            Some((start, len)) if n == 0 => first = format!("{device} {start} {len}"),
            None => words.extend(["spare".into(), device.clone()]),
            Some(_) => {
                return Err(format!(
                    "{spare}: only the first spare may be a part of a device; name it first"
                ));
            }
        }
        if arguments.overwrite.contains(spare) {
            words.extend(["overwrite".into(), device]);
        }
    }
    if arguments.main_start != 0 {
        words.extend(["main_start".into(), arguments.main_start.to_string()]);
    }
    if let Some(n) = arguments.max_remaps {
        words.extend(["max_remaps".into(), n.to_string()]);
    }
    for (key, value) in settings {
        words.extend([(*key).to_owned(), value.clone()]);
    }
    Ok(format!("{} {first} {} {}", devices.main.word(), words.len(), words.join(" ")))
}

/// What a person should know of these devices before they are used so.
fn cautions(arguments: &Arguments, name: &str, on_main: &[safety::Signature]) -> Vec<String> {
    let mut cautions = Vec::new();
    for signature in on_main {
        let main = &arguments.main;
        match &*signature.kind {
            "LVM2_member" => cautions.push(format!(
                "LVM's commands find the physical volume on {main} too, whether the set is in use or not; have them use only /dev/mapper/{name}, by a line in the section 'devices' of /etc/lvm/lvm.conf:\n  global_filter = [ \"r|^{main}$|\" ]"
            )),
            "linux_raid_member" => cautions.push(format!(
                "{main} is a member of an md array: see to it that the array is assembled from /dev/mapper/{name}, and never from {main}"
            )),
            "swap" => cautions.push(format!("swap is now on /dev/mapper/{name}: change /etc/fstab")),
            _ if signature.usage == "partitions" => cautions.push(format!(
                "its partitions are /dev/mapper/{name}-part1 and so on, which kpartx makes (kpartx -a -p -part /dev/mapper/{name}); those that the kernel has of {main} must not be used any more"
            )),
            _ => {}
        }
    }
    let disk = |path: &str| {
        let number = Node::of_path(part_of(path).0)?;
        Some(number.disk().unwrap_or(number).number)
    };
    for spare in arguments.spares.iter().filter(|spare| disk(spare) == disk(&arguments.main)) {
        cautions
            .push(format!("{spare} is on the same drive as main: when that dies, both are gone"));
    }
    for path in arguments.spares.iter().chain([&arguments.main]) {
        let Some(node) = Node::of_path(part_of(path).0) else { continue };
        for warning in recovery_time::warnings(node.number) {
            if !cautions.contains(&warning) {
                cautions.push(warning);
            }
        }
    }
    cautions
}
