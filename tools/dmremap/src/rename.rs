//! `rename`: another name for a set in use, in its metadata and as its mapped device.

use crate::live::{value, Mapper};
use crate::{text, world, Failure, Outcome};
use dmremap::configuration::{Configuration, PATH};
use remap_pure::format::SetUuid;
use std::path::Path;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, a path of it, or the set's name or UUID
    set: String,
    /// The new name: 1 to 63 letters, digits, or characters of +-._
    name: String,
}

/// Renames. Cut short between the two names, it can be run again.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.set)?;
    let name = &arguments.name;
    text::check_name(name)?;
    let status = mapper.message(&live, "metadata_status")?;
    let in_metadata = value(&status, "name") == Some(name);
    if live.name != *name && mapper.has(name)? {
        return Err(format!("a mapped device of the name {name} is there already; give another"));
    }
    if in_metadata && live.name == *name {
        text::print(|out| writeln!(out, "{name} is its name already"))?;
        return Ok(Outcome::Well);
    }
    if arguments.dry_run {
        text::print(|out| writeln!(out, "{} would be called {name}", live.name))?;
        return Ok(Outcome::Well);
    }
    world::undisturbed(|| {
        if !in_metadata {
            mapper.message(&live, &format!("name {name}"))?;
        }
        if live.name != *name {
            mapper.rename(&live, name)?;
        }
        Ok::<_, Failure>(())
    })?;
    text::print(|out| writeln!(out, "{} is called {name} now", live.name))?;
    let set = value(&status, "set").and_then(SetUuid::parse);
    let (config, _) = Configuration::read(Path::new(PATH))?;
    let entry = set.and_then(|set| config.entry(&set).cloned());
    if let Some(other) = entry.and_then(|entry| entry.name).filter(|other| other != name) {
        eprintln!(
            "dmremap: {PATH} has it assembled as {other} on this machine; change its name= there"
        );
    }
    Ok(Outcome::Well)
}
