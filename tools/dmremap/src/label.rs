//! How a block device is named to a person: its path, who made it, its serial number.

use crate::devices::Known;
use serde::Serialize;
use std::fs;
use std::path::Path;

/// What a device is called.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Label {
    /// Its path under `/dev`, or its number where it has none.
    pub path: String,
    /// What its maker calls it; none for a device that the kernel makes up.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its size in sectors; none when it is gone.
    pub sectors: Option<u64>,
}

fn line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    // Makers fill theirs up with blanks.
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    Some(text).filter(|text| !text.is_empty())
}

/// The path under `/dev` of the device `major:minor`, where the kernel or device mapper has a name for it.
pub fn path_of(root: &Path, major: u32, minor: u32) -> Option<String> {
    let own = root.join(format!("sys/dev/block/{major}:{minor}"));
    if let Some(name) = line(&own.join("dm/name")) {
        return Some(format!("/dev/mapper/{name}"));
    }
    let uevent = fs::read_to_string(own.join("uevent")).ok()?;
    let name = uevent.lines().find_map(|line| line.strip_prefix("DEVNAME="))?;
    Some(format!("/dev/{name}"))
}

impl Label {
    /// That of the device `major:minor`, on a machine whose root folder is `root`.
    pub fn of(root: &Path, major: u32, minor: u32) -> Self {
        let own = root.join(format!("sys/dev/block/{major}:{minor}"));
        let own = fs::canonicalize(&own).unwrap_or(own);
        let disk = if own.join("partition").exists() { own.parent().unwrap_or(&own) } else { &own };
        let udev = line(&disk.join("dev")).and_then(|number| {
            let data = fs::read_to_string(root.join(format!("run/udev/data/b{number}"))).ok()?;
            let model = data.lines().find_map(|line| line.strip_prefix("E:ID_MODEL="))?;
            Some(model.replace('_', " ").trim().to_owned())
        });
        let vendor = line(&disk.join("device/vendor")).filter(|vendor| {
            // What stands there of SATA drives, and of PCI and virtio devices.
            vendor != "ATA" && !vendor.starts_with("0x")
        });
        let model = line(&disk.join("device/model")).or(udev).map(|model| match vendor {
            Some(vendor) => format!("{vendor} {model}"),
            None => model,
        });
        Self {
            path: path_of(root, major, minor).unwrap_or_else(|| format!("{major}:{minor}")),
            model,
            serial: Known::of(root, major, minor).serial,
            sectors: line(&own.join("size")).and_then(|text| text.parse().ok()),
        }
    }
}
