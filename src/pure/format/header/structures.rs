// SPDX-License-Identifier: GPL-2.0

//! The structures of a header, their checksums, and what a header must say to be one.

use core::fmt;
use core::mem::{offset_of, size_of};

use super::super::super::bytes::FromBytes;
use super::super::super::mem::{is_zero, BLOCK_SIZE};
use super::super::super::units::{Sectors, SpareId, MAX_SPARES};
use super::super::layout::{CopyId, Layout, COPIES, MAX_BLOCKS};
use super::super::raw::*;
use super::super::{
    Crc32, SetUuid, SpareState, FORMAT, KNOWN_INCOMPATIBLE, MAGIC, MAGIC_V3, SIGNATURE,
    STATE_CREATING,
};

/// A structure of the header: its name, its first byte, its length. Its checksum is its last four
/// bytes, over the others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Structure {
    /// What people call it.
    pub name: &'static str,
    /// Its first byte in the header.
    pub start: usize,
    /// Its length in bytes.
    pub len: usize,
}

/// A group of neighbouring structures. Its checksum is that over the checksums of its structures, in
/// their order.
///
/// Not over their bytes: what ends in its own CRC-32 always takes a CRC-32 to the same value, so one
/// over the bytes of several structures would be the same number whatever they say, and a header
/// torn between two versions would pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Group {
    /// What people call it.
    pub name: &'static str,
    /// Its first byte in the header.
    pub start: usize,
    /// The byte behind it.
    pub end: usize,
}

const fn structure(name: &'static str, start: usize, len: usize) -> Structure {
    Structure { name, start, len }
}

const FP: usize = size_of::<RawFingerprint>();
const FPS: usize = offset_of!(RawHeader, fingerprints);
const SP: usize = size_of::<RawSpare>();
const SPS: usize = offset_of!(RawHeader, spares);

/// Every structure of the header, in the order in which they stand.
pub static STRUCTURES: [Structure; 31] = [
    structure("identification", 0, size_of::<RawIdentification>()),
    structure("version control", offset_of!(RawHeader, version), size_of::<RawVersion>()),
    structure("set", offset_of!(RawHeader, set), size_of::<RawSet>()),
    structure("features", offset_of!(RawHeader, features), size_of::<RawFeatures>()),
    structure("table shape", offset_of!(RawHeader, shape), size_of::<RawShape>()),
    structure("fingerprint of main", offset_of!(RawHeader, main), FP),
    structure("fingerprint of spare 0", FPS, FP),
    structure("fingerprint of spare 1", FPS + FP, FP),
    structure("fingerprint of spare 2", FPS + 2 * FP, FP),
    structure("fingerprint of spare 3", FPS + 3 * FP, FP),
    structure("fingerprint of spare 4", FPS + 4 * FP, FP),
    structure("fingerprint of spare 5", FPS + 5 * FP, FP),
    structure("fingerprint of spare 6", FPS + 6 * FP, FP),
    structure("fingerprint of spare 7", FPS + 7 * FP, FP),
    structure("spare 0", SPS, SP),
    structure("spare 1", SPS + SP, SP),
    structure("spare 2", SPS + 2 * SP, SP),
    structure("spare 3", SPS + 3 * SP, SP),
    structure("spare 4", SPS + 4 * SP, SP),
    structure("spare 5", SPS + 5 * SP, SP),
    structure("spare 6", SPS + 6 * SP, SP),
    structure("spare 7", SPS + 7 * SP, SP),
    structure("table line", offset_of!(RawHeader, line), size_of::<RawLine>()),
    structure("settings", offset_of!(RawHeader, settings), size_of::<RawSettings>()),
    structure("assembly", offset_of!(RawHeader, assembly), size_of::<RawAssembly>()),
    structure("statistics", offset_of!(RawHeader, statistics), size_of::<RawStatistics>()),
    structure("scan", offset_of!(RawHeader, scan), size_of::<RawScan>()),
    structure("health", offset_of!(RawHeader, health), size_of::<RawHealth>()),
    structure("replacement", offset_of!(RawHeader, replacement), size_of::<RawReplacement>()),
    structure("fingerprint of the new main", offset_of!(RawHeader, new_main), FP),
    structure("fingerprint of the old main", offset_of!(RawHeader, old_main), FP),
];

