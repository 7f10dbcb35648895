//! `repair`: what activation does to damaged copies, without using the set.

use crate::choose::{self, Choice};
use crate::spares::{Access, Spares, Which};
use crate::{refusal, safety, text, world, Failure, Outcome};
use dmremap::crc;
use remap_pure::commit::Persist;
use remap_pure::copies::{CopySet, CopyState};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::recover_without;

#[derive(clap::Args)]
pub struct Arguments {
    /// What somebody has made on this spare since it became one, such as a filesystem, is given up
    #[arg(long, value_name = "SPARE")]
    overwrite: Vec<String>,
    /// Show what would be written, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    which: Which,
}

/// Writes copies anew that lack something. A repair that was cut short can be begun again.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let access = if arguments.dry_run { Access::Read } else { Access::Write };
    let mut spares = Spares::open(&arguments.which, access)?;
    spares.has_all("--overwrite", &arguments.overwrite)?;
    for name in spares.names().filter(|name| !arguments.overwrite.iter().any(|o| o == name)) {
        if let Some(foreign) = safety::made_since(name)? {
            return Err(format!(
                "{name} carries {foreign} where a copy stood; say --overwrite {name} to give that up, or 'dmremap wipe {name}' to keep it and have the set do without this spare"
            ));
        }
    }
    if let Some(name) = &arguments.choice.spare {
        return choose::run(
            &arguments.choice,
            name,
            &mut spares,
            (arguments.dry_run, arguments.yes),
        );
    }
    let found = match recover_without(&mut spares, &KNOWN_AWAY, crc) {
        Ok(found) => found,
        Err(refusal) => {
            choose::show(&mut spares)?;
            eprintln!("dmremap: cannot be repaired: {}", refusal::told(&refusal));
            return Ok(Outcome::Unusable);
        }
    };
    if found.is_clean() {
        text::print(|out| writeln!(out, "nothing to repair"))?;
        return Ok(Outcome::Well);
    }
    let version = found.header().version();
    let stale = found.copies().in_state(CopyState::Stale);
    text::print(|out| {
        writeln!(out, "version {version} is whole")?;
        for id in stale.iter() {
            writeln!(out, "{id} ({}) is to be written anew", spares.name(id.spare))?;
        }
        if stale.is_empty() {
            writeln!(out, "a commit that was not finished is to be superseded")?;
        }
        Ok(())
    })?;
    if arguments.dry_run {
        return Ok(Outcome::Damaged);
    }
    world::agree(arguments.yes)?;
    let history = u64::from_le_bytes(world::random()?);
    let meta = found.rebuild(&mut spares, world::now(), history);
    let meta = meta.map_err(|e| format!("not repaired: {e}"))?;
    let good = meta.copies().in_state(CopyState::Good);
    let bad: CopySet = meta.copies().present().without(good);
    text::print(|out| {
        writeln!(
            out,
            "{}: {} good copies of version {}",
            text::set(&meta),
            good.count(),
            meta.version()
        )?;
        bad.iter().try_for_each(|id| {
            writeln!(out, "{id} ({}) could not be written", spares.name(id.spare))
        })
    })?;
    Ok(if meta.persist() == Persist::Enabled { Outcome::Well } else { Outcome::Damaged })
}
