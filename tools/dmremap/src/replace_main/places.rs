//! Devices that a replacement needs: what is on them, where dm-clone's metadata stand, which is which after a restart.

use crate::machine::{nodes, Node};
use crate::safety::{signatures, unused};
use crate::spares::{Access, Device, Spares, Which};
use crate::Failure;
use dmremap::clone::{
    blocks_for, region_of, Bytes, Copied, Label, Superblock, BLOCK, BLOCK_SECTORS,
};
use dmremap::crc;
use libblkid_rs::{BlkidProbe, BlkidProbeRet};
use remap_pure::create::{inspect, Content};
use remap_pure::format::header::Header;
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::SetUuid;
use remap_pure::identity::{compare, Facts};
use remap_pure::recovery::members::KNOWN_AWAY;
use remap_pure::recovery::{recover_without, Recovered};
use remap_pure::units::{SpareId, SECTOR_SIZE};
use rustix::fs::Advice;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// Major and minor number of the device at a path.
pub fn number_of(path: &str) -> Result<(u32, u32), Failure> {
    Node::of_path(path).map(|node| node.number).ok_or_else(|| format!("{path} is no block device"))
}

/// The path of the device of that number.
pub fn node(number: (u32, u32)) -> Result<String, Failure> {
    let (major, minor) = number;
    Node::of(number).map(|node| node.path).ok_or_else(|| format!("{major}:{minor} is not there"))
}

/// Refuses a device that somebody uses, that is a spare, or that carries something, unless that was given up by name.
///
/// # Errors
///
/// What it carries.
pub fn may_be_overwritten(path: &str, given_up: &[String]) -> Result<Vec<String>, Failure> {
    unused(path)?;
    let mut spare = Spares::open_one(path, Access::Hold)?;
    match inspect(&mut spare, SpareId(0), crc).map_err(|_| "no memory")? {
        Content::Ours(_) | Content::CutShort(..) | Content::V3 => {
            return Err(format!(
                "{path} is, or was, a spare of a set; 'dmremap inspect {path}' shows it; use another device"
            ));
        }
        Content::Unreadable(at) => {
            return Err(format!("{path} cannot be read at sector {at}; use another device"));
        }
        _ => {}
    }
    let found: Vec<String> = signatures(path)?.iter().map(ToString::to_string).collect();
    if !found.is_empty() && !given_up.iter().any(|name| name == path) {
        return Err(format!(
            "{path} carries {}; if that is to be given up, say --overwrite {path}",
            found.join(" and ")
        ));
    }
    Ok(found)
}

/// Takes away what a device shows of a filesystem or a partition table.
pub fn wipe(path: &str) -> Result<(), Failure> {
    let failed = |e: &dyn std::fmt::Display| format!("{path}: cannot be wiped: {e}");
    let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| failed(&e))?;
    let mut probe = BlkidProbe::new().map_err(|e| failed(&e))?;
    probe
        .set_device(file.as_raw_fd(), 0, 0)
        .and_then(|()| probe.enable_superblocks(true))
        .and_then(|()| {
            probe.set_superblock_flags(libblkid_rs::BlkidSublksFlags::new(vec![
                libblkid_rs::BlkidSublks::Magic,
            ]))
        })
        .and_then(|()| probe.enable_partitions(true))
        .map_err(|e| failed(&e))?;
    while probe.do_probe().map_err(|e| failed(&e))? == BlkidProbeRet::Success {
        probe.do_wipe(false).map_err(|e| failed(&e))?;
    }
    file.sync_all().map_err(|e| failed(&e))
}

/// Where dm-clone's metadata stand: first sector on a device, and how many there are for it. The label is behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub path: String,
    pub start: u64,
    pub sectors: u64,
}

/// Sectors for dm-clone's metadata of a clone so long.
pub fn need(clone: u64) -> u64 {
    blocks_for(clone.div_ceil(region_of(clone))) * BLOCK_SECTORS
}

/// Where they stand on the new main itself.
pub fn behind(clone: u64) -> u64 {
    clone.next_multiple_of(BLOCK_SECTORS)
}

impl Room {
    fn open(&self, write: bool) -> io::Result<File> {
        let file = OpenOptions::new().read(true).write(write).open(&self.path)?;
        // What is written past the page cache is to be seen.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(file)
    }

    fn read(&self, file: &File, block: u64) -> io::Result<Bytes> {
        let mut bytes = [0; BLOCK];
        let at = (self.start + block * BLOCK_SECTORS) * SECTOR_SIZE as u64;
        file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }

    fn failed(&self, e: &io::Error) -> Failure {
        format!("{}: {e}", self.path)
    }

    /// The label.
    pub fn label(&self) -> Option<Label> {
        let file = self.open(false).ok()?;
        Label::decode(&self.read(&file, self.sectors / BLOCK_SECTORS).ok()?)
    }

    /// Writes zeroes where the superblock is, so that dm-clone begins anew, and the label, or zeroes for that as well.
    pub fn begin(&self, label: Option<&Label>) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let file = self.open(true)?;
            let at = self.start * SECTOR_SIZE as u64;
            file.write_all_at(&[0; BLOCK], at)?;
            let bytes = label.map_or([0; BLOCK], Label::encode);
            file.write_all_at(&bytes, at + self.sectors * SECTOR_SIZE as u64)?;
            file.sync_all()
        };
        write().map_err(|e| self.failed(&e))
    }

    /// What the superblock says.
    pub fn superblock(&self) -> Result<Superblock, Failure> {
        let read = || Superblock::parse(&self.read(&self.open(false)?, 0)?);
        read().map_err(|e| self.failed(&e))
    }
}

