//! `config`: the lines of the configuration file for the sets that are here.

use crate::hides::{all_devices, candidate, header_on, part_named, part_of, Block, Part};
use crate::live::Mapper;
use crate::machine::folder;
use crate::sets::{find, Main, Set};
use crate::spares::{Access, Device};
use crate::{text, world, Failure, Outcome};
use dmremap::configuration::{hardware_digits, without, Configuration, Entry, Hints, PATH};
use remap_pure::format::SetUuid;
use remap_pure::identity::{Filesystem, Mapped};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;

#[derive(clap::Args)]
pub struct Arguments {
    /// Only this set: its name or its UUID
    set: Option<String>,
}

/// What a device is known by, from what it is here.
fn hints(device: &Device, is_partition: bool) -> Hints {
    let known = device.known();
    // A partition is known by its own UUID; what its disk gives, the others on it have too.
    let of_disk = !is_partition || known.partition_uuid.is_none();
    Hints {
        paths: known.path.iter().cloned().collect(),
        partition_uuid: known.partition_uuid.clone(),
        hardware_id: known.hardware_id.as_ref().filter(|_| of_disk).map(hardware_digits),
        serial: known.serial.clone().filter(|_| of_disk),
        filesystem: match device.filesystem(0) {
            Filesystem::Is(uuid) => Some(uuid.to_string()),
            _ => None,
        },
        sectors: Some(device.sectors.0),
    }
}

/// Of a main without serial number, partition UUID or filesystem, and without a path that stays.
const UNKNOWN: &str =
    "nothing is known by which it could be recognised; add main= to the line, with a path that always leads to it";

/// What a configuration says, and to a person what is wrong with it. Without one, the spares tell what there is to know.
pub fn read(path: &Path) -> Configuration {
    let (config, mistakes) = Configuration::read(path).unwrap_or_else(|failure| {
        eprintln!("dmremap: {failure}; what it says of sets does not count until it can be read");
        Default::default()
    });
    for mistake in mistakes {
        eprintln!("dmremap: {}: {mistake}", path.display());
    }
    config
}

/// Who changes the configuration: nobody else does meanwhile, so that nothing of another's is lost.
fn alone() -> Option<File> {
    world::lock("dmremap.conf")
}

/// Has the configuration say that a device is the main of a set, if it does not yet, and gives what there is to say of that.
pub fn add(set: SetUuid, main: &str) -> String {
    let _alone = alone();
    let line = || -> Result<Option<Entry>, Failure> {
        let (config, _) = Configuration::read(Path::new(PATH))?;
        let block = Block::of(main)?;
        if part_named(main, &block, &config)? == Some(set) {
            return Ok(None);
        }
        let hints = hints(&Device::open(main, Access::Read)?, block.is_partition());
        // Its name stands on its spares; here it would have to be changed as well.
        Ok(Some(Entry { uuid: set, name: None, auto: None, main: hints }))
    };
    match line().map(|entry| entry.map(|entry| (append(&entry), entry))) {
        Ok(None) => format!("{PATH} says that {main} is its main"),
        Ok(Some((Ok(()), entry))) if !entry.main.say_which() => {
            format!("{PATH} names the set now, but not its main, so that is not hidden at boot: {UNKNOWN}")
        }
        Ok(Some((Ok(()), _))) => format!("{PATH} says now that {main} is its main{}", initramfs()),
        Ok(Some((Err(e), entry))) => {
            let unknown = match entry.main.say_which() {
                true => String::new(),
                false => format!("\n{UNKNOWN}"),
            };
            format!("{PATH} cannot be written ({e}); so that main is hidden at boot, add to it:\n{entry}{unknown}")
        }
        Err(failure) => format!("{PATH} does not say that {main} is its main: {failure}"),
    }
}

/// Has a configuration that names a set say what its main is now, where that has grown: a line with its size does not mean it any more.
/// Gives what there is to say of that.
pub fn renew(set: SetUuid, main: &str) -> Option<String> {
    match Configuration::read(Path::new(PATH)) {
        Ok((config, _)) => config.entry(&set).map(|_| add(set, main)),
        Err(failure) => Some(format!("{PATH} does not say that {main} is its main: {failure}")),
    }
}

/// What has the first moments of a boot know of a change, where an initramfs has dm-remap in it.
pub fn initramfs() -> &'static str {
    match Path::new("/usr/share/initramfs-tools/hooks/dmremap").exists() {
        true if Path::new("/usr/sbin/update-initramfs").exists() => {
            "; tell the initramfs too, which sees the drives first: update-initramfs -u -k all"
        }
        _ if Path::new("/usr/bin/dracut").exists() => {
            "; tell the initramfs too, which sees the drives first: dracut --force --regenerate-all"
        }
        _ => "",
    }
}

fn append(entry: &Entry) -> io::Result<()> {
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(PATH)?;
    let mut before = Vec::new();
    file.read_to_end(&mut before)?;
    let end = if before.is_empty() || before.ends_with(b"\n") { "" } else { "\n" };
    file.write_all(format!("{end}{entry}\n").as_bytes())?;
    file.sync_all()
}

/// Has the configuration name a set no more, or, with a device, that device as its main. Gives what there is to say of that.
pub fn forget(set: SetUuid, main: Option<&str>) -> Option<String> {
    forget_but(set, main, None)
}

