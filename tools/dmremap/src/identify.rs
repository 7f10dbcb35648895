//! `identify`: tells a live set what user space knows of its devices.

use crate::live::{Live, Mapper};
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
    let sent = tell(&mapper, &live, arguments.dry_run)?;
    text::print(|out| {
        if sent.is_empty() {
            writeln!(
                out,
                "its devices have neither a serial number nor a path under /dev/disk/by-id"
            )?;
        }
        sent.iter().try_for_each(|message| writeln!(out, "{message}"))
    })?;
    Ok(Outcome::Well)
}

/// Sends what is known of the devices of a set in use, and gives the messages.
///
/// # Errors
///
/// With a text for a person.
pub fn tell(mapper: &Mapper, live: &Live, dry_run: bool) -> Result<Vec<String>, Failure> {
    let status = mapper.message(live, "metadata_status")?;
    let mut sent = Vec::new();
    for Member { word, device: (major, minor) } in
        members(&live.line, &status).map_err(|e| format!("{}: {e}", live.name))?
    {
        let known = Known::of(Path::new("/"), major, minor);
        for (what, said) in [("serial", known.serial), ("path", known.path)] {
            let Some(said) = said else { continue };
            let message = format!("identify {word} {what} {said}");
            if !dry_run {
                mapper.message(live, &message)?;
            }
            sent.push(message);
        }
    }
    Ok(sent)
}
