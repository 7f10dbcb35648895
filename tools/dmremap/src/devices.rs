//! What there is to know of a block device in user space: who made it, what it calls itself, where it is found.
//!
//! The kernel's own files come first: they are there before udev is, and always say the same.

use remap_pure::identity::{Facts, Filesystem, HardwareId, Mapped, SerialHash};
use remap_pure::units::Sectors;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What is known of a device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Known {
    /// The partition's UUID, as text.
    pub partition_uuid: Option<String>,
    /// The identifier that the disk gives.
    pub hardware_id: Option<HardwareId>,
    /// The disk's serial number: its letters and digits.
    pub serial: Option<String>,
    /// A path under `/dev/disk/by-id`.
    pub path: Option<String>,
    /// What it is to device mapper.
    pub mapped: Mapped,
}

fn line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// The value of `key` in a file of lines `KEY=value`.
fn value(text: &str, key: &str) -> Option<String> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(value.trim().to_owned()).filter(|value| !value.is_empty())
}

/// The unit serial number that a SCSI disk gives (page 0x80 of its vital product data), its length in bytes 2 and 3.
fn page_80(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let len = u16::from_be_bytes([*page.get(2)?, *page.get(3)?]);
    let text = page.get(4..4 + usize::from(len))?;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn hardware_id(kind: u8, digits: &str) -> Option<HardwareId> {
    let digits: Vec<u8> = digits
        .chars()
        .filter(|c| !matches!(c, '-' | ' '))
        .map(|c| c.to_digit(16).map(|digit| digit as u8))
        .collect::<Option<_>>()?;
    let mut bytes = [0; 16];
    let len = digits.len() / 2;
    if len == 0 || len > bytes.len() || digits.len() % 2 != 0 || digits.iter().all(|&d| d == 0) {
        return None;
    }
    let pairs = digits.chunks_exact(2);
    bytes.iter_mut().zip(pairs).for_each(|(byte, pair)| *byte = (pair[0] << 4) | pair[1]);
    Some(HardwareId { kind, len: len as u8, bytes })
}

/// The identifier of that kind in the identification page of a SCSI disk (0x83), chosen as the kernel does (`sd_get_unique_id`): of
/// the logical unit, the last one, but the first of 16 bytes.
fn designator(page: &[u8], kind: u8) -> Option<HardwareId> {
    let (mut found, mut rest) = (None, page.get(4..)?);
    while let [_, what, _, len, behind @ ..] = rest {
        let len = usize::from(*len);
        let (Some(id), Some(next)) = (behind.get(..len), behind.get(len..)) else { break };
        rest = next;
        if (what >> 4) & 3 == 0 && what & 15 == kind && matches!(len, 8 | 12 | 16) {
            let mut bytes = [0; 16];
            bytes.iter_mut().zip(id).for_each(|(to, from)| *to = *from);
            found = Some(HardwareId { kind, len: len as u8, bytes });
            if len == 16 {
                break;
            }
        }
    }
    found
}

/// The identifier that the module takes too: NAA, EUI-64 or what NVMe has in its place, T10.
fn hardware(disk: &Path) -> Option<HardwareId> {
    if let Ok(page) = fs::read(disk.join("device/vpd_pg83")) {
        return [3, 2, 1].into_iter().find_map(|kind| designator(&page, kind));
    }
    ["nguid", "eui"].iter().find_map(|file| hardware_id(2, &line(&disk.join(file))?))
}

/// The serial number of a disk, and what udev has of it.
fn serial(disk: &Path, udev: &str) -> Option<String> {
    let own = || ["serial", "device/serial"].iter().find_map(|file| line(&disk.join(file)));
    let udev = || ["E:ID_SCSI_SERIAL", "E:ID_SERIAL_SHORT"].iter().find_map(|key| value(udev, key));
    let serial = own().or_else(|| page_80(&disk.join("device/vpd_pg80"))).or_else(udev)?;
    let serial: String = serial.chars().filter(char::is_ascii_alphanumeric).collect();
    Some(serial).filter(|serial| !serial.is_empty())
}

/// The first path in `folder` that leads to the device and that a message can carry.
fn path_in(folder: &Path, number: u64) -> Option<String> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).ok()?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    let paths = paths.iter().filter(|path| fs::metadata(path).is_ok_and(|m| m.rdev() == number));
    let mut texts = paths.filter_map(|path| path.to_str());
    let sound =
        |path: &&str| !path.contains(|c: char| c.is_whitespace() || c.is_control() || c == '\\');
    texts.find(sound).map(str::to_owned)
}

fn mapped(own: &Path) -> Mapped {
    match line(&own.join("dm/uuid")) {
        Some(uuid) => Mapped::of(&uuid),
        None if own.join("dm").exists() => Mapped::Yes,
        None => Mapped::No,
    }
}

impl Known {
    /// What is known of the device `major:minor` on a machine whose root folder is `root`.
    pub fn of(root: &Path, major: u32, minor: u32) -> Self {
        let number = format!("{major}:{minor}");
        let own = root.join("sys/dev/block").join(&number);
        let own = fs::canonicalize(&own).unwrap_or(own);
        let is_partition = own.join("partition").exists();
        let disk = if is_partition { own.parent().unwrap_or(&own) } else { &own };
        let udev = |number: &str| {
            fs::read_to_string(root.join(format!("run/udev/data/b{number}"))).unwrap_or_default()
        };
        let uevent = fs::read_to_string(own.join("uevent")).unwrap_or_default();
        let partition_uuid = value(&uevent, "PARTUUID")
            .or_else(|| value(&udev(&number), "E:ID_PART_ENTRY_UUID"))
            .filter(|_| is_partition);
        let of_disk = line(&disk.join("dev")).map_or_else(String::new, |number| udev(&number));
        let number = rustix::fs::makedev(major, minor);
        Self {
            partition_uuid,
            hardware_id: hardware(disk),
            serial: serial(disk, &of_disk),
            path: path_in(&root.join("dev/disk/by-id"), number),
            mapped: mapped(&own),
        }
    }

    /// All that tells the device from others, with its sizes and what is on it.
    pub fn facts<'a>(
        &'a self,
        sectors: Sectors,
        blocks: (u32, u32),
        filesystem: Filesystem,
        path: &'a str,
    ) -> Facts<'a> {
        Facts {
            partition_uuid: self.partition_uuid.as_deref(),
            hardware_id: self.hardware_id,
            serial: self.serial.as_deref().and_then(SerialHash::of),
            filesystem,
            path: self.path.as_deref().unwrap_or(path),
            mapped: self.mapped,
            ..Facts::of_size(sectors, blocks.0, blocks.1)
        }
    }
}

/// A member of a live set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// The word for it in messages.
    pub word: String,
    /// Major and minor number of its device.
    pub device: (u32, u32),
}

/// The members of a live set that are there.
///
/// `line` is the table line behind the word `remap`, `status` what the message `metadata_status` says.
///
/// # Errors
///
/// That main has no number there.
pub fn members(line: &str, status: &str) -> Result<Vec<Member>, String> {
    let number = |word: &str| {
        let (major, minor) = word.split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    };
    let main = line.split_whitespace().next().and_then(number);
    let main = main.ok_or("its table line does not begin with main")?;
    let mut members = vec![Member { word: "main".into(), device: main }];
    for line in status.lines() {
        if let ["spare", spare, device, ..] = line.split_whitespace().collect::<Vec<_>>()[..] {
            // One that is not there has no device.
            let member = number(device).map(|device| Member { word: spare.into(), device });
            members.extend(member);
        }
    }
    Ok(members)
}
