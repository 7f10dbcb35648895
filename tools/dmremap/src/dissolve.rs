//! `dissolve`: everything back to main, the set let go, its spares blank again.

use crate::candidate::number_of;
use crate::live::{value, Live, Mapper};
use crate::machine::number;
use crate::matching::Member;
use crate::replace_main::is_on_copy;
use crate::sets::{find, Main, Missing, Set, State};
use crate::world::Signals;
use crate::{config, stop, text, wipe, world, Failure, Outcome};
use dmremap::devices::members;
use dmremap::state::State as Now;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use remap_pure::format::SetUuid;
use remap_pure::identity::Match;

use std::thread;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Arguments {
    /// Show what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Give up blocks that cannot be read any more: of those main gives an error, or has something older; on a main that took another's
    /// place, whatever was on that device before. Of a set that is not in use, give up a spare too that is not here
    #[arg(long)]
    lost: bool,
    /// The mapped device, a path of it, one of its spares, or the set's name or UUID
    set: String,
}

/// Dissolves. Cut short, it can be run again, and goes on from there.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = match mapper.find(&arguments.set) {
        Ok(live) => live,
        Err(failure) => {
            let machine = find(Some(&mapper), &[])?;
            let set = machine.sets.iter().find(|set| set.is_called(&arguments.set));
            let set = set.ok_or(failure)?;
            match set.live() {
                // It was named by one of its spares.
                Some(live) => live.clone(),
                None => return rest(arguments, set),
            }
        }
    };
    if live.read_only {
        return Err(format!(
            "{} is assembled for reading only; assemble it for writing",
            live.name
        ));
    }
    let status = mapper.message(&live, "metadata_status")?;
    whole_main(&live, &status)?;
    stop::free(&live)
        .map_err(|users| format!("{users}\nend that first: main takes the set's place"))?;
    let count =
        |status: &str, key| value(status, key).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let (remapped, pending) = (count(&status, "remapped"), count(&status, "pending"));
    let suspect = count(&status, "suspect");
    let unreadable = pending + suspect;
    text::print(|out| {
        writeln!(out, "{}: {} are to be brought back to main", live.name, text::sectors(remapped))?;
        writeln!(out, "then it is let go, and its spares are blank")
    })?;
    if unreadable > 0 && !arguments.lost {
        blocks(&mapper, &live)?;
        return Err(format!(
            "{} cannot be read; write them or restore them from a backup, or give them up with --lost",
            text::sectors(unreadable)
        ));
    }
    nobody_away(&live, &status)?;
    if arguments.dry_run {
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    if !bring_back(&mapper, &live, remapped)? {
        return Err(format!(
            "stopped; what was brought back stays, and 'dmremap dissolve {}' goes on",
            arguments.set
        ));
    }
    let status = mapper.message(&live, "metadata_status")?;
    whole_main(&live, &status)?;
    let left =
        count(&status, "remapped") - count(&status, "suspect").min(count(&status, "remapped"));
    let unreadable = count(&status, "pending") + count(&status, "suspect");
    if left > 0 || unreadable > 0 && !arguments.lost {
        blocks(&mapper, &live)?;
        return Err(format!(
            "{} could not be brought back, and the set stays as it is; replace main instead",
            text::sectors(left + unreadable)
        ));
    }
    // One that went meanwhile would keep its metadata, and the set would be there again with it.
    nobody_away(&live, &status)?;
    let spares = spares(&live, &status)?;
    let uuid = value(&status, "set").and_then(SetUuid::parse);
    let uuid =
        uuid.ok_or_else(|| format!("{}: the module does not say which set that is", live.name))?;
    // From here on nothing of the set is needed.
    world::undisturbed(|| {
        stop::let_go(&mapper, &live)?;
        wipe::blank(&live.name, uuid, &spares, arguments.lost)
    })?;
    ended(&live.name, uuid, live.line.split_whitespace().next().and_then(number))
}

/// Refuses a set that has a spare which is away.
fn nobody_away(live: &Live, status: &str) -> Result<(), Failure> {
    let name = &live.name;
    match Now::parse(status).members.iter().find(|member| member.away) {
        Some(away) => Err(format!(
            "{name}: a spare is away (spare {}, {}): what lives there cannot be brought back, and it cannot be wiped; connect it and take it back with 'dmremap spare add {name} DEVICE', or let it go with 'dmremap spare remove {name} {}'",
            away.number, away.uuid, away.number
        )),
        None => Ok(()),
    }
}

/// Tells that the set `title` is no more, and has nobody hide its main.
fn ended(title: &str, set: SetUuid, main: Option<(u32, u32)>) -> Result<Outcome, Failure> {
    text::print(|out| writeln!(out, "{title} is dissolved; main can be used by itself"))?;
    let forgotten = config::forget(set, None);
    text::print(|out| forgotten.iter().try_for_each(|what| writeln!(out, "{what}")))?;
    if let Some(main) = main {
        config::look_again(main);
    }
    Ok(Outcome::Well)
}

/// Refuses a set whose main is being replaced: what it is on goes with the replacement, and neither main has all of it.
fn whole_main(live: &Live, status: &str) -> Result<(), Failure> {
    match is_on_copy(status) {
        true => Err(format!(
            "{}: its main is being replaced, and neither the old one nor the new one has all of it; 'dmremap replace-main --continue {}' first",
            live.name, live.name
        )),
        false => Ok(()),
    }
}

