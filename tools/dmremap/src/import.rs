//! `import`: remaps what other programs have found bad.

use crate::live::{Live, Mapper};
use crate::{text, world, Failure, Outcome};
use dmremap::devices::Known;
use dmremap::lists::entries::{self, Entry, State};
use dmremap::lists::{detect, read, Frame, Kind, Options, Position};
use dmremap::watch::state;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// Sectors that one message moves, and waits for.
const AT_ONCE: u64 = 2048;

/// Runs and lines that are shown one by one.
const SHOWN: usize = 20;

/// Sectors of a byte count.
const SECTOR: u64 = 512;

#[derive(clap::Args)]
pub struct Arguments {
    /// What kind of list it is, if that cannot be told by looking at it
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Bytes of the blocks that the list counts in: what badblocks was given with -b (1024 if nothing), or where a drive's or a
    /// kernel's list does not say it
    #[arg(short, long, value_name = "BYTES", value_parser = block_size)]
    block_size: Option<u64>,
    /// The device that the list is of, if it is not main: the disk that main is a partition of, a partition on main, or the set itself
    #[arg(long, value_name = "DEVICE")]
    of: Option<PathBuf>,
    /// The byte of that device at which the list's zero is
    #[arg(long, value_name = "BYTES", default_value = "0")]
    offset: u64,
    /// The states of a ddrescue map that are taken: '-' bad, '*' failed and not trimmed, '/' failed and not scraped, '?' not tried
    #[arg(long, value_name = "STATES", default_value = "-*/", allow_hyphen_values = true)]
    states: String,
    /// Take a list of smartctl although its serial number is not that of main
    #[arg(long)]
    ignore_serial: bool,
    /// Show what would be remapped, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// What is on the list, and what has come of it, as JSON
    #[arg(long)]
    json: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// The set: its mapped device, its name or its UUID
    set: String,
    /// The list; '-' is standard input
    file: PathBuf,
}

/// A kind of list, as the command line has it.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Numbers of blocks, as badblocks prints them
    Badblocks,
    /// A map file of GNU ddrescue
    Ddrescue,
    /// The kernel's log, as dmesg or journalctl print it
    KernelLog,
    /// What `smartctl -x` prints, as text or JSON
    Smartctl,
}

impl From<Format> for Kind {
    fn from(format: Format) -> Self {
        match format {
            Format::Badblocks => Self::Badblocks,
            Format::Ddrescue => Self::Ddrescue,
            Format::KernelLog => Self::KernelLog,
            Format::Smartctl => Self::Smartctl,
        }
    }
}

/// The size of a block.
///
/// # Errors
///
/// No device has such.
pub fn block_size(word: &str) -> Result<u64, String> {
    let size = word.parse::<u64>().ok().filter(|size| size % 512 == 0 && *size <= 1 << 30);
    size.filter(|size| *size > 0).ok_or_else(|| "a multiple of 512 is needed".into())
}

/// What is on the list, and what has come of it. Sectors are those of the set.
#[derive(Serialize)]
struct Report<'a> {
    file: String,
    /// What kind of list it is.
    kind: &'static str,
    set: &'a str,
    /// What the list says of itself.
    notes: &'a [String],
    /// Lines and places that were left out.
    left_out: Vec<&'a str>,
    /// Sectors of the set that are named.
    named: u64,
    /// How many of them are remapped or lost already.
    known: u64,
    /// What is to be remapped.
    ranges: Vec<Run>,
    /// Sectors that the spares have room for.
    free: u64,
    /// What has come of it; nothing of a dry run.
    moved: Option<Moved>,
}

#[derive(Serialize)]
struct Run {
    start: u64,
    sectors: u64,
}

/// Sectors, counted when all has been tried.
#[derive(Serialize)]
struct Moved {
    remapped: u64,
    pending: u64,
}

impl Report<'_> {
    fn show(&self, out: &mut dyn Write) -> io::Result<()> {
        writeln!(out, "{}: {}", self.file, self.kind)?;
        self.notes.iter().try_for_each(|note| writeln!(out, "  {note}"))?;
        self.left_out
            .iter()
            .take(SHOWN)
            .try_for_each(|line| writeln!(out, "  left out: {line}"))?;
        if self.left_out.len() > SHOWN {
            writeln!(out, "  left out: {} more", self.left_out.len() - SHOWN)?;
        }
        let (named, known) = (self.named, self.known);
        writeln!(
            out,
            "{named} sectors of {} are named, {known} of them remapped or lost already",
            self.set
        )?;
        for Run { start, sectors } in self.ranges.iter().take(SHOWN) {
            writeln!(out, "  remap {start} {sectors}")?;
        }
        if self.ranges.len() > SHOWN {
            writeln!(out, "  and {} more ranges", self.ranges.len() - SHOWN)?;
        }
        if named - known > self.free {
            writeln!(
                out,
                "  the spares have room for {} sectors; what does not fit stays where it is",
                self.free
            )?;
        }
        Ok(())
    }
}

