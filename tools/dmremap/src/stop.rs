//! `stop`: lets sets go, with everything durable.

use crate::live::{Live, Mapper};
use crate::machine::Node;
use crate::sets::find;
use crate::{safety, text, Failure, Outcome};

#[derive(clap::Args)]
pub struct Arguments {
    /// All sets in use
    #[arg(long, conflicts_with = "set")]
    all: bool,
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, a path of it, or the set's name or UUID
    #[arg(required_unless_present = "all")]
    set: Option<String>,
}

/// Stops.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    if let Some(word) = &arguments.set {
        let live = match mapper.find(word) {
            Ok(live) => live,
            // One that is not in use has nothing left to be done.
            Err(failure) => {
                let machine = find(Some(&mapper), &[])?;
                let set = machine.sets.iter().find(|set| set.is_called(word)).ok_or(failure)?;
                if let Some(live) = set.live() {
                    return stop(arguments, &mapper, live).map(|()| Outcome::Well);
                }
                text::print(|out| writeln!(out, "{} is not in use", set.title()))?;
                return Ok(Outcome::Well);
            }
        };
        stop(arguments, &mapper, &live)?;
        return Ok(Outcome::Well);
    }
    // A set may lie on another one, which can go only after it.
    let mut left = mapper.all()?;
    loop {
        let before = left.len();
        let mut failures = Vec::new();
        left.retain(|live| {
            stop(arguments, &mapper, live).map_err(|failure| failures.push(failure)).is_err()
        });
        if left.is_empty() {
            return Ok(Outcome::Well);
        }
        if left.len() == before {
            return Err(failures.join("\ndmremap: "));
        }
    }
}

/// Lets a set go, if nobody has it open.
///
/// # Errors
///
/// Who has it open, and how that is ended.
pub fn stop(arguments: &Arguments, mapper: &Mapper, live: &Live) -> Result<(), Failure> {
    free(live)?;
    if arguments.dry_run {
        return text::print(|out| writeln!(out, "{} would be stopped", live.name));
    }
    mapper.remove(live).map_err(|failure| match free(live) {
        // Somebody has opened it meanwhile.
        Err(users) => users,
        Ok(()) => failure,
    })?;
    text::print(|out| writeln!(out, "{} is stopped", live.name))
}

/// Makes sure that nobody has a set open.
///
/// # Errors
///
/// Who has, and how that is ended.
pub fn free(live: &Live) -> Result<(), Failure> {
    let users = Node::of(live.device).map(|node| safety::users(&node)).unwrap_or_default();
    let openers = safety::openers(live.device);
    if users.is_empty() && openers.is_empty() {
        return Ok(());
    }
    let mut failure = format!("{} is in use", live.path().display());
    for user in users {
        failure = format!("{failure}\n  {user}");
    }
    for (pid, name) in openers {
        failure = format!("{failure}\n  process {pid} ({name}) has it open");
    }
    Err(failure)
}