/// The groups of structures, in the order of their checksums.
pub static STRUCTURE_GROUPS: [Group; GROUPS] = [
    Group { name: "core", start: 0, end: offset_of!(RawHeader, main) },
    Group { name: "members", start: offset_of!(RawHeader, main), end: offset_of!(RawHeader, line) },
    Group {
        name: "setup",
        start: offset_of!(RawHeader, line),
        end: offset_of!(RawHeader, statistics),
    },
    Group {
        name: "statistics",
        start: offset_of!(RawHeader, statistics),
        end: offset_of!(RawHeader, scan),
    },
    Group {
        name: "monitor",
        start: offset_of!(RawHeader, scan),
        end: offset_of!(RawHeader, replacement),
    },
    Group {
        name: "replacement",
        start: offset_of!(RawHeader, replacement),
        end: offset_of!(RawHeader, reserved),
    },
];

/// What starts here was all zero, checksums too, before writers knew of it; and is whole then.
const LATER: usize = offset_of!(RawHeader, scan);

const WHOLE: usize = BLOCK_SIZE - 4;
/// Where the checksums of the groups stand.
pub(super) const CHECKSUMS: usize = offset_of!(RawHeader, checksums);

/// Why a block is not a header that can be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderError {
    /// It is all zeroes: never written.
    Zero,
    /// It does not start as a header does: something foreign.
    Magic,
    /// A header of the format before this one.
    V3,
    /// A format number that is not known here.
    Format(u32),
    /// The signature or the size is not that of a header.
    Signature,
    /// The mark of a creation that did not get further.
    Creating,
    /// The checksum of this structure does not fit.
    Structure(&'static str),
    /// The checksum of this group of structures does not fit.
    Group(&'static str),
    /// The checksum of the whole does not fit.
    Whole,
    /// It says that it is another copy, or that of another member.
    Misplaced(CopyId),
    /// It has features that a reader must know, and these are not known here.
    Features(u64),
    /// This field says something that cannot be.
    Field(&'static str),
}

impl HeaderError {
    /// Whether a newer writer has made it so, and nothing is damaged.
    pub const fn is_newer(&self) -> bool {
        matches!(self, Self::Format(_) | Self::Features(_))
    }
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Zero => f.write_str("never written"),
            Self::Magic => f.write_str("not a header of dm-remap"),
            Self::V3 => f.write_str("in the v3 format; run `dmremap upgrade`"),
            Self::Format(n) => write!(f, "is of format {n}, not known; use a newer dm-remap"),
            Self::Signature => f.write_str("signature or size is damaged"),
            Self::Creating => {
                f.write_str("a creation that was cut short; load the line with `create` again")
            }
            Self::Structure(name) => write!(f, "checksum of structure \"{name}\" does not fit"),
            Self::Group(name) => write!(f, "checksum of group \"{name}\" does not fit"),
            Self::Whole => f.write_str("checksum of the whole header does not fit"),
            Self::Misplaced(is) => write!(f, "says that it is {is}"),
            Self::Features(bits) => {
                write!(f, "has unknown features {bits:#x}; use a newer dm-remap")
            }
            Self::Field(name) => write!(f, "field \"{name}\" says what cannot be"),
        }
    }
}

