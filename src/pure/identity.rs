// SPDX-License-Identifier: GPL-2.0

//! What a device is recognised by: taking its fingerprint, comparing one with a device, keeping one
//! up to date. [`choose`] finds the devices of a set among many.

use core::fmt;

use super::bytes::IntoBytes;
use super::format::raw::{RawFingerprint, HARDWARE_ID_BYTES, PATH_BYTES};
use super::format::MemberUuid;
use super::units::Sectors;

pub mod choose;
pub mod filesystem;
pub mod replaced;

pub use filesystem::{Filesystem, FilesystemUuid};
pub use replaced::{CopyOf, Mapped};

/// In [`RawFingerprint::known`]: the partition's UUID.
pub const KNOWN_PARTITION: u16 = 1;

/// In [`RawFingerprint::known`]: the identifier that the device itself gives.
pub const KNOWN_HARDWARE: u16 = 2;

/// In [`RawFingerprint::known`]: the hash of the serial number.
pub const KNOWN_SERIAL: u16 = 4;

/// In [`RawFingerprint::known`]: the size.
pub const KNOWN_SIZE: u16 = 8;

/// In [`RawFingerprint::known`]: the filesystem's UUID.
pub const KNOWN_FILESYSTEM: u16 = 16;

/// In [`RawFingerprint::known`]: the sizes of the blocks.
pub const KNOWN_BLOCKS: u16 = 32;

/// In [`RawFingerprint::known`]: the path.
pub const KNOWN_PATH: u16 = 64;

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

/// The hash of a serial number: 64-bit FNV-1a (Fowler, Noll, Vo) over its letters and digits. What
/// else there is in one is left out, since not every source of it gives that in the same way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SerialHash(pub u64);

impl SerialHash {
    /// The hash; `None` of a text without a letter or digit.
    pub fn of(serial: &str) -> Option<Self> {
        let mut bytes = serial.bytes().filter(u8::is_ascii_alphanumeric).peekable();
        bytes.peek()?;
        Some(Self(bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        })))
    }
}

/// What is known of a device that is there.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'a> {
    /// The partition's UUID as text, if it is a partition that has one. Those of MBR partitions
    /// are shorter than a UUID.
    pub partition_uuid: Option<&'a str>,
    /// The identifier of the disk that it is, or that it is on.
    pub hardware_id: Option<HardwareId>,
    /// The serial number of that disk. The kernel knows none.
    pub serial: Option<SerialHash>,
    /// Its size.
    pub sectors: Sectors,
    /// Bytes of its logical block.
    pub logical_block: u32,
    /// Bytes of its physical block.
    pub physical_block: u32,
    /// The filesystem on what of it the set maps.
    pub filesystem: Filesystem,
    /// A path of it, as a hint.
    pub path: &'a str,
    /// What it is to device mapper.
    pub mapped: Mapped,
}

impl Facts<'_> {
    /// Those of a device of which nothing but its size and the bytes of its blocks is known.
    pub const fn of_size(sectors: Sectors, logical_block: u32, physical_block: u32) -> Self {
        Self {
            partition_uuid: None,
            hardware_id: None,
            serial: None,
            sectors,
            logical_block,
            physical_block,
            filesystem: Filesystem::Unknown,
            path: "",
            mapped: Mapped::No,
        }
    }
}

/// By what a device was recognised, the best first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MatchKind {
    /// It copies the main that is being replaced.
    Copy,
    /// The partition's UUID is the same.
    Partition,
    /// The identifier that the hardware gives and the size are.
    Hardware,
    /// The serial number and the size are.
    Serial,
    /// The filesystem's UUID and the size are.
    Filesystem,
    /// The size and the sizes of logical and physical block are.
    Size,
    /// The size and that of the logical block are.
    Length,
}

impl MatchKind {
    /// All of them, the best first.
    pub const ALL: [Self; 7] = [
        Self::Copy,
        Self::Partition,
        Self::Hardware,
        Self::Serial,
        Self::Filesystem,
        Self::Size,
        Self::Length,
    ];

