//! `dmremap`: looks at the sets on spare devices and on images of them, checks and repairs them.
//!
//! A verb has a file of its own; [`spares`] opens what it works on. What is right and wrong about a set is for the pure code,
//! which the kernel module has too.

#![forbid(unsafe_code)]

mod assemble;
mod candidate;
mod check;
mod choose;
mod claims;
mod config;
mod create;
mod dissolve;
mod dump;
mod export;
mod files;
mod follow;
mod generate;
mod hides;
mod identify;
mod import;
mod inspect;
mod list;
mod live;
mod machine;
mod map;
mod matching;
mod members;
mod monitor;
mod moves;
mod refusal;
mod rename;
mod repair;
mod replace_main;
mod resize;
mod restore;
mod returning;
mod safety;
mod scan;
mod scan_surface;
mod sets;
mod settings;
mod shown;
mod spares;
mod status;
mod stop;
mod text;
mod upgrade;
mod wipe;
mod world;

use clap::{CommandFactory, Parser, Subcommand};
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
    /// Prints the lines of /etc/dmremap.conf for the sets whose devices are here. Only reads.
    Config(config::Arguments),
    /// Prints all that the metadata says, as JSON. Only reads.
    Dump(dump::Arguments),
    /// Says which files lie on blocks of a set in use that cannot be read.
    Files(files::Arguments),
    /// Shows the settings of a set in use.
    Get(settings::Get),
    /// Prints the manual page, or what a shell completes arguments with.
    #[command(hide = true)]
    Generate(generate::Arguments),
    /// Says which set a device is main or a spare of, if it is; udev asks this. Only reads.
    Hides(hides::Arguments),
    /// Tells a set in use the serial numbers of its devices and their paths, which it keeps.
    Identify(identify::Arguments),
    /// Lists the sets in use, a line each.
    List(list::Arguments),
    /// Draws main's surface: where blocks are remapped, pending, lost. Only reads.
    Map(map::Arguments),
    /// Brings what lives on a spare of a set in use to another device, which takes its place.
    Migrate(members::Migrate),
    /// Moves a range of a set in use to its spares, while I/O goes on.
    Remap(moves::Arguments),
    /// Moves the blocks to a spare that badblocks, ddrescue, the kernel or the drive itself have found bad.
    Import(import::Arguments),
    /// Writes down what is pending, lost or remapped, for badblocks' or ddrescue's readers.
    Export(export::Arguments),
    /// Follows the sets in use, and tells what happens to them: the journal, a mailbox, a program, Prometheus.
    Monitor(monitor::Arguments),
    /// Writes damaged copies of the metadata anew from those that are whole.
    Repair(repair::Arguments),
    /// Has another device take main's place while the set is in use.
    ReplaceMain(replace_main::Arguments),
    /// Makes a set on its spares what a dump says that it was.
    Restore(restore::Arguments),
    /// Reads all of main and the spares of a set in use, to find what cannot be read before anybody needs it.
    ScanSurface(scan_surface::Arguments),
    /// Changes a setting of a set in use.
    Set(settings::Set),
    /// Adds, removes or replaces a spare of a set in use.
    Spare(members::Arguments),
    /// Shows how the sets in use are: their devices, what is remapped and pending, what runs.
    Status(status::Arguments),
    /// Takes back the last change of a setting; once more, and it is there again.
    Undo(settings::Undo),
    /// Moves a range of a set in use back to main, where that can hold it.
    Unremap(moves::Arguments),
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
        Verb::Config(arguments) => config::run(&arguments),
        Verb::Dump(arguments) => dump::run(&arguments),
        Verb::Files(arguments) => files::run(&arguments),
        Verb::Get(arguments) => settings::get(&arguments),
        Verb::Generate(arguments) => generate::run(&arguments, Arguments::command()),
        Verb::Hides(arguments) => hides::run(&arguments),
        Verb::Identify(arguments) => identify::run(&arguments),
        Verb::List(arguments) => list::run(&arguments),
        Verb::Map(arguments) => map::run(&arguments),
        Verb::Migrate(arguments) => members::migrate(&arguments),
        Verb::Remap(arguments) => moves::remap(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Export(arguments) => export::run(&arguments),
        Verb::Monitor(arguments) => monitor::run(&arguments),
        Verb::Repair(arguments) => repair::run(&arguments),
        Verb::ReplaceMain(arguments) => replace_main::run(&arguments),
        Verb::Restore(arguments) => restore::run(&arguments),
        Verb::ScanSurface(arguments) => scan_surface::run(&arguments),
        Verb::Set(arguments) => settings::set(&arguments),
        Verb::Spare(arguments) => members::spare(&arguments),
        Verb::Status(arguments) => status::run(&arguments),
        Verb::Undo(arguments) => settings::undo(&arguments),
        Verb::Unremap(arguments) => moves::unremap(&arguments),
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