/// Where a device lies on its disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    disk: (u32, u32),
    start: u64,
    /// Sectors of it.
    pub sectors: u64,
}

impl Part {
    /// Of a folder in sysfs.
    fn at(path: &Path) -> Option<Self> {
        let path = fs::canonicalize(path).ok()?;
        let text = |path: &Path| fs::read_to_string(path).ok().map(|text| text.trim().to_owned());
        let number = |file: &str| text(&path.join(file))?.parse::<u64>().ok();
        let is_partition = path.join("partition").exists();
        let disk = if is_partition { path.parent()? } else { &path };
        let numbers = text(&disk.join("dev"))?;
        let (major, minor) = numbers.split_once(':')?;
        Some(Self {
            disk: (major.parse().ok()?, minor.parse().ok()?),
            start: if is_partition { number("start")? } else { 0 },
            sectors: number("size")?,
        })
    }
}

/// Where main of a set is.
pub struct Main {
    numbers: (u32, u32),
    /// Itself.
    pub part: Part,
    /// Its first sector that the set uses.
    pub start: u64,
    logical: u64,
    physical: u64,
}

impl Main {
    /// Of a set in use.
    ///
    /// # Errors
    ///
    /// It cannot be found.
    pub fn of(live: &Live) -> Result<Self, Failure> {
        let failed = || format!("{}: its main cannot be found", live.name);
        let words: Vec<&str> = live.line.split_whitespace().collect();
        let (major, minor) =
            words.first().and_then(|word| word.split_once(':')).ok_or_else(failed)?;
        let path = Path::new("/sys/dev/block").join(format!("{major}:{minor}"));
        let size = |which: &str| {
            let read = ["queue", "../queue"].iter().find_map(|queue| {
                fs::read_to_string(path.join(queue).join(format!("{which}_block_size"))).ok()
            });
            read.and_then(|text| text.trim().parse().ok()).ok_or_else(failed)
        };
        let start = words.windows(2).find(|pair| pair[0] == "main_start");
        Ok(Self {
            numbers: (major.parse().map_err(|_| failed())?, minor.parse().map_err(|_| failed())?),
            part: Part::at(&path).ok_or_else(failed)?,
            start: start.map_or(Ok(0), |pair| pair[1].parse()).map_err(|_| failed())?,
            logical: size("logical")?,
            physical: size("physical")?,
        })
    }

    /// Where a device is from the set's first sector, if it is main, on it, or what main is on.
    fn position(&self, live: &Live, part: Part) -> Option<Position> {
        let bytes = part.sectors * SECTOR;
        if part.disk == live.device {
            // A partition of the set, or the set.
            return Some(Position { offset: i128::from(part.start * SECTOR), bytes });
        }
        let sectors = i128::from(part.start) - i128::from(self.part.start) - i128::from(self.start);
        let position = Position { offset: sectors * i128::from(SECTOR), bytes };
        (part.disk == self.part.disk).then_some(position)
    }
}

