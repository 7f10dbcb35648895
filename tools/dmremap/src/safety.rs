//! Whether a device may be taken: who uses it, and what is on it.
//!
//! What is a signature is for the library of blkid to say. Who uses a device is what the kernel says in `/proc` and in sysfs; a user that
//! is seen in neither is found by opening the device exclusively.

use crate::candidate::number_of;
use crate::machine::{line, names, Node};
use crate::spares::{part_of, Access, Spares};
use crate::{text, Failure};
use dmremap::crc;
use libblkid_rs::{BlkidProbe, BlkidProbeRet, BlkidSublks, BlkidSublksFlags};
use remap_pure::create::{inspect, Content};
use remap_pure::format::header::HeaderError;
use remap_pure::format::layout::MIN_SPARE;
use remap_pure::identity::replaced::CopyOf;
use remap_pure::recovery::{Found, Slot, Survey};
use remap_pure::store::Store;
use remap_pure::units::{SpareId, SECTOR_SIZE};
use rustix::fs::{FileType, OFlags};
use std::fmt;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Somebody who uses a device, and how that is ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct User {
    /// The device, by its path: it itself, a partition of it, or what is made of it.
    pub device: String,
    /// What it is used as.
    pub what: Use,
}

/// What a device is used as.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Use {
    /// A filesystem on it is mounted there.
    Mounted(String),
    /// Swap.
    Swap,
    /// This device is made of it.
    PartOf(Node),
    /// Somebody has it open for himself alone, and nothing tells who.
    Unknown,
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.device;
        match &self.what {
            Use::Mounted(at) => write!(f, "{device} is mounted on {at} (umount {at})"),
            Use::Swap => write!(f, "{device} is in use as swap (swapoff {device})"),
            Use::PartOf(node) => write!(f, "{device} is a part of {} ({})", node.path, ends(node)),
            Use::Unknown => write!(f, "{device} is in use, and the kernel does not say by whom"),
        }
    }
}

/// What lets go what a mapped device, an array or a loop device holds.
fn ends(node: &Node) -> String {
    let (name, uuid) = (&node.name, node.mapper_uuid().unwrap_or_default());
    let path = &node.path;
    let copies = ["REMAP-CLONE-", "REMAP-CLONEMETA-", "REMAP-CLONEGONE-"];
    let copy = copies.iter().find_map(|prefix| CopyOf::parse(uuid.strip_prefix(prefix)?));
    if let Some(of) = copy {
        format!("main of set {0} is being replaced: dmremap replace-main --continue {0}", of.set)
    } else if uuid.starts_with("REMAP-") {
        format!("dmremap stop {}", path.trim_start_matches("/dev/mapper/"))
    } else if uuid.starts_with("LVM-") {
        format!("lvchange -an {path}")
    } else if uuid.starts_with("CRYPT-") {
        format!("cryptsetup close {}", path.trim_start_matches("/dev/mapper/"))
    } else if name.starts_with("md") {
        format!("mdadm --stop {path}")
    } else if name.starts_with("loop") {
        format!("losetup -d {path}")
    } else if name.starts_with("dm-") {
        format!("dmsetup remove {}", path.trim_start_matches("/dev/mapper/"))
    } else {
        format!("stop {path}")
    }
}

/// A field of `/proc/self/mountinfo` or `/proc/swaps`, in which white space stands as octal numbers.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, behind @ ..] = rest {
        let digits = behind.get(..3).filter(|_| *first == b'\\');
        let octal = digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &behind[3..];
            }
            None => {
                bytes.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Where filesystems of devices are mounted: number, mount point.
fn mounts() -> Vec<((u32, u32), String)> {
    let mut mounts = Vec::new();
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(number), Some(at)) = (words.get(2), words.get(4)) else { continue };
        let at = unescape(at);
        mounts.extend(crate::machine::number(number).map(|number| (number, at.clone())));
        // A filesystem of its own number, such as Btrfs, has its device among what follows the hyphen.
        let source =
            words.iter().position(|word| *word == "-").and_then(|dash| words.get(dash + 2));
        mounts.extend(
            source.and_then(|path| Node::of_path(&unescape(path))).map(|n| (n.number, at.clone())),
        );
    }
    // And all of its devices here.
    for uuid in names(Path::new("/sys/fs/btrfs")) {
        let of = Path::new("/sys/fs/btrfs").join(uuid).join("devices");
        let devices: Vec<Node> = names(&of).iter().filter_map(|name| Node::named(name)).collect();
        let at = mounts.iter().find(|(n, _)| devices.iter().any(|d| d.number == *n));
        let at = at.map_or_else(|| "somewhere".into(), |(_, at)| at.clone());
        mounts.extend(devices.into_iter().map(|device| (device.number, at.clone())));
    }
    mounts.sort();
    mounts.dedup();
    mounts
}

fn swaps() -> Vec<(u32, u32)> {
    let text = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let paths = text.lines().skip(1).filter_map(|line| line.split_whitespace().next());
    paths.filter_map(|path| Some(Node::of_path(&unescape(path))?.number)).collect()
}