fn view(bytes: &[u8; BLOCK_SIZE]) -> &RawHeader {
    match RawHeader::ref_from_bytes(bytes) {
        Ok(raw) => raw,
        Err(_) => unreachable!(),
    }
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn structure_fits(bytes: &[u8], s: &Structure, crc: Crc32) -> bool {
    let end = s.start + s.len;
    crc(&bytes[s.start..end - 4]) == le32(bytes, end - 4)
        || s.start >= LATER && is_zero(&bytes[s.start..end])
}

fn group_fits(bytes: &[u8], i: usize, group: &Group, crc: Crc32) -> bool {
    let sum = le32(bytes, CHECKSUMS + 4 * i);
    group_sum(bytes, group, crc) == sum
        || group.start >= LATER && sum == 0 && is_zero(&bytes[group.start..group.end])
}

/// The name of every structure whose checksum does not fit.
pub fn damaged_structures(
    bytes: &[u8; BLOCK_SIZE],
    crc: Crc32,
) -> impl Iterator<Item = &'static str> + '_ {
    STRUCTURES.iter().filter(move |s| !structure_fits(bytes, s, crc)).map(|s| s.name)
}

/// Makes every checksum of a header.
pub(super) fn seal(bytes: &mut [u8; BLOCK_SIZE], crc: Crc32) {
    for s in &STRUCTURES {
        let end = s.start + s.len;
        let sum = crc(&bytes[s.start..end - 4]);
        bytes[end - 4..end].copy_from_slice(&sum.to_le_bytes());
    }
    for (i, group) in STRUCTURE_GROUPS.iter().enumerate() {
        let sum = group_sum(bytes, group, crc);
        let at = CHECKSUMS + 4 * i;
        bytes[at..at + 4].copy_from_slice(&sum.to_le_bytes());
    }
    let sum = crc(&bytes[..WHOLE]);
    bytes[WHOLE..].copy_from_slice(&sum.to_le_bytes());
}

/// The checksum over the checksums of a group's structures.
fn group_sum(bytes: &[u8], group: &Group, crc: Crc32) -> u32 {
    let mut sums = [0; 4 * STRUCTURES.len()];
    let mut len = 0;
    for s in STRUCTURES.iter().filter(|s| (group.start..group.end).contains(&s.start)) {
        let end = s.start + s.len;
        sums[len..len + 4].copy_from_slice(&bytes[end - 4..end]);
        len += 4;
    }
    crc(&sums[..len])
}

/// Checks a header as far as it can be checked by itself: that it is one, every checksum, that it
/// stands where it says, that nothing in it is unknown or impossible.
///
/// # Errors
///
/// The first thing that is wrong with it.
pub fn check(bytes: &[u8; BLOCK_SIZE], copy: CopyId, crc: Crc32) -> Result<(), HeaderError> {
    let raw = view(bytes);
    let id = &raw.identification;
    if id.magic != MAGIC {
        return Err(if id.magic == MAGIC_V3 {
            HeaderError::V3
        } else if is_zero(bytes) {
            HeaderError::Zero
        } else {
            HeaderError::Magic
        });
    }
    if id.signature != SIGNATURE || id.size.get() as usize != BLOCK_SIZE {
        return Err(HeaderError::Signature);
    }
    if id.format.get() != FORMAT {
        let s = &STRUCTURES[0];
        return Err(if structure_fits(bytes, s, crc) {
            HeaderError::Format(id.format.get())
        } else {
            HeaderError::Structure(s.name)
        });
    }
    if creation_mark_of(bytes, crc).is_some() {
        return Err(HeaderError::Creating);
    }
    if let Some(s) = STRUCTURES.iter().find(|s| !structure_fits(bytes, s, crc)) {
        return Err(HeaderError::Structure(s.name));
    }
    for (i, group) in STRUCTURE_GROUPS.iter().enumerate() {
        if !group_fits(bytes, i, group, crc) {
            return Err(HeaderError::Group(group.name));
        }
    }
    if crc(&bytes[..WHOLE]) != raw.checksums.whole.get() {
        return Err(HeaderError::Whole);
    }
    check_fields(raw)?;
    let is = CopyId { spare: SpareId(id.spare.get() as u8), copy: id.copy.get() as u8 };
    if is != copy {
        return Err(HeaderError::Misplaced(is));
    }
    Ok(())
}

fn check_fields(raw: &RawHeader) -> Result<(), HeaderError> {
    let bad = |name| Err(HeaderError::Field(name));
    let unknown = raw.features.incompatible.get() & !KNOWN_INCOMPATIBLE;
    if unknown != 0 {
        return Err(HeaderError::Features(unknown));
    }
    let version = raw.version.version.get();
    if version == 0 || version == u64::MAX {
        return bad("version");
    }
    if raw.identification.durable_version.get() > version {
        return bad("durable version");
    }
    if raw.identification.state.get() != 0 {
        return bad("state");
    }
    if raw.version.past_count.get() as usize > PAST_HISTORIES {
        return bad("past histories");
    }
    let spares = raw.set.spares.get() as usize;
    if !(1..=MAX_SPARES).contains(&spares) {
        return bad("number of spares");
    }
    if raw.identification.spare.get() as usize >= spares {
        return bad("spare");
    }
    if raw.identification.copy.get() as usize >= COPIES {
        return bad("copy");
    }
    let main = raw.set.main_sectors.get();
    if main == 0 || raw.set.main_start.get().checked_add(main).is_none() {
        return bad("range of main");
    }
    let capacity = raw.shape.capacity.get();
    if capacity > MAX_BLOCKS || Layout::new(capacity).map(|l| l.capacity()) != Some(capacity) {
        return bad("room for table blocks");
    }
    if raw.shape.blocks.get() > capacity {
        return bad("number of table blocks");
    }
    let layout = Layout::new(capacity).unwrap_or(Layout::STANDARD);
    for (i, spare) in raw.spares.iter().enumerate() {
        let Some(state) = SpareState::from_raw(spare.state) else { return bad("state of a spare") };
        if (state == SpareState::Unused) != (i >= spares) {
            return bad("state of a spare");
        }
        let sectors = spare.used_sectors.get();
        if i < spares
            && (!layout.fits(Sectors(sectors))
                || spare.used_start.get().checked_add(sectors).is_none())
        {
            return bad("used part of a spare");
        }
        if raw.fingerprints[i].hardware_len as usize > HARDWARE_ID_BYTES {
            return bad("hardware identifier of a spare");
        }
    }
    if [&raw.main, &raw.new_main, &raw.old_main]
        .iter()
        .any(|print| print.hardware_len as usize > HARDWARE_ID_BYTES)
    {
        return bad("hardware identifier of main");
    }
    if raw.line.len.get() as usize > LINE_BYTES {
        return bad("length of the table line");
    }
    Ok(())
}

/// The set whose creation `bytes` mark, and the history that begins with it, if they start with such a mark. Only the first sector is
/// looked at.
pub fn creation_mark_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<(SetUuid, u64)> {
    let raw = view(bytes);
    let id = &raw.identification;
    let is_mark = id.magic == MAGIC
        && id.signature == SIGNATURE
        && id.state.get() & STATE_CREATING != 0
        && STRUCTURES[..3].iter().all(|s| structure_fits(bytes, s, crc))
        && raw.version.version.get() == 0;
    is_mark.then_some((SetUuid(raw.set.uuid), raw.version.history.get()))
}

/// The set that a header, or the mark of a creation, belongs to and the copy that it says it is, if
/// as much of it is whole.
pub fn place_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<(SetUuid, CopyId)> {
    let raw = view(bytes);
    let id = &raw.identification;
    let whole = [&STRUCTURES[0], &STRUCTURES[2]].iter().all(|s| structure_fits(bytes, s, crc));
    let known = (id.spare.get() as usize) < MAX_SPARES && (id.copy.get() as usize) < COPIES;
    let place = CopyId { spare: SpareId(id.spare.get() as u8), copy: id.copy.get() as u8 };
    (id.magic == MAGIC && whole && known).then_some((SetUuid(raw.set.uuid), place))
}

/// The set and the version that a header speaks of, each if its structure is whole, even where
/// other parts are not.
pub fn traces(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> (Option<SetUuid>, Option<u64>) {
    let raw = view(bytes);
    if raw.identification.magic != MAGIC {
        return (None, None);
    }
    let set = structure_fits(bytes, &STRUCTURES[2], crc).then_some(SetUuid(raw.set.uuid));
    let version = raw.version.version.get();
    let whole = structure_fits(bytes, &STRUCTURES[1], crc) && version != u64::MAX;
    (set, whole.then_some(version))
}

/// The history that a header speaks of, if that structure is whole, even where other parts are not.
pub fn history_of(bytes: &[u8; BLOCK_SIZE], crc: Crc32) -> Option<u64> {
    let raw = view(bytes);
    let whole = raw.identification.magic == MAGIC && structure_fits(bytes, &STRUCTURES[1], crc);
    whole.then_some(raw.version.history.get())
}