    /// A word for it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Copy => "copy",
            Self::Partition => "partition-uuid",
            Self::Hardware => "hardware-id",
            Self::Serial => "serial",
            Self::Filesystem => "filesystem-uuid",
            Self::Size => "size",
            Self::Length => "length",
        }
    }

    /// How far it is to be trusted, in percent. A disk of the same make has the same size, so that
    /// alone is less than half.
    pub const fn percent(self) -> u8 {
        match self {
            Self::Copy | Self::Partition => 100,
            Self::Hardware => 95,
            Self::Serial => 90,
            Self::Filesystem => 70,
            Self::Size => 40,
            Self::Length => 20,
        }
    }

    /// Whether it holds whatever is written to the device.
    const fn is_of_the_device(self) -> bool {
        matches!(self, Self::Partition | Self::Hardware | Self::Serial)
    }
}

/// How well a device fits a fingerprint that it does not contradict.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    /// The best that both have and that agrees.
    pub kind: MatchKind,
    /// Whether its path is the same too: a hint, for whom nothing else can tell apart.
    pub same_path: bool,
    /// The filesystem's UUID that the fingerprint has, where the device has another one, and is known
    /// by something better.
    pub had: Option<FilesystemUuid>,
    /// What the fingerprint could have recognised it by better, and the device has nothing of. It may be another one that contradicts
    /// nothing because it says nothing.
    pub missing: Option<MatchKind>,
}

/// As in a line of status: `partition-uuid 100`.
impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.kind.percent())
    }
}

/// Why a device is not the one that a fingerprint was taken of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Differs {
    /// Both have a partition UUID, and not the same.
    Partition,
    /// Both have an identifier that the hardware gives, of the same kind, and not the same.
    Hardware,
    /// Both have a serial number, and not the same.
    Serial,
    /// It is smaller than what the set uses: sectors that it has, and had.
    Smaller(Sectors, Sectors),
    /// Its size is not the same, and nothing else says that it is the same device.
    Size(Sectors, Sectors),
    /// Its logical block is not the same: bytes that it has, and had.
    LogicalBlock(u32, u32),
    /// The filesystem on it is not the same, and no identifier of the device says that it is the same
    /// device: the one that it has, and had.
    Filesystem(FilesystemUuid, FilesystemUuid),
    /// The set's main is being replaced, and this is not what copies it.
    Replacing,
    /// It copies a main that is being replaced, and not that of this set, or not any more.
    Copy,
    /// It copies the main of the set, in another attempt than the one that is under way.
    Attempt,
    /// It was main before another device took its place.
    Replaced,
    /// It is the main that the set has.
    Same,
    /// The set's main is not being replaced, so there is none to go back to.
    NotReplacing,
    /// This filesystem is not on it.
    NotCopied(FilesystemUuid),
}

