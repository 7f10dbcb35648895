//! `hides`: whether a device belongs to a set, so that nobody else is to use it. It is what udev's rules ask of every device.
//!
//! It looks at this device, at the configuration, at the sets in use, and at the spares that udev has been told of before. Other disks,
//! which may be slow or ill, are not read.

use crate::replace_main::{is_new, is_of, signed};
use crate::spares::{Access, Device, Spares, Which};
use crate::{config, text, Failure, Outcome};
use dmremap::clone::KEPT_PREFIX;
use dmremap::configuration::{Candidate, Configuration, PATH};
use dmremap::crc;
use remap_pure::format::header::Header;
use remap_pure::format::{MemberUuid, SetUuid, SpareState};
use remap_pure::identity::replaced::{was_main, CopyOf, COPY_PREFIX};
use remap_pure::identity::{
    compare, filesystem_of as kept_filesystem, Facts, Filesystem, FilesystemUuid, MatchKind,
};
use remap_pure::recovery::Survey;
use rustix::fs::{major, minor, FileType};
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

#[derive(clap::Args)]
pub struct Arguments {
    /// Another configuration
    #[arg(long, value_name = "FILE", default_value = PATH)]
    config: PathBuf,
    /// The device that is asked about
    device: String,
}

/// What a device is in a set.
pub enum Part {
    /// Its main.
    Main(SetUuid),
    /// One of its spares.
    Spare(SetUuid),
}

/// A block device as the kernel and udev have it.
pub struct Block {
    sysfs: PathBuf,
    /// Lines of udev's file about it.
    udev: String,
    number: u64,
}

/// What a set in use calls itself in device mapper.
fn set_of_uuid(dm_uuid: &str) -> Option<SetUuid> {
    MemberUuid::parse(dm_uuid.trim().strip_prefix("REMAP-")?).map(|uuid| SetUuid(uuid.0))
}

/// The set whose main is being replaced by way of a mapped device: the copy, or with `kept` also what says how far that is.
fn copied_for(dm_uuid: &str, kept: bool) -> Option<SetUuid> {
    let copy = dm_uuid.trim().strip_prefix(COPY_PREFIX);
    let kept = dm_uuid.trim().strip_prefix(KEPT_PREFIX).filter(|_| kept);
    CopyOf::parse(copy.or(kept)?).map(|of| of.set)
}

impl Block {
    /// The one that a path leads to.
    ///
    /// # Errors
    ///
    /// That it leads to none.
    pub fn of(path: &str) -> Result<Self, Failure> {
        let meta = fs::metadata(path).map_err(|e| format!("{path}: {e}"))?;
        if FileType::from_raw_mode(meta.mode()) != FileType::BlockDevice {
            return Err(format!("{path} is no block device"));
        }
        let number = meta.rdev();
        let id = format!("{}:{}", major(number), minor(number));
        let sysfs = PathBuf::from(format!("/sys/dev/block/{id}"));
        let sysfs = fs::canonicalize(&sysfs).unwrap_or(sysfs);
        let udev = fs::read_to_string(format!("/run/udev/data/b{id}")).unwrap_or_default();
        Ok(Self { sysfs, udev, number })
    }

    /// What udev says: of the event under way, where this was started by one.
    fn property(&self, key: &str) -> Option<String> {
        let of_event = env::var("DEVPATH")
            .is_ok_and(|path| self.sysfs.ends_with(path.trim_start_matches('/')));
        let kept = || {
            self.udev
                .lines()
                .find_map(|line| line.strip_prefix("E:")?.strip_prefix(key)?.strip_prefix('='))
        };
        let value = if of_event { env::var(key).ok() } else { kept().map(str::to_owned) };
        value.filter(|value| !value.is_empty())
    }

    /// Whether it is a partition.
    pub fn is_partition(&self) -> bool {
        self.sysfs.join("partition").exists()
    }

    fn links(&self) -> Vec<String> {
        let kept = self.udev.lines().filter_map(|line| line.strip_prefix("S:"));
        let mut links: Vec<String> = kept.map(|link| format!("/dev/{link}")).collect();
        links
            .extend(self.property("DEVLINKS").iter().flat_map(|l| l.split(' ')).map(str::to_owned));
        links
    }

    /// The devices of device mapper that are made of it.
    fn holders(&self) -> Vec<String> {
        let holders = fs::read_dir(self.sysfs.join("holders")).into_iter().flatten().flatten();
        holders
            .map(|holder| fs::read_to_string(holder.path().join("dm/uuid")).unwrap_or_default())
            .collect()
    }

