//! `stop`: lets sets go, with everything durable.

use crate::live::{Live, Mapper};
use crate::machine::Node;
use crate::safety::{self, Use};
use crate::sets::find;
use crate::{text, Failure, Outcome};
use std::thread::sleep;
use std::time::Duration;

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
        return text::print(|out| {
            partitions(live)
                .iter()
                .try_for_each(|part| writeln!(out, "{} would be removed", part.path))?;
            writeln!(out, "{} would be stopped", live.name)
        });
    }
    let_go(mapper, live)?;
    text::print(|out| writeln!(out, "{} is stopped", live.name))
}

/// How often it is tried while udev's rules make the partitions anew.
const TRIES: u32 = 20;

/// Removes the mapped device of a set that is free, and those of its partitions before.
///
/// # Errors
///
/// Who has it open by now; with what the kernel says of it.
pub fn let_go(mapper: &Mapper, live: &Live) -> Result<(), Failure> {
    let mut tries = 0;
    loop {
        for node in partitions(live) {
            let uuid = node.mapper_uuid().unwrap_or_default();
            if let Some(part) = mapper.part(&uuid)? {
                mapper.remove_part(&part)?;
            }
        }
        let Err(failure) = mapper.remove(live) else { return Ok(()) };
        tries += 1;
        // Somebody has opened it meanwhile.
        free(live)?;
        if partitions(live).is_empty() || tries == TRIES {
            return Err(failure);
        }
        sleep(Duration::from_millis(100));
    }
}

/// The mapped devices of the partitions on a set: kpartx and parted name them by the set.
fn partitions(live: &Live) -> Vec<Node> {
    let is_part = |node: &Node| {
        let uuid = node.mapper_uuid().unwrap_or_default();
        let number = uuid.strip_prefix("part").and_then(|rest| rest.split_once('-'));
        number.is_some_and(|(number, of)| number.parse::<u32>().is_ok() && of == live.uuid)
    };
    let holders = Node::of(live.device).map(|node| node.holders()).unwrap_or_default();
    holders.into_iter().filter(is_part).collect()
}

/// Makes sure that nobody has a set open, or a partition on it.
///
/// # Errors
///
/// Who has, and how that is ended.
pub fn free(live: &Live) -> Result<(), Failure> {
    let mut users = Node::of(live.device).map(|node| safety::users(&node)).unwrap_or_default();
    let mut openers = safety::openers(live.device);
    // The partitions themselves go with it.
    for part in partitions(live) {
        users.retain(|user| !matches!(&user.what, Use::PartOf(node) if *node == part));
        openers.extend(safety::openers(part.number));
    }
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