/// Has it no more name a device that was to be a set's main, and what is said of the main that the set has stay. Gives what there is to say.
pub fn forget_new(set: SetUuid, new: &str, main: &str) -> Option<String> {
    forget_but(set, Some(new), Some(main)).map(|what| format!("{new}: {what}"))
}

fn forget_but(set: SetUuid, main: Option<&str>, stays: Option<&str>) -> Option<String> {
    let _alone = alone();
    let edit = || -> Result<bool, Failure> {
        let text = match fs::read(PATH) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(e) => return Err(format!("it cannot be read: {e}")),
        };
        let look =
            |path| Ok::<_, Failure>((Block::of(path)?, Device::open(path, Access::Read)?, path));
        let (device, stays) = (main.map(look).transpose()?, stays.map(look).transpose()?);
        let is = |entry: &Entry| {
            let fits = |(block, device, path): &(Block, Device, &str)| {
                candidate(path, block, device, |candidate| entry.main.fit(candidate))
            };
            // Of two with the same filesystem a line may fit both.
            entry.uuid == set
                && device.as_ref().is_none_or(fits)
                && !stays.as_ref().is_some_and(fits)
        };
        let rest = without(&text, is);
        let changed = rest != text;
        if changed {
            let new = format!("{PATH}.new");
            let write = || -> io::Result<()> {
                let mut file = File::create(&new)?;
                file.write_all(&rest)?;
                file.sync_all()?;
                fs::rename(&new, PATH)
            };
            write().map_err(|e| format!("it cannot be written: {e}"))?;
        }
        Ok(changed)
    };
    match edit() {
        Ok(true) => Some(format!("{PATH} does not name it any more{}", initramfs())),
        Ok(false) => None,
        Err(e) => Some(format!(
            "{PATH} stays as it is ({e}); take the line of set {set} out of it, which hides its main"
        )),
    }
}

/// Has udev look at a device again.
pub fn look_again(number: (u32, u32)) {
    // Without udev there is nobody to whom it would matter.
    let _ = fs::write(folder(number).join("uevent"), "change");
}

/// The mains of the sets that are in use: there is no doubt then, whatever they are recognised by. The sets themselves have the same filesystems.
fn mains_in_use() -> Vec<(SetUuid, Hints)> {
    let found = Mapper::open().and_then(|mapper| find(Some(&mapper), &[]));
    let sets = found.map(|machine| machine.sets).unwrap_or_default();
    let main = |set: Set| {
        set.live()?;
        let (Main::Is(path, _) | Main::MayBe(path, ..)) = set.main else { return None };
        let block = Block::of(&path).ok()?;
        Some((set.uuid, hints(&Device::open(&path, Access::Read).ok()?, block.is_partition())))
    };
    sets.into_iter().filter_map(main).collect()
}

/// Prints a line for each set whose main is here, and says which ones' is not.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let nothing = Configuration::default();
    let mut sets: Vec<(SetUuid, String, bool)> = Vec::new();
    let mut mains: Vec<(SetUuid, Hints)> = Vec::new();
    for path in all_devices() {
        // One that cannot be looked at is no reason to hide the others.
        let Ok(block) = Block::of(&path) else { continue };
        match part_of(&path, &block, &nothing) {
            Ok(Some(Part::Spare(set))) if !sets.iter().any(|(other, ..)| *other == set) => {
                header_on(&path, |header| {
                    sets.push((set, header.name().into(), header.is_replacing()));
                });
            }
            Ok(Some(Part::Main(set))) => {
                let device = Device::open(&path, Access::Read)?;
                // What copies a main is made anew each time.
                if !matches!(device.known().mapped, Mapped::Copy(_)) {
                    mains.push((set, hints(&device, block.is_partition())));
                }
            }
            _ => {}
        }
    }
    if let Some(word) = &arguments.set {
        sets.retain(|(uuid, name, _)| name == word || SetUuid::parse(word) == Some(*uuid));
        if sets.is_empty() {
            return Err(format!("no set on this machine is called '{word}'; see 'dmremap scan'"));
        }
    }
    let in_use = mains_in_use();
    // While one is replaced the set stands on neither the old one nor the new one.
    for (uuid, ..) in sets.iter().filter(|(.., replacing)| !replacing) {
        if let Some(main) = in_use.iter().find(|(set, _)| set == uuid) {
            mains.retain(|(set, _)| set != uuid);
            mains.push(main.clone());
        }
    }
    text::print(|out| {
        for (uuid, name, replacing) in &sets {
            let of_it: Vec<&Hints> =
                mains.iter().filter(|(set, _)| set == uuid).map(|(_, main)| main).collect();
            // While one is replaced there are two.
            if of_it.len() > 1 && !replacing {
                eprintln!("dmremap: set {uuid} ({name}): more than one device could be its main");
                continue;
            }
            if of_it.is_empty() {
                eprintln!("dmremap: set {uuid} ({name}): its main is not here, or cannot be told from others");
            }
            let name = Some(name.clone()).filter(|name| !name.is_empty());
            for main in of_it {
                let (name, main) = (name.clone(), main.clone());
                writeln!(out, "{}", Entry { uuid: *uuid, name, auto: None, main })?;
            }
        }
        Ok(())
    })?;
    Ok(Outcome::Well)
}
