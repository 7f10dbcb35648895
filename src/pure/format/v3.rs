// SPDX-License-Identifier: GPL-2.0

//! The format before v4: what stands at the start of a spare then, and the record by which an upgrade
//! that was cut short is found again.
//!
//! | bytes | first drawing | second drawing |
//! |-------|---------------|----------------|
//! | 0..8 | `DMREMAP3` | the same |
//! | 8..12 | 1 | the same |
//! | 12..16 | checksum | the same |
//! | 16..24 | time of creation | the same |
//! | | | time of the last change, 8 bytes |
//! | 8 bytes | number of entries, room for entries | the same |
//! | 16 bytes | size of main, size of the spare | the same |
//! | 8 bytes | state, generation | the same |
//! | 8 bytes | entries ever made | the same |
//!
//! From byte 4096 on there are entries of 16 bytes: a sector of main, and the sector of the spare that
//! its data is in. All numbers are little endian. How the checksum is to be computed was never said,
//! and programs have not agreed.

use super::super::mem::BLOCK_SIZE;
use super::super::units::{MainSector, Sectors, SpareSector, SECTOR_SIZE};
use super::layout::BLOCK_SECTORS;
use super::{Crc32, SetUuid, MAGIC_V3};

/// The version that both drawings have.
const VERSION: u32 = 1;
/// In the place of the version while an upgrade is under way, so that nobody takes the entries for
/// what holds.
const UPGRADING: u32 = u32::MAX;
/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 16;
/// Where the record of an upgrade stands: in the first sector, behind what either drawing has there.
const RECORD: usize = 256;
const RECORD_MAGIC: [u8; 8] = *b"DR3TO4\r\n";
const RECORD_BYTES: usize = 36;

/// What a header of the v3 format says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header3 {
    /// Which drawing it is after, 1 or 2.
    pub drawing: u8,
    /// When the set was made, in seconds since 1970.
    pub created: u64,
    /// How many entries there are.
    pub entries: u32,
    /// How many there is room for.
    pub capacity: u32,
    /// Entries that were ever made.
    pub lifetime: u64,
    /// The checksum that it carries.
    pub checksum: u32,
}

impl Header3 {
    /// Sectors from the start of the spare on that it and its entries take.
    pub fn sectors(&self) -> Sectors {
        let bytes = u64::from(self.entries) * ENTRY_BYTES as u64;
        Sectors(BLOCK_SECTORS.0 + bytes.div_ceil(SECTOR_SIZE as u64))
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from(le32(bytes, at)) | (u64::from(le32(bytes, at + 4)) << 32)
}

/// Whether `bytes` start as a header of the format does, one that is being upgraded too.
pub fn is_v3(bytes: &[u8; BLOCK_SIZE]) -> bool {
    bytes.starts_with(&MAGIC_V3)
}

/// What `bytes` say, by the drawing that makes sense for a main and a spare of these sizes; `None`
/// when none does, or both do.
///
/// Sizes were written in sectors or in bytes. That of main is what the drawings are told apart by; the
/// spare may have moved to a larger device.
pub fn header(bytes: &[u8; BLOCK_SIZE], main: Sectors, spare: Sectors) -> Option<Header3> {
    if !is_v3(bytes) || le32(bytes, 8) != VERSION {
        return None;
    }
    let is_size =
        |says: u64, of: Sectors| says == of.0 || of.0.checked_mul(SECTOR_SIZE as u64) == Some(says);
    let read = |drawing: u8| {
        let at = if drawing == 1 { 24 } else { 32 };
        let header = Header3 {
            drawing,
            created: le64(bytes, 16),
            entries: le32(bytes, at),
            capacity: le32(bytes, at + 4),
            lifetime: le64(bytes, at + 32),
            checksum: le32(bytes, 12),
        };
        let fits = header.entries <= header.capacity
            && is_size(le64(bytes, at + 8), main)
            && (1..=spare.0.saturating_mul(SECTOR_SIZE as u64)).contains(&le64(bytes, at + 16))
            && header.sectors() <= spare;
        fits.then_some(header)
    };
    match (read(1), read(2)) {
        (Some(header), None) | (None, Some(header)) => Some(header),
        _ => None,
    }
}

/// The entry in these 16 bytes.
pub fn entry(bytes: &[u8]) -> (MainSector, SpareSector) {
    (MainSector(le64(bytes, 0)), SpareSector(le64(bytes, 8)))
}

/// Whether a checksum is that of a header block without it. Of all the ways in which it was
/// computed, this is the one that is known.
pub fn checksum_fits(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> bool {
    let mut without = *bytes;
    without[12..16].fill(0);
    crc(&without) == le32(bytes, 12)
}

/// Where what an upgrade is to make stands while it is under way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// The set that it makes.
    pub set: SetUuid,
    /// The first sector: a header of the v4 format, as that of copy 0, and behind it its table blocks.
    pub at: SpareSector,
}

/// The record in a header of the v3 format, if an upgrade is under way.
pub fn record(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<Record> {
    let record = &bytes[RECORD..RECORD + RECORD_BYTES];
    let sum = crc(&record[..RECORD_BYTES - 4]);
    if !is_v3(bytes) || !record.starts_with(&RECORD_MAGIC) || le32(record, RECORD_BYTES - 4) != sum
    {
        return None;
    }
    let mut set = [0; 16];
    set.copy_from_slice(&record[16..32]);
    Some(Record { set: SetUuid(set), at: SpareSector(le64(record, 8)) })
}

/// Puts a record into a header of the v3 format. Only the first sector changes, which a device writes
/// whole or not at all.
pub fn put_record(bytes: &mut [u8; BLOCK_SIZE], record: &Record, crc: Crc32) {
    bytes[8..12].copy_from_slice(&UPGRADING.to_le_bytes());
    let to = &mut bytes[RECORD..RECORD + RECORD_BYTES];
    to[..8].copy_from_slice(&RECORD_MAGIC);
    to[8..16].copy_from_slice(&record.at.0.to_le_bytes());
    to[16..32].copy_from_slice(&record.set.0);
    let sum = crc(&to[..RECORD_BYTES - 4]);
    to[RECORD_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
}
