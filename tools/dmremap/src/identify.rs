//! `identify`: tells a live set what user space knows of its devices.

use crate::live::{Live, Mapper};
use crate::{text, Failure, Outcome};
use dmremap::devices::{members, Known, Member};
use remap_pure::format::header::{text as padded, Header};
use remap_pure::identity::SerialHash;
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
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.name)?;
    let messages = messages(&mapper, &live, None)?;
    for message in &messages {
        if !arguments.dry_run {
            mapper.message(&live, message)?;
        }
        text::print(|out| writeln!(out, "{message}"))?;
    }
    if messages.is_empty() {
        text::print(|out| {
            writeln!(
                out,
                "its devices have neither a serial number nor a path under /dev/disk/by-id"
            )
        })?;
    }
    Ok(Outcome::Well)
}

/// Sends a set in use what it does not know of its devices yet, where `header` says what it knows.
///
/// # Errors
///
/// With what the kernel says of it.
pub fn tell(mapper: &Mapper, live: &Live, header: Option<&Header>) -> Result<(), Failure> {
    messages(mapper, live, header)?
        .iter()
        .try_for_each(|message| mapper.message(live, message).map(|_| ()))
}

fn messages(mapper: &Mapper, live: &Live, header: Option<&Header>) -> Result<Vec<String>, Failure> {
    let status = mapper.message(live, "metadata_status")?;
    let members = members(&live.line, &status).map_err(|e| format!("{}: {e}", live.name))?;
    let mut messages = Vec::new();
    for Member { word, device: (major, minor) } in members {
        let known = Known::of(Path::new("/"), major, minor);
        let raw = header.map(Header::raw);
        let print = raw.and_then(|raw| match &*word {
            "main" => Some(&raw.main),
            number => raw.fingerprints.get(number.parse::<usize>().ok()?),
        });
        let knows = |what, text: &str| {
            print.is_some_and(|print| match what {
                "serial" => {
                    SerialHash::of(text).is_some_and(|hash| hash.0 == print.serial_hash.get())
                }
                _ => !padded(&print.path).is_empty() && text.ends_with(padded(&print.path)),
            })
        };
        for (what, said) in [("serial", known.serial), ("path", known.path)] {
            let said = said.filter(|said| !knows(what, said));
            messages.extend(said.map(|said| format!("identify {word} {what} {said}")));
        }
    }
    Ok(messages)
}
