//! The block devices of this machine, as the kernel lists them.

use rustix::fs::{major, minor, FileType};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// A block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Its name to the kernel, such as `sda1` or `dm-3`.
    pub name: String,
    /// A path of it: where it has a name under `/dev/mapper`, that.
    pub path: String,
    /// Major and minor number.
    pub number: (u32, u32),
}

/// A line of a file of sysfs.
pub fn line(path: &Path) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `major:minor`, taken apart.
pub fn number(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// The folder of a device in sysfs.
pub fn folder((major, minor): (u32, u32)) -> PathBuf {
    let link = PathBuf::from(format!("/sys/dev/block/{major}:{minor}"));
    fs::canonicalize(&link).unwrap_or(link)
}

/// Names of what is in a folder; none where there is none.
pub fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
    names.sort();
    names
}

impl Node {
    /// The device of that name to the kernel.
    pub fn named(name: &str) -> Option<Self> {
        Self::of(number(&line(&Path::new("/sys/class/block").join(name).join("dev"))?)?)
    }

    /// The device of that number.
    pub fn of(number: (u32, u32)) -> Option<Self> {
        let folder = folder(number);
        let name = folder.file_name()?.to_str()?.to_owned();
        let mapped = line(&folder.join("dm/name")).map(|name| format!("/dev/mapper/{name}"));
        let mapped = mapped.filter(|path| Path::new(path).exists());
        let path = mapped.unwrap_or_else(|| format!("/dev/{}", name.replace('!', "/")));
        Some(Self { name, path, number })
    }

    /// The device that a path leads to; none of a file.
    pub fn of_path(path: &str) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        let is_device = FileType::from_raw_mode(meta.mode()) == FileType::BlockDevice;
        Self::of((major(meta.rdev()), minor(meta.rdev()))).filter(|_| is_device)
    }

    /// Its folder in sysfs.
    pub fn folder(&self) -> PathBuf {
        folder(self.number)
    }

    /// The partitions on it.
    pub fn partitions(&self) -> Vec<Node> {
        let folder = self.folder();
        let is_partition = |name: &String| folder.join(name).join("partition").exists();
        names(&folder)
            .iter()
            .filter(|name| is_partition(name))
            .filter_map(|n| Self::named(n))
            .collect()
    }

    /// The disk that it is a partition of.
    pub fn disk(&self) -> Option<Node> {
        let folder = self.folder();
        let disk = folder.parent().filter(|_| folder.join("partition").exists())?;
        Self::of(number(&line(&disk.join("dev"))?)?)
    }

    /// The devices that are made of it.
    pub fn holders(&self) -> Vec<Node> {
        names(&self.folder().join("holders")).iter().filter_map(|n| Self::named(n)).collect()
    }

    /// Whether another device shows all of what this one has, as multipath does with its paths: that one is meant.
    pub fn is_shown_by_another(&self) -> bool {
        let size = |node: &Self| line(&node.folder().join("size"));
        let ours = |node: &Self| node.mapper_uuid().is_some_and(|uuid| uuid.starts_with("REMAP-"));
        self.holders().iter().any(|holder| size(holder) == size(self) && !ours(holder))
    }

    /// The UUID that device mapper has of it, if it is a mapped device that has one.
    pub fn mapper_uuid(&self) -> Option<String> {
        line(&self.folder().join("dm/uuid"))
    }
}

/// All that can have something on it: not memory, not removable media of old, nothing without a size, and nothing that is suspended,
/// since reading that would not end.
pub fn nodes() -> Vec<Node> {
    let mut nodes = Vec::new();
    for name in names(Path::new("/sys/class/block")) {
        let Some(node) = Node::named(&name) else { continue };
        let folder = node.folder();
        let other = ["ram", "zram", "sr", "fd"].iter().any(|kind| {
            name.strip_prefix(kind).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()))
        });
        let is = |file: &str, value: &str| line(&folder.join(file)).as_deref() == Some(value);
        if !other && !is("size", "0") && !is("dm/suspended", "1") && Path::new(&node.path).exists()
        {
            nodes.push(node);
        }
    }
    nodes
}
