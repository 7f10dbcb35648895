//! `scan-surface`: the module's scan of a set in use.

use crate::follow::{bar, Interrupt, Wake};
use crate::live::{Live, Mapper};
use crate::{text, Failure, Outcome};
use clap::ValueEnum;
use dmremap::state::State;
use serde_json::json;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Arguments {
    /// With status: print JSON
    #[arg(long)]
    json: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
    /// What to do; without, a scan is begun, or goes on, and is followed to its end
    order: Option<Order>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Order {
    /// Begins one in the background, or has a paused one go on
    Start,
    /// Ends it; the next begins anew
    Stop,
    /// Leaves it where it is
    Pause,
    /// Says how far it is and what it has found
    Status,
}

/// Does it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = &Mapper::open()?;
    let live = &mapper.find(&arguments.name)?;
    let order = match arguments.order {
        Some(Order::Status) => return show(&state(mapper, live)?, arguments.json),
        _ if arguments.json => return Err("--json is for 'scan-surface --json NAME status'".into()),
        Some(Order::Stop) => "stop",
        Some(Order::Pause) => "pause",
        Some(Order::Start) | None => "start",
    };
    let before = state(mapper, live)?;
    if arguments.dry_run {
        let word = before.word("scan_state");
        text::print(|out| {
            writeln!(out, "would send 'scan {order}' to {}, whose scan is {word}", live.name)
        })?;
        return Ok(Outcome::Well);
    }
    if arguments.order.is_some() {
        mapper.message(live, &format!("scan {order}"))?;
        return show(&state(mapper, live)?, false);
    }
    follow(mapper, live, &before)
}

fn state(mapper: &Mapper, live: &Live) -> Result<State, Failure> {
    Ok(State::parse(&mapper.message(live, "metadata_status")?))
}

/// How far it is, in percent.
fn percent(state: &State) -> u64 {
    state.word("scan").trim_end_matches('%').parse().unwrap_or(0)
}

fn show(state: &State, as_json: bool) -> Result<Outcome, Failure> {
    let scan = &state.scanning;
    if as_json {
        text::json(&json!({
            "state": state.word("scan_state"),
            "percent": percent(state),
            "scans": state.number("scans"),
            "scan": scan,
        }))?;
        return Ok(Outcome::Well);
    }
    text::print(|out| {
        write!(out, "{}", state.word("scan_state"))?;
        if state.word("scan_state") != "idle" {
            write!(out, ", {}", state.word("scan"))?;
            if let (Some(device), Some(sector)) = (&scan.device, scan.sector) {
                write!(out, ", at {device} sector {sector}")?;
            }
            write!(out, ", begun {}", text::time(scan.started))?;
        } else if scan.ended > 0 {
            write!(out, ", the last one ended {}", text::time(scan.ended))?;
        }
        writeln!(
            out,
            "\n{} sectors unreadable, {} read only with effort",
            scan.unreadable, scan.slow
        )
    })?;
    Ok(Outcome::Well)
}

/// Runs one and follows it.
fn follow(mapper: &Mapper, live: &Live, before: &State) -> Result<Outcome, Failure> {
    let interrupt = Interrupt::catch()?;
    let name = &live.name;
    mapper.message(live, "scan start")?;
    if before.word("scan_state") == "paused" {
        text::print(|out| writeln!(out, "{name}: the scan goes on at {}", before.word("scan")))?;
    }
    let bar = bar("scan");
    bar.set_style(
        indicatif::ProgressStyle::with_template("{msg} [{bar:30}] {percent}%, {eta} left")
            .map_err(|e| e.to_string())?,
    );
    bar.set_length(100);
    let now = loop {
        mapper.arm()?;
        let now = state(mapper, live)?;
        bar.set_position(percent(&now));
        if now.word("scan_state") != "running" {
            break now;
        }
        if interrupt.wait(mapper, Duration::from_millis(500))? == Wake::Interrupt {
            bar.abandon();
            return Err(format!(
                "{name}: the scan goes on in the background; 'dmremap scan-surface {name}' follows it again, with 'pause' or 'stop' it ends"
            ));
        }
    };
    bar.finish_and_clear();
    if now.number("scans") <= before.number("scans") {
        let word = now.word("scan_state");
        let why =
            if word == "paused" { "was paused, or main did not answer" } else { "was stopped" };
        return Err(format!("{name}: the scan {why}"));
    }
    show(&now, false)?;
    report(name, before, &now)?;
    let found =
        now.scanning.unreadable > 0 || now.number("pending") > 0 || now.number("suspect") > 0;
    Ok(if found { Outcome::Damaged } else { Outcome::Well })
}

/// What has changed meanwhile.
fn report(name: &str, before: &State, now: &State) -> Result<(), Failure> {
    let change = |what: &str| now.number(what) as i64 - before.number(what) as i64;
    text::print(|out| {
        let kinds = ["pending", "suspect", "remapped", "retired"]
            .map(|kind| (kind, now.number(kind), change(kind)));
        for (kind, all, change) in kinds.iter().filter(|(_, all, change)| *all > 0 || *change != 0)
        {
            writeln!(out, "{all} sectors {kind} ({change:+})")?;
        }
        if now.number("pending") + now.number("suspect") > 0 {
            writeln!(out, "'dmremap files {name}' says which files they belong to")?;
        }
        Ok(())
    })
}
