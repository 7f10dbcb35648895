//! `map`: a picture of main's surface, of a set in use or of spares that are not.

use crate::live::Mapper;
use crate::moves::extents;
use crate::spares::{Access, Spares, Which};
use crate::{text, Failure, Outcome};
use comfy_table::presets::NOTHING;
use comfy_table::Table;
use dmremap::crc;
use dmremap::draw::{has_unicode, percent};
use dmremap::extents::{count, Extent, Kind};
use dmremap::label::path_of;
use dmremap::surface::{densest, legend, svg, Place, Surface};
use remap_pure::entry::Mapping;
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::recover_without;
use rustix::fs::{major, minor, FileType};
use rustix::termios::tcgetwinsize;
use serde_json::json;
use std::fs;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

#[derive(clap::Args)]
pub struct Arguments {
    /// Write a picture to this file, in SVG; '-' is standard output
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    svg: Option<String>,
    /// Print JSON: every extent, and the densest places
    #[arg(long)]
    json: bool,
    /// Use no characters but those of ASCII
    #[arg(long)]
    ascii: bool,
    /// Columns of the picture; those of the terminal, or 80, without
    #[arg(long, value_parser = clap::value_parser!(u16).range(20..=1000))]
    width: Option<u16>,
    /// A set in use (the mapped device, or the set's name or UUID), or all spares of one set that is not, as for 'dump'
    #[arg(required = true, value_name = "NAME|SPARE")]
    which: Vec<String>,
}

/// Rows of the picture, and places in the list below it, at most.
const ROWS: usize = 24;
const PLACES: usize = 10;
/// Columns of the sizes before each row.
const BEFORE: usize = 12;

/// What is to be drawn.
struct Drawn {
    name: String,
    sectors: u64,
    extents: Vec<Extent>,
    outcome: Outcome,
}

/// Draws it.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let drawn = match &arguments.which[..] {
        [name] if is_set(name) => of_set(name)?,
        spares => match of_spares(spares)? {
            Some(drawn) => drawn,
            None => return Ok(Outcome::Unusable),
        },
    };
    if let Some(file) = &arguments.svg {
        write_svg(file, &drawn)?;
    } else if arguments.json {
        let places = densest(&drawn.extents, gap(drawn.sectors), PLACES);
        text::json(&json!({
            "name": drawn.name,
            "sectors": drawn.sectors,
            "densest": places,
            "extents": drawn.extents,
        }))?;
    } else {
        show(arguments, &drawn)?;
    }
    Ok(drawn.outcome)
}

/// Whether that is a set in use, and no spare: a mapped device of one, or a name, unless only a file has it.
fn is_set(word: &str) -> bool {
    let is_live = || Mapper::open().is_ok_and(|mapper| mapper.find(word).is_ok());
    let is_mapped = |meta: fs::Metadata| {
        let number = (major(meta.rdev()), minor(meta.rdev()));
        FileType::from_raw_mode(meta.mode()) == FileType::BlockDevice
            && path_of(Path::new("/"), number.0, number.1)
                .is_some_and(|path| path.starts_with("/dev/mapper/"))
    };
    match fs::metadata(word) {
        Err(_) => !word.contains(['@', '/']),
        Ok(meta) => (!word.contains('/') || is_mapped(meta)) && is_live(),
    }
}

fn of_set(name: &str) -> Result<Drawn, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(name)?;
    let extents = extents(&mapper, &live, 0, live.sectors)?;
    Ok(Drawn { name: live.name, sectors: live.sectors, extents, outcome: Outcome::Well })
}

