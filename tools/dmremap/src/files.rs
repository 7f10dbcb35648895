//! `files`: which files lie on blocks of a set in use that cannot be read, or that are remapped.
//!
//! From main upwards: partitions, logical volumes and encrypted devices that lie on it, and what is in them. Each filesystem's own
//! tools say whose a block is; nothing is written.

mod btrfs;
mod ext4;
mod tools;
mod xfs;

use crate::live::{Live, Mapper};
use crate::moves::extents;
use crate::{text, Failure, Outcome};
use comfy_table::presets::NOTHING;
use comfy_table::Table;
use dmremap::extents::Extent;
use dmremap::label::path_of;
use dmremap::owners::{joined, lies_on, Owned, Owner, Piece};
use libblkid_rs::{BlkidProbe, BlkidProbeRet, BlkidSublks, BlkidSublksFlags};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use tools::{mounted_on, Loop};

#[derive(clap::Args)]
pub struct Arguments {
    /// Those on remapped blocks too, which can be read
    #[arg(long)]
    remapped: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The mapped device, or the set's name or UUID
    name: String,
}

/// How many devices may lie on each other.
const DEEPEST: usize = 8;

/// A device with something on it.
struct Layer {
    number: (u32, u32),
    path: String,
    /// How many devices it lies on.
    depth: usize,
}

/// Says whose they are.
pub fn run(arguments: &Arguments) -> Result<Outcome, Failure> {
    let mapper = Mapper::open()?;
    let live = mapper.find(&arguments.name)?;
    if live.suspended {
        return Err(format!(
            "{}: it is suspended, so nothing can be read; resume it first",
            live.name
        ));
    }
    let all = extents(&mapper, &live, 0, live.sectors)?;
    let wanted = |extent: &&Extent| arguments.remapped || extent.kind.is_unreadable();
    let pieces: Vec<Piece> = all.iter().filter(wanted).copied().map(Piece::of).collect();
    let mut owned = Vec::new();
    let layer = Layer { number: live.device, path: live.path().display().to_string(), depth: 0 };
    if !pieces.is_empty() {
        look(&mapper, &layer, &pieces, &mut owned)?;
    }
    let owned = joined(owned);
    if arguments.json {
        text::json(&json!({ "name": live.name, "blocks": owned }))?;
    } else {
        show(&live, &all, &owned)?;
    }
    let harmed = owned.iter().any(|owned| owned.kind.is_unreadable() && owned.owner != Owner::Free);
    Ok(if harmed { Outcome::Damaged } else { Outcome::Well })
}

fn show(live: &Live, all: &[Extent], owned: &[Owned]) -> Result<(), Failure> {
    let sum = |unreadable| -> u64 {
        all.iter().filter(|e| e.kind.is_unreadable() == unreadable).map(|e| e.len).sum()
    };
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["SECTORS", "", "ON", "", "WHOSE"]);
    for owned in owned {
        let whose = match &owned.owner {
            Owner::File { paths, .. } if !paths.is_empty() => paths.join("\n"),
            Owner::File { inode: Some(inode), .. } => {
                format!("a file without a name, inode {inode}")
            }
            Owner::File { .. } => "a file without a name".into(),
            Owner::Metadata { of } => format!("metadata: {of}"),
            Owner::Free => "nobody's".into(),
            Owner::Unknown { why } => format!("unknown: {why}"),
        };
        table.add_row([
            format!("{}+{}", owned.start, owned.len),
            owned.kind.name().into(),
            owned.on.clone(),
            owned.content.clone(),
            whose,
        ]);
    }
    text::print(|out| {
        writeln!(
            out,
            "{}: {} sectors cannot be read, {} are remapped and can",
            live.name,
            sum(true),
            sum(false)
        )?;
        if owned.is_empty() {
            return Ok(());
        }
        writeln!(out, "{}", table.trim_fmt())
    })
}

/// What blkid finds on a device.
struct Found {
    /// `ext4`, `LVM2_member`, `gpt`; empty when nothing is found.
    content: String,
    /// Number, first sector and length of each partition.
    partitions: Vec<(u32, u64, u64)>,
}

