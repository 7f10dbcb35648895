// SPDX-License-Identifier: GPL-2.0

//! Which filesystem is on a device: the UUID in the superblocks of ext2 to ext4, XFS and Btrfs.
//!
//! The offsets are those of the kernel's `fs/ext4/ext4.h`, `fs/xfs/libxfs/xfs_format.h` and
//! `include/uapi/linux/btrfs_tree.h`. A checksum is not looked at: a superblock that is written to
//! while it is read is the same filesystem's all the same.

use core::fmt;

use super::super::format::MemberUuid;
use super::super::mem::Block;
use super::super::units::{Extent, MainSector, Sectors};

/// Where superblocks are, in sectors from the beginning of the filesystem: a block each. ext and XFS
/// have theirs in the first one, Btrfs in the second.
pub const PIECES: [Extent; 2] = [
    Extent { start: MainSector(0), len: Sectors(8) },
    Extent { start: MainSector(128), len: Sectors(8) },
];

/// What names a filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilesystemUuid(pub [u8; 16]);

impl FilesystemUuid {
    /// The one that `text` is, 32 digits with or without hyphens.
    pub fn parse(text: &str) -> Option<Self> {
        MemberUuid::parse(text).map(|uuid| Self(uuid.0))
    }
}

impl fmt::Display for FilesystemUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        MemberUuid(self.0).fmt(f)
    }
}

/// What is known of the filesystem on a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Filesystem {
    /// Nothing: nobody has looked, or it could not be read.
    #[default]
    Unknown,
    /// There is none of those that are known here, or several superblocks contradict each other.
    None,
    /// It is this one.
    Is(FilesystemUuid),
    /// This one's superblock is there, but a newer one may live elsewhere.
    Was(FilesystemUuid),
}

impl Filesystem {
    /// The same, where what is on the device need not be the newest.
    #[must_use]
    pub fn maybe_older(self) -> Self {
        match self {
            Self::Is(uuid) => Self::Was(uuid),
            Self::None => Self::Unknown,
            other => other,
        }
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

fn ext(head: &[u8]) -> Option<[u8; 16]> {
    let block = head.get(1024..)?;
    let magic = u16::from_le_bytes(field(block, 0x38)?);
    let blocks = u32::from_le_bytes(field(block, 0x04)?);
    let log_block_size = u32::from_le_bytes(field(block, 0x18)?);
    (magic == 0xef53 && blocks != 0 && log_block_size <= 6).then_some(())?;
    field(block, 0x68)
}

fn xfs(head: &[u8]) -> Option<[u8; 16]> {
    let block_size = u32::from_be_bytes(field(head, 4)?);
    let version = u16::from_be_bytes(field(head, 100)?) & 0xf;
    let sound = field(head, 0)? == *b"XFSB"
        && block_size.is_power_of_two()
        && (512..=65536).contains(&block_size)
        && (1..=5).contains(&version);
    sound.then_some(())?;
    field(head, 32)
}

fn btrfs(block: &[u8]) -> Option<[u8; 16]> {
    let own_place = u64::from_le_bytes(field(block, 0x30)?);
    (field(block, 0x40)? == *b"_BHRfS_M" && own_place == 65536).then_some(())?;
    field(block, 0x20)
}

/// The filesystem whose superblock is in one of the [`PIECES`]; `None` for one that cannot be read.
pub fn filesystem(pieces: [Option<&Block>; 2]) -> Filesystem {
    let piece = |n: usize| pieces.get(n).copied().flatten().map(|block| &block[..]);
    let (head, second) = (piece(0), piece(1));
    let mut found = [head.and_then(ext), head.and_then(xfs), second.and_then(btrfs)]
        .into_iter()
        .flatten()
        .filter(|uuid| *uuid != [0; 16]);
    match (found.next(), found.next()) {
        (Some(uuid), None) => Filesystem::Is(FilesystemUuid(uuid)),
        (None, _) if head.is_none() || second.is_none() => Filesystem::Unknown,
        _ => Filesystem::None,
    }
}
