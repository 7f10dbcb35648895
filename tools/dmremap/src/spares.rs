//! The spares that a verb works on: devices, parts of them, or images.

use crate::Failure;
use dmremap::crc;
use dmremap::devices::Known;
use remap_pure::format::header::place_of;
use remap_pure::format::layout::{Layout, COPIES};
use remap_pure::format::SetUuid;
use remap_pure::identity::filesystem::{filesystem, PIECES};
use remap_pure::identity::{Facts, Filesystem};
use remap_pure::mem::{Block, BLOCK_SIZE};
use remap_pure::store::{IoError, Read, SpareSet, Store, Write};
use remap_pure::units::{Sectors, SpareId, SpareSector, MAX_SPARES, SECTOR_SIZE};
use rustix::fs::{major, minor, Advice, FileType, OFlags};
use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut, Seek, SeekFrom};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

/// Sectors of a block of metadata.
const BLOCK_SECTORS: u64 = (BLOCK_SIZE / SECTOR_SIZE) as u64;

/// Blocks that are read with one call.
const AT_ONCE: usize = 256;

/// From how many blocks at once on more of them will be wanted.
const AHEAD_FROM: usize = 16;

/// What to open, as it is given on the command line.
#[derive(clap::Args)]
pub struct Which {
    /// Spare devices of one set, or images of them, in any order. DEVICE@START+LENGTH names a part, in sectors of 512 bytes, as
    /// the table line has it
    #[arg(required = true, value_name = "SPARE")]
    spares: Vec<String>,
}

impl Which {
    /// These, by their paths.
    pub fn of(spares: Vec<String>) -> Self {
        Self { spares }
    }
}

/// Whether a verb changes what it opens.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It does not, so the devices may be in use.
    Read,
    /// It does, so they must not be.
    Write,
    /// It does not, and they must not be in use all the same.
    Hold,
}

struct Member {
    name: String,
    file: File,
    /// What the kernel knows it by, whatever its path.
    device: (u64, u64),
    /// The part of it that is named, and how many sectors there are in all.
    start: u64,
    sectors: u64,
    all: u64,
    /// Whether its number comes from what stands on it.
    recognised: bool,
}

/// What is known of a device, or of the image of one.
pub struct Device {
    /// Its path.
    pub path: String,
    /// All of its sectors.
    pub sectors: Sectors,
    /// Bytes of its logical block.
    pub logical_block: u32,
    physical_block: u32,
    known: Known,
    /// As long as it is open, nobody else uses it, if it was opened so.
    file: File,
}

impl Device {
    /// Opens a device; with [`Access::Hold`] nobody uses it, nor begins to while this is there.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn open(name: &str, access: Access) -> Result<Self, Failure> {
        Member::open(name, access)?.blocks()
    }

    /// What the kernel and udev know of it.
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// What it is recognised by, but for what is on it.
    pub fn facts(&self) -> Facts<'_> {
        let blocks = (self.logical_block, self.physical_block);
        self.known.facts(self.sectors, blocks, Filesystem::Unknown, &self.path)
    }

    /// The filesystem that begins at that sector.
    pub fn filesystem(&self, start: u64) -> Filesystem {
        let pieces = PIECES.map(|piece| {
            let mut block = Block::zeroed().ok()?;
            let at = start.checked_add(piece.start.0)?.checked_mul(SECTOR_SIZE as u64)?;
            // What lies behind its end is no superblock.
            if at + BLOCK_SIZE as u64 <= self.sectors.0 * SECTOR_SIZE as u64 {
                self.file.read_exact_at(&mut block[..], at).ok()?;
            }
            Some(block)
        });
        filesystem(pieces.each_ref().map(Option::as_ref))
    }
}

/// The spares of a set, each under its number in it.
pub struct Spares([Option<Member>; MAX_SPARES]);

