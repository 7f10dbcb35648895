// SPDX-License-Identifier: GPL-2.0

//! What a device is recognised by: taking its fingerprint, and comparing one with a device.

use core::fmt;

use super::format::raw::RawFingerprint;
use super::format::MemberUuid;
use super::units::Sectors;

/// In [`RawFingerprint::known`]: the partition's UUID.
pub const KNOWN_PARTITION: u16 = 1;

/// In [`RawFingerprint::known`]: the identifier that the device itself gives.
pub const KNOWN_HARDWARE: u16 = 2;

/// An identifier that a device gives itself, unlike any other's.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HardwareId {
    /// Which kind, as the kernel numbers them (`enum blk_unique_id`): 1 T10, 2 EUI-64, 3 NAA.
    pub kind: u8,
    /// How many bytes of it count.
    pub len: u8,
    /// The bytes.
    pub bytes: [u8; 16],
}

/// What is known of a device that is there.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The partition's UUID as text, if it is a partition that has one. Those of MBR partitions
    /// are shorter than a UUID.
    pub partition_uuid: Option<&'a str>,
    /// The identifier of the disk that it is, or that it is on.
    pub hardware_id: Option<HardwareId>,
    /// Its size.
    pub sectors: Sectors,
    /// Bytes of its logical block.
    pub logical_block: u32,
    /// Bytes of its physical block.
    pub physical_block: u32,
    /// A path of it, as a hint.
    pub path: &'a str,
}

/// Why a device is not the one that a fingerprint was taken of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Differs {
    /// Both have a partition UUID, and not the same.
    Partition,
    /// Both have an identifier that the hardware gives, of the same kind, and not the same.
    Hardware,
    /// It is smaller than what the set uses: sectors that it has, and had.
    Smaller(Sectors, Sectors),
    /// Its size is not the same, and nothing else says that it is the same device.
    Size(Sectors, Sectors),
    /// Its logical block is not the same: bytes that it has, and had.
    LogicalBlock(u32, u32),
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition => f.write_str("its partition UUID is another one"),
            Self::Hardware => f.write_str("its hardware gives another identifier"),
            Self::Smaller(is, was) => write!(f, "it has {is} sectors, and had {was}"),
            Self::Size(is, was) => {
                write!(
                    f,
                    "it has {is} sectors, and had {was}, and no UUID says that it is the same"
                )
            }
            Self::LogicalBlock(is, was) => {
                write!(f, "its logical block is {is} bytes, and was {was}")
            }
        }
    }
}

/// The 16 bytes that a partition's UUID is kept in: a UUID in binary, anything shorter as text.
fn partition_bytes(text: &str) -> Option<[u8; 16]> {
    let mut bytes = [0; 16];
    if text.len() <= 16 {
        bytes.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
        return (!text.is_empty()).then_some(bytes);
    }
    MemberUuid::parse(text).map(|uuid| uuid.0)
}

/// Takes the fingerprint of a device.
pub fn fingerprint(facts: &Facts<'_>) -> RawFingerprint {
    let mut print = RawFingerprint::unknown();
    if let Some(uuid) = facts.partition_uuid.and_then(partition_bytes) {
        print.partition_uuid = uuid;
        print.known.set(print.known.get() | KNOWN_PARTITION);
    }
    if let Some(id) = facts.hardware_id {
        print.hardware_kind = id.kind;
        print.hardware_len = id.len;
        print.hardware_id[..id.bytes.len()].copy_from_slice(&id.bytes);
        print.known.set(print.known.get() | KNOWN_HARDWARE);
    }
    print.sectors.set(facts.sectors.0);
    print.logical_block.set(facts.logical_block);
    print.physical_block.set(facts.physical_block);
    // The end of a path says more than its beginning.
    let path = facts.path.as_bytes();
    let tail = &path[path.len().saturating_sub(print.path.len())..];
    print.path[..tail.len()].copy_from_slice(tail);
    print
}

/// Whether a device may be the one of which `print` was taken.
///
/// # Errors
///
/// An identifier that both have and that differs refuses, whatever else agrees. Without one, the
/// sizes must be the same.
pub fn compare(print: &RawFingerprint, facts: &Facts<'_>) -> Result<(), Differs> {
    let was = Sectors(print.sectors.get());
    let known = print.known.get() & KNOWN_PARTITION != 0;
    let uuid = facts.partition_uuid.and_then(partition_bytes).filter(|_| known);
    if uuid.is_some_and(|uuid| uuid != print.partition_uuid) {
        return Err(Differs::Partition);
    }
    let hardware = facts
        .hardware_id
        .filter(|id| print.known.get() & KNOWN_HARDWARE != 0 && id.kind == print.hardware_kind);
    let same = |id: &HardwareId| {
        id.len == print.hardware_len && id.bytes[..] == print.hardware_id[..id.bytes.len()]
    };
    if hardware.is_some_and(|id| !same(&id)) {
        return Err(Differs::Hardware);
    }
    if facts.sectors < was {
        return Err(Differs::Smaller(facts.sectors, was));
    }
    if uuid.is_none() && facts.sectors != was {
        return Err(Differs::Size(facts.sectors, was));
    }
    if facts.logical_block != print.logical_block.get() {
        return Err(Differs::LogicalBlock(facts.logical_block, print.logical_block.get()));
    }
    Ok(())
}