/// A set that was let go before its spares were wiped.
fn rest(arguments: &Arguments, set: &Set) -> Result<Outcome, Failure> {
    let State::Whole(state) = &set.state else {
        return Err(format!("{} is not in use and cannot be; see 'dmremap scan'", set.title()));
    };
    if set.is_replacing() {
        return Err(format!("{}: {}", set.title(), set.replaced()));
    }
    let totals = state.table().totals();
    if totals.remapped.0 > 0 || totals.pending.0 > 0 {
        return Err(format!("{} is not in use; assemble it first", set.title()));
    }
    // One that was wiped when this was cut short is still there, and is blank.
    let is_wiped =
        |(path, by): &(String, Match)| by.kind.percent() >= set.least() && wipe::is_blank(path);
    let is_gone = |missing: &&Missing| {
        missing.member != Member::Main && !missing.looks_like.as_ref().is_some_and(is_wiped)
    };
    if let Some(missing) = set.missing.iter().find(is_gone).filter(|_| !arguments.lost) {
        let (member, uuid) = (missing.member, missing.uuid.unwrap_or_default());
        return Err(format!(
            "{}: {member} ({uuid}) is not here, and may have what nobody else knows of; connect it, or give up what lives there with --lost",
            set.title()
        ));
    }
    text::print(|out| writeln!(out, "{} holds nothing; its spares are wiped", set.title()))?;
    if arguments.dry_run {
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    let spares: Vec<String> = set.holders.iter().map(|holder| holder.name.clone()).collect();
    wipe::blank(&set.title(), set.uuid, &spares, arguments.lost)?;
    let main = match &set.main {
        Main::Is(main, _) | Main::MayBe(main, ..) => number_of(main).ok(),
        Main::Nobody(_) => None,
    };
    ended(&set.title(), set.uuid, main)
}

/// The spares of a set, each with the part of it that is used.
fn spares(live: &Live, status: &str) -> Result<Vec<String>, Failure> {
    // Main comes first.
    let devices = members(&live.line, status).map_err(|e| format!("{}: {e}", live.name))?;
    let mut spares = Vec::new();
    for member in devices.iter().skip(1) {
        let (major, minor) = member.device;
        let node = crate::machine::Node::of(member.device);
        let node = node.ok_or_else(|| format!("the spare {major}:{minor} is gone"))?;
        let words = status.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let part = words.into_iter().find_map(|words| match words[..] {
            ["spare", number, _, part, ..] if number == member.word => Some(part.to_owned()),
            _ => None,
        });
        spares.push(match part {
            Some(part) => format!("{}@{part}", node.path),
            None => node.path,
        });
    }
    Ok(spares)
}

/// Brings everything back; whether it came to its end. Ctrl-C stops it between two parts.
fn bring_back(mapper: &Mapper, live: &Live, all: u64) -> Result<bool, Failure> {
    let signals = Signals::caught()?;
    if let Err(failure) = mapper.message(live, "clear") {
        let status = mapper.message(live, "metadata_status")?;
        if let Some(what) = value(&status, "running").filter(|what| !what.starts_with("unremap ")) {
            return Err(format!(
                "{failure}\n'{what}' is running; wait for its end, or end it with 'dmsetup message {} 0 stop'",
                live.name
            ));
        }
        // What stays is told block by block.
        text::print(|out| writeln!(out, "{failure}"))?;
    }
    let bar = ProgressBar::with_draw_target(Some(all), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {percent}% {eta}") {
        bar.set_style(style);
    }
    let mut stopped = false;
    loop {
        let status = mapper.message(live, "metadata_status")?;
        let left = value(&status, "remapped").and_then(|n| n.parse().ok()).unwrap_or(all);
        bar.set_position(all.saturating_sub(left));
        if !status.lines().any(|line| line.starts_with("running unremap ")) {
            bar.finish_and_clear();
            return Ok(!stopped);
        }
        if signals.came() && !stopped {
            stopped = true;
            mapper.message(live, "stop")?;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

/// Says of every block that is not on main why that is.
fn blocks(mapper: &Mapper, live: &Live) -> Result<(), Failure> {
    let mut from = Some(0u64);
    while let Some(sector) = from.take() {
        let table = mapper.message(live, &format!("table {sector}"))?;
        for line in table.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["more", sector] => from = sector.parse().ok(),
                [start, len, "pending"] => text::print(|out| {
                    writeln!(out, "  {start}+{len}: cannot be read on main, and lives nowhere else")
                })?,
                [start, len, "lost"] => text::print(|out| {
                    writeln!(out, "  {start}+{len}: lost; what was written there last can be read nowhere, and main has something older, or never had it")
                })?,
                [start, len, "suspect", spare, _] => text::print(|out| {
                    writeln!(
                        out,
                        "  {start}+{len}: cannot be read on spare {spare}, where it lives"
                    )
                })?,
                [start, len, "remapped", spare, _] => {
                    let says = mapper.message(live, &format!("verify {start}"))?;
                    let says = says.trim().to_owned();
                    text::print(|out| {
                        writeln!(out, "  {start}+{len}: lives on spare {spare} ({says})")
                    })?;
                }
                _ => {}
            }
        }
    }
    Ok(())
}
