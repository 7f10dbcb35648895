//! `status`: how the sets in use are, for people and for programs.

use crate::follow::{Interrupt, Wake};
use crate::live::Mapper;
use crate::shown::{sets, Shown};
use crate::{text, Failure, Outcome};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, Table};
use dmremap::draw::{bar, has_unicode, percent};
use dmremap::state::{Ended, Running};
use nix::poll::{poll, PollFd, PollFlags, PollTimeout};
use serde_json::json;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::time::Duration;

#[derive(clap::Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Show it again every so many seconds, and when something happens, until Ctrl-C
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u32).range(1..))]
    watch: Option<u32>,
    /// The mapped device, or the set's name or UUID; all sets in use without
    name: Option<String>,
}

/// The columns of a bar.
const BAR: usize = 20;

/// Shows them.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let Some(seconds) = arguments.watch else { return show(&mapper, arguments) };
    let interrupt = Interrupt::catch()?;
    loop {
        // What happens from here on ends the wait.
        mapper.arm()?;
        if io::stdout().is_terminal() && !arguments.json {
            // From the top left corner of an empty screen (ECMA-48).
            text::print(|out| write!(out, "\x1b[H\x1b[2J"))?;
        }
        let outcome = show(&mapper, arguments)?;
        if reader_is_gone() {
            return Ok(outcome);
        }
        match interrupt.wait(&mapper, Duration::from_secs(seconds.into()))? {
            Wake::Interrupt => return Ok(outcome),
            // Many events at once are one picture.
            Wake::Event => std::thread::sleep(Duration::from_millis(200)),
            Wake::Time => {}
        }
    }
}

/// Whether nobody reads any more what is printed.
fn reader_is_gone() -> bool {
    let stdout = io::stdout();
    let mut fd = [PollFd::new(stdout.as_fd(), PollFlags::empty())];
    matches!(poll(&mut fd, PollTimeout::ZERO), Ok(n) if n > 0)
}

fn show(mapper: &Mapper, arguments: &Arguments) -> Result<Outcome, Failure> {
    let sets = sets(mapper, arguments.name.as_deref())?;
    if arguments.json {
        text::json(&json!({ "sets": sets }))?;
    } else if sets.is_empty() {
        text::print(|out| writeln!(out, "no set is in use"))?;
    } else {
        let unicode = has_unicode();
        text::print(|out| {
            for (i, set) in sets.iter().enumerate() {
                if i > 0 {
                    writeln!(out)?;
                }
                write_set(out, set, unicode)?;
            }
            Ok(())
        })?;
    }
    Ok(worst(&sets))
}

/// What they come to, for the exit status.
fn worst(sets: &[Shown]) -> Outcome {
    let any = |word: &str| sets.iter().any(|set| set.word() == word);
    match () {
        () if any("failed") => Outcome::Unusable,
        () if any("degraded") => Outcome::Missing,
        () if any("ailing") || any("suspended") => Outcome::Damaged,
        () => Outcome::Well,
    }
}

fn write_set(out: &mut dyn Write, set: &Shown, unicode: bool) -> io::Result<()> {
    let state = &set.state;
    let named = match state.word("name") {
        "" => String::new(),
        name => format!(" ({name})"),
    };
    writeln!(out, "{}: {}, set {}{named}", set.mapped, set.word(), state.word("set"))?;
    for trouble in set.troubles() {
        writeln!(out, "  ! {trouble}")?;
    }
    let mut table = Table::new();
    table.load_preset(NOTHING);
    let open = match set.open {
        0 => "not open".into(),
        n => format!("open {n} times"),
    };
    let read_only = if set.read_only { ", read-only" } else { "" };
    table.add_row([
        "  device".into(),
        format!("{}, {}, {open}{read_only}", set.path, text::sectors(set.sectors)),
    ]);
    table.add_row(["  metadata".into(), metadata(set)]);
    table.add_row(["  blocks".into(), blocks(set)]);
    table.add_row(["  by itself".into(), by_itself(state.word("auto"))]);
    table.add_row(["  scan".into(), scan(set)]);
    table.add_row(["  forecast".into(), forecast(set)]);
    for running in &state.running {
        table.add_row(["  running".into(), run_text(running, unicode)]);
    }
    for ended in &state.ended {
        table.add_row(["  ended".into(), ended_text(ended)]);
    }
    if let Some(error) = &state.last_error {
        table.add_row(["  refused", error]);
    }
    writeln!(out, "{}\n", table.trim_fmt())?;
    writeln!(out, "{}", devices(set, unicode).trim_fmt())
}

