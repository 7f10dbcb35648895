//! Devices that a replacement needs: what is on them, where dm-clone's metadata stand, which is which after a restart.

use crate::machine::{nodes, Node};
use crate::safety::{signatures, unused};
use crate::spares::{Access, Device, Spares};
use crate::Failure;
use dmremap::clone::{
    blocks_for, region_of, Bytes, Copied, Label, Superblock, BLOCK, BLOCK_SECTORS,
};
use dmremap::crc;
use libblkid_rs::{BlkidProbe, BlkidProbeRet};
use remap_pure::create::{inspect, Content};
use remap_pure::format::header::{Header, HeaderError};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, SetUuid};
use remap_pure::identity::replaced::is_new_main;
use remap_pure::identity::{compare, Facts};
use remap_pure::recovery::{Found, Slot, Survey};
use remap_pure::store::Store;
use remap_pure::units::{SpareId, SECTOR_SIZE};
use rustix::fs::{major, minor, Advice, OFlags};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
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

/// A device, by the number that it had when it was looked at: a path may lead to another one hours later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub path: String,
    pub number: (u32, u32),
}

impl Place {
    /// The one at a path.
    pub fn at(path: &str) -> Result<Self, Failure> {
        Ok(Self { path: path.into(), number: number_of(path)? })
    }

    /// The one of that number.
    pub fn of(number: (u32, u32)) -> Result<Self, Failure> {
        Ok(Self { path: node(number)?, number })
    }

    /// Its number, as a table line has it.
    pub fn word(&self) -> String {
        format!("{}:{}", self.number.0, self.number.1)
    }

    /// Opens it; with [`Access::Hold`] and [`Access::Write`] nobody else uses it.
    ///
    /// # Errors
    ///
    /// Somebody does; the path leads elsewhere by now.
    pub fn open(&self, access: Access) -> io::Result<File> {
        let exclusive = if access == Access::Read { OFlags::empty() } else { OFlags::EXCL };
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let file = options.custom_flags(exclusive.bits() as i32).open(&self.path)?;
        self.checked(file)
    }

    /// Opens it for writing beside others, who have nothing where it is written to.
    fn open_beside(&self) -> io::Result<File> {
        self.checked(OpenOptions::new().read(true).write(true).open(&self.path)?)
    }

    fn checked(&self, file: File) -> io::Result<File> {
        let is = file.metadata()?.rdev();
        match (major(is), minor(is)) == self.number {
            true => Ok(file),
            false => Err(io::Error::other(format!("is not {} any more", self.word()))),
        }
    }

    /// What has been written to it is durable.
    pub fn flush(&self) -> Result<(), Failure> {
        let flushed = self.open(Access::Read).and_then(|file| file.sync_all());
        flushed.map_err(|e| format!("{}: cannot be flushed: {e}", self.path))
    }
}

