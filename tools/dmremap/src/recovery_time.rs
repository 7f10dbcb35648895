//! Drives that try for longer to read a bad sector than the kernel waits for them.
//!
//! The kernel gives up on a command after `device/timeout` seconds, 30 if nobody said otherwise, and then resets the drive, or the
//! link: every command fails, not the one block, and in the end the drive is taken offline. A desktop drive goes on for minutes. So
//! either the drive is told to give up sooner (SCT error recovery control), or the kernel to wait for longer.

use crate::smart::{Recovery, Smart};
use std::fs;
use std::path::Path;

/// Longer than any known drive tries, in seconds.
const LONGEST: u64 = 180;

/// What there is to know of a drive for this.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Drive {
    /// Its name to the kernel, such as `sda`.
    pub name: String,
    /// For how many seconds the kernel waits; `None` where it has no such limit (what is not SCSI or SATA).
    pub timeout: Option<u64>,
    /// Whether it has disks that turn. Others do not try for long.
    pub rotational: bool,
    /// How long it tries.
    pub recovery: Recovery,
}

impl Drive {
    /// The drive of that name, below `root`, which is `/` on a live system.
    pub fn of(root: &Path, name: &str, recovery: Recovery) -> Self {
        let number = |file: &str| -> Option<u64> {
            let path = root.join("sys/block").join(name).join(file);
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        Self {
            name: name.into(),
            timeout: number("device/timeout"),
            rotational: number("queue/rotational") == Some(1),
            recovery,
        }
    }

    /// What is wrong with how long it tries, and how that is mended, for a person.
    pub fn warning(&self) -> Option<String> {
        let (name, timeout) = (&self.name, self.timeout?);
        if timeout >= LONGEST {
            return None;
        }
        let tell = format!("smartctl -l scterc,70,70 /dev/{name}");
        let wait = format!("echo {LONGEST} > /sys/block/{name}/device/timeout");
        let lasts = "neither outlives a reboot, so put it where it is done at every boot, such as a udev rule";
        match self.recovery {
            Recovery::Within(tenths) if tenths >= timeout * 10 => Some(format!(
                "{name} tries for up to {} s to read a bad sector, and the kernel waits for {timeout} s before it resets the drive: \
                 `{tell}` has it give up sooner; {lasts}",
                tenths / 10
            )),
            Recovery::Off if self.rotational => Some(format!(
                "{name} may try for minutes to read a bad sector, and the kernel waits for {timeout} s before it resets the drive: \
                 `{tell}` has it give up after 7 s, or `{wait}` has the kernel wait; {lasts}"
            )),
            Recovery::Unlimited if self.rotational => Some(format!(
                "{name} may try for minutes to read a bad sector, cannot be told to give up sooner, and the kernel waits for {timeout} s \
                 before it resets the drive: `{wait}` has the kernel wait; that does not outlive a reboot, so put it into a udev rule"
            )),
            _ => None,
        }
    }
}

/// The names of the drives that a block device is on: itself, the disk of a partition, or what a mapped device or an array is made
/// of. `root` is `/` on a live system.
pub fn drives(root: &Path, (major, minor): (u32, u32)) -> Vec<String> {
    let mut found = Vec::new();
    let path = root.join(format!("sys/dev/block/{major}:{minor}"));
    collect(&path, &mut found, 8);
    found
}

/// Goes down through what stands on what, not deeper than people build it.
fn collect(path: &Path, found: &mut Vec<String>, depth: u32) {
    let Ok(path) = fs::canonicalize(path) else { return };
    if path.join("partition").exists() {
        return path.parent().map_or((), |disk| collect(disk, found, depth));
    }
    let below: Vec<_> = fs::read_dir(path.join("slaves")).into_iter().flatten().flatten().collect();
    if let (false, Some(depth)) = (below.is_empty(), depth.checked_sub(1)) {
        return below.iter().for_each(|entry| collect(&entry.path(), found, depth));
    }
    if let Some(name) = path.file_name().and_then(|name| name.to_str()) {
        if !found.iter().any(|known| known == name) {
            found.push(name.into());
        }
    }
}

/// What is wrong with the time that the drives of a block device take to give up, with the commands that mend it. Drives that are asleep,
/// and those that nothing is known of, are passed over, and so are all of them where smartctl is not installed.
pub fn warnings(device: (u32, u32)) -> Vec<String> {
    let root = Path::new("/");
    let of = |name: String| {
        let drive = Drive::of(root, &name, Recovery::Unknown);
        // Nothing is asked of a drive that the kernel waits for without end.
        drive.timeout.filter(|_| drive.rotational)?;
        let recovery = Smart::of(&format!("/dev/{name}")).ok()?.recovery;
        Drive { recovery, ..drive }.warning()
    };
    drives(root, device).into_iter().filter_map(of).collect()
}
