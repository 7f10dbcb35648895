//! `identify`: tells a live set what user space knows of its devices.

use crate::{text, Failure, Outcome};
use dmremap::devices::{members, Known, Member};
use std::path::Path;
use std::process::Command;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show the messages, and send none
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, as dmsetup has it
    name: String,
}

fn dmsetup(arguments: &[&str]) -> Result<String, Failure> {
    let output = Command::new("dmsetup").args(arguments).output();
    let output = output.map_err(|e| format!("dmsetup cannot be run: {e}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("dmsetup {}: {}", arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Sends serial number and path of each device that has them.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let name = &*arguments.name;
    let table = dmsetup(&["table", "--", name])?;
    let status = dmsetup(&["message", "--", name, "0", "metadata_status"])?;
    let mut sent = 0;
    for Member { word, device: (major, minor) } in
        members(&table, &status).map_err(|e| format!("{name}: {e}"))?
    {
        let known = Known::of(Path::new("/"), major, minor);
        for (what, said) in [("serial", known.serial), ("path", known.path)] {
            let Some(said) = said else { continue };
            let message = ["identify", &word, what, &said];
            if !arguments.dry_run {
                dmsetup(&[&["message", "--", name, "0"], &message[..]].concat())?;
            }
            sent += 1;
            text::print(|out| writeln!(out, "{}", message.join(" ")))?;
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