fn probe(path: &str) -> Result<Found, Failure> {
    let failed = |e: &dyn std::fmt::Display| format!("{path}: cannot look at what is on it: {e}");
    let mut probe = BlkidProbe::new_from_filename(Path::new(path)).map_err(|e| failed(&e))?;
    probe.enable_superblocks(true).map_err(|e| failed(&e))?;
    probe
        .set_superblock_flags(BlkidSublksFlags::new(vec![BlkidSublks::Type]))
        .map_err(|e| failed(&e))?;
    probe.enable_partitions(true).map_err(|e| failed(&e))?;
    let mut found = Found { content: String::new(), partitions: Vec::new() };
    while probe.do_probe().map_err(|e| failed(&e))? == BlkidProbeRet::Success {
        if let Ok(kind) = probe.lookup_value("TYPE") {
            found.content = kind;
            return Ok(found);
        }
        if let Ok(kind) = probe.lookup_value("PTTYPE") {
            found.content = kind;
        }
    }
    if !found.content.is_empty() {
        found.partitions = partitions(path).map_err(|e| failed(&e))?;
    }
    Ok(found)
}

fn partitions(path: &str) -> libblkid_rs::Result<Vec<(u32, u64, u64)>> {
    let mut probe = BlkidProbe::new_from_filename(Path::new(path))?;
    let mut list = probe.get_partitions()?;
    let mut found = Vec::new();
    for i in 0..list.number_of_partitions()? {
        let partition = list.get_partition(i)?;
        // An extended one holds others.
        if !partition.is_extended() {
            let sectors = |count: &i64| u64::try_from(*count).unwrap_or(0);
            let start = sectors(partition.get_start().as_ref());
            found.push((partition.get_partno()?, start, sectors(partition.get_size().as_ref())));
        }
    }
    Ok(found)
}

/// Devices that lie on another one, sector after sector: where on it, how long, which, and from which of its sectors on.
type Above = (u64, u64, (u32, u32), u64);

fn above(mapper: &Mapper, number: (u32, u32)) -> Result<Vec<Above>, Failure> {
    let folder = PathBuf::from(format!("/sys/dev/block/{}:{}/holders", number.0, number.1));
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let text = fs::read_to_string(entry.path().join("dev")).unwrap_or_default();
        let Some((Ok(major), Ok(minor))) =
            text.trim().split_once(':').map(|(major, minor)| (major.parse(), minor.parse()))
        else {
            continue;
        };
        for (start, len, target, line) in mapper.table((major, minor))? {
            if let Some((device, at)) = lies_on(&target, &line) {
                if device == number {
                    found.push((at, len, (major, minor), start));
                }
            }
        }
    }
    Ok(found)
}

fn look(
    mapper: &Mapper,
    layer: &Layer,
    pieces: &[Piece],
    owned: &mut Vec<Owned>,
) -> Result<(), Failure> {
    let found = probe(&layer.path);
    let content = found.as_ref().map(|found| found.content.clone()).unwrap_or_default();
    let mut add = |piece: &Piece, owner: Owner| owned.push(own(layer, &content, piece, owner));
    let unknown = |why: String| Owner::Unknown { why };
    if layer.depth > DEEPEST {
        pieces
            .iter()
            .for_each(|piece| add(piece, unknown("too many devices lie on each other".into())));
        return Ok(());
    }
    let said = match (&found, &*content) {
        (Err(e), _) => Err(e.clone()),
        (_, "ext2" | "ext3" | "ext4" | "ext4dev" | "jbd") => {
            ext4::owners(&layer.path, mounted_on(layer.number), pieces)
        }
        (_, "xfs") => xfs::owners(&layer.path, mounted_on(layer.number), pieces),
        (_, "btrfs") => btrfs::owners(&layer.path, mounted_on(layer.number), pieces),
        (_, "swap") => {
            Ok(pieces.iter().map(|p| (*p, Owner::Metadata { of: "swap".into() })).collect())
        }
        (Ok(found), _) => return look_above(mapper, layer, found, pieces, owned),
    };
    match said {
        Ok(all) => all.into_iter().for_each(|(piece, owner)| add(&piece, owner)),
        Err(e) => pieces.iter().for_each(|piece| add(piece, unknown(e.clone()))),
    }
    Ok(())
}

