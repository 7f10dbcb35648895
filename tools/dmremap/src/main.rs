//! `dmremap`: looks at the sets on spare devices and on images of them, checks and repairs them.
//!
//! A verb has a file of its own; [`spares`] opens what it works on. What is right and wrong about a set is for the pure code,
//! which the kernel module has too.

#![forbid(unsafe_code)]

mod check;
mod choose;
mod config;
mod dump;
mod generate;
mod hides;
mod identify;
mod inspect;
mod repair;
mod restore;
mod spares;
mod text;
mod upgrade;
mod world;

use clap::{CommandFactory, Parser, Subcommand};
use std::process::ExitCode;

/// Looks at the sets of dm-remap on spare devices and on images of them, checks and repairs them.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 all is well; 1 it could not be done; 3 damaged, but can be used; 4 cannot be used."
)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows the set on these spares, and every copy of its metadata. Only reads.
    Inspect(inspect::Arguments),
    /// Looks for damage and names it, by spare, copy, structure and block. Only reads.
    Check(check::Arguments),
    /// Prints the lines of /etc/dmremap.conf for the sets whose devices are here. Only reads.
    Config(config::Arguments),
    /// Prints all that the metadata says, as JSON. Only reads.
    Dump(dump::Arguments),
    /// Prints the manual page, or what a shell completes arguments with.
    #[command(hide = true)]
    Generate(generate::Arguments),
    /// Says which set a device is main or a spare of, if it is; udev asks this. Only reads.
    Hides(hides::Arguments),
    /// Tells a set in use the serial numbers of its devices and their paths, which it keeps.
    Identify(identify::Arguments),
    /// Writes damaged copies of the metadata anew from those that are whole.
    Repair(repair::Arguments),
    /// Makes a set on its spares what a dump says that it was.
    Restore(restore::Arguments),
    /// Makes a v4 set of a spare in the v3 format, its data moved out of the way.
    Upgrade(upgrade::Arguments),
}

/// How a verb has ended, if it could do what it was asked to.
enum Outcome {
    /// All is well.
    Well,
    /// Something is damaged; the set can be used.
    Damaged,
    /// The set cannot be used as it is.
    Unusable,
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
        Verb::Inspect(arguments) => inspect::run(&arguments),
        Verb::Check(arguments) => check::run(&arguments),
        Verb::Config(arguments) => config::run(&arguments),
        Verb::Dump(arguments) => dump::run(&arguments),
        Verb::Generate(arguments) => generate::run(&arguments, Arguments::command()),
        Verb::Hides(arguments) => hides::run(&arguments),
        Verb::Identify(arguments) => identify::run(&arguments),
        Verb::Repair(arguments) => repair::run(&arguments),
        Verb::Restore(arguments) => restore::run(&arguments),
        Verb::Upgrade(arguments) => upgrade::run(&arguments),
    };
    match result {
        Ok(Outcome::Well) => ExitCode::SUCCESS,
        Ok(Outcome::Damaged) => ExitCode::from(3),
        Ok(Outcome::Unusable) => ExitCode::from(4),
        Err(failure) => {
            eprintln!("dmremap: {failure}");
            ExitCode::FAILURE
        }
    }
}
