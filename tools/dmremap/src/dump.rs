//! `dump`: all that the metadata says, as JSON, for people, scripts, and the day when nothing else is left.

use crate::spares::{crc, Access, Spares, Which};
use crate::{text, Failure, Outcome};
use remap_pure::entry::Mapping;
use remap_pure::format::header::{text as padded, Header};
use remap_pure::format::CommitKind;
use remap_pure::format::SetUuid;
use remap_pure::recovery::{recover, Recovered};
use remap_pure::settings::{Settings, SETTINGS};
use remap_pure::units::SpareId;
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    which: Which,
}

/// The number of this way to write a set down; raised when a reader has to know of a change.
const DUMP_FORMAT: u32 = 1;

/// Sectors are of 512 bytes, times in seconds since 1970.
#[derive(Serialize)]
struct Dump<'a> {
    dump_format: u32,
    set: String,
    name: &'a str,
    version: u64,
    history: String,
    past_histories: Vec<Past>,
    created: u64,
    committed: u64,
    last_commit: &'static str,
    main: Device<'a>,
    spares: Vec<Spare<'a>>,
    table_line: &'a str,
    table_blocks: u32,
    settings: BTreeMap<&'static str, u64>,
    lifetime: BTreeMap<&'static str, u64>,
    extents: Vec<Extent>,
}

#[derive(Serialize)]
struct Past {
    history: String,
    ended: u64,
}

#[derive(Serialize)]
struct Device<'a> {
    start: u64,
    sectors: u64,
    device_sectors: u64,
    logical_block: u32,
    physical_block: u32,
    path: &'a str,
}

#[derive(Serialize)]
struct Spare<'a> {
    number: u8,
    uuid: String,
    state: String,
    order: u8,
    device: Device<'a>,
}

#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Extent {
    Remapped { start: u64, len: u64, spare: u8, to: u64 },
    Suspect { start: u64, len: u64, spare: u8, to: u64 },
    Pending { start: u64, len: u64 },
    Retired { spare: u8, at: u64, len: u64 },
}

/// Prints the state that would be taken.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mut spares = Spares::open(&arguments.which, Access::Read)?;
    let found = match recover(&mut spares, crc) {
        Ok(found) => found,
        Err(refusal) => {
            eprintln!("dmremap: cannot be used: {refusal}");
            return Ok(Outcome::Unusable);
        }
    };
    text::print(|out| {
        serde_json::to_writer_pretty(&mut *out, &dump(&found))?;
        writeln!(out)
    })?;
    Ok(if found.is_clean() { Outcome::Well } else { Outcome::Damaged })
}

fn dump(found: &Recovered) -> Dump<'_> {
    let header = found.header();
    let raw = header.raw();
    let version = &raw.version;
    let past = version.past.iter().take(version.past_count.get() as usize);
    let settings = Settings::from_raw(&raw.settings);
    Dump {
        dump_format: DUMP_FORMAT,
        set: header.uuid().to_string(),
        name: header.name(),
        version: header.version(),
        history: format!("{:016x}", header.history()),
        past_histories: past
            .map(|past| Past {
                history: format!("{:016x}", past.history.get()),
                ended: past.ended.get(),
            })
            .collect(),
        created: version.created.get(),
        committed: version.committed.get(),
        last_commit: CommitKind::from_raw(version.kind.get()).map_or("unknown", CommitKind::name),
        main: Device {
            start: raw.set.main_start.get(),
            sectors: raw.set.main_sectors.get(),
            device_sectors: raw.main.sectors.get(),
            logical_block: raw.main.logical_block.get(),
            physical_block: raw.main.physical_block.get(),
            path: padded(&raw.main.path),
        },
        spares: (0..header.spares() as u8).map(|number| spare(header, SpareId(number))).collect(),
        table_line: header.line(),
        table_blocks: header.layout().capacity(),
        settings: SETTINGS
            .iter()
            .filter_map(|setting| Some((setting.name, settings.explicit(setting)?)))
            .collect(),
        lifetime: lifetime(header),
        extents: found
            .table()
            .iter()
            .map(|entry| {
                let (start, len) = (entry.extent.start.0, entry.extent.len.0);
                match entry.mapping {
                    Mapping::Pending => Extent::Pending { start, len },
                    Mapping::Remapped { spare, to } => {
                        Extent::Remapped { start, len, spare: spare.0, to: to.0 }
                    }
                    Mapping::Suspect { spare, to } => {
                        Extent::Suspect { start, len, spare: spare.0, to: to.0 }
                    }
                    Mapping::Retired { spare, at } => {
                        Extent::Retired { spare: spare.0, at: at.0, len }
                    }
                }
            })
            .collect(),
    }
}

fn spare(header: &Header, number: SpareId) -> Spare<'_> {
    let i = usize::from(number.0);
    let (spare, print) = (&header.raw().spares[i], &header.raw().fingerprints[i]);
    Spare {
        number: number.0,
        uuid: SetUuid(spare.uuid).to_string(),
        state: format!("{:?}", header.spare_state(number)).to_lowercase(),
        order: spare.order,
        device: Device {
            start: spare.used_start.get(),
            sectors: spare.used_sectors.get(),
            device_sectors: print.sectors.get(),
            logical_block: print.logical_block.get(),
            physical_block: print.physical_block.get(),
            path: padded(&print.path),
        },
    }
}

fn lifetime(header: &Header) -> BTreeMap<&'static str, u64> {
    let s = &header.raw().statistics;
    [
        ("commits", s.commits),
        ("auto_remaps", s.auto_remaps),
        ("manual_remaps", s.manual_remaps),
        ("unremaps", s.unremaps),
        ("pending_marks", s.pending_marks),
        ("retired_places", s.retired_places),
        ("main_read_errors", s.main_read_errors),
        ("main_write_errors", s.main_write_errors),
        ("spare_read_errors", s.spare_read_errors),
        ("spare_write_errors", s.spare_write_errors),
        ("activations", s.activations),
        ("copies_rebuilt", s.copies_rebuilt),
        ("scans", s.scans),
        ("migrations", s.migrations),
    ]
    .into_iter()
    .map(|(name, count)| (name, count.get()))
    .collect()
}