impl Spares {
    /// Opens them, and finds out from their metadata which is which. One without metadata takes the first number that is free.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn open(which: &Which, access: Access) -> Result<Self, Failure> {
        let any: Vec<SpareId> = (0..MAX_SPARES as u8).map(SpareId).collect();
        Self::place(which, access, &any, |_| true)
    }

    /// Opens the `members` of `set`, all of them. One without metadata of the set takes the first number that is free.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn open_members(
        which: &Which,
        access: Access,
        set: SetUuid,
        members: &[SpareId],
    ) -> Result<Self, Failure> {
        let (given, needed) = (which.spares.len(), members.len());
        if given != needed {
            return Err(format!("set {set} has {needed} spares in use, and {given} are given"));
        }
        Self::place(which, access, members, |other| other == set)
    }

    /// Opens one, as spare 0, whatever stands on it.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn open_one(name: &str, access: Access) -> Result<Self, Failure> {
        Self::place(&Which::of(vec![name.into()]), access, &[SpareId(0)], |_| false)
    }

    fn place(
        which: &Which,
        access: Access,
        numbers: &[SpareId],
        ours: impl Fn(SetUuid) -> bool,
    ) -> Result<Self, Failure> {
        if which.spares.len() > MAX_SPARES {
            return Err(format!("a set has at most {MAX_SPARES} spares"));
        }
        let mut spares = Self(Default::default());
        let mut unnumbered = Vec::new();
        for name in &which.spares {
            let mut member = Member::open(name, access)?;
            let before = spares.0.iter().flatten().chain(&unnumbered);
            if let Some(other) = before.into_iter().find(|other| member.overlaps(other)) {
                return Err(format!("{} and {name} are the same; name one of them", other.name));
            }
            let known =
                member.number().filter(|(set, number)| ours(*set) && numbers.contains(number));
            let Some((set, number)) = known else {
                unnumbered.push(member);
                continue;
            };
            let place = &mut spares.0[usize::from(number.0)];
            if let Some(other) = place {
                return Err(format!(
                    "{} and {} both say that they are spare {number} of set {set}; name one of them",
                    other.name, member.name
                ));
            }
            member.recognised = true;
            *place = Some(member);
        }
        for member in unnumbered {
            let free = numbers.iter().find(|n| spares.member(**n).is_none());
            if let Some(free) = free {
                spares.0[usize::from(free.0)] = Some(member);
            }
        }
        Ok(spares)
    }

    /// What the spares were called on the command line.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().flatten().map(|member| &*member.name)
    }

    /// Whether what an option says of some spares is of these.
    ///
    /// # Errors
    ///
    /// Which is none of them.
    pub fn has_all(&self, option: &str, named: &[String]) -> Result<(), Failure> {
        match named.iter().find(|name| !self.names().any(|own| own == *name)) {
            None => Ok(()),
            Some(name) => Err(format!("{option} {name}: name a spare as it is named as SPARE")),
        }
    }

    /// Whether a spare's number comes from what stands on it.
    pub fn is_recognised(&self, spare: SpareId) -> bool {
        self.member(spare).is_some_and(|member| member.recognised)
    }

    /// The first sector of the device that is used of a spare.
    pub fn start(&self, spare: SpareId) -> u64 {
        self.member(spare).map_or(0, |member| member.start)
    }

    /// What a spare was called on the command line.
    pub fn name(&self, spare: SpareId) -> &str {
        self.member(spare).map_or("", |member| &member.name)
    }

    /// The part of the device that is used of a spare, if it is not all of it.
    pub fn part(&self, spare: SpareId) -> Option<(u64, u64)> {
        let member = self.member(spare)?;
        (member.sectors != member.all).then_some((member.start, member.sectors))
    }

    /// The device that a spare is on.
    ///
    /// # Errors
    ///
    /// With a text for a person.
    pub fn device(&self, spare: SpareId) -> Result<Device, Failure> {
        self.member(spare).map(Member::blocks).ok_or("there is no such spare")?
    }

    fn member(&self, spare: SpareId) -> Option<&Member> {
        self.0.get(usize::from(spare.0))?.as_ref()
    }

    /// Reads blocks that stand one behind the other, at once if that works, else one by one: one that is bad must not hide the others.
    fn read_run(&self, run: &mut [Read]) {
        let (spare, at) = (run[0].spare, run[0].at);
        let blocks = run.len();
        let whole = self.on(spare, |member| {
            let mut slices: Vec<IoSliceMut<'_>> =
                run.iter_mut().map(|read| IoSliceMut::new(&mut read.block[..])).collect();
            let start = member.byte(at);
            let len = (blocks * BLOCK_SIZE) as u64;
            let read = rustix::io::preadv(&member.file, &mut slices, start)?;
            if blocks >= AHEAD_FROM {
                // Only a hint: copies are read in turn, which the kernel does not guess.
                let ahead = NonZeroU64::new(2 * len);
                let _ = rustix::fs::fadvise(&member.file, start + len, ahead, Advice::WillNeed);
            }
            Ok(read as u64 == len)
        });
        for read in run {
            let block = &mut read.block;
            read.result = match whole {
                Ok(true) => Ok(()),
                _ => self.on(spare, |member| {
                    member.file.read_exact_at(&mut block[..], member.byte(read.at))
                }),
            };
        }
    }

    fn on<T>(
        &self,
        spare: SpareId,
        io: impl FnOnce(&Member) -> io::Result<T>,
    ) -> Result<T, IoError> {
        let member = self.member(spare).ok_or(IoError::EIO)?;
        io(member).map_err(|e| e.raw_os_error().map_or(IoError::EIO, IoError))
    }
}