/// Which regions have been copied, by the metadata on this device, which nobody may be changing.
pub fn copied(device: &Path) -> Result<Copied, Failure> {
    let room = Room { path: device.to_string_lossy().into_owned(), start: 0, sectors: 0 };
    let file = room.open(false).map_err(|e| room.failed(&e))?;
    Copied::read(&mut |block| room.read(&file, block)).map_err(|e| room.failed(&e))
}

/// Looks for the label of a set's replacement on all devices.
pub fn find_room(set: SetUuid, clone: u64) -> Option<(Room, Label)> {
    let sectors = need(clone);
    for Node { path, .. } in nodes() {
        for start in [behind(clone), 0] {
            let room = Room { path: path.clone(), start, sectors };
            let label = room.label().filter(|l| l.set == set && l.sectors == clone);
            if let Some(label) = label {
                return Some((room, label));
            }
        }
    }
    None
}

/// Whether this device is to take the place of the main of a set that is not in use.
pub fn is_new(header: &Header, device: &Device) -> bool {
    let raw = header.raw();
    let end = raw.set.main_start.get() + raw.set.main_sectors.get();
    // Only then other devices are read.
    let found = header.is_replacing().then(|| find_room(header.uuid(), end)).flatten();
    found.is_some_and(|(room, label)| {
        let by = compare(&label.new, &device.facts());
        let is_it = Node::of_path(&room.path) == Node::of_path(&device.path);
        room.start != 0 && is_it || by.is_ok_and(|by| by.kind.percent() >= 70)
    })
}

/// The device that a fingerprint was taken of: the one that is named, if it is not another one, or the one that is known by more than
/// its size.
pub fn recognise(
    what: &str,
    print: &RawFingerprint,
    named: Option<&str>,
    option: &str,
) -> Result<String, Failure> {
    let fits = |path: &str| -> Result<u8, String> {
        let device = Device::open(path, Access::Read)?;
        let facts: Facts<'_> = device.facts();
        compare(print, &facts).map(|by| by.kind.percent()).map_err(|e| e.to_string())
    };
    if let Some(path) = named {
        fits(path).map_err(|e| format!("{path} is not the {what} main: {e}"))?;
        return Ok(path.into());
    }
    let mut found: Vec<String> = Vec::new();
    for node in nodes() {
        let mapped = node.mapper_uuid().is_some_and(|uuid| uuid.starts_with("REMAP-"));
        if !mapped && fits(&node.path).is_ok_and(|percent| percent >= 70) {
            found.push(node.path);
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!("the {what} main is not found for certain; name it with {option}")),
        _ => Err(format!("the {what} main may be {}; name it with {option}", found.join(" or "))),
    }
}

/// The set of that name or UUID on the devices of this machine, not in use: its state, and its spares by number.
pub fn find_set(word: &str) -> Result<(Recovered, Vec<(SpareId, String)>), Failure> {
    let mut sets: Vec<(SetUuid, Vec<String>)> = Vec::new();
    for Node { path, .. } in nodes() {
        let Some((set, _)) = Spares::set_on(&path) else { continue };
        match sets.iter_mut().find(|(known, _)| *known == set) {
            Some((_, paths)) => paths.push(path),
            None => sets.push((set, vec![path])),
        }
    }
    let mut found = Vec::new();
    for (set, paths) in sets {
        let mut spares = Spares::open(&Which::of(paths), Access::Read)?;
        let state = recover_without(&mut spares, &KNOWN_AWAY, crc);
        let named = SetUuid::parse(word) == Some(set);
        match state {
            Ok(state) if named || state.header().name() == word => {
                let all = remap_pure::store::Store::spares(&spares);
                let members = all.iter().map(|id| (id, spares.name(id).to_owned())).collect();
                found.push((state, members));
            }
            Err(e) if named => return Err(format!("set {set}: {e}")),
            _ => {}
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!("no set is called '{word}', in use or on the devices of this machine")),
        _ => Err(format!("more than one set is called '{word}'; name it by its UUID")),
    }
}

/// The part of a table line that names spares, for a set that is not in use.
pub fn spare_words(header: &Header, spares: &[(SpareId, String)]) -> Result<String, Failure> {
    let raw = header.raw();
    let mut parts = Vec::new();
    for (id, path) in spares {
        let member = &raw.spares[usize::from(id.0)];
        let all = Device::open(path, Access::Read)?.sectors.0 & !7;
        let (start, len) = (member.used_start.get(), member.used_sectors.get());
        let whole = (start, len) == (0, all);
        parts.push((!whole, member.order, path, format!("{start} {len}")));
    }
    // A line has room for the part of the first one only.
    parts.sort_by_key(|(part, order, ..)| (!part, *order));
    if parts.iter().filter(|(part, ..)| *part).count() > 1 {
        return Err("more than one spare is a part of a device, which no table line can say".into());
    }
    let (part, _, first, range) = parts.first().ok_or("there is no spare")?;
    let mut line = (*first).clone();
    if *part {
        line = format!("{line} {range}");
    }
    let mut options = Vec::new();
    parts.iter().skip(1).for_each(|(.., path, _)| options.push(format!("spare {path}")));
    if raw.set.main_start.get() != 0 {
        options.push(format!("main_start {}", raw.set.main_start));
    }
    let words: usize = options.len() * 2;
    Ok(if options.is_empty() { line } else { format!("{line} {words} {}", options.join(" ")) })
}
