//! What dm-clone keeps on its metadata device, and the label of ours behind it.
//!
//! The layout is that of the kernel's `drivers/md/dm-clone-metadata.c`: a superblock, which leads to a bitmap kept as an array
//! (`persistent-data/dm-array.c`) in a B-tree (`dm-btree-internal.h`). Nothing is written there but by the kernel.

use crate::crc;
use remap_pure::bytes::{FromBytes, IntoBytes};
use remap_pure::format::raw::RawFingerprint;
use remap_pure::format::{Attempt, SetUuid};
use std::io;

/// What the UUID of the mapped device begins with on which dm-clone keeps what it has copied; which copy follows.
pub const KEPT_PREFIX: &str = "REMAP-CLONEMETA-";

/// That of the one that stands for an old main that is gone: reading it is an error.
pub const GONE_PREFIX: &str = "REMAP-CLONEGONE-";

/// Bytes of a block of dm-clone's metadata, and of the label.
pub const BLOCK: usize = 4096;
/// Sectors of one.
pub const BLOCK_SECTORS: u64 = 8;

/// A block, read.
pub type Bytes = [u8; BLOCK];

/// Sectors in a region of a clone so long: the smallest that there is, 4 KiB, up to 1 TiB, so that the kernel's maps of regions stay
/// below 32 MiB each.
pub fn region_of(sectors: u64) -> u64 {
    let mut region = 8;
    while sectors.div_ceil(region) > 1 << 28 {
        region *= 2;
    }
    region
}

/// Blocks that dm-clone needs for so many regions: its bitmap three times, as a transaction writes changed blocks to new places, and what
/// its tree and its map of free blocks take.
pub fn blocks_for(regions: u64) -> u64 {
    1024 + 3 * regions.div_ceil(32_000)
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("dm-clone's metadata: {what}"))
}

fn le32(bytes: &Bytes, at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap_or_default())
}

fn le64(bytes: &Bytes, at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap_or_default())
}

/// What the superblock says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Superblock {
    /// Sectors in a region.
    pub region: u64,
    /// Sectors of the clone.
    pub sectors: u64,
    root: u64,
}

impl Superblock {
    /// Takes it apart.
    ///
    /// # Errors
    ///
    /// That it is none.
    pub fn parse(bytes: &Bytes) -> io::Result<Self> {
        if le64(bytes, 8) != 0 || le64(bytes, 32) != 0x8af2_7f64 || le32(bytes, 40) != 1 {
            return Err(bad("there is none"));
        }
        let found =
            Self { region: le64(bytes, 172), sectors: le64(bytes, 180), root: le64(bytes, 188) };
        match found.region.is_power_of_two() && found.sectors > 0 {
            true => Ok(found),
            false => Err(bad("the superblock says what cannot be")),
        }
    }

    /// How many regions there are.
    pub fn regions(&self) -> u64 {
        self.sectors.div_ceil(self.region)
    }
}

/// Words of the bitmap in a block of the array.
const ROOM: usize = (BLOCK - 24) / 8;

/// Which regions have been copied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Copied {
    /// What the superblock says.
    pub superblock: Superblock,
    words: Vec<u64>,
}

impl Copied {
    /// Reads the bitmap. `read` gives the block of that number.
    ///
    /// # Errors
    ///
    /// That it cannot be read, or is not whole.
    pub fn read(read: &mut dyn FnMut(u64) -> io::Result<Bytes>) -> io::Result<Self> {
        let superblock = Superblock::parse(&read(0)?)?;
        let words = usize::try_from(superblock.regions().div_ceil(64)).map_err(|_| bad("size"))?;
        let mut copied = Self { superblock, words: vec![0; words] };
        // Deeper than any tree is.
        match copied.node(read, superblock.root, 8)? == words {
            true => Ok(copied),
            false => Err(bad("a part of the bitmap is missing")),
        }
    }

    /// A node: a header of 32 bytes, room for so many keys, as many values. Gives how many words are below it.
    fn node(
        &mut self,
        read: &mut dyn FnMut(u64) -> io::Result<Bytes>,
        at: u64,
        depth: u32,
    ) -> io::Result<usize> {
        let bytes = read(at)?;
        let (flags, own) = (le32(&bytes, 4), le64(&bytes, 8));
        let (entries, room) = (le32(&bytes, 16) as usize, le32(&bytes, 20) as usize);
        let fits = le32(&bytes, 24) == 8 && entries <= room && 32 + 16 * room <= BLOCK;
        if own != at || !fits || depth == 0 {
            return Err(bad("a node of the tree is not whole"));
        }
        let mut words = 0;
        for i in 0..entries {
            let (key, value) = (le64(&bytes, 32 + 8 * i), le64(&bytes, 32 + 8 * (room + i)));
            words += match flags {
                1 => self.node(read, value, depth - 1)?,
                2 => self.array(&read(value)?, value, key)?,
                _ => return Err(bad("a node of the tree is of no kind")),
            };
        }
        Ok(words)
    }

