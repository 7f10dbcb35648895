//! `export`: writes down what is wrong with main, for programs that read such lists.

use crate::import::{block_size, table, Main};
use crate::live::Mapper;
use crate::{text, Failure, Outcome};
use dmremap::lists::entries::{Entry, State};
use dmremap::lists::write::{badblocks, ddrescue};
use serde::Serialize;

#[derive(clap::Args)]
pub struct Arguments {
    /// What kind of list to write
    #[arg(long, value_enum, default_value = "badblocks")]
    format: Format,
    /// As JSON: ranges of sectors, each with what has become of it
    #[arg(long, conflicts_with_all = ["format", "block_size"])]
    json: bool,
    /// Bytes of the blocks that badblocks counts in
    #[arg(short, long, value_name = "BYTES", default_value = "1024", value_parser = block_size)]
    block_size: u64,
    /// What to write down
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "pending,lost,suspect,remapped"
    )]
    states: Vec<Which>,
    /// Count from the beginning of main, or of the set
    #[arg(long, value_enum, default_value = "main")]
    of: Of,
    /// The set: its mapped device, its name or its UUID
    set: String,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    /// Numbers of blocks, as badblocks prints them
    Badblocks,
    /// A map of GNU ddrescue, in which they are bad and everything else was read
    Ddrescue,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Of {
    Main,
    Set,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Which {
    /// What cannot be read on main
    Pending,
    /// What lived on a spare that is gone
    Lost,
    /// What lives on a spare and could not be read there
    Suspect,
    /// What lives on a spare
    Remapped,
}

impl Which {
    fn is(self, state: State) -> bool {
        matches!(
            (self, state),
            (Self::Pending, State::Pending)
                | (Self::Lost, State::Lost)
                | (Self::Suspect, State::Suspect)
                | (Self::Remapped, State::Remapped)
        )
    }
}

/// All that is written down.
#[derive(Serialize)]
struct List {
    set: String,
    /// From the beginning of what it is counted.
    of: Of,
    /// How long that is.
    sectors: u64,
    ranges: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    start: u64,
    sectors: u64,
    state: &'static str,
}

/// Prints the list.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.set)?;
    let main = Main::of(&live)?;
    let wanted = |entry: &Entry| arguments.states.iter().any(|which| which.is(entry.state));
    let entries: Vec<Entry> = table(&mapper, &live)?.into_iter().filter(wanted).collect();
    let (shift, sectors) = match arguments.of {
        Of::Main => (main.start * 512, main.part.sectors),
        Of::Set => (0, live.sectors),
    };
    if arguments.json {
        let row = |entry: &Entry| Row {
            start: entry.start + shift / 512,
            sectors: entry.len,
            state: entry.state.name(),
        };
        let ranges = entries.iter().map(row).collect();
        let list = List { set: live.name, of: arguments.of, sectors, ranges };
        text::print(|out| writeln!(out, "{}", serde_json::to_string_pretty(&list)?))?;
        return Ok(Outcome::Well);
    }
    text::print(|out| match arguments.format {
        Format::Badblocks => badblocks(out, &entries, shift, arguments.block_size),
        Format::Ddrescue => ddrescue(out, &entries, shift, sectors * 512),
    })?;
    Ok(Outcome::Well)
}
