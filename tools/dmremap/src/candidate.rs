//! Whether a device may become a spare of a set in use: nobody uses it, and nothing is given up that nobody has named.
//!
//! Whether metadata of dm-remap is on it is for the module to judge, which knows the set.

use crate::safety::{signatures, unused};
use crate::spares::{Access, Device};
use crate::Failure;
use rustix::fs::{major, minor, FileType};
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;

/// A device that a person has named, open: as long as this is there its number is no other device's, whatever the name leads to by
/// then.
pub struct Named {
    /// What it was named.
    pub path: String,
    /// Major and minor number.
    pub number: (u32, u32),
    _open: File,
}

impl Named {
    /// The one that a path leads to.
    ///
    /// # Errors
    ///
    /// That it is no block device, or cannot be opened.
    pub fn at(path: &str) -> Result<Self, Failure> {
        // Opening something else might wait for ever.
        number_of(path)?;
        let failed = |e| format!("{path} cannot be opened: {e}");
        let file = File::open(path).map_err(failed)?;
        let is = file.metadata().map_err(failed)?.rdev();
        Ok(Self { path: path.into(), number: (major(is), minor(is)), _open: file })
    }

    /// Its number, as a table line or a message has it.
    pub fn word(&self) -> String {
        format!("{}:{}", self.number.0, self.number.1)
    }

    /// Makes sure that the name still leads to it, so that what was found by name is of this device.
    ///
    /// # Errors
    ///
    /// That it leads to another one.
    pub fn is_still_there(&self) -> Result<(), Failure> {
        match number_of(&self.path) {
            Ok(number) if number == self.number => Ok(()),
            Ok(_) => Err(format!(
                "{} leads to another device by now, and nothing was done; look which one is meant, and begin again",
                self.path
            )),
            Err(failure) => Err(format!("{failure}; nothing was done")),
        }
    }
}

/// A device that may become a spare.
pub struct Candidate {
    /// The device, which stays what it is.
    pub device: Named,
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
    let named = Named::at(path)?;
    if let Some(other) = overwrite {
        if number_of(other)? != named.number {
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
    named.is_still_there()?;
    Ok(Candidate { device: named, sectors: device.sectors.0, foreign })
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