/// The loop devices that lie on a device.
fn loops(of: &Node) -> Vec<Node> {
    let on = |name: &String| {
        let file = line(&Path::new("/sys/class/block").join(name).join("loop/backing_file"));
        file.and_then(|file| Node::of_path(&file)).is_some_and(|node| node == *of)
    };
    let all = names(Path::new("/sys/class/block"));
    all.iter()
        .filter(|name| name.starts_with("loop") && on(name))
        .filter_map(|n| Node::named(n))
        .collect()
}

/// Who uses a device: it itself, its partitions, the disk that it is a part of, and all that is made of these.
pub fn users(node: &Node) -> Vec<User> {
    let mut of = vec![node.clone()];
    of.extend(node.partitions());
    of.extend(node.disk());
    let (mounts, swaps) = (mounts(), swaps());
    let mut users = Vec::new();
    let mut seen = 0;
    while let Some(node) = of.get(seen).cloned() {
        seen += 1;
        let mut found = |what| users.push(User { device: node.path.clone(), what });
        for (_, at) in mounts.iter().filter(|(number, _)| *number == node.number) {
            found(Use::Mounted(at.clone()));
        }
        if swaps.contains(&node.number) {
            found(Use::Swap);
        }
        for holder in node.holders().into_iter().chain(loops(&node)) {
            found(Use::PartOf(holder.clone()));
            if !of.contains(&holder) {
                of.push(holder);
            }
        }
    }
    users
}

/// The processes that have a device open: number and name of each.
pub fn openers(number: (u32, u32)) -> Vec<(u32, String)> {
    let mut openers = Vec::new();
    let wanted = rustix::fs::makedev(number.0, number.1);
    for name in names(Path::new("/proc")) {
        let Ok(pid) = name.parse::<u32>() else { continue };
        let own = Path::new("/proc").join(&name);
        let has = |fd: &String| {
            fs::metadata(own.join("fd").join(fd)).is_ok_and(|meta| {
                let is_device = FileType::from_raw_mode(meta.mode()) == FileType::BlockDevice;
                is_device && meta.rdev() == wanted
            })
        };
        if names(&own.join("fd")).iter().any(has) {
            openers.push((pid, line(&own.join("comm")).unwrap_or_default()));
        }
    }
    openers
}

/// Makes sure that nobody uses a device. An image in a file is nobody's.
///
/// # Errors
///
/// Who does, and how that is ended.
pub fn unused(path: &str) -> Result<(), Failure> {
    let Some(node) = Node::of_path(path) else { return Ok(()) };
    let mut users = users(&node);
    if users.is_empty() {
        let exclusive = OFlags::EXCL.bits() as i32;
        let open = File::options().read(true).custom_flags(exclusive).open(path);
        match open {
            Err(e) if e.kind() == ErrorKind::ResourceBusy => {
                users.push(User { device: path.into(), what: Use::Unknown });
            }
            Err(e) => return Err(format!("{path} cannot be opened: {e}")),
            Ok(_) => return Ok(()),
        }
    }
    let mut failure = format!("{path} is in use");
    for user in users {
        failure = format!("{failure}\n  {user}");
    }
    Err(failure)
}

/// What the library of blkid finds on a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Signature {
    /// What it is of: `ext4`, `LVM2_member`, `gpt`.
    pub kind: String,
    /// What such a thing is for: `filesystem`, `raid`, `crypto`, `other`; `partitions` for a partition table.
    pub usage: String,
    /// The name that people gave it.
    pub label: Option<String>,
    /// Its UUID.
    pub uuid: Option<String>,
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.usage {
            "partitions" => write!(f, "a partition table ({})", self.kind)?,
            "filesystem" => write!(f, "a filesystem of {}", self.kind)?,
            _ => write!(f, "{}", self.kind)?,
        }
        if let Some(label) = &self.label {
            write!(f, " '{label}'")?;
        }
        if let Some(uuid) = &self.uuid {
            write!(f, " {uuid}")?;
        }
        Ok(())
    }
}