impl fmt::Display for Differs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Partition => f.write_str("its partition UUID is another one"),
            Self::Hardware => f.write_str("its hardware gives another identifier"),
            Self::Serial => f.write_str("its serial number is another one"),
            Self::Smaller(is, was) => write!(f, "it has {is} sectors, and had {was}"),
            Self::Size(is, was) => {
                write!(
                    f,
                    "it has {is} sectors, and had {was}, and no UUID says that it is the same"
                )?;
                match is > was {
                    true => f.write_str("; if it has grown, 'dmremap assemble --grown --main' with it says so"),
                    false => Ok(()),
                }
            }
            Self::LogicalBlock(is, was) => {
                write!(f, "its logical block is {is} bytes, and was {was}")
            }
            Self::Filesystem(is, was) => write!(
                f,
                "its filesystem is {is}, and was {was}; if that was made through the set, the option 'filesystem {is}' says so"
            ),
            Self::Replacing => f.write_str(
                "its main is being replaced, and neither the old nor the new one alone has all of it; 'dmremap replace-main --continue' goes on",
            ),
            Self::Copy => f.write_str("it copies a main that is being replaced, which the set's is not"),
            Self::Attempt => f.write_str(
                "it copies main in another attempt to replace it than the one that is under way; 'dmremap replace-main --continue' finds the right one",
            ),
            Self::Replaced => f.write_str(
                "it was main before another device took its place, and what it shows is older",
            ),
            Self::Same => f.write_str("it is the main that the set has; leave out 'new_main'"),
            Self::NotReplacing => {
                f.write_str("its main is not being replaced; leave out 'old_main'")
            }
            Self::NotCopied(had) => {
                write!(f, "filesystem {had}, which main has, is not on it; copy main first")
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

fn knows(print: &RawFingerprint, what: u16) -> bool {
    print.known.get() & what != 0
}

fn learn(print: &mut RawFingerprint, what: u16) {
    print.known.set(print.known.get() | what);
}

fn put_size(print: &mut RawFingerprint, facts: &Facts<'_>) {
    print.sectors.set(facts.sectors.0);
    print.logical_block.set(facts.logical_block);
    print.physical_block.set(facts.physical_block);
    learn(print, KNOWN_SIZE | KNOWN_BLOCKS);
}

/// The bytes in which a path is kept: its end says more than its beginning.
fn path_bytes(path: &str) -> [u8; PATH_BYTES] {
    let mut bytes = [0; PATH_BYTES];
    let mut from = path.len().saturating_sub(PATH_BYTES);
    while !path.is_char_boundary(from) {
        from += 1;
    }
    let tail = path.get(from..).unwrap_or_default();
    bytes.iter_mut().zip(tail.bytes()).for_each(|(to, byte)| *to = byte);
    bytes
}

/// Takes the fingerprint of a device.
pub fn fingerprint(facts: &Facts<'_>) -> RawFingerprint {
    let mut print = RawFingerprint::unknown();
    put_size(&mut print, facts);
    complete(&mut print, facts);
    if let Filesystem::Is(uuid) = facts.filesystem {
        put_filesystem(&mut print, uuid);
    }
    print
}

fn put_filesystem(print: &mut RawFingerprint, uuid: FilesystemUuid) {
    print.filesystem_uuid = uuid.0;
    learn(print, KNOWN_FILESYSTEM);
}

/// Takes in the identifiers that a fingerprint lacks, and the path.
fn complete(print: &mut RawFingerprint, facts: &Facts<'_>) {
    let partition = facts.partition_uuid.and_then(partition_bytes);
    if let Some(uuid) = partition.filter(|_| !knows(print, KNOWN_PARTITION)) {
        print.partition_uuid = uuid;
        learn(print, KNOWN_PARTITION);
    }
    if let Some(id) = facts.hardware_id.filter(|_| !knows(print, KNOWN_HARDWARE)) {
        print.hardware_kind = id.kind;
        print.hardware_len = id.len;
        print.hardware_id[..id.bytes.len()].copy_from_slice(&id.bytes);
        learn(print, KNOWN_HARDWARE);
    }
    if let Some(serial) = facts.serial.filter(|_| !knows(print, KNOWN_SERIAL)) {
        set_serial(print, serial);
    }
    if !facts.path.is_empty() {
        set_path(print, facts.path);
    }
}

/// Keeps the serial number's hash.
pub fn set_serial(print: &mut RawFingerprint, serial: SerialHash) {
    print.serial_hash.set(serial.0);
    learn(print, KNOWN_SERIAL);
}

/// Keeps the end of a path.
pub fn set_path(print: &mut RawFingerprint, path: &str) {
    print.path = path_bytes(path);
    learn(print, KNOWN_PATH);
}

/// The fingerprint of a device that was recognised by `print`, as it is now: with what was not known
/// of it before, its size, and the filesystem that the set has, which is what is seen through the
/// table. `None` where that is what `print` says.
pub fn renewed(
    print: &RawFingerprint,
    facts: &Facts<'_>,
    of_the_set: Filesystem,
) -> Option<RawFingerprint> {
    let mut new = *print;
    let was = (print.sectors.get(), print.logical_block.get(), print.physical_block.get());
    if was != (facts.sectors.0, facts.logical_block, facts.physical_block) {
        put_size(&mut new, facts);
    }
    complete(&mut new, facts);
    take_filesystem(&mut new, of_the_set);
    (new.as_bytes() != print.as_bytes()).then_some(new)
}

/// The fingerprint, with the filesystem that the set has. `None` where that is what `print` says.
pub fn with_filesystem(print: &RawFingerprint, of_the_set: Filesystem) -> Option<RawFingerprint> {
    let mut new = *print;
    take_filesystem(&mut new, of_the_set);
    (new.as_bytes() != print.as_bytes()).then_some(new)
}

fn take_filesystem(print: &mut RawFingerprint, of_the_set: Filesystem) {
    match of_the_set {
        Filesystem::Is(uuid) => put_filesystem(print, uuid),
        Filesystem::None => {
            print.filesystem_uuid = [0; 16];
            print.known.set(print.known.get() & !KNOWN_FILESYSTEM);
        }
        Filesystem::Unknown | Filesystem::Was(_) => {}
    }
}

/// The bytes of a fingerprint in hexadecimal digits, without its checksum.
pub struct Digits<'a>(pub &'a RawFingerprint);

