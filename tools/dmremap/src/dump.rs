//! `dump`: all that the metadata says, as JSON, for people, scripts, and the day when nothing else is left.

use crate::spares::{Access, Spares, Which};
use crate::{refusal, text, Failure, Outcome};
use dmremap::{crc, Dump};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::recover_without;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

/// Prints the state that would be taken.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut spares = Spares::open(&arguments.which, Access::Read)?;
    let found = match recover_without(&mut spares, &KNOWN_AWAY, crc) {
        Ok(found) => found,
        Err(refusal) => {
            eprintln!("dmremap: cannot be used: {}", refusal::told(&refusal));
            return Ok(Outcome::Unusable);
        }
    };
    text::print(|out| {
        Dump::write(out, found.header(), found.table())?;
        writeln!(out)
    })?;
    Ok(if found.is_clean() { Outcome::Well } else { Outcome::Damaged })
}
