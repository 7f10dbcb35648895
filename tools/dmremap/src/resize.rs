//! `resize`: main has grown, and a set in use takes what it has now.

use crate::live::{Live, Mapper};
use crate::machine::{line, number, Node};
use crate::{config, text, world, Failure, Outcome};
use remap_pure::format::SetUuid;
use remap_pure::line::Line;
use remap_pure::units::SECTOR_SIZE;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// How many sectors the set is to have. Default: all that main has
    #[arg(long)]
    sectors: Option<u64>,
    /// The mapped device, a path of it, or the set's name or UUID
    set: String,
}

/// Resizes. I/O waits meanwhile, and is not lost.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.set)?;
    if live.read_only {
        return Err(format!(
            "{} is assembled for reading only; assemble it for writing",
            live.name
        ));
    }
    let words: Vec<&str> = live.line.split_whitespace().collect();
    let parsed = Line::parse(&words).map_err(|e| format!("{}: {e}", live.name))?;
    let room = room(&live, &parsed)?;
    let sectors = arguments.sectors.unwrap_or(room);
    if sectors > room {
        return Err(format!("main has {room} sectors for the set; let main grow first"));
    }
    if sectors < live.sectors {
        return Err(format!(
            "the set has {} sectors, and is not made smaller: what lives behind {sectors} would be lost",
            live.sectors
        ));
    }
    if sectors == live.sectors {
        text::print(|out| {
            writeln!(out, "{} has all of main already: {}", live.name, text::sectors(sectors))
        })?;
        return Ok(Outcome::Well);
    }
    text::print(|out| {
        writeln!(
            out,
            "{} has {} and is to have {}",
            live.name,
            text::sectors(live.sectors),
            text::sectors(sectors)
        )
    })?;
    let grown = with_option(&live.line, parsed.part.is_some(), "grow")?;
    if arguments.dry_run {
        text::print(|out| writeln!(out, "table      0 {sectors} remap {grown}"))?;
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    world::exchange(&mapper, &live, sectors, &grown)?;
    text::print(|out| {
        writeln!(
            out,
            "{} has {} now; let what is on it grow too",
            live.name,
            text::sectors(sectors)
        )
    })?;
    let set = live.uuid.strip_prefix("REMAP-").and_then(SetUuid::parse);
    let node = number(parsed.main).and_then(Node::of);
    if let Some(said) = set.zip(node).and_then(|(set, node)| config::renew(set, &node.path)) {
        eprintln!("dmremap: {said}");
    }
    Ok(Outcome::Well)
}

/// The sectors that main has for the set.
fn room(live: &Live, parsed: &Line<'_>) -> Result<u64, Failure> {
    let node = number(parsed.main).and_then(Node::of);
    let node = node.ok_or_else(|| format!("{}: main {} is gone", live.name, parsed.main))?;
    let has = line(&node.folder().join("size")).and_then(|text| text.parse::<u64>().ok());
    let has = has.ok_or_else(|| format!("{}: cannot tell its size", node.path))?;
    let own = live.sysfs().join("queue/logical_block_size");
    let block = line(&own).and_then(|text| text.parse::<u64>().ok()).unwrap_or(4096);
    let block = (block / SECTOR_SIZE as u64).max(1);
    Ok(has.saturating_sub(parsed.main_start) / block * block)
}

/// A table line with one more option.
fn with_option(line: &str, part: bool, option: &str) -> Result<String, Failure> {
    let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
    // Main, the spare, and the part of it.
    let count = if part { 4 } else { 2 };
    match words.get(count) {
        None => words.push("1".into()),
        Some(options) => {
            let options: usize =
                options.parse().map_err(|_| format!("cannot read the table line '{line}'"))?;
            words[count] = (options + 1).to_string();
        }
    }
    words.push(option.into());
    Ok(words.join(" "))
}