fn of_spares(spares: &[String]) -> Result<Option<Drawn>, Failure> {
    let mut spares = Spares::open(&Which::of(spares.to_vec()), Access::Read)?;
    let found = match recover_without(&mut spares, &KNOWN_AWAY, crc) {
        Ok(found) => found,
        Err(refusal) => {
            eprintln!("dmremap: cannot be used: {refusal}");
            return Ok(None);
        }
    };
    let header = found.header();
    let extents = found.table().iter().filter_map(|entry| {
        let kind = match entry.mapping {
            Mapping::Remapped { .. } => Kind::Remapped,
            Mapping::Suspect { .. } => Kind::Suspect,
            Mapping::Pending => Kind::Pending,
            Mapping::Lost => Kind::Lost,
            Mapping::Retired { .. } => return None,
        };
        Some(Extent { start: entry.extent.start.0, len: entry.extent.len.0, kind })
    });
    Ok(Some(Drawn {
        name: match header.name() {
            "" => header.uuid().to_string(),
            name => name.into(),
        },
        sectors: header.raw().set.main_sectors.get(),
        extents: extents.collect(),
        outcome: if found.is_clean() { Outcome::Well } else { Outcome::Damaged },
    }))
}

/// How far apart what is one place may be: a piece of a picture of the usual size.
fn gap(sectors: u64) -> u64 {
    Surface::of(sectors, &[], 64, ROWS).per_cell
}

fn columns(arguments: &Arguments) -> usize {
    let of_terminal =
        || tcgetwinsize(io::stdout()).ok().map(|size| size.ws_col).filter(|&n| n >= 20);
    let of_shell = || std::env::var("COLUMNS").ok()?.parse().ok().filter(|&n: &u16| n >= 20);
    arguments.width.or_else(of_terminal).or_else(of_shell).unwrap_or(80).into()
}

fn show(arguments: &Arguments, drawn: &Drawn) -> Result<(), Failure> {
    let unicode = has_unicode() && !arguments.ascii;
    let colour = io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let columns = columns(arguments).saturating_sub(BEFORE).max(8);
    let surface = Surface::of(drawn.sectors, &drawn.extents, columns, ROWS);
    let places = densest(&drawn.extents, gap(drawn.sectors), PLACES);
    text::print(|out| {
        writeln!(
            out,
            "{}: {}, a character is {}",
            drawn.name,
            text::sectors(drawn.sectors),
            text::size(surface.per_cell)
        )?;
        for (start, row) in surface.rows(unicode, colour) {
            writeln!(out, "{:>width$}  {row}", text::size(start), width = BEFORE - 2)?;
        }
        writeln!(out, "{}\n", legend(unicode))?;
        let totals =
            Kind::ALL.map(|kind| format!("{} {}", count(&drawn.extents, kind), kind.name()));
        writeln!(out, "{} extents; sectors: {}", drawn.extents.len(), totals.join(", "))?;
        if places.is_empty() {
            return Ok(());
        }
        writeln!(out, "\n{}", table(&places, drawn.sectors).trim_fmt())
    })
}

fn table(places: &[Place], sectors: u64) -> Table {
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header([
        "WHERE MOST IS",
        "AT",
        "SPAN",
        "TOUCHED",
        "EXTENTS",
        "REMAPPED",
        "SUSPECT",
        "PENDING",
        "LOST",
    ]);
    for place in places {
        table.add_row([
            format!("{} to {}", place.start, place.start + place.len - 1),
            percent(place.start, sectors),
            text::size(place.len),
            percent(place.touched(), place.len),
            place.extents.to_string(),
            place.remapped.to_string(),
            place.suspect.to_string(),
            place.pending.to_string(),
            place.lost.to_string(),
        ]);
    }
    table
}

/// Writes the file beside its place and puts it there when it is whole; only a file takes the place of a file.
fn write_svg(file: &str, drawn: &Drawn) -> Result<(), Failure> {
    let svg = svg(&drawn.name, drawn.sectors, &drawn.extents, text::size);
    if file == "-" {
        return text::print(|out| out.write_all(svg.as_bytes()));
    }
    let failed = |e: io::Error| format!("{file}: {e}");
    if fs::symlink_metadata(file).is_ok_and(|meta| !meta.is_file()) {
        return Err(format!("{file} is there, and is no file; give another name"));
    }
    let partial = format!("{file}.partial");
    let written = fs::File::create(&partial).and_then(|mut out| {
        out.write_all(svg.as_bytes())?;
        out.sync_all()?;
        fs::rename(&partial, file)
    });
    written.map_err(|e| {
        // What is left of it is of no use.
        let _ = fs::remove_file(&partial);
        failed(e)
    })
}
