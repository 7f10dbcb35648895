//! `config`: the lines of the configuration file for the sets that are here.

use crate::hides::{all_devices, header_on, part_of, Block, Part};
use crate::spares::{Access, Device};
use crate::{text, Failure, Outcome};
use dmremap::configuration::{hardware_digits, Configuration, Entry, Hints};
use remap_pure::format::SetUuid;
use remap_pure::identity::Filesystem;

#[derive(clap::Args)]
pub struct Arguments {}

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

/// Prints a line for each set whose main is here, and says which ones' is not.
pub fn run(_: &Arguments) -> Result<Outcome, Failure> {
    let nothing = Configuration::default();
    let mut sets: Vec<(SetUuid, String)> = Vec::new();
    let mut mains: Vec<(SetUuid, Hints)> = Vec::new();
    for path in all_devices() {
        // One that cannot be looked at is no reason to hide the others.
        let Ok(block) = Block::of(&path) else { continue };
        match part_of(&path, &block, &nothing) {
            Ok(Some(Part::Spare(set))) if !sets.iter().any(|(other, _)| *other == set) => {
                header_on(&path, |header| sets.push((set, header.name().into())));
            }
            Ok(Some(Part::Main(set))) => {
                mains.push((set, hints(&Device::open(&path, Access::Read)?, block.is_partition())));
            }
            _ => {}
        }
    }
    text::print(|out| {
        for (uuid, name) in &sets {
            let mut of_it = mains.iter().filter(|(set, _)| set == uuid);
            let main = match (of_it.next(), of_it.next()) {
                (Some((_, main)), None) => main.clone(),
                (Some(_), Some(_)) => {
                    eprintln!(
                        "dmremap: set {uuid} ({name}): more than one device could be its main"
                    );
                    continue;
                }
                (None, _) => {
                    eprintln!("dmremap: set {uuid} ({name}): its main is not here, or cannot be told from others");
                    continue;
                }
            };
            let name = Some(name.clone()).filter(|name| !name.is_empty());
            writeln!(out, "{}", Entry { uuid: *uuid, name, auto: None, main })?;
        }
        Ok(())
    })?;
    Ok(Outcome::Well)
}