    /// A block of the array: a header of 24 bytes, and words of the bitmap.
    fn array(&mut self, bytes: &Bytes, at: u64, index: u64) -> io::Result<usize> {
        let (room, entries) = (le32(bytes, 4) as usize, le32(bytes, 8) as usize);
        let whole =
            le64(bytes, 16) == at && le32(bytes, 12) == 8 && entries <= room && room == ROOM;
        let first = usize::try_from(index).ok().and_then(|index| index.checked_mul(room));
        let words = first.and_then(|first| self.words.get_mut(first..first.checked_add(entries)?));
        let words = words.filter(|_| whole);
        let words = words.ok_or_else(|| bad("a block of the bitmap is not whole"))?;
        for (i, word) in words.iter_mut().enumerate() {
            *word = le64(bytes, 24 + 8 * i);
        }
        Ok(entries)
    }

    fn is(&self, region: u64) -> bool {
        let word = self.words.get((region / 64) as usize).copied().unwrap_or(0);
        (word >> (region % 64)) & 1 != 0
    }

    /// How many regions have been copied.
    pub fn count(&self) -> u64 {
        (0..self.superblock.regions()).filter(|&region| self.is(region)).count() as u64
    }

    /// What has not been copied: runs of regions, as first sector and length.
    pub fn missing(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let Superblock { region, sectors, .. } = self.superblock;
        for start in (0..self.superblock.regions()).filter(|&n| !self.is(n)).map(|n| n * region) {
            let len = region.min(sectors - start);
            match runs.last_mut() {
                Some(run) if run.0 + run.1 == start => run.1 += len,
                _ => runs.push((start, len)),
            }
        }
        runs
    }
}

/// What dm-clone says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    /// Regions that have been copied.
    pub copied: u64,
    /// All regions.
    pub regions: u64,
    /// Regions that are being copied.
    pub copying: u64,
    /// Whether its metadata can be written.
    pub well: bool,
}

impl Status {
    /// Takes a status line apart, what stands behind `clone`.
    pub fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (copied, regions) = words.get(3)?.split_once('/')?;
        Some(Self {
            copied: copied.parse().ok()?,
            regions: regions.parse().ok()?,
            copying: words.get(4)?.parse().ok()?,
            well: words.last() == Some(&"rw"),
        })
    }
}

const MAGIC: &[u8; 16] = b"dm-remap replace";

/// The label behind dm-clone's metadata, which says what they are about.
#[derive(Clone, Copy)]
pub struct Label {
    /// The set whose main is being replaced.
    pub set: SetUuid,
    /// Sectors of the clone.
    pub sectors: u64,
    /// Which attempt to replace it; unknown of one that was begun before they had numbers.
    pub attempt: Attempt,
    /// What the old main is recognised by.
    pub old: RawFingerprint,
    /// What the new one is.
    pub new: RawFingerprint,
}

const PRINT: usize = size_of::<RawFingerprint>();

impl Label {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let mut bytes = [0; BLOCK];
        bytes[..16].copy_from_slice(MAGIC);
        bytes[16..32].copy_from_slice(&self.set.0);
        bytes[32..40].copy_from_slice(&self.sectors.to_le_bytes());
        bytes[40..56].copy_from_slice(&self.attempt.0);
        bytes[64..64 + PRINT].copy_from_slice(self.old.as_bytes());
        bytes[256..256 + PRINT].copy_from_slice(self.new.as_bytes());
        let sum = crc(&bytes[..BLOCK - 4]);
        bytes[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
        bytes
    }

    /// The label that these bytes are.
    pub fn decode(bytes: &Bytes) -> Option<Self> {
        let whole = bytes.starts_with(MAGIC) && crc(&bytes[..BLOCK - 4]) == le32(bytes, BLOCK - 4);
        let print = |at: usize| RawFingerprint::read_from_bytes(&bytes[at..at + PRINT]).ok();
        whole.then_some(())?;
        Some(Self {
            set: SetUuid(bytes[16..32].try_into().ok()?),
            sectors: le64(bytes, 32),
            attempt: Attempt(bytes[40..56].try_into().ok()?),
            old: print(64)?,
            new: print(256)?,
        })
    }
}