/// All signatures on a device or on a part of it, `DEVICE@START+LENGTH`.
///
/// # Errors
///
/// That it cannot be looked at.
pub fn signatures(name: &str) -> Result<Vec<Signature>, Failure> {
    let (path, part) = part_of(name);
    let failed = |e: &dyn fmt::Display| format!("{path}: cannot look for signatures: {e}");
    let file = File::open(path).map_err(|e| failed(&e))?;
    let (start, sectors) = part.unwrap_or((0, 0));
    let bytes = |sectors: u64| i64::try_from(sectors.saturating_mul(SECTOR_SIZE as u64));
    let (start, len) =
        (bytes(start).map_err(|e| failed(&e))?, bytes(sectors).map_err(|e| failed(&e))?);
    let mut probe = BlkidProbe::new().map_err(|e| failed(&e))?;
    let what = [
        BlkidSublks::Type,
        BlkidSublks::Usage,
        BlkidSublks::Label,
        BlkidSublks::Uuid,
        BlkidSublks::Badcsum,
    ];
    probe
        .set_device(file.as_raw_fd(), start, len)
        .and_then(|()| probe.enable_superblocks(true))
        .and_then(|()| probe.set_superblock_flags(BlkidSublksFlags::new(what.into())))
        .and_then(|()| probe.enable_partitions(true))
        .map_err(|e| failed(&e))?;
    let mut found = Vec::new();
    while probe.do_probe().map_err(|e| failed(&e))? == BlkidProbeRet::Success {
        let value = |key| probe.lookup_value(key).ok().map(|v| v.trim_end_matches('\0').to_owned());
        let signature = match (value("TYPE"), value("PTTYPE")) {
            (Some(kind), _) => Signature {
                kind,
                usage: value("USAGE").unwrap_or_default(),
                label: value("LABEL"),
                uuid: value("UUID"),
            },
            (None, Some(kind)) => {
                Signature { kind, usage: "partitions".into(), label: None, uuid: value("PTUUID") }
            }
            (None, None) => continue,
        };
        if !found.contains(&signature) {
            found.push(signature);
        }
    }
    Ok(found)
}

/// What somebody has made on a spare of a set since: a signature, and nothing is left of the first header, which stands where everybody
/// signs. To write that header anew would be the end of it. At the end of a spare, or where its data are, something old may look like a signature.
///
/// What cannot be read says nothing: a spare that fails is not kept from who needs it.
///
/// # Errors
///
/// That it cannot be opened.
pub fn made_since(name: &str) -> Result<Option<Signature>, Failure> {
    let mut spare = Spares::open_one(name, Access::Read)?;
    let survey = Survey::take(&mut spare, crc).map_err(|_| "no memory")?;
    let is_gone = |slot: &Slot| {
        slot.id.copy == 0
            && matches!(slot.found, Found::Not(HeaderError::Magic | HeaderError::Zero))
    };
    if !survey.slots().iter().any(is_gone) {
        return Ok(None);
    }
    Ok(signatures(name).unwrap_or_default().into_iter().next())
}

/// What a device that is to become a spare carries now, which is given up.
pub struct Candidate {
    /// The sectors that a set can use of it.
    pub sectors: u64,
    /// What is foreign on it.
    pub foreign: Vec<String>,
    /// A creation that was cut short left its marks there.
    pub begun: bool,
}

/// Whether a device, or a part of one, may become a spare: nobody uses it, and it is blank, or what is on it is foreign and `overwrite`
/// gives that up. Only reads.
///
/// # Errors
///
/// What is in the way, and what can be done.
pub fn candidate(name: &str, overwrite: bool) -> Result<Candidate, Failure> {
    let (path, _) = part_of(name);
    number_of(path)?;
    unused(path)?;
    let mut spare = Spares::open_one(name, Access::Hold)?;
    let id = SpareId(0);
    let sectors = spare.sectors(id).0;
    if sectors < MIN_SPARE.0 {
        let (has, least) = (text::sectors(sectors), text::sectors(MIN_SPARE.0));
        return Err(format!("{name} has {has}; a spare has at least {least}"));
    }
    let content = inspect(&mut spare, id, crc).map_err(|_| "no memory")?;
    let mut foreign: Vec<String> = signatures(name)?.iter().map(ToString::to_string).collect();
    let begun = matches!(content, Content::CutShort(..));
    match content {
        Content::Ours(at) => {
            let survey = Survey::take(&mut spare, crc).map_err(|_| "no memory")?;
            let set = survey.slots().iter().find_map(|slot| slot.set);
            let set = set.map_or_else(|| "a set".into(), |set| format!("set {set}"));
            return Err(format!(
                "{name} carries metadata of {set} (sector {at}); 'dmremap scan' shows it, and 'dmremap wipe {name}' gives it up"
            ));
        }
        Content::V3 => {
            return Err(format!(
                "{name} is a spare in the v3 format; 'dmremap upgrade --main DEVICE {name}' makes a set of it"
            ));
        }
        Content::Unreadable(at) => {
            return Err(format!("{name} cannot be read at sector {at}; use another device"));
        }
        Content::Foreign(at) | Content::CutShort(_, Some(at)) if foreign.is_empty() => {
            foreign.push(format!("something that is not known (sector {at} is not zero)"));
        }
        _ => {}
    }
    if !foreign.is_empty() && !overwrite {
        return Err(format!(
            "{name} is not blank: it carries {}; check that it is the right device, and say '--overwrite {name}' to give that up",
            foreign.join(", ")
        ));
    }
    Ok(Candidate { sectors, foreign, begun })
}

/// How much room a candidate has, and what it carries, for a person.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", text::sectors(self.sectors))?;
        match &*self.foreign {
            [] if self.begun => write!(f, ", a creation that was cut short"),
            [] => write!(f, ", blank"),
            foreign => write!(f, ", {}, WHICH IS LOST", foreign.join(", ")),
        }
    }
}