    /// It and the partitions that the kernel sees on it.
    fn numbers(&self) -> Vec<u64> {
        let inside =
            fs::read_dir(&self.sysfs).into_iter().flatten().flatten().map(|entry| entry.path());
        let parts = inside.filter(|path| path.join("partition").exists());
        let number = |path: PathBuf| {
            let text = fs::read_to_string(path.join("dev")).ok()?;
            let (major, minor) = text.trim().split_once(':')?;
            Some(rustix::fs::makedev(major.parse().ok()?, minor.parse().ok()?))
        };
        parts.filter_map(number).chain([self.number]).collect()
    }

    /// Whether it is used without a set: mounted, as swap, by another device of device mapper.
    fn is_in_use(&self) -> bool {
        let numbers = self.numbers();
        let is_ours =
            |path: &str| fs::metadata(path).is_ok_and(|meta| numbers.contains(&meta.rdev()));
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let mounted = read("/proc/self/mountinfo").lines().any(|line| {
            let mut words = line.split(' ');
            let number = words.nth(2).unwrap_or_default();
            // A filesystem on several devices has a number of its own.
            let source = line.split_once(" - ").and_then(|(_, rest)| rest.split(' ').nth(1));
            numbers.iter().any(|&n| number == format!("{}:{}", major(n), minor(n)))
                || source.is_some_and(is_ours)
        });
        let swap = read("/proc/swaps")
            .lines()
            .filter_map(|line| line.split_whitespace().next())
            .any(is_ours);
        let ours = |uuid: &str| set_of_uuid(uuid).or_else(|| copied_for(uuid, true)).is_some();
        let held = self.holders().iter().any(|uuid| !ours(uuid));
        mounted || swap || held
    }
}

/// The newest header on a device, where it is a spare in use in its set.
pub fn header_on(device: &str, look: impl FnOnce(&Header)) -> Option<()> {
    let mut spares = Spares::open(&Which::of(vec![device.into()]), Access::Read).ok()?;
    let survey = Survey::take(&mut spares, crc).ok()?;
    let (id, header) = survey.newest()?;
    matches!(
        header.spare_state(id.spare),
        SpareState::Active | SpareState::Away | SpareState::Joining
    )
    .then(|| look(header))
}

fn entries(folder: &str) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// The node of a block device in sysfs.
fn node(sysfs: &Path) -> Option<String> {
    let text = fs::read_to_string(sysfs.join("uevent")).ok()?;
    text.lines().find_map(|line| Some(format!("/dev/{}", line.strip_prefix("DEVNAME=")?)))
}

/// All block devices, in the order of their names.
pub fn all_devices() -> Vec<String> {
    let mut nodes: Vec<String> =
        entries("/sys/class/block").iter().filter_map(|path| node(path)).collect();
    nodes.sort();
    nodes
}

/// The devices on which a spare may stand: those that udev says have one, or all, where there is no udev.
fn spares_known() -> Vec<String> {
    let told = |path: &PathBuf| {
        let text = fs::read_to_string(path).unwrap_or_default();
        let spare = text.lines().any(|line| line.starts_with("E:DMREMAP_SPARE_OF="));
        let id = path.file_name()?.to_str()?.strip_prefix('b')?.to_owned();
        spare.then(|| PathBuf::from(format!("/sys/dev/block/{id}")))
    };
    match Path::new("/run/udev/data").exists() {
        true => entries("/run/udev/data")
            .iter()
            .filter_map(told)
            .filter_map(|path| node(&path))
            .collect(),
        false => all_devices(),
    }
}

/// The UUID of what is on a device.
fn filesystem_of(device: &Device, block: &Block) -> Option<String> {
    block.property("ID_FS_UUID").or_else(|| match device.filesystem(0) {
        Filesystem::Is(uuid) => Some(uuid.to_string()),
        _ => None,
    })
}

/// The set whose main a device is by what the configuration says.
///
/// # Errors
///
/// That it cannot be looked at.
pub fn part_named(
    path: &str,
    block: &Block,
    config: &Configuration,
) -> Result<Option<SetUuid>, Failure> {
    let device = Device::open(path, Access::Read)?;
    Ok(candidate(path, block, &device, |candidate| config.main_of(candidate)))
}

