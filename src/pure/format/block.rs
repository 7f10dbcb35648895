// SPDX-License-Identifier: GPL-2.0

//! Table blocks: 64 bytes that certify the block, then entries of 16 bytes.

use core::fmt;

use super::super::bytes::{FromBytes, IntoBytes};
use super::super::digest::Stamp;
use super::super::entry::{BlockIndex, PackedEntry, ENTRIES_PER_BLOCK};
use super::super::mem::{is_zero, Block, BLOCK_SIZE};
use super::raw::{RawBlockHeader, BLOCK_HEADER_BYTES};
use super::{Crc32, SetUuid, BLOCK_MAGIC};

/// Why a block is not the one that was looked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BlockError {
    /// It is all zeroes: never written.
    Zero,
    /// It does not start as a table block does.
    Magic,
    /// Its checksum does not fit.
    Checksum,
    /// It belongs to another set.
    OtherSet,
    /// It is another block of the table.
    Index(u32),
    /// It says that it has more entries than fit.
    Count(u16),
    /// Its entries are of a kind that is not known here.
    Kind(u16),
    /// Its version is 0, or the highest number there is.
    Version,
    /// Something stands where nothing is known to. Such a block could not be written anew from
    /// what it says.
    NotZero,
}

impl fmt::Display for BlockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("never written"),
            Self::Magic => f.write_str("not a table block"),
            Self::Checksum => f.write_str("checksum does not fit"),
            Self::OtherSet => f.write_str("belongs to another set"),
            Self::Index(index) => write!(f, "is table block {index} in the wrong place"),
            Self::Count(count) => write!(f, "says that it has {count} entries"),
            Self::Kind(kind) => write!(f, "has entries of unknown kind {kind}"),
            Self::Version => f.write_str("has an impossible version"),
            Self::NotZero => f.write_str("has something behind its entries or in reserved bytes"),
        }
    }
}

/// Writes table block `index` as of `version` into `block`.
///
/// `entries` has no more than [`ENTRIES_PER_BLOCK`]; what comes after is left out.
pub fn encode_block(
    block: &mut Block,
    set: &SetUuid,
    index: BlockIndex,
    version: u64,
    entries: &[PackedEntry],
    crc: Crc32,
) -> Stamp {
    let entries = entries.get(..ENTRIES_PER_BLOCK).unwrap_or(entries);
    block.fill(0);
    let (head, body) = block.split_at_mut(BLOCK_HEADER_BYTES);
    if let Ok(head) = RawBlockHeader::mut_from_bytes(head) {
        head.magic = BLOCK_MAGIC;
        head.set_uuid = set.0;
        head.index.set(index.0);
        head.count.set(entries.len() as u16);
        head.version.set(version);
    }
    let bytes = entries.as_bytes();
    body[..bytes.len()].copy_from_slice(bytes);
    let sum = crc(&block[4..]);
    block[..4].copy_from_slice(&sum.to_le_bytes());
    Stamp { version, crc: sum }
}

/// Checks that `bytes` are table block `index` of the set, of whatever version.
///
/// # Errors
///
/// What is wrong with it. The entries themselves are not looked at.
pub fn check_block(
    bytes: &[u8; BLOCK_SIZE],
    set: &SetUuid,
    index: BlockIndex,
    crc: Crc32,
) -> Result<Stamp, BlockError> {
    let Ok(head) = RawBlockHeader::ref_from_bytes(&bytes[..BLOCK_HEADER_BYTES]) else {
        return Err(BlockError::Magic);
    };
    if head.magic != BLOCK_MAGIC {
        return Err(if is_zero(bytes) { BlockError::Zero } else { BlockError::Magic });
    }
    if head.crc.get() != crc(&bytes[4..]) {
        return Err(BlockError::Checksum);
    }
    if head.set_uuid != set.0 {
        return Err(BlockError::OtherSet);
    }
    if head.index.get() != index.0 {
        return Err(BlockError::Index(head.index.get()));
    }
    if head.count.get() as usize > ENTRIES_PER_BLOCK {
        return Err(BlockError::Count(head.count.get()));
    }
    if head.kind.get() != 0 {
        return Err(BlockError::Kind(head.kind.get()));
    }
    if head.version.get() == 0 || head.version.get() == u64::MAX {
        return Err(BlockError::Version);
    }
    let behind = BLOCK_HEADER_BYTES + usize::from(head.count.get()) * size_of::<PackedEntry>();
    if !is_zero(&head.reserved) || !is_zero(&bytes[behind..]) {
        return Err(BlockError::NotZero);
    }
    Ok(Stamp { version: head.version.get(), crc: head.crc.get() })
}

/// The set that a block says it belongs to, if it starts as a table block does.
pub fn set_of(bytes: &[u8; BLOCK_SIZE]) -> Option<SetUuid> {
    let head = RawBlockHeader::ref_from_bytes(&bytes[..BLOCK_HEADER_BYTES]).ok()?;
    (head.magic == BLOCK_MAGIC).then_some(SetUuid(head.set_uuid))
}

/// The set that a whole table block belongs to, whatever its index, and its stamp; `None` if it is none.
pub fn block_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<(SetUuid, Stamp)> {
    let set = set_of(bytes)?;
    let head = RawBlockHeader::ref_from_bytes(&bytes[..BLOCK_HEADER_BYTES]).ok()?;
    Some((set, check_block(bytes, &set, BlockIndex(head.index.get()), crc).ok()?))
}

/// The entries of a block that [`check_block`] has found good.
pub fn entries(bytes: &[u8; BLOCK_SIZE]) -> &[PackedEntry] {
    let count = match RawBlockHeader::ref_from_bytes(&bytes[..BLOCK_HEADER_BYTES]) {
        Ok(head) => (head.count.get() as usize).min(ENTRIES_PER_BLOCK),
        Err(_) => 0,
    };
    let end = BLOCK_HEADER_BYTES + count * size_of::<PackedEntry>();
    <[PackedEntry]>::ref_from_bytes(&bytes[BLOCK_HEADER_BYTES..end]).unwrap_or(&[])
}