/// Moves what a list names.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let file = &arguments.file;
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", file.display());
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.set)?;
    let main = Main::of(&live)?;
    let of = match &arguments.of {
        Some(path) => device(path)?,
        None => main.part,
    };
    let whole = main.position(&live, of).ok_or_else(|| {
        "--of: that is neither main, nor on it, nor what main is on; 'dmremap list' shows what main is".to_string()
    })?;

    let text = String::from_utf8_lossy(&input(file).map_err(|e| failed(&e))?).into_owned();
    let kind = match arguments.format {
        Some(format) => format.into(),
        None => detect(&text).map_err(|e| failed(&e))?,
    };
    let options = Options { block: arguments.block_size, states: &arguments.states };
    let found = read(kind, &text, &options).map_err(|e| failed(&e))?;
    check_serial(arguments, &main, found.serial.as_deref())?;
    let frame = Frame { sectors: live.sectors, logical: main.logical, physical: main.physical };
    let plan = frame.place(&found, |name| match name {
        Some(name) => {
            // The kernel's log has them as sysfs does, but for what is in folders of /dev.
            let part = Part::at(&Path::new("/sys/class/block").join(name.replace('/', "!")))?;
            main.position(&live, part)
        }
        None => {
            let shift = i128::from(arguments.offset);
            let bytes = whole.bytes.saturating_sub(arguments.offset);
            Some(Position { offset: whole.offset + shift, bytes })
        }
    })?;

    let known: Vec<Entry> = (table(&mapper, &live)?.into_iter())
        .filter(|entry| entry.state != State::Pending)
        .collect();
    let runs = entries::without(&plan.runs, &known);
    let sectors = |runs: &[(u64, u64)]| runs.iter().map(|(_, len)| len).sum::<u64>();
    let (named, wanted) = (sectors(&plan.runs), sectors(&runs));
    let before = state::State::parse(&mapper.message(&live, "metadata_status")?);
    let number = |key| before.number(key).unwrap_or(0);
    let mut report = Report {
        file: file.display().to_string(),
        kind: describe(kind),
        set: &live.name,
        notes: &found.notes,
        left_out: found.skipped.iter().chain(&plan.outside).map(String::as_str).collect(),
        named,
        known: named - wanted,
        ranges: runs.iter().map(|&(start, sectors)| Run { start, sectors }).collect(),
        free: number("room").saturating_sub(number("used")),
        moved: None,
    };
    let json = |report: &Report<'_>| {
        text::print(|out| writeln!(out, "{}", serde_json::to_string_pretty(report)?))
    };
    if !arguments.json {
        text::print(|out| report.show(out))?;
    }
    if runs.is_empty() || arguments.dry_run {
        if arguments.json {
            json(&report)?;
        }
        return Ok(Outcome::Well);
    }
    world::agree(arguments.yes)?;
    let done = remap(&mapper, &live, &runs, wanted);
    let after = state::State::parse(&mapper.message(&live, "metadata_status")?);
    let more = |key| after.number(key).unwrap_or(0).saturating_sub(before.number(key).unwrap_or(0));
    let moved = Moved { remapped: more("remapped"), pending: more("pending") };
    if arguments.json {
        report.moved = Some(moved);
        json(&report)?;
    } else {
        text::print(|out| {
            writeln!(
                out,
                "{} sectors have moved to the spares, {} more are pending: they cannot be read, and move when they are written",
                moved.remapped, moved.pending
            )
        })?;
    }
    done.map(|()| Outcome::Well)
}

/// Remaps range by range. Cut short, what has moved stays moved, and the same can be asked for again.
fn remap(mapper: &Mapper, live: &Live, runs: &[(u64, u64)], all: u64) -> Result<(), Failure> {
    let bar = ProgressBar::new(all);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} sectors, {eta} left") {
        bar.set_style(style);
    }
    for &(start, len) in runs {
        for at in (start..start + len).step_by(AT_ONCE as usize) {
            let some = AT_ONCE.min(start + len - at);
            mapper.message(live, &format!("remap {at} {some}")).inspect_err(|_| bar.abandon())?;
            bar.inc(some);
        }
    }
    bar.finish_and_clear();
    Ok(())
}

/// The whole table of a set in use.
///
/// # Errors
///
/// With what the kernel says of it.
pub fn table(mapper: &Mapper, live: &Live) -> Result<Vec<Entry>, Failure> {
    let (mut all, mut from) = (Vec::new(), Some(0));
    while let Some(sector) = from {
        let answer = mapper.message(live, &format!("table {sector}"))?;
        let (some, more) = entries::parse(&answer)?;
        all.extend(some);
        from = more.filter(|more| *more > sector);
    }
    Ok(all)
}

fn input(file: &Path) -> std::io::Result<Vec<u8>> {
    if file != Path::new("-") {
        return fs::read(file);
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn device(path: &Path) -> Result<Part, Failure> {
    use std::os::unix::fs::MetadataExt;
    let failed = |e: &dyn std::fmt::Display| format!("{}: {e}", path.display());
    let number = fs::metadata(path).map_err(|e| failed(&e))?.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let part = Part::at(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")));
    part.ok_or_else(|| failed(&"is no block device"))
}

/// A list of another drive would have the wrong blocks moved.
fn check_serial(arguments: &Arguments, main: &Main, said: Option<&str>) -> Result<(), Failure> {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>();
    let own = Known::of(Path::new("/"), main.numbers.0, main.numbers.1).serial;
    match (own, said) {
        (Some(own), Some(said)) if plain(&own) != plain(said) && !arguments.ignore_serial => Err(format!(
            "the list is of the drive with serial number {said}, and main's is {own}; --ignore-serial takes it all the same"
        )),
        _ => Ok(()),
    }
}

fn describe(kind: Kind) -> &'static str {
    match kind {
        Kind::Badblocks => "a list of blocks, as of badblocks",
        Kind::Ddrescue => "a map of ddrescue",
        Kind::KernelLog => "messages of the kernel",
        Kind::Smartctl => "a drive's own logs, as of smartctl",
    }
}