fn devices(set: &Shown, unicode: bool) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING);
    table.set_header(["  DEVICE", "ROLE", "MODEL", "SERIAL", "SIZE", "HEALTH", "FILL", ""]);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    let size = |sectors: Option<u64>| sectors.map_or_else(|| "-".into(), text::size);
    let main = &set.main;
    table.add_row([
        format!("  {}", main.path),
        "main".into(),
        or_dash(&main.model),
        or_dash(&main.serial),
        size(main.sectors),
        set.state.number("main_health").to_string(),
        String::new(),
        String::new(),
    ]);
    for spare in &set.spares {
        let label = spare.device.clone().unwrap_or_default();
        let (fill, counts) = match (spare.used, spare.room) {
            (Some(used), Some(room)) => (
                bar(used, room, BAR, unicode),
                format!("{} of {}", percent(used, room), text::size(room)),
            ),
            _ => ("-".into(), String::new()),
        };
        let path = if label.path.is_empty() { "(not there)".into() } else { label.path.clone() };
        table.add_row([
            format!("  {path}"),
            format!("spare {}{}", spare.number, if spare.away { ", away" } else { "" }),
            or_dash(&label.model),
            or_dash(&label.serial),
            size(label.sectors),
            spare.health.map_or_else(|| "-".into(), |score| score.to_string()),
            fill,
            counts,
        ]);
    }
    if let Some(column) = table.column_mut(5) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn metadata(set: &Shown) -> String {
    let state = &set.state;
    format!(
        "{}, {} of {} copies good, version {}, written {}",
        state.word("persist"),
        state.number("good_copies"),
        state.number("copies"),
        state.number("version"),
        text::time(state.number("last_save"))
    )
}

fn blocks(set: &Shown) -> String {
    let count = |name| set.state.number(name);
    format!(
        "{} sectors remapped ({} suspect), {} pending ({} lost), {} retired; {} extents, room for {} more",
        count("remapped"),
        count("suspect"),
        count("pending"),
        count("lost"),
        count("retired"),
        count("extents"),
        count("extents_left")
    )
}

fn by_itself(auto: &str) -> String {
    match auto {
        "on" => "blocks that fail are moved",
        "off" => "nothing is moved (auto_remap is 0)",
        "halted" => "nothing is moved at the moment",
        "maintenance" => "nothing is changed (maintenance_mode is 1)",
        other => other,
    }
    .into()
}

fn scan(set: &Shown) -> String {
    let (state, scan) = (&set.state, &set.state.scanning);
    let found = format!("{} sectors unreadable, {} slow", scan.unreadable, scan.slow);
    match (state.word("scan_state"), &scan.device, scan.sector) {
        ("idle", ..) if scan.ended == 0 => "there was none".into(),
        ("idle", ..) => format!("ended {}; found {found}", text::time(scan.ended)),
        (word, Some(device), Some(sector)) => {
            format!("{word}, {}, at {device} sector {sector}; found {found}", state.word("scan"))
        }
        (word, ..) => format!("{word}, {}; found {found}", state.word("scan")),
    }
}

fn forecast(set: &Shown) -> String {
    match set.state.values.get("full_in").and_then(serde_json::Value::as_u64) {
        Some(0) => "the spares are full within a day at the present pace".into(),
        Some(days) => format!("the spares are full in {days} days at the present pace"),
        None => "the spares do not fill up".into(),
    }
}

/// What runs, and how far it is.
pub fn run_text(running: &Running, unicode: bool) -> String {
    let range = running.range.map_or_else(String::new, |(start, len)| format!(" {start}+{len}"));
    let done = running.done.map_or_else(String::new, |(done, all)| {
        let bar = bar(done, all, BAR, unicode);
        format!("  {bar} {}, {done} of {all} sectors", percent(done, all))
    });
    format!("{}{range}{done}", running.what)
}

/// How something has ended.
pub fn ended_text(ended: &Ended) -> String {
    let range = ended.range.map_or_else(String::new, |(start, len)| format!(" {start}+{len}"));
    let counts = match (ended.moved, ended.unreadable) {
        (Some(moved), Some(0)) => format!(", {moved} sectors moved"),
        (Some(moved), Some(unreadable)) => {
            format!(", {moved} sectors moved, {unreadable} could not be read")
        }
        _ => String::new(),
    };
    let result = if ended.is_ok() { "well" } else { &ended.result };
    format!("{}{range}: {result}{counts}", ended.what)
}