impl fmt::Display for Digits<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.0.as_bytes().iter();
        bytes.take(PRINT_BYTES).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// Bytes of a fingerprint before its checksum.
const PRINT_BYTES: usize = core::mem::size_of::<RawFingerprint>() - 4;

/// The fingerprint that [`Digits`] has written.
pub fn of_digits(digits: &str) -> Option<RawFingerprint> {
    let mut print = RawFingerprint::unknown();
    let mut letters = digits.chars();
    for byte in print.as_mut_bytes().iter_mut().take(PRINT_BYTES) {
        let mut digit = || letters.next()?.to_digit(16);
        *byte = ((digit()? << 4) | digit()?) as u8;
    }
    let fits = letters.next().is_none() && usize::from(print.hardware_len) <= HARDWARE_ID_BYTES;
    fits.then_some(print)
}

/// The filesystem's UUID in a fingerprint.
pub fn filesystem_of(print: &RawFingerprint) -> Option<FilesystemUuid> {
    knows(print, KNOWN_FILESYSTEM).then_some(FilesystemUuid(print.filesystem_uuid))
}

/// How well a device fits a fingerprint.
///
/// # Errors
///
/// An identifier that both have and that differs refuses, whatever else agrees. Without a partition's
/// UUID, the sizes must be the same. What a filesystem calls itself is no identifier of the device: it
/// refuses only where nothing of the device agrees.
pub fn compare(print: &RawFingerprint, facts: &Facts<'_>) -> Result<Match, Differs> {
    let was = Sectors(print.sectors.get());
    let uuid = facts.partition_uuid.and_then(partition_bytes);
    let uuid = uuid.filter(|_| knows(print, KNOWN_PARTITION));
    if uuid.is_some_and(|uuid| uuid != print.partition_uuid) {
        return Err(Differs::Partition);
    }
    let hardware = facts
        .hardware_id
        .filter(|id| knows(print, KNOWN_HARDWARE) && id.kind == print.hardware_kind);
    let same = |id: &HardwareId| {
        id.len == print.hardware_len && id.bytes[..] == print.hardware_id[..id.bytes.len()]
    };
    if hardware.is_some_and(|id| !same(&id)) {
        return Err(Differs::Hardware);
    }
    let serial = facts.serial.filter(|_| knows(print, KNOWN_SERIAL));
    if serial.is_some_and(|serial| serial.0 != print.serial_hash.get()) {
        return Err(Differs::Serial);
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
    let had = filesystem_of(print);
    let same_filesystem = match facts.filesystem {
        Filesystem::Is(is) | Filesystem::Was(is) => had == Some(is),
        Filesystem::Unknown | Filesystem::None => false,
    };
    let kind = if uuid.is_some() {
        MatchKind::Partition
    } else if hardware.is_some() {
        MatchKind::Hardware
    } else if serial.is_some() {
        MatchKind::Serial
    } else if same_filesystem {
        MatchKind::Filesystem
    } else if facts.physical_block == print.physical_block.get() {
        MatchKind::Size
    } else {
        MatchKind::Length
    };
    let had = match (facts.filesystem, had) {
        (Filesystem::Is(is), Some(had)) if is != had => Some((is, had)),
        _ => None,
    };
    if let Some((is, had)) = had.filter(|_| !kind.is_of_the_device()) {
        return Err(Differs::Filesystem(is, had));
    }
    let same_path =
        knows(print, KNOWN_PATH) && !facts.path.is_empty() && path_bytes(facts.path) == print.path;
    let missing = [
        (MatchKind::Partition, knows(print, KNOWN_PARTITION) && uuid.is_none()),
        (MatchKind::Hardware, knows(print, KNOWN_HARDWARE) && hardware.is_none()),
        (
            MatchKind::Filesystem,
            knows(print, KNOWN_FILESYSTEM) && facts.filesystem == Filesystem::None,
        ),
    ];
    let missing = missing
        .into_iter()
        .find_map(|(by, missing)| (missing && by.percent() > kind.percent()).then_some(by));
    Ok(Match { kind, same_path, had: had.map(|(_, had)| had), missing })
}