fn own(layer: &Layer, content: &str, piece: &Piece, owner: Owner) -> Owned {
    let Extent { start, len, kind } = piece.extent;
    Owned { start, len, kind, on: layer.path.clone(), content: content.into(), owner }
}

/// In what lies on a device that is no filesystem by itself.
fn look_above(
    mapper: &Mapper,
    layer: &Layer,
    found: &Found,
    pieces: &[Piece],
    owned: &mut Vec<Owned>,
) -> Result<(), Failure> {
    let above = above(mapper, layer.number)?;
    let mut seen: Vec<(u64, u64)> = Vec::new();
    let mut devices: Vec<(u32, u32)> = above.iter().map(|above| above.2).collect();
    devices.sort_unstable();
    devices.dedup();
    for device in devices {
        let mut inside = Vec::new();
        for (at, len, _, to) in above.iter().filter(|above| above.2 == device) {
            inside.extend(pieces.iter().filter_map(|piece| piece.within(*at, *len, *to)));
            seen.push((*at, *len));
        }
        let path = path_of(Path::new("/"), device.0, device.1);
        if let (Some(path), false) = (path, inside.is_empty()) {
            let upper = Layer { number: device, path, depth: layer.depth + 1 };
            look(mapper, &upper, &inside, owned)?;
        }
    }
    let left: Vec<Piece> = pieces.iter().flat_map(|piece| piece.without(&seen)).collect();
    if !left.is_empty() && !found.partitions.is_empty() {
        return in_partitions(mapper, layer, found, &left, owned);
    }
    let why = match &*found.content {
        "" if above.is_empty() => "nothing is known of what is on it".into(),
        "" => "no device that lies on it uses these blocks sector after sector".to_owned(),
        "LVM2_member" => "of no logical volume that is active and linear: LVM's own, free, or to be seen after 'vgchange -ay'".into(),
        "crypto_LUKS" if above.is_empty() => "encrypted; to be seen after 'cryptsetup open'".into(),
        "crypto_LUKS" => {
            let of = "LUKS header".to_owned();
            owned.extend(left.iter().map(|p| own(layer, &found.content, p, Owner::Metadata { of: of.clone() })));
            return Ok(());
        }
        other => format!("{other}: its files cannot be told from its blocks here"),
    };
    owned.extend(
        left.iter().map(|p| own(layer, &found.content, p, Owner::Unknown { why: why.clone() })),
    );
    Ok(())
}

/// In partitions that no device is made for: each is shown by a loop device for a moment, which cannot be written.
fn in_partitions(
    mapper: &Mapper,
    layer: &Layer,
    found: &Found,
    pieces: &[Piece],
    owned: &mut Vec<Owned>,
) -> Result<(), Failure> {
    let mut seen = Vec::new();
    for &(number, start, len) in &found.partitions {
        seen.push((start, len));
        let inside: Vec<Piece> =
            pieces.iter().filter_map(|piece| piece.within(start, len, 0)).collect();
        if inside.is_empty() {
            continue;
        }
        let name = format!("{} partition {number}", layer.path);
        let before = owned.len();
        match Loop::open(&layer.path, start, len) {
            Ok(device) => {
                let upper = Layer {
                    number: device.number,
                    path: device.path.clone(),
                    depth: layer.depth + 1,
                };
                look(mapper, &upper, &inside, owned)?;
            }
            Err(why) => owned.extend(inside.iter().map(|piece| {
                own(layer, &found.content, piece, Owner::Unknown { why: why.clone() })
            })),
        }
        // The loop device is gone when this is read.
        owned[before..].iter_mut().for_each(|owned| owned.on.clone_from(&name));
    }
    let of = format!("{} partition table, or between partitions", found.content);
    let left = pieces.iter().flat_map(|piece| piece.without(&seen));
    owned.extend(left.map(|p| own(layer, &found.content, &p, Owner::Metadata { of: of.clone() })));
    Ok(())
}
