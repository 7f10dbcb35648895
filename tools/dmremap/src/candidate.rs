//! Whether a device may become a spare of a set in use: nobody uses it, and nothing is given up that nobody has named.
//!
//! Whether metadata of dm-remap is on it is for the module to judge, which knows the set.

use crate::safety::{signatures, unused};
use crate::spares::{Access, Device};
use crate::Failure;
use rustix::fs::{major, minor, FileType};
use std::fs;
use std::os::unix::fs::MetadataExt;

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
    unused(path)?;
    // Refused while anybody has it, a partition of it too.
    let device = Device::open(path, Access::Hold)?;
    let foreign: Vec<String> = signatures(path)?.iter().map(ToString::to_string).collect();
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
