//! `dmremap`: looks at the sets on spare devices and on images of them, checks and repairs them.
//!
//! A verb has a file of its own; [`spares`] opens what it works on. What is right and wrong about a set is for the pure code,
//! which the kernel module has too.

#![forbid(unsafe_code)]

mod assemble;
mod check;
mod choose;
mod create;
mod dissolve;
mod dump;
mod identify;
mod inspect;
mod live;
mod machine;
mod matching;
mod rename;
mod repair;
mod resize;
mod restore;
mod safety;
mod scan;
mod sets;
mod spares;
mod stop;
mod text;
mod upgrade;
mod wipe;
mod world;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Looks at the sets of dm-remap on spare devices and on images of them, checks and repairs them.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all is well; 1 it could not be done; 3 damaged, but can be used; 4 cannot be used; 5 members are missing."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Makes a new set of a main device and blank spares, and puts it to use.
    Create(create::Arguments),
    /// Finds every set on this machine, complete or not. Only reads.
    Scan(scan::Arguments),
    /// Puts a set to use, or all that are complete.
    Assemble(assemble::Arguments),
    /// Lets a set go.
    Stop(stop::Arguments),
    /// Gives a set in use another name.
    Rename(rename::Arguments),
    /// Takes in that main has grown.
    Resize(resize::Arguments),
    /// Brings everything back to main, lets the set go, and blanks its spares.
    Dissolve(dissolve::Arguments),
    /// Takes dm-remap's metadata off a spare.
    Wipe(wipe::Arguments),
    /// Shows the set on these spares, and every copy of its metadata. Only reads.
    Inspect(inspect::Arguments),
    /// Looks for damage and names it, by spare, copy, structure and block. Only reads.
    Check(check::Arguments),
    /// Prints all that the metadata says, as JSON. Only reads.
    Dump(dump::Arguments),
    /// Tells a set in use the serial numbers of its devices and their paths, which it keeps.
    Identify(identify::Arguments),
    /// Writes damaged copies of the metadata anew from those that are whole.
    Repair(repair::Arguments),
    /// Makes a set on its spares what a dump says that it was.
    Restore(restore::Arguments),
    /// Makes a v4 set of a spare in the v3 format, its data moved out of the way.
    Upgrade(upgrade::Arguments),
}

/// How a verb has ended, if it could do what it was asked to; the worst last.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Outcome {
    /// All is well.
    Well,
    /// Something is damaged; the set can be used.
    Damaged,
    /// The set cannot be used as it is.
    Unusable,
    /// Members of the set are missing.
    Missing,
}

/// Why a verb could not do what it was asked to, for a person.
type Failure = String;

fn main() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // Nobody is left to tell when this fails.
            let _ = error.print();
            return ExitCode::from(u8::from(error.use_stderr()));
        }
    };
    let result = match arguments.verb {
        Verb::Create(arguments) => create::run(&arguments),
        Verb::Scan(arguments) => scan::run(&arguments),
        Verb::Assemble(arguments) => assemble::run(&arguments),
        Verb::Stop(arguments) => stop::run(&arguments),
        Verb::Rename(arguments) => rename::run(&arguments),
        Verb::Resize(arguments) => resize::run(&arguments),
        Verb::Dissolve(arguments) => dissolve::run(&arguments),
        Verb::Wipe(arguments) => wipe::run(&arguments),
        Verb::Inspect(arguments) => inspect::run(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Dump(arguments) => dump::run(&arguments),
        Verb::Identify(arguments) => identify::run(&arguments),
        Verb::Repair(arguments) => repair::run(&arguments),
        Verb::Restore(arguments) => restore::run(&arguments),
        Verb::Upgrade(arguments) => upgrade::run(&arguments),
    };
    match result {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged) => ExitCode::from(3),
        Ok(Outcome::Unusable) => ExitCode::from(4),
        Ok(Outcome::Missing) => ExitCode::from(5),
        Err(failure) => {
            eprintln!("dmremap: {failure}");
            ExitCode::FAILURE
        }
    }
}
