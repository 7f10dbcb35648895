//! Whether a device may become a spare of a set in use: nobody uses it, and nothing is given up that nobody has named.
//!
//! Whether metadata of dm-remap is on it is for the module to judge, which knows the set.

use crate::spares::{Access, Device};
use crate::Failure;
use libblkid_rs::{BlkidProbe, BlkidProbeRet, BlkidSublks, BlkidSublksFlags};
use rustix::fs::{major, minor, FileType};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A device that may become a spare.
pub struct Candidate {
    /// Major and minor number.
    pub device: (u32, u32),
    /// Its size.
    pub sectors: u64,
    /// What is on it, which is given up.
    pub foreign: Vec<String>,
}

/// Looks at a device. `overwrite` names the device on which something foreign may be given up.
///
/// # Errors
///
/// What is in the way, and what can be done.
pub fn candidate(path: &str, overwrite: Option<&str>) -> Result<Candidate, Failure> {
    let number = number_of(path)?;
    if let Some(other) = overwrite {
        if number_of(other)? != number {
            return Err(format!("--overwrite names {other}, and the new device is {path}"));
        }
    }
    // Refused while anybody has it, a partition of it too.
    let device = Device::open(path, Access::Hold)?;
    let foreign = signatures(path)?;
    if !foreign.is_empty() && overwrite.is_none() {
        return Err(format!(
            "{path} carries {}; give another device, or say '--overwrite {path}', and that is lost",
            foreign.join(" and ")
        ));
    }
    Ok(Candidate { device: number, sectors: device.sectors.0, foreign })
}

/// Major and minor number of the block device at `path`.
///
/// # Errors
///
/// That it is none.
pub fn number_of(path: &str) -> Result<(u32, u32), Failure> {
    let meta = fs::metadata(path).map_err(|e| format!("{path}: cannot be looked at: {e}"))?;
    if FileType::from_raw_mode(meta.mode()) != FileType::BlockDevice {
        return Err(format!("{path} is no block device"));
    }
    Ok((major(meta.rdev()), minor(meta.rdev())))
}

/// What the library of blkid finds on a device.
fn signatures(path: &str) -> Result<Vec<String>, Failure> {
    let failed = |e: &dyn std::fmt::Display| format!("{path}: cannot look for signatures: {e}");
    let mut probe = BlkidProbe::new_from_filename(Path::new(path)).map_err(|e| failed(&e))?;
    probe.enable_superblocks(true).map_err(|e| failed(&e))?;
    probe
        .set_superblock_flags(BlkidSublksFlags::new(vec![BlkidSublks::Type, BlkidSublks::Label]))
        .map_err(|e| failed(&e))?;
    probe.enable_partitions(true).map_err(|e| failed(&e))?;
    let mut found = Vec::new();
    while probe.do_probe().map_err(|e| failed(&e))? == BlkidProbeRet::Success {
        if let Ok(kind) = probe.lookup_value("TYPE") {
            let label = probe.lookup_value("LABEL").ok().filter(|label| !label.is_empty());
            found.push(label.map_or(kind.clone(), |label| format!("{kind} ('{label}')")));
        } else if let Ok(kind) = probe.lookup_value("PTTYPE") {
            found.push(format!("a partition table ({kind})"));
        }
    }
    Ok(found)
}