/// Refuses a device that is a spare, or that carries something, unless that was given up by name.
///
/// # Errors
///
/// What it carries.
pub fn may_be_overwritten(path: &str, given_up: &[String]) -> Result<Vec<String>, Failure> {
    let mut spare = Spares::open_one(path, Access::Read)?;
    let content = inspect(&mut spare, SpareId(0), crc).map_err(|_| "no memory")?;
    let all = spare.sectors(SpareId(0)).0;
    // One that ends before all copies have room can be what is left of a spare.
    let is_short = matches!(content, Content::Unreadable(at) if at.0 + BLOCK_SECTORS > all);
    match content {
        _ if is_short && !carries_ours(&mut spare)? => {}
        Content::Unreadable(at) if !is_short => {
            return Err(format!("{path} cannot be read at sector {at}; use another device"));
        }
        Content::Foreign(_) | Content::Blank => {}
        Content::Ours(_) | Content::CutShort(..) | Content::V3 | Content::Unreadable(_) => {
            return Err(format!(
                "{path} is, or was, a spare of a set; 'dmremap inspect {path}' shows it; use another device"
            ));
        }
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

/// Whether a header of ours, or one of v3, stands where it can.
fn carries_ours(spare: &mut Spares) -> Result<bool, Failure> {
    let survey = Survey::take(spare, crc).map_err(|_| "no memory")?;
    let is_ours = |slot: &Slot| {
        slot.set.is_some() || matches!(slot.found, Found::Mark(..) | Found::Not(HeaderError::V3))
    };
    Ok(survey.slots().iter().any(is_ours))
}

/// A device that nobody else uses as long as this is there.
pub struct Held {
    pub place: Place,
    file: File,
}

impl Held {
    /// Takes it, if nobody has it.
    ///
    /// # Errors
    ///
    /// Who has it.
    pub fn take(path: &str) -> Result<Self, Failure> {
        // What is not there is said as for every other verb.
        drop(Device::open(path, Access::Read)?);
        unused(path)?;
        Self::of(Place::at(path)?)
    }

    /// The same, of one that is known.
    pub fn of(place: Place) -> Result<Self, Failure> {
        let file = place.open(Access::Write).map_err(|e| format!("{}: {e}", place.path))?;
        Ok(Self { place, file })
    }

    /// Takes away what it shows of a filesystem or a partition table.
    pub fn wipe(&self) -> Result<(), Failure> {
        let failed =
            |e: &dyn std::fmt::Display| format!("{}: cannot be wiped: {e}", self.place.path);
        let mut probe = BlkidProbe::new().map_err(|e| failed(&e))?;
        probe
            .set_device(self.file.as_raw_fd(), 0, 0)
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
        self.file.sync_all().map_err(|e| failed(&e))
    }
}

/// Where dm-clone's metadata stand: first sector on a device, and how many there are for it. The label is behind them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub place: Place,
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

fn read(file: &File, sector: u64) -> io::Result<Bytes> {
    let mut bytes = [0; BLOCK];
    file.read_exact_at(&mut bytes, sector * SECTOR_SIZE as u64)?;
    Ok(bytes)
}

impl Room {
    fn open(&self) -> io::Result<File> {
        let file = self.place.open(Access::Read)?;
        // What is written past the page cache is to be seen.
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
        Ok(file)
    }

    fn failed(&self, e: &io::Error) -> Failure {
        format!("{}: {e}", self.place.path)
    }

    /// The label.
    pub fn label(&self) -> Option<Label> {
        Label::decode(&read(&self.open().ok()?, self.start + self.sectors).ok()?)
    }

    /// dm-clone begins anew there, for this attempt: zeroes where the superblock is, and the label.
    pub fn begin(&self, held: &Held, label: &Label) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let at = self.start * SECTOR_SIZE as u64;
            held.file.write_all_at(&[0; BLOCK], at)?;
            held.file.write_all_at(&label.encode(), at + self.sectors * SECTOR_SIZE as u64)?;
            held.file.sync_all()
        };
        write().map_err(|e| self.failed(&e))
    }

    /// Nothing of an attempt stays there by which it could be gone on with. What else is there is somebody's: the device may have been given
    /// another use since, with the label still on it. The set that is on `main` has that device, up to sector `end`, where the clone ended;
    /// behind that nobody writes.
    ///
    /// # Errors
    ///
    /// Somebody else uses the device.
    pub fn end(&self, main: (u32, u32), end: u64) -> Result<(), Failure> {
        if self.place.number == main && self.start < end {
            // The set has grown over it.
            return Ok(());
        }
        let file = match self.place.number == main {
            true => self.place.open_beside(),
            false => self.place.open(Access::Write),
        };
        let write = |file: File| -> io::Result<()> {
            // What dm-clone has written past the page cache is to be seen.
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)?;
            let label_at = self.start + self.sectors;
            let is_own = |own: Superblock| (own.sectors, own.region) == (end, region_of(end));
            if Superblock::parse(&read(&file, self.start)?).is_ok_and(is_own) {
                file.write_all_at(&[0; BLOCK], self.start * SECTOR_SIZE as u64)?;
            }
            if Label::decode(&read(&file, label_at)?).is_some_and(|label| label.sectors == end) {
                file.write_all_at(&[0; BLOCK], label_at * SECTOR_SIZE as u64)?;
            }
            file.sync_all()
        };
        file.and_then(write).map_err(|e| self.failed(&e))
    }

    /// What the superblock says.
    pub fn superblock(&self) -> Result<Superblock, Failure> {
        let read = || Superblock::parse(&read(&self.open()?, self.start)?);
        read().map_err(|e| self.failed(&e))
    }
}

/// Where a device that is to be main says so itself: in its last block, where a clone so long leaves it free. Whoever looks at it finds that
/// without knowing anything of the set.
fn sign_of(sectors: u64, clone: u64) -> Option<u64> {
    let last = (sectors / BLOCK_SECTORS * BLOCK_SECTORS).checked_sub(BLOCK_SECTORS)?;
    (last >= behind(clone)).then_some(last)
}

/// Puts the label on a device that is to be main, if there is room.
pub fn sign(held: &Held, label: &Label) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let sectors = size(&held.file)?;
        if let Some(at) = sign_of(sectors, label.sectors) {
            held.file.write_all_at(&label.encode(), at * SECTOR_SIZE as u64)?;
        }
        held.file.sync_all()
    };
    write().map_err(|e| format!("{}: {e}", held.place.path))
}

/// Takes the label away from a device that is, or was, to be main.
pub fn unsign(place: &Place, set: SetUuid, clone: u64, main: (u32, u32)) -> Result<(), Failure> {
    let write = || -> io::Result<()> {
        let file = match place.number == main {
            true => place.open_beside()?,
            false => place.open(Access::Write)?,
        };
        let Some(at) = sign_of(size(&file)?, clone) else { return Ok(()) };
        if Label::decode(&read(&file, at)?).is_some_and(|label| label.set == set) {
            file.write_all_at(&[0; BLOCK], at * SECTOR_SIZE as u64)?;
        }
        file.sync_all()
    };
    write().map_err(|e| format!("{}: {e}", place.path))
}

