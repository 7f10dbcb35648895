//! `identify`: tells a live set what user space knows of its devices.

use crate::live::Mapper;
use crate::{text, Failure, Outcome};
use dmremap::devices::{members, Known, Member};
use std::path::Path;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show the messages, and send none
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
}

/// Sends serial number and path of each device that has them.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let name = &*arguments.name;
    let mapper = Mapper::open()?;
    let live = mapper.find(name)?;
    let status = mapper.message(&live, "metadata_status")?;
    let mut sent = 0;
    for Member { word, device: (major, minor) } in
        members(&live.line, &status).map_err(|e| format!("{name}: {e}"))?
    {
        let known = Known::of(Path::new("/"), major, minor);
        for (what, said) in [("serial", known.serial), ("path", known.path)] {
            let Some(said) = said else { continue };
            let message = format!("identify {word} {what} {said}");
            if !arguments.dry_run {
                mapper.message(&live, &message)?;
            }
            sent += 1;
            text::print(|out| writeln!(out, "{message}"))?;
        }
    }
    if sent == 0 {
        text::print(|out| {
            writeln!(
                out,
                "its devices have neither a serial number nor a path under /dev/disk/by-id"
            )
        })?;
    }
    Ok(Outcome::Well)
}