/// What the configuration speaks of, of a device.
pub fn candidate<T>(
    path: &str,
    block: &Block,
    device: &Device,
    asked: impl FnOnce(&Candidate<'_>) -> T,
) -> T {
    let (links, filesystem) = (block.links(), filesystem_of(device, block));
    asked(&Candidate {
        known: device.known().clone(),
        is_partition: block.is_partition(),
        links: links.iter().map(String::as_str).chain([path]).collect(),
        filesystem: filesystem.as_deref(),
        sectors: device.sectors.0,
    })
}

/// Whether a device is certainly the main that a set had before, and still shows what the set has.
fn shows_older(header: &Header, facts: &Facts<'_>) -> bool {
    let was = was_main(header, facts);
    let certain = was.is_some_and(|by| by.kind.percent() > MatchKind::Filesystem.percent());
    // One that was given another use has another filesystem.
    match (facts.filesystem, kept_filesystem(&header.raw().main)) {
        (Filesystem::Is(is) | Filesystem::Was(is), Some(had)) => certain && is == had,
        _ => false,
    }
}

/// What a device is, if it is of a set.
///
/// # Errors
///
/// That it cannot be looked at.
pub fn part_of(path: &str, block: &Block, config: &Configuration) -> Result<Option<Part>, Failure> {
    let dm_uuid = fs::read_to_string(block.sysfs.join("dm/uuid")).unwrap_or_default();
    // A set shows what its main does, and is no part of one. One made by dmsetup may be without UUID.
    if set_of_uuid(&dm_uuid).is_some() || block.sysfs.join("remap").is_dir() {
        return Ok(None);
    }
    if let Some(set) = copied_for(&dm_uuid, false) {
        return Ok(Some(Part::Main(set)));
    }
    let mut spare = None;
    header_on(path, |header| spare = Some(header.uuid()));
    if let Some(set) = spare {
        return Ok(Some(Part::Spare(set)));
    }
    // What a set in use is made of, and is no spare, is its main; or it is replaced, or takes its place.
    let of = |uuid: &String| set_of_uuid(uuid).or_else(|| copied_for(uuid, false));
    if let Some(set) = block.holders().iter().find_map(of) {
        return Ok(Some(Part::Main(set)));
    }
    if let Some(set) = part_named(path, block, config)? {
        return Ok(Some(Part::Main(set)));
    }
    let device = Device::open(path, Access::Read)?;
    // A new main that is half copied says so itself, before any spare has been seen.
    let label = signed(path);
    let mut main = label.as_ref().map(|label| label.set);
    let told = filesystem_of(&device, block);
    let told = told.as_deref().and_then(FilesystemUuid::parse);
    for spare in spares_known().iter().filter(|spare| *spare != path) {
        header_on(spare, |header| {
            let filesystem = match device.filesystem(header.raw().set.main_start.get()) {
                Filesystem::Is(uuid) => Filesystem::Is(uuid),
                _ => told.map_or(Filesystem::Unknown, Filesystem::Is),
            };
            // Of what is remapped, main shows what was there before: it says nothing against.
            let facts = Facts { filesystem: filesystem.maybe_older(), ..device.facts() };
            let by = compare(&header.raw().main, &facts);
            // Disks of one make have the same size.
            let known = by.is_ok_and(|by| by.kind.percent() >= MatchKind::Filesystem.percent());
            if known || is_new(header, &device) || shows_older(header, &facts) {
                main = Some(header.uuid());
            } else if label.as_ref().is_some_and(|l| l.set == header.uuid() && !is_of(header, l)) {
                // What is left of an attempt that is over.
                main = main.filter(|set| *set != header.uuid());
            }
        });
    }
    Ok(main.map(Part::Main))
}

/// Says what the device is, as udev's properties.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let block = Block::of(&arguments.device)?;
    let config = config::read(&arguments.config);
    let part = part_of(&arguments.device, &block, &config)?
        .ok_or_else(|| format!("{} is of no set that is known", arguments.device))?;
    text::print(|out| {
        let (word, set) = match part {
            Part::Main(set) => ("MAIN", set),
            Part::Spare(set) => ("SPARE", set),
        };
        writeln!(out, "DMREMAP_{word}_OF={set}")?;
        if config.assembles(&set) {
            writeln!(out, "DMREMAP_AUTO=1")?;
        }
        if let Some(entry) = config.entry(&set) {
            writeln!(out, "DMREMAP_LISTED=1")?;
            if let Some(name) = &entry.name {
                writeln!(out, "DMREMAP_NAME={name}")?;
            }
        }
        if block.is_in_use() {
            writeln!(out, "DMREMAP_IN_USE=1")?;
        }
        Ok(())
    })?;
    Ok(Outcome::Well)
}