impl Member {
    fn open(name: &str, access: Access) -> Result<Self, Failure> {
        let (path, part) = part_of(name);
        let failed = |what: &str, e: io::Error| format!("{path}: {what}: {e}");
        let mut options = OpenOptions::new();
        options.read(true).write(access == Access::Write);
        let meta = std::fs::metadata(path).map_err(|e| failed("cannot be looked at", e))?;
        let is_device = FileType::from_raw_mode(meta.mode()) == FileType::BlockDevice;
        let device = if is_device { (0, meta.rdev()) } else { (meta.dev(), meta.ino()) };
        if is_device && access != Access::Read {
            // For a block device: refused while somebody else holds it.
            options.custom_flags(OFlags::EXCL.bits() as i32);
        }
        let mut file = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::ResourceBusy => {
                format!("{path} is in use; remove the mapped device or unmount what is on it first")
            }
            _ => failed("cannot be opened", e),
        })?;
        if is_device {
            // The module writes past the page cache, which may hold what was there before.
            rustix::fs::fadvise(&file, 0, None, Advice::DontNeed)
                .map_err(|e| failed("cannot drop its cached pages", e.into()))?;
        }
        let bytes = file.seek(SeekFrom::End(0)).map_err(|e| failed("cannot tell its size", e))?;
        let all = bytes / SECTOR_SIZE as u64;
        let (start, sectors) = part.unwrap_or((0, all));
        match start.checked_add(sectors) {
            Some(end) if end <= all => {}
            _ => return Err(format!("{name}: it has only {all} sectors")),
        }
        Ok(Self { name: name.into(), file, device, start, sectors, all, recognised: false })
    }

    /// Its blocks are those of the disk that it is or is on; an image has none of its own.
    fn blocks(&self) -> Result<Device, Failure> {
        let path = part_of(&self.name).0.to_owned();
        let block = |which: &str| {
            let (0, device) = self.device else { return Ok(SECTOR_SIZE as u32) };
            let disk = format!("/sys/dev/block/{}:{}", major(device), minor(device));
            let read = ["queue", "../queue"].iter().find_map(|queue| {
                std::fs::read_to_string(format!("{disk}/{queue}/{which}_block_size")).ok()
            });
            let size = read.and_then(|text| text.trim().parse().ok());
            size.ok_or_else(|| format!("{path}: cannot tell its {which} block"))
        };
        let (logical_block, physical_block) = (block("logical")?, block("physical")?);
        let file = self.file.try_clone().map_err(|e| format!("{path}: {e}"))?;
        let sectors = Sectors(self.all);
        let known = match self.device {
            (0, device) => Known::of(Path::new("/"), major(device), minor(device)),
            _ => Known::default(),
        };
        Ok(Device { path, sectors, logical_block, physical_block, known, file })
    }

    fn overlaps(&self, other: &Self) -> bool {
        let (end, other_end) = (self.start + self.sectors, other.start + other.sectors);
        self.device == other.device && self.start < other_end && other.start < end
    }

    /// The set and the number that a header on it names.
    fn number(&self) -> Option<(SetUuid, SpareId)> {
        let mut bytes = [0; BLOCK_SIZE];
        (0..COPIES as u8).find_map(|copy| {
            self.file.read_exact_at(&mut bytes, self.byte(Layout::header(copy))).ok()?;
            // A disk shows the copies of a spare that is a partition on it, each in the place of another.
            place_of(&bytes, crc).filter(|(_, id)| id.copy == copy).map(|(set, id)| (set, id.spare))
        })
    }

    fn byte(&self, at: SpareSector) -> u64 {
        (self.start + at.0) * SECTOR_SIZE as u64
    }
}

/// Takes `DEVICE@START+LENGTH` apart. What does not look like that is a path.
pub fn part_of(name: &str) -> (&str, Option<(u64, u64)>) {
    let part = || {
        let (path, part) = name.rsplit_once('@')?;
        let (start, len) = part.split_once('+')?;
        Some((path, (start.parse().ok()?, len.parse().ok()?)))
    };
    part().map_or((name, None), |(path, part)| (path, Some(part)))
}

impl Store for Spares {
    fn spares(&self) -> SpareSet {
        let mut set = SpareSet::NONE;
        (0..MAX_SPARES as u8)
            .map(SpareId)
            .filter(|&s| self.member(s).is_some())
            .for_each(|s| set.add(s));
        set
    }

    fn sectors(&self, spare: SpareId) -> Sectors {
        Sectors(self.member(spare).map_or(0, |member| member.sectors))
    }

    fn read(&mut self, batch: &mut [Read]) {
        let mut rest = batch;
        while !rest.is_empty() {
            let follows = |pair: &[Read]| {
                pair[1].spare == pair[0].spare && pair[1].at.0 == pair[0].at.0 + BLOCK_SECTORS
            };
            let same = rest.windows(2).take_while(|pair| follows(pair)).count();
            let (run, behind) = rest.split_at_mut((same + 1).min(AT_ONCE));
            self.read_run(run);
            rest = behind;
        }
    }

    fn write(&mut self, batch: &mut [Write<'_>]) {
        for write in batch {
            write.result = self.on(write.spare, |member| {
                member.file.write_all_at(&write.block[..], member.byte(write.at))
            });
        }
    }

    fn flush(&mut self, spares: SpareSet) -> SpareSet {
        let mut failed = SpareSet::NONE;
        for spare in spares.iter() {
            if self.on(spare, |member| member.file.sync_all()).is_err() {
                failed.add(spare);
            }
        }
        failed
    }
}