fn size(file: &File) -> io::Result<u64> {
    Ok(rustix::fs::seek(file, rustix::fs::SeekFrom::End(0))? / SECTOR_SIZE as u64)
}

/// What a device says of itself in its last block, if it is to be the main of a set.
pub fn signed(path: &str) -> Option<Label> {
    let file = File::open(path).ok()?;
    let last = (size(&file).ok()? / BLOCK_SECTORS * BLOCK_SECTORS).checked_sub(BLOCK_SECTORS)?;
    Label::decode(&read(&file, last).ok()?)
}

/// Which regions have been copied, by the metadata on this device, which nobody may be changing.
pub fn copied(device: &Path) -> Result<Copied, Failure> {
    let path = device.to_string_lossy().into_owned();
    let room = Room { place: Place::at(&path)?, start: 0, sectors: 0 };
    let file = room.open().map_err(|e| room.failed(&e))?;
    Copied::read(&mut |block| read(&file, block * BLOCK_SECTORS)).map_err(|e| room.failed(&e))
}

/// The labels of all attempts to replace a set's main that are on devices here.
pub fn labels(set: SetUuid, clone: u64) -> Vec<(Room, Label)> {
    let sectors = need(clone);
    let mut found = Vec::new();
    for Node { path, number, .. } in nodes().into_iter().filter(|n| !n.is_shown_by_another()) {
        for start in [behind(clone), 0] {
            let place = Place { path: path.clone(), number };
            let room = Room { place, start, sectors };
            let label = room.label().filter(|l| l.set == set && l.sectors == clone);
            found.extend(label.map(|label| (room, label)));
        }
    }
    found
}

/// Where the metadata of this attempt stand. What is left of others is older, and lacks what has been written since.
///
/// # Errors
///
/// They are on no device, or nobody can tell on which.
pub fn find_room(set: SetUuid, clone: u64, attempt: Attempt) -> Result<(Room, Label), Failure> {
    let all = labels(set, clone);
    let others = all.len();
    let is = |label: &Label| attempt == Attempt::UNKNOWN || label.attempt == attempt;
    let mut found: Vec<(Room, Label)> = all.into_iter().filter(|(_, label)| is(label)).collect();
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!(
            "set {set}: dm-clone's metadata are on no device that is here{}; without them nobody knows what has been copied",
            if others > 0 { ", only those of another attempt, which lack what has been written since" } else { "" }
        )),
        _ => {
            let paths: Vec<&str> = found.iter().map(|(room, _)| &*room.place.path).collect();
            Err(format!(
                "set {set}: dm-clone's metadata are on {}; one of them is a copy: detach it",
                paths.join(" and ")
            ))
        }
    }
}

/// Whether this device is to take the place of the main of a set: by what the set knows of it, or what it says itself.
pub fn is_new(header: &Header, device: &Device) -> bool {
    if !header.is_replacing() {
        return false;
    }
    let raw = header.raw();
    let end = raw.set.main_start.get() + raw.set.main_sectors.get();
    let said = || {
        let room =
            Room { place: Place::at(&device.path).ok()?, start: behind(end), sectors: need(end) };
        room.label().or_else(|| signed(&device.path))
    };
    is_new_main(header, &device.facts()) || said().is_some_and(|label| is_of(header, &label))
}

/// Whether a label is of the attempt that is under way.
pub fn is_of(header: &Header, label: &Label) -> bool {
    let attempt = header.attempt();
    header.is_replacing()
        && label.set == header.uuid()
        && (attempt == Attempt::UNKNOWN || attempt == label.attempt)
}

/// The device that a fingerprint was taken of: the one that is named, if it is not another one, or the one that is known by more than
/// its size.
pub fn recognise(
    what: &str,
    print: &RawFingerprint,
    named: Option<&str>,
    option: &str,
) -> Result<Place, Failure> {
    let fits = |path: &str| -> Result<u8, String> {
        let device = Device::open(path, Access::Read)?;
        let facts: Facts<'_> = device.facts();
        compare(print, &facts).map(|by| by.kind.percent()).map_err(|e| e.to_string())
    };
    if let Some(path) = named {
        fits(path).map_err(|e| format!("{path} is not the {what} main: {e}"))?;
        return Place::at(path);
    }
    let mut found: Vec<Place> = Vec::new();
    for node in nodes() {
        let mapped = node.mapper_uuid().is_some_and(|uuid| uuid.starts_with("REMAP-"));
        if !mapped
            && !node.is_shown_by_another()
            && fits(&node.path).is_ok_and(|percent| percent >= 70)
        {
            found.push(Place { path: node.path, number: node.number });
        }
    }
    match found.len() {
        1 => Ok(found.swap_remove(0)),
        0 => Err(format!("the {what} main is not found for certain; name it with {option}")),
        _ => {
            let paths: Vec<&str> = found.iter().map(|place| &*place.path).collect();
            Err(format!("the {what} main may be {}; name it with {option}", paths.join(" or ")))
        }
    }
}
